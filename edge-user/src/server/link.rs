//! The few messages between agent and server, and their bounds. A frame is a length (u32, little endian) and that
//! many bytes of JSON. Nothing the server can say lifts a block, names a network, or names how long a block lasts.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::Zeroizing;

/// The largest frame that the agent takes from the server.
pub const MAX_FROM_SERVER: usize = 64 << 10;
/// The largest frame that the server takes from the agent: certificates and keys are in it.
pub const MAX_FROM_AGENT: usize = 4 << 20;

/// From the server to the agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FromServer {
    /// Every listener accepts.
    Ready,
    /// The config cannot be served; one sentence for the operator. The server ends after it.
    Failed { message: String },
    /// A credential was refused. The server waits for [`FromAgent::Judged`] before it answers the client, so that a
    /// block is in force before the client can send its next packet.
    Offence(Offence),
    /// A good login: takes back the failures of that name from that address.
    SignedIn { peer: SocketAddr, account: String },
    /// Sent every second: the server's own counters.
    Metrics(Metrics),
}

/// One refused credential.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Offence {
    /// Chosen by the server, to match the answer.
    pub id: u64,
    pub kind: Kind,
    /// Both ends of the accepted connection; the agent asks the kernel whether it exists.
    pub peer: SocketAddr,
    pub local: SocketAddr,
    /// The user name as given, at most 256 bytes of it; `None` where no name came with the credential.
    pub account: Option<String>,
}

/// What kind of credential was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// User name and password.
    Login,
    /// A bearer token, access or refresh.
    Token,
}

impl Kind {
    pub const ALL: [Kind; 2] = [Kind::Login, Kind::Token];

    pub const fn name(self) -> &'static str {
        match self {
            Kind::Login => "login",
            Kind::Token => "token",
        }
    }
}

/// A snapshot of the server's counters since it started: name, labels, value.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// `edge_auth_requests_total{endpoint,outcome}`.
    pub auth_requests: Vec<(String, String, u64)>,
    /// `edge_tls_handshakes_total{result}`.
    pub tls_handshakes: Vec<(String, u64)>,
}

/// From the agent to the server.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum FromAgent {
    /// Always the first message, and once.
    Config(Box<ServerConfig>),
    /// The answer to an offence.
    Judged { id: u64, blocked: bool },
    /// This client is blocked now: its connections are to be closed.
    Blocked { client: ipnet::IpNet },
    /// Stop accepting, finish what is being answered, end.
    Drain,
}

/// All that the server needs, secrets included; the agent has read the files.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    pub production: bool,
    pub certificate_pem: String,
    pub key_pem: String,
    pub header_timeout: Duration,
    pub idle_timeout: Duration,
    pub max_handshakes: usize,
    pub issuer: String,
    pub audience: String,
    /// The signing secret's bytes.
    pub secret: String,
    pub access_ttl: Duration,
    pub refresh_ttl: Duration,
    pub leeway: Duration,
    pub hashes_in_flight: usize,
    /// The directory of users and sessions, which belongs to the server.
    pub auth_store: PathBuf,
}

impl std::fmt::Debug for ServerConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerConfig").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

/// The peer's address without its port, an IPv4-mapped one as IPv4.
pub fn client_address(peer: SocketAddr) -> IpAddr {
    peer.ip().to_canonical()
}

/// The next message; `None` when the other side closed between two frames. A frame over `max` bytes, or one that is
/// no message, is an error, after which the link is of no more use. Not cancel-safe: a task of its own calls it.
pub async fn read<T: DeserializeOwned>(stream: &mut (impl AsyncRead + Unpin), max: usize) -> io::Result<Option<T>> {
    let mut head = [0u8; 4];
    match stream.read(&mut head).await? {
        0 => return Ok(None),
        read => stream.read_exact(&mut head[read..]).await?,
    };
    let length = u32::from_le_bytes(head) as usize;
    if length > max {
        return Err(invalid(format!("a frame of {length} bytes came over the link; the limit is {max}")));
    }
    let mut body = Zeroizing::new(vec![0; length]);
    stream.read_exact(&mut body).await?;
    serde_json::from_slice(&body)
        .map(Some)
        .map_err(|error| invalid(format!("a frame of the link is no message: {error}")))
}

/// Writes one message, whole; what the other side would refuse for its size is refused here. Not cancel-safe.
pub async fn write<T: Serialize>(stream: &mut (impl AsyncWrite + Unpin), message: &T, max: usize) -> io::Result<()> {
    stream.write_all(&frame(message, max)?).await
}

/// One message as it travels.
pub fn frame<T: Serialize>(message: &T, max: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut frame = Zeroizing::new(vec![0; 4]);
    serde_json::to_writer(&mut *frame, message)?;
    let length = frame.len() - 4;
    if length > max {
        return Err(invalid(format!("a message of {length} bytes is too long for the link; the limit is {max}")));
    }
    let head = u32::try_from(length).map_err(|_| invalid("a message is too long for the link".to_owned()))?;
    frame[..4].copy_from_slice(&head.to_le_bytes());
    Ok(frame)
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_message_travels_and_an_end_is_no_error() {
        let (mut near, mut far) = tokio::io::duplex(4096);
        write(&mut near, &FromServer::Ready, MAX_FROM_SERVER).await.unwrap();
        write(&mut near, &FromAgent::Judged { id: 7, blocked: true }, MAX_FROM_AGENT).await.unwrap();
        drop(near);
        assert_eq!(read::<FromServer>(&mut far, MAX_FROM_SERVER).await.unwrap(), Some(FromServer::Ready));
        let judged = read::<FromAgent>(&mut far, MAX_FROM_AGENT).await.unwrap();
        assert!(matches!(judged, Some(FromAgent::Judged { id: 7, blocked: true })));
        assert!(read::<FromAgent>(&mut far, MAX_FROM_AGENT).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn what_is_too_long_or_no_message_is_refused() {
        let long = FromServer::Failed { message: "x".repeat(100) };
        let mut out = Vec::new();
        assert!(write(&mut out, &long, 64).await.is_err());
        write(&mut out, &long, 4096).await.unwrap();
        assert!(read::<FromServer>(&mut out.as_slice(), out.len() - 5).await.is_err());
        assert!(read::<FromServer>(&mut out.as_slice(), out.len() - 4).await.unwrap().is_some());
        assert!(read::<FromServer>(&mut &out[..out.len() - 1], 4096).await.is_err());
        assert!(read::<FromServer>(&mut &out[..3], 4096).await.is_err());
        assert!(read::<FromServer>(&mut &b"\x02\0\0\0{}"[..], 4096).await.is_err());
    }
}
