//! Clients of edge's own server over connections that are there already, many at once.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use edge_tests::{client::connect, net::Lab};
use nix::sys::socket::{setsockopt, sockopt};
use rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};

use crate::world::trusting::anybody;

/// Longer than a SYN that is sent again takes, or an answer of a busy server.
const PATIENCE: Duration = Duration::from_secs(4);

/// One that was served, and could be again.
pub type Served = StreamOwned<ClientConnection, TcpStream>;

/// Each tries for as long as it has patience; those that were answered stay open.
pub fn ask_all(clients: Vec<TcpStream>) -> Result<Vec<Served>> {
    let tls = Arc::new(anybody(rustls::ALL_VERSIONS)?);
    let threads: Vec<_> = clients
        .into_iter()
        .map(|client| {
            let tls = tls.clone();
            thread::Builder::new().stack_size(1 << 18).spawn(move || ask(client, tls))
        })
        .collect::<Result<_, _>>()?;
    let mut served = Vec::new();
    for thread in threads {
        let Ok(answered) = thread.join() else { bail!("a client panicked") };
        served.extend(answered?);
    }
    Ok(served)
}

/// So many more, each of which is served.
pub fn fill(lab: &Lab, from: IpAddr, to: SocketAddr, count: usize) -> Result<Vec<Served>> {
    let tls = Arc::new(anybody(rustls::ALL_VERSIONS)?);
    let one = |_| ask(connect(lab, from, to, PATIENCE)??, tls.clone())?.context("not served, though there was room");
    (0..count).map(one).collect()
}

/// `None`: no connection was had, or it was closed without a byte.
fn ask(client: TcpStream, tls: Arc<ClientConfig>) -> Result<Option<Served>> {
    client.set_nonblocking(false)?;
    client.set_read_timeout(Some(PATIENCE))?;
    client.set_write_timeout(Some(PATIENCE))?;
    let connection = ClientConnection::new(tls, ServerName::try_from("edge.test")?)?;
    // Who gives up leaves nothing behind: what it said would be said again, and complete a handshake without it.
    setsockopt(&client, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
    let mut stream = StreamOwned::new(connection, client);
    if stream.write_all(b"GET /health HTTP/1.1\r\nHost: edge.test\r\n\r\n").is_err() {
        ensure!(stream.conn.is_handshaking(), "served half: the handshake was completed, and nothing after it");
        return Ok(None);
    }
    let mut answer = [0; 1_024];
    match stream.read(&mut answer) {
        Ok(count) if answer[..count].starts_with(b"HTTP/1.1 200") => Ok(Some(stream)),
        other => bail!("a handshake was completed, and then {other:?}"),
    }
}
