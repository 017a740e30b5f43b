//! The server as the agent keeps it: its config with the secrets, its process and the link to it.
//! A server that dies is started again, at once and then with pauses of at most 5 s.

use std::{net::TcpListener, sync::Arc, time::Duration};

use secrecy::ExposeSecret;
use tokio::{
    net::unix::{OwnedReadHalf, OwnedWriteHalf},
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use super::{certificate, pause::Pause};
use crate::{
    config::{self, Config, Mode},
    error::Failure,
    logging::Logging,
    server::{
        link::{self, FromAgent, FromServer, MAX_FROM_AGENT, MAX_FROM_SERVER, ServerConfig},
        spawn::{self, Identity},
    },
};

const READY_WITHIN: Duration = Duration::from_secs(10);
/// A server that takes nothing for so long is as good as dead.
const TELL_WITHIN: Duration = Duration::from_secs(1);
/// A process whose link has closed is about to end.
const ENDS_WITHIN: Duration = Duration::from_millis(500);

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
    process: Option<tokio::process::Child>,
    write: Option<OwnedWriteHalf>,
    /// Whether a server's end is still to be heard.
    heard: bool,
    tell: mpsc::Sender<FromChild>,
    pause: Pause,
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
            process: None,
            write: None,
            heard: false,
            tell,
            pause: Pause::default(),
        };
        let running = launch(config, &child.identity, &child.listeners).await?;
        child.adopt(running);
        Ok(child)
    }

    pub async fn tell(&mut self, message: &FromAgent) {
        let Some(write) = &mut self.write else { return };
        let sent = timeout(TELL_WITHIN, link::write(write, message, MAX_FROM_AGENT)).await;
        if !matches!(sent, Ok(Ok(()))) {
            tracing::error!("the server does not listen to the agent; it is ended");
            self.let_go();
        }
    }

    /// Without its link the server ends.
    fn let_go(&mut self) {
        self.write = None;
        self.process = None;
    }

    /// Whether more may come of the server, and its end at last.
    pub fn is_heard(&self) -> bool {
        self.heard
    }

    /// After its end was heard; in the background, since it may take a while.
    pub fn restart(&mut self, config: &Config) {
        self.heard = false;
        let ended = self.process.take();
        self.let_go();
        let pause = self.pause.ended(Instant::now());
        let (config, identity, listeners) = (config.clone(), self.identity.clone(), self.listeners.clone());
        let tell = self.tell.clone();
        tokio::spawn(async move {
            // Where there is none, why is told already.
            if let Some(process) = ended {
                tracing::error!("the server ended ({}); it is started again", fate(process).await);
            }
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
        (self.process, self.write, self.heard) = (Some(process), Some(write), true);
        self.pause.served(Instant::now());
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

    /// Asks the server to end; its process, to be waited for. `None` if none runs. It can still be talked to.
    pub async fn drain(&mut self) -> Option<tokio::process::Child> {
        self.tell(&FromAgent::Drain).await;
        self.process.take()
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
        Ok(Ok(_)) => Err(Failure::system(format!("the server ended before it was ready ({})", fate(process).await))),
        Ok(Err(error)) => {
            Err(Failure::system(format!("the server cannot be talked to: {error} ({})", fate(process).await)))
        }
        Err(_) => Err(Failure::system("the server was not ready within 10 s")),
    }
}

/// How a process ended, as `signal: 9 (SIGKILL)`.
async fn fate(mut process: tokio::process::Child) -> String {
    match timeout(ENDS_WITHIN, process.wait()).await {
        Ok(Ok(status)) => status.to_string(),
        Ok(Err(error)) => format!("its status is not known: {error}"),
        Err(_) => "its process has not ended yet".to_owned(),
    }
}

/// All that the server needs; the agent reads the files.
pub fn server_config(config: &Config, server: &config::Server) -> Result<ServerConfig, Failure> {
    let (certificate_pem, key_pem) = certificate::pair(config, server)?;
    let auth = &server.auth;
    Ok(ServerConfig {
        logging: Logging::of(&config.log),
        production: config.mode == Mode::Production,
        certificate_pem,
        key_pem,
        header_timeout: server.header_timeout,
        idle_timeout: server.idle_timeout,
        max_handshakes: server.max_handshakes,
        ipv6_unit: config.filter.ipv6_unit,
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
