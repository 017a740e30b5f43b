//! Where the metrics are served: the socket, and the task that answers there. The task asks the agent's loop for what it
//! shows.

use std::net::SocketAddr;

use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use super::listener::{self, Listener};
use crate::{
    error::{Blame, Context, Failure},
    metrics::{self, Own, Snapshot},
};

/// What the loop is asked for.
pub type Asks = mpsc::Sender<oneshot::Sender<Snapshot>>;

const KEY: &str = "metrics.listen";

pub struct Scrape {
    listener: Listener,
    task: JoinHandle<()>,
}

impl Scrape {
    /// Serves until it is dropped; who is being answered then is answered still.
    pub fn start(listener: Listener, own: Own, ask: Asks) -> Result<Scrape, Failure> {
        let what = || format!("the metrics cannot be served on {}", listener.address);
        let socket = listener.socket.try_clone().blame(Blame::System, what)?;
        let socket = tokio::net::TcpListener::from_std(socket).blame(Blame::System, what)?;
        let task = tokio::spawn(metrics::serve(socket, own, move || snapshot_from(ask.clone())));
        Ok(Scrape { listener, task })
    }

    pub fn listener(&self) -> Listener {
        self.listener.clone()
    }
}

impl Drop for Scrape {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Its socket, or the one that is held; [`listen_on`] has it take connections.
pub async fn bound(address: SocketAddr, held: &[Listener]) -> Result<Listener, Failure> {
    let mut bound = listener::bound(KEY, &[address], held).await?;
    bound.pop().ok_or_else(|| Failure::bug("a socket for the metrics was opened and is not there"))
}

pub fn listen_on(listener: &Listener, held: &[Listener]) -> Result<(), Failure> {
    listener::listen_on(KEY, std::slice::from_ref(listener), held)
}

/// An agent that is ending answers no more; the scrape then ends by its own time limit.
async fn snapshot_from(ask: Asks) -> Snapshot {
    let (answer, answered) = oneshot::channel();
    if ask.send(answer).await.is_ok()
        && let Ok(snapshot) = answered.await
    {
        return snapshot;
    }
    std::future::pending().await
}
