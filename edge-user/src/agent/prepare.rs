//! What a reload needs before anything is changed: files that are read, addresses that are bound, a server that is ready
//! and does not accept yet. It takes its time beside the loop, and what is slow to read or to look up has a thread of
//! its own. Dropped, it leaves nothing behind.

use std::{net::SocketAddr, sync::Arc};

use secrecy::ExposeSecret;
use tokio::task::spawn_blocking;

use super::{
    certificate,
    child::{self, Running, Served},
    listener::Listener,
    scrape, servers,
    trial::Former,
};
use crate::{
    config::{self, Config, ConfigErrors, Difference, Overrides},
    error::Failure,
    server::{jws::Algorithm, link::ServerConfig, spawn::Identity},
};

/// Why nothing was changed.
pub(super) enum Refusal {
    Errors(ConfigErrors),
    Failure(Failure),
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Refusal {
        Refusal::Failure(failure)
    }
}

/// What is to be put into force.
pub(super) struct Next {
    pub config: Config,
    pub difference: Difference,
    pub server: NextServer,
    /// `None`: the metrics stay where they are.
    pub metrics: Option<Listener>,
}

pub(super) enum NextServer {
    AsItIs,
    None,
    Another(Box<Running>, Identity),
}

/// What is in force, as far as it matters for what is to come.
pub(super) struct Present {
    pub config: Config,
    pub overrides: Overrides,
    pub served: Option<Arc<Served>>,
    pub identity: Option<Identity>,
    pub metrics: Listener,
}

/// What is to come.
pub(super) enum Aim {
    /// What the files say.
    File,
    /// What is in force, with the certificates that are there now.
    Renewed,
    /// What is in force, with the signing secret that is there now.
    Resigned,
    /// Whatever the files hold by now.
    Former(Box<Former>),
}

/// What the files say.
struct Said {
    config: Config,
    difference: Difference,
    server: ToServe,
}

enum ToServe {
    AsItIs,
    Nothing,
    Another(Box<ServerConfig>, Identity),
}

impl Present {
    pub async fn next(self, aim: Aim) -> Result<Box<Next>, Refusal> {
        let read = spawn_blocking(move || (self.read(aim), self)).await;
        let (said, present) = read.map_err(|_| Failure::bug("the config could not be read again"))?;
        let Said { config, mut difference, server } = said?;
        let (listeners, metrics) = tokio::join!(present.listeners(&config, &server), present.metrics(&config));
        let (listeners, metrics) = both(listeners, metrics)?;
        let server = match server {
            ToServe::AsItIs => NextServer::AsItIs,
            ToServe::Nothing => NextServer::None,
            ToServe::Another(server, identity) => {
                renewed(&mut difference, present.served.as_ref().map(|before| &before.config), &server);
                let served = Arc::new(Served { config: *server, listeners });
                NextServer::Another(Box::new(child::launch(served, &identity).await?), identity)
            }
        };
        Ok(Box::new(Next { config, difference, server, metrics }))
    }

    /// May take as long as disks and the directory of users do.
    fn read(&self, aim: Aim) -> Result<Said, Refusal> {
        let (config, difference, as_it_was) = match aim {
            Aim::Former(former) => {
                let Former { config, server } = *former;
                let difference = Difference::between(&self.config, &config);
                (config, difference, server)
            }
            Aim::Renewed => (self.config.clone(), Difference::default(), self.with_certificates()?),
            Aim::Resigned => (self.config.clone(), Difference::default(), self.with_signing_key()?),
            Aim::File => {
                let (config, difference) = self.config.read_again(&self.overrides).map_err(Refusal::Errors)?;
                (config, difference, None)
            }
        };
        let server = self.to_serve(&config, as_it_was)?;
        Ok(Said { config, difference, server })
    }

    /// What is in force, with those that the files hold now.
    fn with_certificates(&self) -> Result<Option<ServerConfig>, Failure> {
        let (Some(server), Some(served)) = (&self.config.server, &self.served) else { return Ok(None) };
        let certificates = certificate::all(&self.config, server)?;
        Ok(Some(ServerConfig { certificates, ..served.config.clone() }))
    }

    fn with_signing_key(&self) -> Result<Option<ServerConfig>, Failure> {
        let (Some(server), Some(served)) = (&self.config.server, &self.served) else { return Ok(None) };
        let signing_key = config::read_signing_key(&server.auth)?.expose_secret().to_owned();
        Ok(Some(ServerConfig { signing_key, ..served.config.clone() }))
    }

    fn to_serve(&self, config: &Config, as_it_was: Option<ServerConfig>) -> Result<ToServe, Failure> {
        let Some(server) = &config.server else {
            return Ok(if self.served.is_some() { ToServe::Nothing } else { ToServe::AsItIs });
        };
        let mut to_serve = as_it_was.map_or_else(|| child::server_config(config, server), Ok)?;
        if let Some(before) = &self.served {
            to_serve.former_keys = former_keys(&before.config, &to_serve);
            if before.config == to_serve && before.addresses().eq(child::addresses(server)) {
                return Ok(ToServe::AsItIs);
            }
        }
        Ok(ToServe::Another(Box::new(to_serve), servers::identity(config, self.identity.clone())?))
    }

    async fn listeners(&self, config: &Config, server: &ToServe) -> Result<Vec<Listener>, Failure> {
        let (ToServe::Another(..), Some(server)) = (server, &config.server) else { return Ok(Vec::new()) };
        child::bound(server, self.held()).await
    }

    fn held(&self) -> &[Listener] {
        self.served.as_ref().map(|served| served.listeners.as_slice()).unwrap_or_default()
    }

    async fn metrics(&self, config: &Config) -> Result<Option<Listener>, Failure> {
        if config.metrics.listen == self.config.metrics.listen {
            return Ok(None);
        }
        scrape::bound(config.metrics.listen, std::slice::from_ref(&self.metrics)).await.map(Some)
    }
}

impl Served {
    fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.listeners.iter().map(|listener| listener.address)
    }
}

/// The last few that signed, but for the one that signs now: clients go on with their tokens for a while.
fn former_keys(before: &ServerConfig, now: &ServerConfig) -> Vec<(Algorithm, String)> {
    const KEPT: usize = 4;
    let last = [(before.algorithm, before.signing_key.clone())];
    let all = last.into_iter().chain(before.former_keys.iter().cloned());
    all.filter(|key| *key != (now.algorithm, now.signing_key.clone())).take(KEPT).collect()
}

/// Files that hold something else than before, under the keys that name them.
fn renewed(difference: &mut Difference, before: Option<&ServerConfig>, after: &ServerConfig) {
    let Some(before) = before else { return };
    let key = if after.algorithm.is_symmetric() { "auth.secret_file" } else { "auth.key_file" };
    let files =
        [("server.tls", before.certificates != after.certificates), (key, before.signing_key != after.signing_key)];
    for (key, _) in files.into_iter().filter(|(_, differs)| *differs) {
        if !difference.reloaded.contains(&key) {
            difference.reloaded.push(key);
        }
    }
}

/// Or what is wrong with both.
fn both<A, B>(one: Result<A, Failure>, other: Result<B, Failure>) -> Result<(A, B), Failure> {
    match (one, other) {
        (Ok(one), Ok(other)) => Ok((one, other)),
        (Err(one), Err(other)) => Err(Failure::new(one.blame, format!("{}; {}", one.message, other.message))),
        (Err(failure), Ok(_)) | (Ok(_), Err(failure)) => Err(failure),
    }
}
