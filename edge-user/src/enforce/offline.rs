//! One command without an agent, on its pinned maps and its store.

use std::{collections::BTreeSet, net::IpAddr};

use super::{Enforcer, Held, Surroundings, memory::Memory};
use crate::{
    clock::Now,
    config::Config,
    control::{
        client,
        protocol::{Answer, Command, Reply, Request},
    },
    datapath::{self, Generation, Lock, Unloaded},
    error::{Blame, Context, Failure},
    metrics::Own,
    netlink::{self, Closer, NetlinkError},
};

/// Executes a command without an agent.
pub fn offline(config: &Config, request: &Request) -> Answer {
    let pin_path = &config.filter.pin_path;
    if !datapath::is_there(pin_path)? {
        return if request.command == Command::Unload {
            Ok(Reply::Unloaded(Unloaded::default()))
        } else {
            Err(no_agent())
        };
    }
    let Some(lock) = Lock::open(pin_path)? else {
        return Err(Failure::unreachable(format!(
            "an agent holds {} but does not answer on {}",
            pin_path.display(),
            config.admin.socket.display()
        )));
    };
    if request.command == Command::Unload {
        return datapath::unload(pin_path).map(Reply::Unloaded);
    }
    let now = Now::read();
    let memory = Memory::open(config.store.path.clone())?;
    let tables = Generation::live(&lock)?.ok_or_else(no_agent)?;
    let metrics = Own::new().blame(Blame::Bug, || "the metrics contradict each other".to_owned())?;
    let mut enforcer = Enforcer::new(config, memory, tables, Surroundings::read(config, None), metrics, now);
    enforcer.recall(Held::by, now)?;
    let request = Request { caller: request.caller.or_else(client::caller), ..request.clone() };
    let answer = enforcer.execute(&request, now)?;
    if matches!(request.command, Command::Block(_) | Command::Import(_) | Command::Disallow { .. }) && !enforcer.dry_run
    {
        end_connections(&enforcer, now).unwrap_or_else(|error| {
            tracing::warn!("open connections of who is blocked fall silent and stay open: {error}");
        });
    }
    Ok(answer)
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

fn no_agent() -> Failure {
    Failure::unreachable("no agent runs and none left its maps; start it with `edge run`")
}
