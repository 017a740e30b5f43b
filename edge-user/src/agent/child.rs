//! One server as the agent keeps it: what it serves, its process and the link to it. Which of them is in service, and
//! what becomes of the others, is `servers`'.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use secrecy::ExposeSecret;
use tokio::{
    net::unix::{OwnedReadHalf, OwnedWriteHalf},
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{
    certificate, fetcher,
    listener::{self, Listener},
    servers::Heard,
};
use crate::{
    config::{self, Config, KeysFrom, Mode},
    control::protocol::{Acme, Certificate},
    error::Failure,
    logging::Logging,
    server::{
        auth::OidcProvider,
        counters,
        issuers::{Keys, TrustedIssuer},
        link::{self, AcmeState, FromAgent, FromServer, MAX_FROM_AGENT, MAX_FROM_SERVER, Metrics, ServerConfig},
        spawn::{self, Identity, Leash, Spawned},
        x509,
    },
};

/// The keys that name its addresses.
const LISTEN: &str = "server.listen";
const REDIRECT: &str = "server.http_redirect";
const READY_WITHIN: Duration = Duration::from_secs(10);
/// A server that takes nothing for so long is as good as dead.
const TELL_WITHIN: Duration = Duration::from_secs(1);
/// In seconds of the agent's own. A server says something every second.
const SILENT: u32 = 8;
/// A process whose link has closed is about to end.
const ENDS_WITHIN: Duration = Duration::from_millis(500);

/// Which of the servers that one agent started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id(pub u64);

/// What a server is to serve: its config with the secrets, as the files had them then, and the sockets.
#[derive(Clone, PartialEq)]
pub struct Served {
    pub config: ServerConfig,
    pub listeners: Vec<Listener>,
}

impl Served {
    /// In the order in which they are chosen; the one by ACME by the server's word.
    pub fn certificates(&self, acme: Option<AcmeState>) -> Vec<Certificate> {
        let files = self.config.certificates.iter().filter_map(|pem| x509::names_and_end(&pem.chain));
        let files = files.map(|(names, expires)| Certificate { names, expires: Some(expires), acme: None });
        files.chain(self.config.acme.as_ref().map(|of| issued(of, acme.unwrap_or_default()))).collect()
    }
}

/// A server that is ready, and does not accept yet. Dropped, it ends.
pub struct Running {
    pub served: Arc<Served>,
    process: tokio::process::Child,
    write: OwnedWriteHalf,
    read: OwnedReadHalf,
    leash: Leash,
}

/// Both let go of, it is dead, and that is heard.
struct Life {
    _leash: Leash,
    /// Ends the listening to it.
    _heard: oneshot::Sender<()>,
}

pub struct Child {
    pub id: Id,
    pub metrics: Metrics,
    process: Option<tokio::process::Child>,
    /// `None`: it is to end.
    write: Option<OwnedWriteHalf>,
    life: Option<Life>,
    /// For how many seconds it has said nothing.
    silent: u32,
    listens: Vec<SocketAddr>,
    /// Told when it accepts no more.
    retired: Option<oneshot::Sender<()>>,
    /// Whether it has anything to ask of others.
    fetches: bool,
    /// Told what of that could not be had.
    fetched: Option<oneshot::Sender<Vec<String>>>,
}

impl Child {
    /// Takes a server that is ready into service; what it says goes to `tell`.
    pub async fn start(id: Id, running: Running, tell: mpsc::Sender<Heard>) -> Child {
        let Running { served, process, write, read, leash } = running;
        let (heard, cut) = oneshot::channel();
        tokio::spawn(listen(id, read, tell, cut));
        let mut child = Child {
            id,
            metrics: counters::none(),
            process: Some(process),
            write: Some(write),
            life: Some(Life { _leash: leash, _heard: heard }),
            silent: 0,
            listens: served.listeners.iter().map(|listener| listener.address).collect(),
            retired: None,
            fetches: served.config.fetches(),
            fetched: None,
        };
        child.tell(&FromAgent::Accept).await;
        child
    }

    pub async fn tell(&mut self, message: &FromAgent) {
        let Some(write) = &mut self.write else { return };
        let sent = timeout(TELL_WITHIN, link::write(write, message, MAX_FROM_AGENT)).await;
        if !matches!(sent, Ok(Ok(()))) {
            tracing::error!("the server does not listen to the agent; it is ended");
            self.end();
        }
    }

    /// Whatever it is about. That it has ended is heard as of any other.
    fn end(&mut self) {
        (self.write, self.retired, self.life) = (None, None, None);
    }

    pub fn spoke(&mut self) {
        self.silent = 0;
    }

    /// Once a second of the agent: one that says nothing hangs.
    pub fn sweep(&mut self) {
        self.silent += 1;
        if self.silent == SILENT {
            tracing::error!("the server has said nothing for {SILENT} s; it is ended");
            self.end();
        }
    }

    /// Has it finish what it began. The receiver hears, if only by its closing, that it accepts no more.
    pub async fn retire(&mut self) -> oneshot::Receiver<()> {
        let (retired, hears) = oneshot::channel();
        self.retired = Some(retired);
        self.tell(&FromAgent::Retire).await;
        hears
    }

    /// Has it ask others anew. `None`: it asks nobody.
    pub async fn fetch_again(&mut self) -> Option<oneshot::Receiver<Vec<String>>> {
        self.fetches.then_some(())?;
        let (fetched, hears) = oneshot::channel();
        self.fetched = Some(fetched);
        self.tell(&FromAgent::FetchAgain).await;
        Some(hears)
    }

    pub fn has_fetched(&mut self, failures: Vec<String>) {
        if let Some(fetched) = self.fetched.take() {
            // Nobody waits for what a signal asked for.
            let _ = fetched.send(failures);
        }
    }

    pub fn has_retired(&mut self) {
        self.retired = None;
    }

    /// Whether a connection with this end came in by one of its listeners.
    pub fn listens_on(&self, local: SocketAddr) -> bool {
        config::listens_on(&self.listens, local)
    }

    /// Waits for the process of a server whose link has closed, but not long; how it ended, as `signal: 9 (SIGKILL)`.
    pub async fn fate(self) -> String {
        match self.process {
            Some(process) => fate(process).await,
            None => "its process is not known".to_owned(),
        }
    }
}

async fn listen(id: Id, read: OwnedReadHalf, tell: mpsc::Sender<Heard>, cut: oneshot::Receiver<()>) {
    tokio::select! {
        () = hear(id, read, &tell) => {}
        _ = cut => {}
    }
    // An agent that has ended needs it no more.
    let _ = tell.send(Heard::Ended(id)).await;
}

async fn hear(id: Id, mut read: OwnedReadHalf, tell: &mpsc::Sender<Heard>) {
    loop {
        match link::read::<FromServer>(&mut read, MAX_FROM_SERVER).await {
            Ok(Some(message)) => {
                if tell.send(Heard::Says(id, message)).await.is_err() {
                    return;
                }
            }
            Ok(None) => return,
            Err(error) => {
                tracing::error!("the server speaks what the agent does not understand: {error}");
                return;
            }
        }
    }
}

/// Starts a server and waits until it is ready.
pub async fn launch(served: Arc<Served>, identity: &Identity) -> Result<Running, Failure> {
    let first = FromAgent::Config(Box::new(served.config.clone()));
    let listeners: Vec<_> = served.listeners.iter().map(|listener| &*listener.socket).collect();
    let Spawned { process, link, leash, fetchers } = spawn::spawn(identity, &listeners, served.config.fetches())?;
    if let Some(to_server) = fetchers {
        tokio::spawn(fetcher::keep(identity.clone(), !served.config.production, to_server));
    }
    let (mut read, mut write) = link.into_split();
    let ready = timeout(READY_WITHIN, async {
        link::write(&mut write, &first, MAX_FROM_AGENT).await?;
        link::read::<FromServer>(&mut read, MAX_FROM_SERVER).await
    });
    match ready.await {
        Ok(Ok(Some(FromServer::Ready))) => Ok(Running { served, process, write, read, leash }),
        Ok(Ok(Some(FromServer::Failed { message }))) => Err(Failure::refused(message)),
        Ok(Ok(_)) => Err(Failure::system(format!("the server ended before it was ready ({})", fate(process).await))),
        Ok(Err(error)) => {
            Err(Failure::system(format!("the server cannot be talked to: {error} ({})", fate(process).await)))
        }
        Err(_) => Err(Failure::system("the server was not ready within 10 s")),
    }
}

async fn fate(mut process: tokio::process::Child) -> String {
    match timeout(ENDS_WITHIN, process.wait()).await {
        Ok(Ok(status)) => status.to_string(),
        Ok(Err(error)) => format!("its status is not known: {error}"),
        Err(_) => "its process has not ended yet".to_owned(),
    }
}

/// Its addresses, in the order that the server takes its sockets.
pub fn addresses(server: &config::Server) -> impl Iterator<Item = SocketAddr> {
    server.listen.iter().chain(&server.http_redirect).copied()
}

/// Its sockets, of those that are `held` or new ones, which do not listen yet.
pub async fn bound(server: &config::Server, held: &[Listener]) -> Result<Vec<Listener>, Failure> {
    let mut listeners = listener::bound(LISTEN, &server.listen, held).await?;
    listeners.extend(listener::bound(REDIRECT, &server.http_redirect, held).await?);
    Ok(listeners)
}

/// Connections come to all of them from now on.
pub fn listen_on(served: &Served, held: &[Listener]) -> Result<(), Failure> {
    let (listen, redirect) = served.listeners.split_at(served.config.listen.len().min(served.listeners.len()));
    listener::listen_on(LISTEN, listen, held)?;
    listener::listen_on(REDIRECT, redirect, held)
}

fn issued(of: &link::Acme, state: AcmeState) -> Certificate {
    let AcmeState { end, renews_at, failures, last_error, retries_at } = state;
    let acme = Acme { directory: of.directory.clone(), renews_at, failures, last_error, retries_at };
    Certificate { names: of.domains.clone(), expires: end, acme: Some(acme) }
}

fn acme(acme: &config::Acme) -> link::Acme {
    let config::Acme { domains, contact, directory } = acme.clone();
    link::Acme { domains, contact, directory }
}

/// All that the server needs; the agent reads the files.
pub fn server_config(config: &Config, server: &config::Server) -> Result<ServerConfig, Failure> {
    let auth = &server.auth;
    Ok(ServerConfig {
        logging: Logging::of(&config.log),
        production: config.mode == Mode::Production,
        listen: server.listen.clone(),
        redirects: !server.http_redirect.is_empty(),
        certificates: certificate::all(config, server)?,
        acme: server.tls.acme.as_ref().map(acme),
        header_timeout: server.header_timeout,
        idle_timeout: server.idle_timeout,
        max_handshakes: server.max_handshakes,
        ipv6_unit: config.filter.ipv6_unit,
        issuer: auth.issuer.clone(),
        audience: auth.audience.clone(),
        algorithm: auth.algorithm,
        signing_key: config::read_signing_key(auth)?.expose_secret().to_owned(),
        former_keys: Vec::new(),
        access_ttl: auth.access_ttl,
        refresh_ttl: auth.refresh_ttl,
        leeway: auth.leeway,
        hashes_in_flight: auth.hashes_in_flight,
        session_idle: auth.session_idle,
        session_absolute: auth.session_absolute,
        oidc: auth.oidc.iter().map(provider).collect::<Result<_, _>>()?,
        trusted_issuers: auth.trusted_issuers.iter().map(trusted).collect::<Result<_, _>>()?,
        auth_store: config.store.auth_directory(),
    })
}

fn trusted(issuer: &config::TrustedIssuer) -> Result<TrustedIssuer, Failure> {
    let config::TrustedIssuer { name, issuer, audience, keys, roles, role_claim } = issuer.clone();
    let keys = match keys {
        KeysFrom::Url(url) => Keys::Url(url),
        KeysFrom::File(file) => Keys::Set(config::read_keys(&file)?),
    };
    Ok(TrustedIssuer { name, issuer, audience, keys, roles, role_claim })
}

fn provider(provider: &config::Oidc) -> Result<OidcProvider, Failure> {
    let config::Oidc { name, issuer, client_id, client_secret_file, allowed_emails, allowed_domains, roles } =
        provider.clone();
    let client_secret = config::read_client_secret(&client_secret_file)?.expose_secret().to_owned();
    Ok(OidcProvider { name, issuer, client_id, client_secret, allowed_emails, allowed_domains, roles })
}
