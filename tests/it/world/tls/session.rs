//! A TLS session that believes any certificate and says which one it got, and one request over it.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use edge_tests::net::{HOST4, Lab};
use rustls::{
    ClientConnection, ProtocolVersion, StreamOwned, SupportedProtocolVersion,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};

use crate::world::trusting::anybody;

/// How a client greets.
#[derive(Clone, Debug)]
pub struct Greeting<'a> {
    /// An address sends no name.
    pub name: &'a str,
    pub alpn: &'a [&'a str],
    pub versions: &'a [&'static SupportedProtocolVersion],
}

impl Default for Greeting<'_> {
    fn default() -> Self {
        Greeting { name: "192.0.2.1", alpn: &["http/1.1"], versions: rustls::ALL_VERSIONS }
    }
}

pub struct Session(StreamOwned<ClientConnection, TcpStream>);

impl Session {
    /// From one of the clients' addresses to the served port, handshake done.
    pub fn greet(lab: &Lab, from: IpAddr, greeting: &Greeting<'_>) -> Result<Session> {
        Session::over(super::super::connect(lab, from, SocketAddr::new(HOST4, 443))?, greeting)
    }

    pub fn over(socket: TcpStream, greeting: &Greeting<'_>) -> Result<Session> {
        socket.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut config = anybody(greeting.versions)?;
        config.alpn_protocols = greeting.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = ServerName::try_from(greeting.name.to_owned())?;
        let mut stream = StreamOwned::new(ClientConnection::new(Arc::new(config), name)?, socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).context("in the handshake")?;
        }
        Ok(Session(stream))
    }

    /// Whether the server proved itself with the first certificate of this file.
    pub fn has_certificate_of(&self, file: &Path) -> Result<bool> {
        let expected = CertificateDer::from_pem_file(file)?;
        Ok(self.0.conn.peer_certificates().and_then(<[_]>::first).context("no certificate")? == &expected)
    }

    pub fn alpn(&self) -> Option<&str> {
        self.0.conn.alpn_protocol().and_then(|name| std::str::from_utf8(name).ok())
    }

    pub fn version(&self) -> Option<ProtocolVersion> {
        self.0.conn.protocol_version()
    }

    /// `GET /health` in HTTP/1.1, which has to be answered with 200.
    pub fn served(&mut self) -> Result<()> {
        self.0.write_all(b"GET /health HTTP/1.1\r\nHost: edge.test\r\nConnection: close\r\n\r\n").context("asking")?;
        let mut answer = Vec::new();
        let read = self.0.read_to_end(&mut answer);
        read.with_context(|| format!("after {:?}", String::from_utf8_lossy(&answer)))?;
        ensure!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
        Ok(())
    }
}
