//! A server's fetcher, as the agent keeps it: one at a time, started again where it dies, until its server is gone. The
//! link of each goes to the server; the agent has nothing to say on it.

use tokio::{
    io::AsyncReadExt,
    net::UnixStream,
    process::Child,
    time::{Duration, Instant, sleep, timeout},
};

use super::pause::Pause;
use crate::{
    error::{Blame, Context, Failure},
    fetch,
    server::spawn::{self, Identity, Leash, SpawnedFetcher},
};

/// A server that ends takes its fetcher with it; which of the two is heard of first is chance.
const TOGETHER: Duration = Duration::from_millis(200);

/// Returns when the server closes its end.
pub async fn keep(identity: Identity, plain_http: bool, mut to_server: UnixStream) {
    let mut pause = Pause::default();
    loop {
        match begin(&identity, plain_http, &mut to_server).await {
            Ok((mut process, _leash)) => {
                pause.served(Instant::now());
                let ended = tokio::select! {
                    ended = process.wait() => ended,
                    () = closed(&mut to_server) => {
                        // It ends with its server; one that ended before is not left unheard of.
                        let _ = process.wait().await;
                        return;
                    }
                };
                if timeout(TOGETHER, closed(&mut to_server)).await.is_ok() {
                    return;
                }
                let how = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
                tracing::error!("the fetcher ended ({how}); it is started again");
            }
            Err(failure) => {
                if timeout(TOGETHER, closed(&mut to_server)).await.is_ok() {
                    return;
                }
                tracing::error!("the server has no fetcher: {failure}; it is tried again");
            }
        }
        tokio::select! {
            biased;
            () = closed(&mut to_server) => return,
            () = sleep(pause.ended(Instant::now())) => {}
        }
    }
}

async fn begin(identity: &Identity, plain_http: bool, to_server: &mut UnixStream) -> Result<(Child, Leash), Failure> {
    let SpawnedFetcher { process, link, leash } = spawn::spawn_fetcher(identity, plain_http)?;
    fetch::hand_over(to_server, link).await.blame(Blame::System, || "handing the server its fetcher".to_owned())?;
    Ok((process, leash))
}

/// The server says nothing here. Cancel-safe.
async fn closed(to_server: &mut UnixStream) {
    while to_server.read(&mut [0; 16]).await.is_ok_and(|read| read > 0) {}
}
