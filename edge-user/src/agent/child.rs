//! The server as the agent keeps it: its listeners, its config with the secrets, its process and the link to it.
//! A server that dies is started again, at once and then with pauses of at most 5 s.

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    socket::{
        AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen as listen_on, setsockopt, socket,
        sockopt,
    },
};
use secrecy::ExposeSecret;
use tokio::{
    net::unix::{OwnedReadHalf, OwnedWriteHalf},
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use crate::{
    config::{self, Config, Mode, Tls},
    error::{Blame, Context, Failure},
    server::{
        link::{self, FromAgent, FromServer, MAX_FROM_AGENT, MAX_FROM_SERVER, ServerConfig},
        spawn::{self, Identity},
        tls,
    },
};

const READY_WITHIN: Duration = Duration::from_secs(10);
/// A server that takes nothing for so long is as good as dead.
const TELL_WITHIN: Duration = Duration::from_secs(1);
const ENDS_WITHIN: Duration = Duration::from_millis(4500);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A server that ran for so long is started again without a pause.
const HEALTHY_AFTER: Duration = Duration::from_secs(30);

/// What the agent's loop hears.
pub enum FromChild {
    Says(FromServer),
    Ended,
    Started(Running),
}

pub struct Running {
    process: tokio::process::Child,
    write: OwnedWriteHalf,
    read: OwnedReadHalf,
}

pub struct Child {
    listeners: Arc<Vec<TcpListener>>,
    identity: Identity,
    running: Option<(tokio::process::Child, OwnedWriteHalf)>,
    tell: mpsc::Sender<FromChild>,
    started: Instant,
    pause: Duration,
}

impl Child {
    /// Starts the server and waits until every listener accepts.
    pub async fn start(
        config: &Config,
        listeners: Vec<TcpListener>,
        tell: mpsc::Sender<FromChild>,
    ) -> Result<Child, Failure> {
        let identity = Identity::find()?;
        if identity.fallback {
            tracing::warn!("there is no user edge-server here; the server runs as {}", identity.name);
        }
        spawn::prepare_auth_directory(&config.store.auth_directory(), &identity)?;
        let mut child = Child {
            listeners: Arc::new(listeners),
            identity,
            running: None,
            tell,
            started: Instant::now(),
            pause: Duration::ZERO,
        };
        let running = launch(config, &child.identity, &child.listeners).await?;
        child.adopt(running);
        Ok(child)
    }

    pub async fn tell(&mut self, message: &FromAgent) {
        let Some((_, write)) = &mut self.running else { return };
        let sent = timeout(TELL_WITHIN, link::write(write, message, MAX_FROM_AGENT)).await;
        if !matches!(sent, Ok(Ok(()))) {
            tracing::error!("the server does not listen to the agent; it is ended");
            self.running = None;
        }
    }

    /// In the background, since it may take a while.
    pub fn restart(&mut self, config: &Config) {
        self.running = None;
        if self.started.elapsed() >= HEALTHY_AFTER {
            self.pause = Duration::ZERO;
        }
        let pause = self.pause;
        self.pause = (self.pause * 2).clamp(Duration::from_millis(100), PAUSE_MAX);
        let (config, identity, listeners) = (config.clone(), self.identity.clone(), self.listeners.clone());
        let tell = self.tell.clone();
        tokio::spawn(async move {
            sleep(pause).await;
            let heard = match launch(&config, &identity, &listeners).await {
                Ok(running) => FromChild::Started(running),
                Err(failure) => {
                    tracing::error!("the server cannot be started again: {failure}");
                    FromChild::Ended
                }
            };
            let _ = tell.send(heard).await;
        });
    }

    /// Takes a server that is ready into service.
    pub fn adopt(&mut self, running: Running) {
        let Running { process, write, mut read } = running;
        self.running = Some((process, write));
        self.started = Instant::now();
        let tell = self.tell.clone();
        tokio::spawn(async move {
            loop {
                match link::read::<FromServer>(&mut read, MAX_FROM_SERVER).await {
                    Ok(Some(message)) => {
                        if tell.send(FromChild::Says(message)).await.is_err() {
                            return;
                        }
                    }
                    Ok(None) => break,
                    Err(error) => {
                        tracing::error!("the server speaks what the agent does not understand: {error}");
                        break;
                    }
                }
            }
            let _ = tell.send(FromChild::Ended).await;
        });
    }

    /// Asks the server to end and waits for it.
    pub async fn drain(&mut self) {
        self.tell(&FromAgent::Drain).await;
        let Some((mut process, _write)) = self.running.take() else { return };
        if timeout(ENDS_WITHIN, process.wait()).await.is_err() {
            tracing::warn!("the server did not end in time; closing its link ends it");
        }
    }
}

async fn launch(config: &Config, identity: &Identity, listeners: &[TcpListener]) -> Result<Running, Failure> {
    let server = config.server.as_ref().ok_or_else(|| Failure::bug("a server without a config"))?;
    let first = FromAgent::Config(Box::new(server_config(config, server)?));
    let (process, stream) = spawn::spawn(identity, listeners)?;
    let (mut read, mut write) = stream.into_split();
    let ready = timeout(READY_WITHIN, async {
        link::write(&mut write, &first, MAX_FROM_AGENT).await?;
        link::read::<FromServer>(&mut read, MAX_FROM_SERVER).await
    });
    match ready.await {
        Ok(Ok(Some(FromServer::Ready))) => Ok(Running { process, write, read }),
        Ok(Ok(Some(FromServer::Failed { message }))) => Err(Failure::refused(message)),
        Ok(Ok(_)) => Err(Failure::system("the server ended before it was ready")),
        Ok(Err(error)) => Err(Failure::system(format!("the server cannot be talked to: {error}"))),
        Err(_) => Err(Failure::system("the server was not ready within 10 s")),
    }
}

/// All that the server needs; the agent reads the files.
pub fn server_config(config: &Config, server: &config::Server) -> Result<ServerConfig, Failure> {
    let (certificate_pem, key_pem) = certificate(config, server)?;
    tls::check_pair(&certificate_pem, &key_pem).map_err(Failure::usage)?;
    let auth = &server.auth;
    Ok(ServerConfig {
        production: config.mode == Mode::Production,
        certificate_pem,
        key_pem,
        header_timeout: server.header_timeout,
        idle_timeout: server.idle_timeout,
        max_handshakes: server.max_handshakes,
        issuer: auth.issuer.clone(),
        audience: auth.audience.clone(),
        secret: config::read_secret(auth)?.expose_secret().to_owned(),
        access_ttl: auth.access_ttl,
        refresh_ttl: auth.refresh_ttl,
        leeway: auth.leeway,
        hashes_in_flight: auth.hashes_in_flight,
        auth_store: config.store.auth_directory(),
    })
}

fn certificate(config: &Config, server: &config::Server) -> Result<(String, String), Failure> {
    let read = |path: &std::path::Path, key: &str| {
        std::fs::read_to_string(path)
            .blame(Blame::Usage, || format!("server.tls.{key}: {} cannot be read", path.display()))
    };
    match &server.tls {
        Tls::Files { cert_file, key_file } => Ok((read(cert_file, "cert_file")?, read(key_file, "key_file")?)),
        Tls::SelfSigned => self_signed(&config.store.self_signed()),
    }
}

/// Made once and kept, certificate and key in one file that only its owner reads.
fn self_signed(path: &std::path::Path) -> Result<(String, String), Failure> {
    use std::os::unix::fs::OpenOptionsExt;
    let what = || format!("the self-signed certificate {} cannot be kept", path.display());
    if let Ok(both) = std::fs::read_to_string(path) {
        return Ok((both.clone(), both));
    }
    let names = ["localhost".to_owned()];
    let (certificate, key) = tls::self_signed(&names).map_err(Failure::system)?;
    let mut file =
        std::fs::File::options().write(true).create_new(true).mode(0o600).open(path).blame(Blame::System, what)?;
    std::io::Write::write_all(&mut file, format!("{certificate}{key}").as_bytes()).blame(Blame::System, what)?;
    Ok((certificate, key))
}

/// A listening socket that survives a restart's TIME-WAIT; IPv6 sockets take IPv6 alone.
pub fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let opened = socket(family, SockType::Stream, flags, None).and_then(|socket| {
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
        if address.is_ipv6() {
            setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
        }
        bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &SockaddrStorage::from(address))?;
        listen_on(&socket, Backlog::MAXALLOWABLE)?;
        Ok(socket)
    });
    raise_descriptors();
    match opened {
        Ok(socket) => Ok(TcpListener::from(socket)),
        Err(nix::errno::Errno::EADDRINUSE) => Err(Failure::refused(format!(
            "server.listen: {address} is taken by another process; stop it (`ss -ltnp`) or listen elsewhere"
        ))),
        Err(nix::errno::Errno::EACCES) => Err(Failure::forbidden(format!(
            "server.listen: {address} needs CAP_NET_BIND_SERVICE; run as root or listen above port 1023"
        ))),
        Err(error) => Err(Failure::refused(format!("server.listen: {address} cannot be listened on: {error}"))),
    }
}

/// Each connection is a descriptor; the server inherits the limit.
fn raise_descriptors() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
