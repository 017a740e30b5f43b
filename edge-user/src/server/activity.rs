//! What a connection is doing, told from its bytes and its requests, and until when it may go on so: the library knows
//! no difference between a slow head and an idle connection.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
    time::Instant,
};

/// What a connection is doing, and until when it may.
pub struct Activity {
    http2: bool,
    header_timeout: Duration,
    idle_timeout: Duration,
    state: Mutex<State>,
    pub changed: Notify,
}

struct State {
    in_flight: usize,
    /// Of a request at least the head came.
    was_asked: bool,
    /// When the first byte of a head came that is not whole yet; only HTTP/1, where bytes between answers are a head.
    head_since: Option<Instant>,
    /// Since when it has to end by: the handshake or the last answer.
    quiet: (Instant, Duration),
    /// Who waits to be told that the client has closed.
    end_is_held_from: Option<Waker>,
}

impl Activity {
    pub fn new(http2: bool, header_timeout: Duration, idle_timeout: Duration) -> Activity {
        let state = State {
            in_flight: 0,
            was_asked: false,
            head_since: None,
            quiet: (Instant::now(), header_timeout),
            end_is_held_from: None,
        };
        Activity { http2, header_timeout, idle_timeout, state: Mutex::new(state), changed: Notify::new() }
    }

    pub fn deadline(&self) -> Option<Instant> {
        let state = self.state();
        match (state.in_flight, state.head_since) {
            (1.., _) => None,
            (0, Some(since)) => Some(since + self.header_timeout),
            (0, None) => Some(state.quiet.0 + state.quiet.1),
        }
    }

    /// Whether a request is under way, or may well be, that nobody answers yet: on a fresh connection, or of which a part
    /// came.
    pub fn expects_request(&self) -> bool {
        let state = self.state();
        state.in_flight == 0 && (!state.was_asked || state.head_since.is_some())
    }

    pub fn bytes_came(&self) {
        let mut state = self.state();
        if !self.http2 && state.in_flight == 0 && state.head_since.is_none() {
            state.head_since = Some(Instant::now());
            self.changed.notify_one();
        }
    }

    pub fn begin(self: &Arc<Self>) -> InFlight {
        let mut state = self.state();
        state.in_flight += 1;
        state.was_asked = true;
        state.head_since = None;
        self.changed.notify_one();
        InFlight(self.clone())
    }

    /// Whether the client's end is to be kept from the library for now: until what is in flight is answered.
    fn holds_end(&self, cx: &Context<'_>) -> bool {
        let mut state = self.state();
        let holds = state.in_flight > 0;
        state.end_is_held_from = holds.then(|| cx.waker().clone());
        holds
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request, until it is answered.
pub struct InFlight(Arc<Activity>);

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.in_flight -= 1;
        state.quiet = (Instant::now(), self.0.idle_timeout);
        if state.in_flight == 0
            && let Some(waker) = state.end_is_held_from.take()
        {
            waker.wake();
        }
        self.0.changed.notify_one();
    }
}

/// A stream that tells when bytes came. The library gives up a request whose client has closed, and the kernel forgets
/// the connection then; so while a credential is being judged the close is held back: the agent, which asks the kernel,
/// would believe nothing of it.
pub struct Watched<S> {
    stream: S,
    activity: Arc<Activity>,
    ended: bool,
}

impl<S> Watched<S> {
    pub fn new(stream: S, activity: Arc<Activity>) -> Watched<S> {
        Watched { stream, activity, ended: false }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.ended {
            let before = buf.filled().len();
            let polled = ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
            if buf.filled().len() > before {
                self.activity.bytes_came();
                return Poll::Ready(polled);
            }
            // Closed without a word of TLS is closed all the same.
            self.ended = match &polled {
                Ok(()) => buf.remaining() > 0,
                Err(error) => error.kind() == io::ErrorKind::UnexpectedEof,
            };
            if !self.ended {
                return Poll::Ready(polled);
            }
        }
        if self.activity.holds_end(cx) { Poll::Pending } else { Poll::Ready(Ok(())) }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
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
