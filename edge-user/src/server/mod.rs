//! The unprivileged child: TLS, auth endpoints, users and tokens. It has no capability, no map and another uid; all
//! it can say to the agent are the messages of [`link`]. The agent starts it with [`spawn`], the CLI's main hands it
//! over to [`main`].

mod activity;
pub mod auth;
mod connections;
pub mod counters;
mod finish;
pub mod link;
pub mod listener;
mod report;
pub mod sandbox;
pub mod secret;
pub mod spawn;
pub mod tls;
pub mod users;
pub mod x509;

use std::{
    ffi::OsString,
    io::Write,
    net::TcpListener,
    os::fd::{FromRawFd, OwnedFd, RawFd},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname};
use tokio::{
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Semaphore, mpsc, watch},
    time::timeout,
};

use self::{
    auth::Auth,
    connections::Connections,
    counters::Counters,
    link::{FromAgent, FromServer, MAX_FROM_AGENT, MAX_FROM_SERVER, Metrics, ServerConfig},
    listener::Shared,
    report::Report,
    spawn::LINK_FD,
};
use crate::error::{Blame, Context, Failure};

/// Drained or not, the server has ended so long after it was told to.
const DRAINS_WITHIN: Duration = Duration::from_secs(4);
const CONFIG_WITHIN: Duration = Duration::from_secs(10);

/// `edge server --listeners N`: `args` are those after `server`. Not for people: without its agent it says so and ends.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let (link, listeners) = match inherited(args) {
        Ok(inherited) => inherited,
        Err(failure) => return fail(&failure),
    };
    if let Err(failure) = sandbox::enter() {
        let message = FromServer::Failed { message: failure.message.clone() };
        if let Ok(frame) = link::frame(&message, MAX_FROM_SERVER) {
            let _ = (&link).write_all(&frame);
        }
        return ExitCode::from(failure.blame.exit_code());
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).max_blocking_threads(64).enable_all().build();
    let runtime = match runtime.blame(Blame::System, || "starting the server's runtime".to_owned()) {
        Ok(runtime) => runtime,
        Err(failure) => return fail(&failure),
    };
    let ended = runtime.block_on(run(link, listeners));
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(&failure),
    }
}

/// What is wrong before the agent has said how to log goes to standard error as it is.
fn fail(failure: &Failure) -> ExitCode {
    if tracing::dispatcher::has_been_set() {
        tracing::error!("{failure}");
    } else {
        let _ = writeln!(std::io::stderr(), "edge server: {failure}");
    }
    ExitCode::from(failure.blame.exit_code())
}

/// Takes over the descriptors that [`spawn::spawn`] arranged.
fn inherited(
    args: impl IntoIterator<Item = OsString>,
) -> Result<(std::os::unix::net::UnixStream, Vec<TcpListener>), Failure> {
    let by_hand = || Failure::usage("`edge server` is started by `edge run`, not by hand");
    let args: Vec<_> = args.into_iter().collect();
    let count = match args.as_slice() {
        [name, count] if name == "--listeners" => count.to_str().and_then(|count| count.parse::<u8>().ok()),
        _ => None,
    };
    let count = count.ok_or_else(by_hand)?;
    let link = take(LINK_FD, &[AddressFamily::Unix]).ok_or_else(by_hand)?;
    let mut listeners = Vec::new();
    for fd in (LINK_FD + 1..).take(usize::from(count)) {
        let listener = take(fd, &[AddressFamily::Inet, AddressFamily::Inet6]).ok_or_else(by_hand)?;
        listeners.push(TcpListener::from(listener));
    }
    Ok((link.into(), listeners))
}

/// The descriptor, if it is open and a socket of such a family.
fn take(fd: RawFd, families: &[AddressFamily]) -> Option<OwnedFd> {
    let family = getsockname::<SockaddrStorage>(fd).ok()?.family()?;
    // SAFETY: the descriptor is open, for it has just named its address, and it was inherited for this very use:
    // each number is taken once, at the start, before anything else has opened a descriptor.
    families.contains(&family).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

async fn run(link: std::os::unix::net::UnixStream, listeners: Vec<TcpListener>) -> Result<(), Failure> {
    let what = || "taking over the link to the agent".to_owned();
    link.set_nonblocking(true).blame(Blame::System, what)?;
    let (mut reads, mut writes) = UnixStream::from_std(link).blame(Blame::System, what)?.into_split();
    let config = match timeout(CONFIG_WITHIN, link::read::<FromAgent>(&mut reads, MAX_FROM_AGENT)).await {
        Ok(Ok(Some(FromAgent::Config(config)))) => config,
        Ok(Ok(None)) => return Ok(()),
        Ok(Ok(Some(_))) => return Err(Failure::bug("the agent's first message is not the config")),
        Ok(Err(error)) => return Err(Failure::system(format!("reading the config from the agent: {error}"))),
        Err(_) => return Err(Failure::system("the agent sent no config within 10 s")),
    };
    config.logging.start();
    let (out, to_send) = mpsc::channel(1024);
    let report = Arc::new(Report::new(out));
    let (drain, draining) = watch::channel(false);
    let shared = match build(*config, &report, draining) {
        Ok(shared) => Arc::new(shared),
        Err(failure) => {
            let message = FromServer::Failed { message: failure.message.clone() };
            // The agent tells of it.
            let _ = link::write(&mut writes, &message, MAX_FROM_SERVER).await;
            return Ok(());
        }
    };
    for listener in listeners {
        let what = || "taking over a listening socket".to_owned();
        listener.set_nonblocking(true).blame(Blame::System, what)?;
        let listener = tokio::net::TcpListener::from_std(listener).blame(Blame::System, what)?;
        tokio::spawn(listener::serve(listener, shared.clone()));
    }
    report.ready().await;
    shared.auth.probe_store().await;
    tokio::spawn(count(shared.clone(), report.clone()));
    tokio::select! {
        result = send(to_send, &report, &mut writes) => result,
        result = obey(&mut reads, &shared, &report, &drain) => result,
        () = drained(&shared) => Ok(()),
    }
}

fn build(config: ServerConfig, report: &Arc<Report>, draining: watch::Receiver<bool>) -> Result<Shared, Failure> {
    let tls = tls::server_config(&config.certificate_pem, &config.key_pem).map_err(Failure::refused)?;
    let counters = Arc::new(Counters::default());
    let handshakes = config.max_handshakes.clamp(1, Semaphore::MAX_PERMITS);
    Ok(Shared {
        auth: Arc::new(Auth::new(&config, report.clone(), counters.clone())?),
        tls: tls.into(),
        counters,
        header_timeout: config.header_timeout,
        idle_timeout: config.idle_timeout,
        handshakes: Arc::new(Semaphore::new(handshakes)),
        handshakes_of_one: handshakes.div_ceil(4),
        connections: Connections::default(),
        draining,
    })
}

/// What is for the audit log goes before what was reported after it.
async fn send(
    mut to_send: mpsc::Receiver<FromServer>,
    report: &Report,
    writes: &mut OwnedWriteHalf,
) -> Result<(), Failure> {
    loop {
        let message = tokio::select! {
            message = to_send.recv() => match message {
                Some(message) => Some(message),
                None => return Ok(()),
            },
            () = report.attempted() => None,
        };
        for message in std::iter::from_fn(|| report.attempts()).chain(message) {
            if link::write(writes, &message, MAX_FROM_SERVER).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// Does what the agent says until it is gone.
async fn obey(
    reads: &mut OwnedReadHalf,
    shared: &Shared,
    report: &Report,
    drain: &watch::Sender<bool>,
) -> Result<(), Failure> {
    loop {
        match link::read(reads, MAX_FROM_AGENT).await {
            Ok(Some(FromAgent::Judged { id, blocked })) => report.judged(id, blocked),
            Ok(Some(FromAgent::Blocked { client })) => shared.connections.close(client),
            Ok(Some(FromAgent::Ipv6Unit { length })) => shared.auth.set_ipv6_unit(length),
            Ok(Some(FromAgent::Drain)) => drop(drain.send(true)),
            Ok(Some(FromAgent::Config(_))) => return Err(Failure::bug("the agent sent a second config")),
            Ok(None) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                return Err(Failure::bug(error.to_string()));
            }
            // However the agent ended, the server ends with it.
            Err(_) => return Ok(()),
        }
    }
}

async fn drained(shared: &Shared) {
    let mut draining = shared.draining.clone();
    if draining.wait_for(|draining| *draining).await.is_err() {
        return;
    }
    let _ = timeout(DRAINS_WITHIN, shared.connections.drain()).await;
}

async fn count(shared: Arc<Shared>, report: Arc<Report>) {
    let mut second = tokio::time::interval(Duration::from_secs(1));
    loop {
        second.tick().await;
        let store_failed = shared.auth.store_has_failed().await;
        report.metrics(Metrics { store_failed, ..shared.counters.snapshot() });
    }
}
