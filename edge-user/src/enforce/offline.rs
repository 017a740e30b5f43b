//! One command without an agent, on its pinned maps and its store.

use std::{collections::BTreeSet, net::IpAddr, path::Path};

use super::{Enforcer, Held, Surroundings, memory::Memory, nowhere::Nowhere};
use crate::{
    clock::Now,
    config::Config,
    control::{
        client,
        protocol::{Answer, Command, Reply, Request},
    },
    datapath::{self, Generation, Lock, Tables, Unloaded},
    error::{Blame, Context, Failure},
    metrics::Own,
    names,
    netlink::{self, Closer, NetlinkError},
};

/// Executes a command without an agent.
pub fn offline(config: &Config, request: &Request) -> Answer {
    let pin_path = &config.filter.pin_path;
    let needs_maps = !matches!(request.command, Command::Backup { .. } | Command::Restore(_));
    if !datapath::is_there(pin_path)? {
        return match &request.command {
            Command::Unload => Ok(Reply::Unloaded(Unloaded::default())),
            _ if needs_maps => Err(no_agent(pin_path)),
            _ => on_store(config, request),
        };
    }
    let Some(lock) = Lock::open(pin_path)? else {
        return Err(is_silent(config, &config.admin.socket));
    };
    if request.command == Command::Unload {
        return datapath::unload(pin_path).map(Reply::Unloaded);
    }
    match Generation::live(&lock)? {
        Some(tables) => on_tables(config, request, tables),
        None if needs_maps => Err(no_agent(pin_path)),
        None => on_store(config, request),
    }
}

fn on_tables(config: &Config, request: &Request, tables: Generation) -> Answer {
    let now = Now::read();
    let memory = memory(config, request)?.marking(&config.filter.pin_path);
    let held = memory.is_marked().then(|| Held::by(&tables));
    let mut enforcer = enforcer(config, memory, tables, now)?;
    enforcer.recall(Held::by, now)?;
    if let Some(held) = held {
        enforcer.catch_up(held, now);
    }
    enforcer.go_without_agent();
    let answer = execute(&mut enforcer, request, now)?;
    let blocks = matches!(
        request.command,
        Command::Block(_) | Command::Import(_) | Command::Restore(_) | Command::Disallow { .. }
    );
    if blocks && !enforcer.dry_run {
        end_connections(&enforcer, now).unwrap_or_else(|error| {
            tracing::warn!("open connections of who is blocked fall silent and stay open: {error}");
        });
    }
    Ok(answer)
}

/// Where nothing is pinned, and nothing is enforced before the next start.
fn on_store(config: &Config, request: &Request) -> Answer {
    let now = Now::read();
    let mut enforcer = enforcer(config, memory(config, request)?, Nowhere, now)?;
    enforcer.recall(|_| Held::default(), now)?;
    let answer = execute(&mut enforcer, request, now)?;
    match (&request.command, enforcer.memory.problem()) {
        (Command::Restore(_), Some(problem)) => Err(Failure::system(format!("nothing was restored: {problem}"))),
        _ => Ok(answer),
    }
}

fn memory(config: &Config, request: &Request) -> Result<Memory, Failure> {
    let path = config.store.path.clone();
    if request.command.change().is_none() { Memory::open_to_read(path) } else { Memory::open(path) }
}

fn enforcer<T: Tables>(config: &Config, memory: Memory, tables: T, now: Now) -> Result<Enforcer<T>, Failure> {
    let metrics = Own::new().blame(Blame::Bug, || "the metrics contradict each other".to_owned())?;
    let surroundings = Surroundings::read(config, names::found_soon(config), None);
    Ok(Enforcer::new(config, memory, tables, surroundings, metrics, now))
}

fn execute<T: Tables>(enforcer: &mut Enforcer<T>, request: &Request, now: Now) -> Answer {
    let request = Request { caller: request.caller.or_else(client::caller), ..request.clone() };
    enforcer.execute(&request, now)
}

/// As a running agent does.
fn end_connections(enforcer: &Enforcer, now: Now) -> Result<(), NetlinkError> {
    let open = netlink::connections()?.open;
    let peers: BTreeSet<IpAddr> = open.iter().map(|connection| connection.peer.ip()).collect();
    let blocked: BTreeSet<IpAddr> = peers.into_iter().filter(|peer| enforcer.is_blocked(*peer, now)).collect();
    let mut closer = Closer::open()?;
    for connection in open.iter().filter(|connection| blocked.contains(&connection.peer.ip())) {
        closer.close(connection)?;
    }
    Ok(())
}

/// That an agent runs which nobody reaches by this socket; `None`: none does, or nobody can tell.
pub fn silent_agent(config: &Config, socket: &Path) -> Option<Failure> {
    let pin_path = &config.filter.pin_path;
    let is_held =
        datapath::is_there(pin_path).is_ok_and(|there| there) && Lock::open(pin_path).is_ok_and(|lock| lock.is_none());
    is_held.then(|| is_silent(config, socket))
}

fn is_silent(config: &Config, socket: &Path) -> Failure {
    Failure::unreachable(format!(
        "an agent holds {} but does not answer on {}: it is not ready yet, or `admin.socket` was changed since it \
         started; then restart it, or name its former socket with --socket",
        config.filter.pin_path.display(),
        socket.display()
    ))
}

fn no_agent(pin_path: &Path) -> Failure {
    Failure::unreachable(format!(
        "nothing is filtered or blocked: no agent runs, and none left its maps in {}; start it with `edge run`",
        pin_path.display()
    ))
}
