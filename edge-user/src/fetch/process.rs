//! The process `edge fetcher`: asks what its server wants to know, and ends when that closes the link.

use std::{
    ffi::OsString,
    io::{self, Write},
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
};

use nix::sys::socket::AddressFamily;
use tokio::{
    net::{UnixStream, unix::OwnedWriteHalf},
    sync::{Semaphore, mpsc},
    task::spawn_blocking,
};

use super::{
    client::{Client, roots},
    protocol::{Answered, IN_FLIGHT, MAX_FRAME, ToFetcher},
};
use crate::{
    error::{Blame, Context, Failure},
    frame,
    server::{
        sandbox::{self, Process},
        spawn::{self, LINK_FD},
    },
};

/// The word with which it also speaks plain HTTP to other hosts.
pub const PLAIN_HTTP: &str = "--plain-http";

/// `edge fetcher [--plain-http]`: `args` are those after `fetcher`. Not for people: without a server it says so and ends.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // How to log it was not told.
            let _ = writeln!(io::stderr(), "edge fetcher: {failure}");
            ExitCode::from(failure.blame.exit_code())
        }
    }
}

fn run(args: impl IntoIterator<Item = OsString>) -> Result<(), Failure> {
    let by_hand = || Failure::usage("`edge fetcher` is started by `edge run`, not by hand");
    let args: Vec<_> = args.into_iter().collect();
    let plain_http = match args.as_slice() {
        [] => false,
        [word] if word == PLAIN_HTTP => true,
        _ => return Err(by_hand()),
    };
    let link = spawn::inherited(LINK_FD, &[AddressFamily::Unix]).ok_or_else(by_hand)?;
    sandbox::enter(Process::Fetcher)?;
    // Names are resolved by threads, one each; the library's functions have no other way.
    let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(IN_FLIGHT).enable_all().build();
    let runtime = runtime.blame(Blame::System, || "starting the fetcher's runtime".to_owned())?;
    let served = runtime.block_on(serve(link.into(), plain_http));
    runtime.shutdown_background();
    served
}

/// Until the server is gone. What is in flight is bounded, and so in time as in size.
async fn serve(link: std::os::unix::net::UnixStream, plain_http: bool) -> Result<(), Failure> {
    let what = || "taking over the link to the server".to_owned();
    link.set_nonblocking(true).blame(Blame::System, what)?;
    let (mut reads, writes) = UnixStream::from_std(link).blame(Blame::System, what)?.into_split();
    let client = Arc::new(Mutex::new(read_roots(plain_http).await?));
    let (answer, answers) = mpsc::channel(IN_FLIGHT);
    tokio::spawn(write(writes, answers));
    let turns = Arc::new(Semaphore::new(IN_FLIGHT));
    loop {
        let asked = match frame::read::<ToFetcher>(&mut reads, MAX_FRAME).await {
            Ok(Some(ToFetcher::Fetch(asked))) => asked,
            Ok(Some(ToFetcher::ReadRoots)) => {
                let read = read_roots(plain_http).await?;
                *client.lock().unwrap_or_else(PoisonError::into_inner) = read;
                continue;
            }
            Ok(None) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(Failure::bug(error.to_string())),
            Err(_) => return Ok(()),
        };
        let client = client.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // Nobody closes the semaphore.
        let Ok(turn) = turns.clone().acquire_owned().await else { return Ok(()) };
        let answer = answer.clone();
        tokio::spawn(async move {
            let result = client.fetch(&asked).await;
            // Where nobody listens any more, the process is about to end.
            let _ = answer.send(Answered { id: asked.id, result }).await;
            drop(turn);
        });
    }
}

async fn read_roots(plain_http: bool) -> Result<Arc<Client>, Failure> {
    let roots = spawn_blocking(roots).await.blame(Blame::Bug, || "reading the trusted certificates".to_owned())?;
    Client::new(roots, plain_http).map(Arc::new).map_err(Failure::bug)
}

async fn write(mut writes: OwnedWriteHalf, mut answers: mpsc::Receiver<Answered>) {
    while let Some(answered) = answers.recv().await {
        let Answered { id, .. } = answered;
        match frame::write(&mut writes, &answered, MAX_FRAME).await {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                let answered = Answered { id, result: Err(format!("the answer is too long: {error}")) };
                if frame::write(&mut writes, &answered, MAX_FRAME).await.is_err() {
                    return;
                }
            }
            Err(_) => return,
            Ok(()) => {}
        }
    }
}
