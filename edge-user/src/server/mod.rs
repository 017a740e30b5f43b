//! The unprivileged child: TLS, auth endpoints, users and tokens. It has no capability, no map and another uid; all
//! it can say to the agent are the messages of [`link`]. The agent starts it with [`spawn`], the CLI's main hands it
//! over to [`main`].

mod acme;
mod activity;
pub mod auth;
mod connections;
pub mod counters;
mod finish;
pub mod issuers;
pub mod jws;
pub mod link;
pub mod listener;
mod redirect;
mod report;
pub mod sandbox;
pub mod secret;
pub mod spawn;
pub mod tls;
pub mod users;
pub mod x509;

use std::{
    ffi::OsString,
    io::{self, Write},
    mem,
    net::TcpListener,
    pin::pin,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use nix::sys::socket::AddressFamily;
use tokio::{
    io::AsyncWrite,
    net::{UnixStream, unix::OwnedReadHalf},
    sync::{Semaphore, mpsc, watch},
    time::timeout,
};

use self::{
    acme::Issued,
    auth::Auth,
    counters::Counters,
    link::{FromAgent, FromServer, MAX_FROM_AGENT, MAX_FROM_SERVER, Metrics, ServerConfig},
    listener::{Phase, Service, Shared},
    report::Report,
    sandbox::Process,
    spawn::LINK_FD,
    tls::Certificates,
};
use crate::{
    error::{Blame, Context, Failure},
    fetch::Fetch,
};

/// Drained or not, the server has ended so long after it was told to.
const DRAINS_WITHIN: Duration = Duration::from_secs(4);
const CONFIG_WITHIN: Duration = Duration::from_secs(10);
const COUNTS_EVERY: Duration = Duration::from_secs(1);

/// `edge server --listeners N`: `args` are those after `server`. Not for people: without its agent it says so and ends.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let Inherited { link, listeners, fetchers } = match inherited(args) {
        Ok(inherited) => inherited,
        Err(failure) => return fail(&failure),
    };
    if let Err(failure) = sandbox::enter(Process::Server) {
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
    let ended = runtime.block_on(run(link, listeners, fetchers));
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
        let _ = writeln!(io::stderr(), "edge server: {failure}");
    }
    ExitCode::from(failure.blame.exit_code())
}

struct Inherited {
    link: std::os::unix::net::UnixStream,
    listeners: Vec<TcpListener>,
    /// Where links to fetchers come from.
    fetchers: Option<std::os::unix::net::UnixStream>,
}

/// Takes over the descriptors that [`spawn::spawn`] arranged.
fn inherited(args: impl IntoIterator<Item = OsString>) -> Result<Inherited, Failure> {
    let by_hand = || Failure::usage("`edge server` is started by `edge run`, not by hand");
    let args: Vec<_> = args.into_iter().collect();
    let (count, fetches) = match args.as_slice() {
        [name, count] if name == "--listeners" => (count, false),
        [name, count, word] if name == "--listeners" && word == "--fetcher" => (count, true),
        _ => return Err(by_hand()),
    };
    let count: u8 = count.to_str().and_then(|count| count.parse().ok()).ok_or_else(by_hand)?;
    let link = spawn::inherited(LINK_FD, &[AddressFamily::Unix]).ok_or_else(by_hand)?;
    let mut next = LINK_FD + 1..;
    let mut listeners = Vec::new();
    for fd in next.by_ref().take(usize::from(count)) {
        let listener = spawn::inherited(fd, &[AddressFamily::Inet, AddressFamily::Inet6]).ok_or_else(by_hand)?;
        listeners.push(TcpListener::from(listener));
    }
    let handed = |fd| spawn::inherited(fd, &[AddressFamily::Unix]).ok_or_else(by_hand);
    let fetchers = next.next().filter(|_| fetches).map(handed).transpose()?;
    Ok(Inherited { link: link.into(), listeners, fetchers: fetchers.map(Into::into) })
}

async fn run(
    link: std::os::unix::net::UnixStream,
    listeners: Vec<TcpListener>,
    fetchers: Option<std::os::unix::net::UnixStream>,
) -> Result<(), Failure> {
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
    let (phase, now) = watch::channel(Phase::Serving);
    let fetch = fetchers.map(take_fetch).transpose()?;
    let shared = match build(*config, fetch, &report, now) {
        Ok(shared) => Arc::new(shared),
        Err(failure) => {
            let message = FromServer::Failed { message: failure.message.clone() };
            // The agent tells of it.
            let _ = link::write(&mut writes, &message, MAX_FROM_SERVER).await;
            return Ok(());
        }
    };
    report.ready().await;
    shared.auth.probe_store().await;
    tokio::spawn(count(shared.clone(), report.clone()));
    tokio::spawn(look_after_store(shared.clone()));
    tokio::spawn(retired(shared.clone(), report.clone()));
    tokio::select! {
        () = send(to_send, &report, &mut writes, drained(&shared, &report)) => Ok(()),
        result = obey(&mut reads, listeners, &shared, &report, &phase) => result,
    }
}

fn take_fetch(fetchers: std::os::unix::net::UnixStream) -> Result<Fetch, Failure> {
    let what = || "taking over what hands it a fetcher".to_owned();
    fetchers.set_nonblocking(true).blame(Blame::System, what)?;
    UnixStream::from_std(fetchers).blame(Blame::System, what).map(Fetch::start)
}

fn accept(listeners: Vec<TcpListener>, shared: &Arc<Shared>) -> Result<(), Failure> {
    for (at, listener) in listeners.into_iter().enumerate() {
        let service = if at < shared.listen.len() { Service::Everything } else { Service::Redirect };
        let what = || "taking over a listening socket".to_owned();
        listener.set_nonblocking(true).blame(Blame::System, what)?;
        let listener = tokio::net::TcpListener::from_std(listener).blame(Blame::System, what)?;
        tokio::spawn(listener::serve(listener, service, shared.connections.open_door(), shared.clone()));
    }
    Ok(())
}

fn build(
    config: ServerConfig,
    fetch: Option<Fetch>,
    report: &Arc<Report>,
    phase: watch::Receiver<Phase>,
) -> Result<Shared, Failure> {
    let certificates = Arc::new(Certificates::from_pem(&config.certificates).map_err(Failure::refused)?);
    let is_plain = config.certificates.is_empty() && config.acme.is_none();
    let tls = tls::server_config(certificates.clone(), config.acme.is_some()).map_err(Failure::refused)?;
    let acme = config
        .acme
        .clone()
        .zip(fetch.clone())
        .map(|(acme, fetch)| Arc::new(Issued::new(acme, &config, fetch, certificates.clone())));
    let counters = Arc::new(Counters::default());
    let handshakes = config.max_handshakes.clamp(1, Semaphore::MAX_PERMITS);
    Ok(Shared {
        auth: Arc::new(Auth::new(&config, fetch.as_ref(), report.clone(), counters.clone())?),
        tls: (!is_plain).then(|| tls.into()),
        certificates,
        acme,
        listen: config.listen,
        counters,
        header_timeout: config.header_timeout,
        idle_timeout: config.idle_timeout,
        handshakes: Arc::new(Semaphore::new(handshakes)),
        redirects: Arc::new(Semaphore::new(handshakes)),
        handshakes_of_one: handshakes.div_ceil(4),
        connections: Arc::default(),
        phase,
        fetch,
    })
}

/// Until the agent is gone or `end` has come. What is for the audit log goes before what was reported after it, and at
/// the end all that was reported has gone.
async fn send(
    mut to_send: mpsc::Receiver<FromServer>,
    report: &Report,
    writes: &mut (impl AsyncWrite + Unpin),
    end: impl Future<Output = ()>,
) {
    let mut end = pin!(end);
    loop {
        let message = tokio::select! {
            message = to_send.recv() => match message {
                Some(message) => Some(message),
                None => return,
            },
            () = report.attempted() => None,
            () = &mut end => break,
        };
        if send_after_attempts(report, message, writes).await.is_err() {
            return;
        }
    }
    while let Ok(message) = to_send.try_recv() {
        if send_after_attempts(report, Some(message), writes).await.is_err() {
            return;
        }
    }
    // Nobody is left to be told of it.
    let _ = send_after_attempts(report, None, writes).await;
}

/// Only the attempts that are there already: strangers make more without end, and behind the message others wait.
async fn send_after_attempts(
    report: &Report,
    message: Option<FromServer>,
    writes: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    for message in report.attempts().chain(message) {
        link::write(writes, &message, MAX_FROM_SERVER).await?;
    }
    Ok(())
}

/// Does what the agent says until it is gone.
async fn obey(
    reads: &mut OwnedReadHalf,
    mut listeners: Vec<TcpListener>,
    shared: &Arc<Shared>,
    report: &Arc<Report>,
    phase: &watch::Sender<Phase>,
) -> Result<(), Failure> {
    loop {
        match link::read(reads, MAX_FROM_AGENT).await {
            Ok(Some(FromAgent::Judged { id, blocked })) => report.judged(id, blocked),
            Ok(Some(FromAgent::Blocked { client })) => shared.connections.close(client),
            Ok(Some(FromAgent::Accept)) => {
                accept(mem::take(&mut listeners), shared)?;
                tokio::spawn(issue(shared.clone()));
            }
            Ok(Some(FromAgent::FetchAgain)) => drop(tokio::spawn(fetch_again(shared.clone(), report.clone()))),
            Ok(Some(FromAgent::Retire)) => drop(phase.send(Phase::Retiring)),
            Ok(Some(FromAgent::Drain)) => drop(phase.send(Phase::Ending)),
            Ok(Some(FromAgent::Config(_))) => return Err(Failure::bug("the agent sent a second config")),
            Ok(None) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(Failure::bug(error.to_string()));
            }
            // However the agent ended, the server ends with it.
            Err(_) => return Ok(()),
        }
    }
}

async fn fetch_again(shared: Arc<Shared>, report: Arc<Report>) {
    if let Some(fetch) = &shared.fetch {
        fetch.read_roots().await;
    }
    if let Some(acme) = &shared.acme {
        acme.hurry();
    }
    report.fetched(shared.auth.fetch_again().await).await;
}

/// Returns when all that was begun is finished, within its time. The last counts go with it.
async fn drained(shared: &Shared, report: &Report) {
    let served = async {
        shared.reached(Phase::Retiring).await;
        // Who came just before may take as long to ask as ever.
        let _ = timeout(shared.header_timeout + DRAINS_WITHIN, shared.connections.finished()).await;
    };
    let ended = async {
        shared.reached(Phase::Ending).await;
        let _ = timeout(DRAINS_WITHIN, shared.connections.drain()).await;
    };
    tokio::select! {
        biased;
        () = ended => {}
        () = served => {}
    }
    shared.auth.write_seen().await;
    report.metrics(Metrics { store_failed: false, ..shared.counters.snapshot() });
}

/// Sees to the certificate that an authority issues, until another server does.
async fn issue(shared: Arc<Shared>) {
    if let Some(acme) = &shared.acme {
        tokio::select! {
            () = shared.reached(Phase::Retiring) => {}
            () = acme.renew() => {}
        }
    }
}

/// Tells when another can be sure that nobody new is served here.
async fn retired(shared: Arc<Shared>, report: Arc<Report>) {
    shared.reached(Phase::Retiring).await;
    shared.connections.closed().await;
    report.retired().await;
}

/// Waits for no disk: the agent takes a server that says nothing for one that hangs.
async fn count(shared: Arc<Shared>, report: Arc<Report>) {
    let mut second = tokio::time::interval(COUNTS_EVERY);
    loop {
        second.tick().await;
        let store_failed = shared.auth.store_has_failed();
        let acme = shared.acme.as_ref().map(|acme| acme.state());
        report.metrics(Metrics { store_failed, acme, ..shared.counters.snapshot() });
    }
}

/// What it has to do with the store, and whether one that failed can be used again.
async fn look_after_store(shared: Arc<Shared>) {
    let mut second = tokio::time::interval(COUNTS_EVERY);
    loop {
        second.tick().await;
        shared.auth.write_seen().await;
        if shared.auth.store_has_failed() {
            shared.auth.probe_store().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::Pin,
        task::{Context, Poll},
    };

    use super::*;
    use crate::audit::attempt::{AT_ONCE, Attempt, Endpoint};

    fn attempt() -> Attempt {
        Attempt {
            endpoint: Endpoint::Verify,
            peer: "203.0.113.7".parse().unwrap(),
            subject: None,
            key_id: None,
            refused: None,
            request_id: None,
        }
    }

    /// A link to which strangers are quicker than it is; it breaks after so many writes.
    struct Busy<'a> {
        report: &'a Report,
        written: Vec<u8>,
        left: usize,
    }

    impl AsyncWrite for Busy<'_> {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let Some(left) = self.left.checked_sub(1) else {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            };
            self.left = left;
            (0..2 * AT_ONCE).for_each(|_| self.report.attempt(attempt()));
            self.written.extend_from_slice(bytes);
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    async fn sent(mut written: &[u8]) -> Vec<FromServer> {
        let mut all = Vec::new();
        while let Some(message) = link::read(&mut written, MAX_FROM_SERVER).await.unwrap() {
            all.push(message);
        }
        all
    }

    fn attempts(messages: &[FromServer]) -> usize {
        let of =
            |message: &FromServer| if let FromServer::Audit { attempts, .. } = message { attempts.len() } else { 0 };
        messages.iter().map(of).sum()
    }

    #[tokio::test]
    async fn a_message_waits_for_the_attempts_before_it_and_for_no_later_ones() {
        let (out, to_send) = mpsc::channel(4);
        let report = Report::new(out.clone());
        (0..=AT_ONCE).for_each(|_| report.attempt(attempt()));
        out.send(FromServer::Ready).await.unwrap();
        let mut link = Busy { report: &report, written: Vec::new(), left: 40 };
        let message = { to_send }.recv().await;
        assert!(send_after_attempts(&report, message, &mut link).await.is_ok());
        let sent = sent(&link.written).await;
        assert_eq!((sent.len(), sent.last()), (3, Some(&FromServer::Ready)));
    }

    #[tokio::test]
    async fn the_end_comes_when_all_that_was_reported_has_gone() {
        let (out, to_send) = mpsc::channel(4);
        let report = Report::new(out.clone());
        out.send(FromServer::Ready).await.unwrap();
        let mut written = Vec::new();
        let end = async { (0..3 * AT_ONCE).for_each(|_| report.attempt(attempt())) };
        send(to_send, &report, &mut written, end).await;
        let sent = sent(&written).await;
        assert_eq!((attempts(&sent), sent.contains(&FromServer::Ready)), (3 * AT_ONCE, true));
    }
}
