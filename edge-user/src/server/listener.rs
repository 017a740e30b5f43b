//! Connections, from accept to close: TLS, HTTP, and how long each may take. The loop is our own, since the library's
//! has no limit on handshakes, no way to close one client's connections, and no difference between a slow head and an
//! idle connection.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Request, Response, Version,
    body::Incoming,
    header::{CONNECTION, HeaderValue},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use ipnet::IpNet;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Notify, Semaphore, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{
    auth::{Auth, MAX_HEAD},
    counters::{Counters, Handshake},
    link::client_address,
    report::Ends,
};

/// How much of a head the library takes; over HTTP/2 it answers none that is longer. What is over `MAX_HEAD` of that is
/// answered 431.
const MAX_HEAD_READ: usize = 4 * MAX_HEAD;
/// After it was told to end, a connection may finish its answer for so long.
const LAST_ANSWER: Duration = Duration::from_millis(900);
const BACK_OFF: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(1)];

/// What all connections share.
pub struct Shared {
    pub auth: Arc<Auth>,
    pub tls: TlsAcceptor,
    pub counters: Arc<Counters>,
    pub header_timeout: Duration,
    pub idle_timeout: Duration,
    pub handshakes: Arc<Semaphore>,
    /// How many of them one client may have in flight.
    pub handshakes_of_one: usize,
    pub connections: Connections,
    /// Turns true when the server is to end.
    pub draining: watch::Receiver<bool>,
}

/// Accepts until the server drains.
pub async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut draining = shared.draining.clone();
    let mut pause = BACK_OFF[0];
    loop {
        let accepted = tokio::select! {
            _ = draining.wait_for(|draining| *draining) => return,
            accepted = accept(&listener, &shared.handshakes) => accepted,
        };
        match accepted {
            Ok((stream, handshake)) => {
                pause = BACK_OFF[0];
                tokio::spawn(connection(stream, handshake, shared.clone()));
            }
            Err(error) => {
                tracing::warn!("accepting a connection: {error}; going on in {pause:?}");
                sleep(pause).await;
                pause = (pause * 2).min(BACK_OFF[1]);
            }
        }
    }
}

async fn accept(
    listener: &TcpListener,
    handshakes: &Arc<Semaphore>,
) -> io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = handshakes.clone().acquire_owned().await.map_err(io::Error::other)?;
    Ok((listener.accept().await?.0, permit))
}

async fn connection(stream: TcpStream, handshake: tokio::sync::OwnedSemaphorePermit, shared: Arc<Shared>) {
    // A client that is gone already has no address, and nothing to be told.
    let (Ok(peer), Ok(local)) = (stream.peer_addr(), stream.local_addr()) else { return };
    let _ = stream.set_nodelay(true);
    let entry = shared.connections.enter(client_address(peer));
    if entry.handshakes > shared.handshakes_of_one {
        shared.counters.handshake(Handshake::Refused);
        return;
    }
    let greeted = tokio::select! {
        () = entry.end.notified() => return,
        greeted = timeout(shared.header_timeout, shared.tls.accept(stream)) => greeted,
    };
    drop(handshake);
    entry.greeted();
    match greeted {
        Ok(Ok(stream)) => {
            shared.counters.handshake(Handshake::Success);
            talk(stream, Ends { peer, local }, &entry.end, &shared).await;
        }
        Ok(Err(error)) => {
            tracing::debug!("TLS handshake: {error}");
            shared.counters.handshake(Handshake::Failure);
        }
        Err(_) => shared.counters.handshake(Handshake::Timeout),
    }
}

async fn talk(stream: TlsStream<TcpStream>, ends: Ends, end: &Arc<Notify>, shared: &Arc<Shared>) {
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let activity = Arc::new(Activity::new(http2, shared.header_timeout, shared.idle_timeout));
    let service = service_fn(|request: Request<Incoming>| {
        let (auth, activity, end) = (shared.auth.clone(), activity.clone(), end.clone());
        async move { Ok::<_, std::convert::Infallible>(respond(&auth, ends, request, &activity, &end).await) }
    });
    let builder = protocol(http2);
    let io = TokioIo::new(Watched { stream, activity: activity.clone() });
    let mut talk = pin!(builder.serve_connection(io, service));
    loop {
        let late = async {
            match activity.deadline() {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = talk.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!("connection: {error}");
                }
                return;
            }
            () = activity.changed.notified() => {}
            () = end.notified() => break,
            () = late => break,
        }
    }
    talk.as_mut().graceful_shutdown();
    let _ = timeout(LAST_ANSWER, talk).await;
}

async fn respond(
    auth: &Auth,
    ends: Ends,
    request: Request<Incoming>,
    activity: &Activity,
    end: &Notify,
) -> Response<Full<Bytes>> {
    let _in_flight = activity.begin();
    let version = request.version();
    let mut answer = auth.answer(ends, request).await;
    if answer.close {
        if version < Version::HTTP_2 {
            answer.response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        end.notify_one();
    }
    answer.response
}

/// ALPN has chosen, so neither builder guesses.
fn protocol(http2: bool) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(MAX_HEAD_READ).half_close(false);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(MAX_HEAD_READ as u32)
        .max_concurrent_streams(64)
        .initial_stream_window_size(64 << 10)
        .initial_connection_window_size(256 << 10)
        .max_send_buf_size(64 << 10);
    if http2 { builder.http2_only() } else { builder.http1_only() }
}

/// All connections by client, to close those of one, and to know when all have ended.
#[derive(Default)]
pub struct Connections {
    by_client: Mutex<HashMap<IpAddr, HashMap<u64, Held>>>,
    next: AtomicU64,
    left: Notify,
}

struct Held {
    end: Arc<Notify>,
    greeting: bool,
}

struct Entry<'a> {
    connections: &'a Connections,
    client: IpAddr,
    id: u64,
    end: Arc<Notify>,
    /// Of this client, this one included.
    handshakes: usize,
}

impl Connections {
    /// Ends the connections of these clients; an answer in flight is written first.
    pub fn close(&self, clients: IpNet) {
        for (client, held) in self.all().iter() {
            if clients.contains(client) {
                held.values().for_each(|held| held.end.notify_one());
            }
        }
    }

    /// Ends all, and returns when they have.
    pub async fn drain(&self) {
        self.all().values().flat_map(HashMap::values).for_each(|held| held.end.notify_one());
        loop {
            let left = self.left.notified();
            if self.all().is_empty() {
                return;
            }
            left.await;
        }
    }

    fn enter(&self, client: IpAddr) -> Entry<'_> {
        let (id, end) = (self.next.fetch_add(1, Ordering::Relaxed), Arc::new(Notify::new()));
        let mut all = self.all();
        let of_client = all.entry(client).or_default();
        of_client.insert(id, Held { end: end.clone(), greeting: true });
        let handshakes = of_client.values().filter(|held| held.greeting).count();
        Entry { connections: self, client, id, end, handshakes }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<IpAddr, HashMap<u64, Held>>> {
        self.by_client.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry<'_> {
    fn greeted(&self) {
        if let Some(held) = self.connections.all().get_mut(&self.client).and_then(|held| held.get_mut(&self.id)) {
            held.greeting = false;
        }
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        let mut all = self.connections.all();
        if let Some(held) = all.get_mut(&self.client) {
            held.remove(&self.id);
            if held.is_empty() {
                all.remove(&self.client);
            }
        }
        self.connections.left.notify_one();
    }
}

/// What a connection is doing, and until when it may.
struct Activity {
    http2: bool,
    header_timeout: Duration,
    idle_timeout: Duration,
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    in_flight: usize,
    /// When the first byte of a head came that is not whole yet; only HTTP/1, where bytes between answers are a head.
    head_since: Option<Instant>,
    /// Since when it has to end by: the handshake or the last answer.
    quiet: (Instant, Duration),
}

impl Activity {
    fn new(http2: bool, header_timeout: Duration, idle_timeout: Duration) -> Activity {
        let state = State { in_flight: 0, head_since: None, quiet: (Instant::now(), header_timeout) };
        Activity { http2, header_timeout, idle_timeout, state: Mutex::new(state), changed: Notify::new() }
    }

    fn deadline(&self) -> Option<Instant> {
        let state = self.state();
        match (state.in_flight, state.head_since) {
            (1.., _) => None,
            (0, Some(since)) => Some(since + self.header_timeout),
            (0, None) => Some(state.quiet.0 + state.quiet.1),
        }
    }

    fn bytes_came(&self) {
        let mut state = self.state();
        if !self.http2 && state.in_flight == 0 && state.head_since.is_none() {
            state.head_since = Some(Instant::now());
            self.changed.notify_one();
        }
    }

    fn begin(&self) -> InFlight<'_> {
        let mut state = self.state();
        state.in_flight += 1;
        state.head_since = None;
        self.changed.notify_one();
        InFlight(self)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct InFlight<'a>(&'a Activity);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.in_flight -= 1;
        state.quiet = (Instant::now(), self.0.idle_timeout);
        self.0.changed.notify_one();
    }
}

/// A stream that tells when bytes came.
struct Watched {
    stream: TlsStream<TcpStream>,
    activity: Arc<Activity>,
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.activity.bytes_came();
        }
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
