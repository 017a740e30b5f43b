//! The start: in what order the parts begin, and what is undone where one cannot.

use std::{rc::Rc, sync::Arc};

use tokio::sync::mpsc;

use super::{
    Agent, ORDERS,
    child::{self, Served},
    cutoff::Cutoff,
    drift::Comparison,
    growth::Growth,
    interfaces::Interfaces,
    listener::Listener,
    logged,
    reload::Reloads,
    renewal::Renewals,
    scrape::{self, Scrape},
    servers::{self, Servers},
    stop::Stop,
    systemd, take_lock,
    trial::Trial,
};
use crate::{
    audit::Audit,
    capability::{self, Capabilities},
    clock::{Boot, Now, Wall},
    config::{Config, Overrides},
    control::server as admin,
    datapath::{self, Lock},
    enforce::{Enforcer, Surroundings},
    error::{Blame, Context, Failure},
    metrics::Own,
    names::Names,
    netlink,
    server::users::{self, Settled},
    store::Unmade,
};

impl Agent {
    /// A start that fails leaves in force what was, and nothing where nothing was. `None`: it was stopped before it was
    /// ready; what is in force by then is so as a whole, and stays.
    pub(super) async fn start(config: Config, overrides: Overrides, stop: &mut Stop) -> Result<Option<Agent>, Failure> {
        may_run()?;
        let pin_path = config.filter.pin_path.clone();
        let mut interfaces = Interfaces::follow(&config)?;
        let links = interfaces.first(&pin_path)?;
        let lock = Rc::new(take_lock(&pin_path)?);
        let bare = datapath::is_bare(&pin_path);
        let unmade = Unmade::at(&config.store.path);
        let started = Agent::start_with(config, overrides, lock.clone(), interfaces, &links, stop).await;
        if let (Err(_), Some(unmade)) = (&started, unmade) {
            let what = || "what the start made of a store cannot be removed".to_owned();
            logged("undoing the start", unmade.again().blame(Blame::System, what));
        }
        match &started {
            // Why the start failed is what its caller is told.
            Err(_) if bare => logged("undoing the start", datapath::unload(&pin_path).map(drop)),
            // Fails where something is in force, as it should.
            Ok(None) => drop(std::fs::remove_dir(&pin_path)),
            _ => {}
        }
        started
    }

    /// In this order, so that what can fail without anything being attached fails before.
    async fn start_with(
        config: Config,
        overrides: Overrides,
        lock: Rc<Lock>,
        interfaces: Interfaces,
        links: &[netlink::Link],
        stop: &mut Stop,
    ) -> Result<Option<Agent>, Failure> {
        let Some(prepared) = unless_stopped(stop, Prepared::new(&config)).await? else { return Ok(None) };
        let mut names = Names::default();
        let surroundings = Surroundings::read(&config, names.addresses(&config, Boot::now()), None);
        let mut enforcer = Enforcer::start(&config, &lock, links, surroundings, prepared.own.clone(), Now::read())?;
        settle(&config, &enforcer);
        let (tell, heard) = mpsc::channel(256);
        let mut servers = Servers::new(tell);
        if let Some(served) = prepared.served
            && unless_stopped(stop, serve(&mut servers, &config, served)).await?.is_none()
        {
            return Ok(None);
        }
        let (order, orders) = mpsc::channel(ORDERS);
        let (later, due) = mpsc::channel(ORDERS);
        let (ask, snapshots) = mpsc::channel(8);
        let (cutoff, questions) = Cutoff::start();
        let (socket, warnings) = admin::bind(&config.admin.socket, &config.admin.group)?;
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        let scrape = Scrape::start(prepared.metrics, prepared.own.clone(), ask.clone())?;
        let admin = tokio::spawn(admin::serve(socket, order));
        tell_filtered(&enforcer);
        let mut audit = Audit::start(&config)?;
        audit.started(Now::read());
        let events = enforcer.unread().map_or_else(|| enforcer.events(), Ok)?;
        let renewals = Renewals::start();
        renewals.of(&config, false);
        let mut agent = Agent {
            audit,
            events,
            enforcer,
            lock,
            interfaces,
            loose: None,
            growth: Growth::default(),
            comparison: Comparison::default(),
            watch: None,
            cutoff,
            questions,
            servers,
            heard,
            reloads: Reloads::default(),
            renewals,
            trial: Trial::None,
            names,
            orders,
            later,
            due,
            snapshots,
            ask,
            scrape,
            admin,
            own: prepared.own,
            config,
            overrides,
        };
        agent.begin()?;
        Ok(Some(agent))
    }

    /// Everything is in its place.
    fn begin(&mut self) -> Result<(), Failure> {
        self.follow_drops();
        self.follow_connections()?;
        systemd::ready(&self.status_line());
        tracing::info!("ready");
        self.own.reloaded(true, Wall::now());
        // Who was blocked without an agent.
        self.end_blocked_connections();
        Ok(())
    }
}

fn tell_filtered(enforcer: &Enforcer) {
    for attached in enforcer.links().attached() {
        tracing::info!("{} is filtered in {} mode by program {}", attached.name, attached.mode(), attached.program_id);
    }
}

/// A restore that was cut short between the agent's part and the users.
fn settle(config: &Config, enforcer: &Enforcer) {
    let Some(restored) = enforcer.restored() else { return };
    match users::settle(&config.store.auth_directory(), restored.as_deref()) {
        Ok(None) => {}
        Ok(Some(Settled::Finished(of))) => tracing::warn!("the restore of {of} was cut short, and is finished now"),
        Ok(Some(Settled::Undone(of))) => {
            tracing::warn!("the restore of {of} was cut short, and nothing of it is in force")
        }
        Err(failure) => tracing::error!("a restore that was cut short cannot be finished: {failure}; restore it again"),
    }
}

async fn serve(servers: &mut Servers, config: &Config, served: Arc<Served>) -> Result<(), Failure> {
    let identity = servers::identity(config, None)?;
    let running = child::launch(served, &identity).await?;
    servers.replace(Some((running, identity))).await;
    Ok(())
}

/// A step of a start; `None`: a signal ended the start before.
async fn unless_stopped<T>(
    stop: &mut Stop,
    step: impl Future<Output = Result<T, Failure>>,
) -> Result<Option<T>, Failure> {
    tokio::select! {
        biased;
        () = stop.asked() => {
            tracing::info!("ended before it was ready; what is blocked stays blocked");
            Ok(None)
        }
        done = step => done.map(Some),
    }
}

/// What can fail and leaves nothing behind: listeners and metrics.
struct Prepared {
    served: Option<Arc<Served>>,
    metrics: Listener,
    own: Own,
}

impl Prepared {
    async fn new(config: &Config) -> Result<Prepared, Failure> {
        admin::refuse_occupied(&config.admin.socket)?;
        let addresses: Vec<_> = config.server.iter().flat_map(child::addresses).collect();
        let handed = systemd::handed(&addresses);
        let served = match &config.server {
            Some(server) => {
                let listeners = child::bound(server, &handed).await?;
                let served = Served { config: child::server_config(config, server)?, listeners };
                child::listen_on(&served, &handed)?;
                systemd::keep(&served.listeners, &handed);
                Some(Arc::new(served))
            }
            None => None,
        };
        let metrics = scrape::bound(config.metrics.listen, &[]).await?;
        scrape::listen_on(&metrics, &[])?;
        let own = Own::new().blame(Blame::Bug, || "the metrics contradict each other".to_owned())?;
        Ok(Prepared { served, metrics, own })
    }
}

fn may_run() -> Result<(), Failure> {
    let lacking = Capabilities::effective()?.lacking(&capability::OF_AGENT);
    lacking.map_or(Ok(()), |missing| {
        Err(Failure::forbidden(format!(
            "the agent lacks {missing}; run it as root or as the service does, with {}",
            capability::OF_AGENT_NAMED
        )))
    })
}
