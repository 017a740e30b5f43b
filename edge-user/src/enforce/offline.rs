//! One command without an agent, on its pinned maps and its store.

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
    enforcer.execute(&request, now)
}

fn no_agent() -> Failure {
    Failure::unreachable("no agent runs and none left its maps; start it with `edge run`")
}
