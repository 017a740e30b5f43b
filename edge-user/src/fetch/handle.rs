//! What the server has of its fetcher: a handle that any task may ask. The agent hands over the link, and another one where
//! the fetcher ended; what was asked until then fails, and what is asked meanwhile waits.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use hyper::{Request, Response};
use tokio::{
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::protocol::{Answered, Asked, IN_FLIGHT, MAX_FRAME, ToFetcher};
use crate::control::handed;

/// The most that is asked for at once leaves the fetcher room for what nobody waits for any more.
const AT_ONCE: usize = IN_FLIGHT / 2;

/// Asks by HTTPS; cheap to clone.
#[derive(Clone, Debug)]
pub struct Fetch {
    jobs: mpsc::Sender<Job>,
    turns: Arc<tokio::sync::Semaphore>,
}

/// How much of an answer is taken, and how long it may take, the wait for a turn included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub bytes: usize,
    pub time: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { bytes: 1 << 20, time: Duration::from_secs(10) }
    }
}

/// Why there is no answer, as one sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FetchError(pub String);

#[derive(Debug)]
enum Job {
    Ask { request: Box<Request<Bytes>>, limits: Limits, answer: Answer },
    ReadRoots,
}

type Answer = oneshot::Sender<Result<Response<Bytes>, FetchError>>;
type Pending = Arc<Mutex<HashMap<u64, Answer>>>;

impl Fetch {
    /// `handed`: where links to fetchers come from, as [`hand_over`] sends them.
    pub fn start(handed: UnixStream) -> Fetch {
        let (jobs, to_do) = mpsc::channel(AT_ONCE);
        tokio::spawn(serve(handed, to_do));
        Fetch { jobs, turns: Arc::new(tokio::sync::Semaphore::new(AT_ONCE)) }
    }

    /// Within the usual limits. The address is absolute; a redirect is an answer as any other.
    pub async fn request(&self, request: Request<Bytes>) -> Result<Response<Bytes>, FetchError> {
        self.request_within(request, Limits::default()).await
    }

    pub async fn request_within(&self, request: Request<Bytes>, limits: Limits) -> Result<Response<Bytes>, FetchError> {
        let url = request.uri().clone();
        let asked = async {
            let _turn = self.turns.acquire().await.ok()?;
            let (answer, answered) = oneshot::channel();
            self.jobs.send(Job::Ask { request: Box::new(request), limits, answer }).await.ok()?;
            answered.await.ok()
        };
        match timeout(limits.time, asked).await {
            Ok(Some(result)) => result,
            Ok(None) => Err(FetchError(format!("{url}: the fetcher ended before it had the answer"))),
            Err(_) => Err(FetchError(format!("{url}: no whole answer within {:?}", limits.time))),
        }
    }

    /// Has the certificates that are trusted be read again, for all that is asked from now on.
    pub async fn read_roots(&self) {
        // Without a fetcher there is nothing that was read before.
        let _ = timeout(Duration::from_secs(1), self.jobs.send(Job::ReadRoots)).await;
    }
}

#[cfg(test)]
impl Fetch {
    /// One whose fetcher answers so.
    pub fn answered_by(answers: impl Fn(Request<Bytes>) -> Response<Bytes> + Send + 'static) -> Fetch {
        use super::protocol::Got;
        let ((mut agent, server), (near, mut far)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
        let fetch = Fetch::start(server);
        tokio::spawn(async move {
            hand_over(&mut agent, near.into_std().unwrap()).await.unwrap();
            while let Ok(Some(message)) = crate::frame::read(&mut far, MAX_FRAME).await {
                let ToFetcher::Fetch(asked) = message else { continue };
                let got = Got::new(&answers(asked.request().unwrap()));
                crate::frame::write(&mut far, &Answered { id: asked.id, result: Ok(got) }, MAX_FRAME).await.unwrap();
            }
        });
        fetch
    }
}

/// Gives the server the link to a new fetcher.
pub async fn hand_over(to: &mut UnixStream, link: std::os::unix::net::UnixStream) -> std::io::Result<()> {
    handed::write(to, &(), MAX_FRAME, Some(&link.into())).await
}

/// With one link after the other, until no more come.
async fn serve(mut handed: UnixStream, mut jobs: mpsc::Receiver<Job>) {
    while let Ok(Some(link)) = next_link(&mut handed).await {
        let (reads, writes) = link.into_split();
        let pending = Pending::default();
        // Whoever waits for an answer of this link hears by its end that there will be none.
        tokio::select! {
            () = answers(reads, &pending) => {}
            () = ask(writes, &pending, &mut jobs) => return,
        }
    }
}

async fn next_link(handed: &mut UnixStream) -> std::io::Result<Option<UnixStream>> {
    let Some((length, link)) = handed::read_length(handed, MAX_FRAME).await? else { return Ok(None) };
    let () = crate::frame::read_body(handed, length).await?;
    let link = std::os::unix::net::UnixStream::from(link.ok_or(std::io::ErrorKind::InvalidData)?);
    link.set_nonblocking(true)?;
    UnixStream::from_std(link).map(Some)
}

async fn answers(mut reads: OwnedReadHalf, pending: &Pending) {
    while let Ok(Some(Answered { id, result })) = crate::frame::read(&mut reads, MAX_FRAME).await {
        if let Some(answer) = locked(pending).remove(&id) {
            // Who asked may be gone.
            let _ = answer.send(result.and_then(|got| got.response()).map_err(FetchError));
        }
    }
}

/// Returns when nobody can ask any more. A link that breaks is noticed by whoever reads from it.
async fn ask(mut writes: OwnedWriteHalf, pending: &Pending, jobs: &mut mpsc::Receiver<Job>) {
    let mut id = 0;
    while let Some(job) = jobs.recv().await {
        let message = match job {
            Job::Ask { answer, .. } if answer.is_closed() => continue,
            Job::Ask { request, limits, answer } => {
                id += 1;
                let mut waiting = locked(pending);
                waiting.retain(|_, answer| !answer.is_closed());
                waiting.insert(id, answer);
                ToFetcher::Fetch(Asked::new(id, &request, limits))
            }
            Job::ReadRoots => ToFetcher::ReadRoots,
        };
        if let Err(error) = crate::frame::write(&mut writes, &message, MAX_FRAME).await
            && let Some(answer) = locked(pending).remove(&id)
        {
            let _ = answer.send(Err(FetchError(format!("the fetcher cannot be asked: {error}"))));
        }
    }
}

fn locked(pending: &Pending) -> MutexGuard<'_, HashMap<u64, Answer>> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetch::protocol::Got;

    fn pair() -> (UnixStream, UnixStream) {
        UnixStream::pair().unwrap()
    }

    fn get(path: &str) -> Request<Bytes> {
        Request::get(format!("https://a.test/{path}")).header("x-a", "b").body(Bytes::from_static(b"\0\xff")).unwrap()
    }

    /// A link handed over; the end that a fetcher would have.
    async fn fetcher(agent: &mut UnixStream) -> UnixStream {
        let (near, far) = pair();
        hand_over(agent, near.into_std().unwrap()).await.unwrap();
        far
    }

    async fn asked(link: &mut UnixStream) -> Asked {
        match crate::frame::read(link, MAX_FRAME).await.unwrap() {
            Some(ToFetcher::Fetch(asked)) => asked,
            other => panic!("{other:?}"),
        }
    }

    async fn answer(link: &mut UnixStream, asked: &Asked) {
        let got = Got { status: 404, headers: vec![("x-c".to_owned(), asked.url.clone())], body: asked.body.clone() };
        crate::frame::write(link, &Answered { id: asked.id, result: Ok(got) }, MAX_FRAME).await.unwrap();
    }

    #[tokio::test]
    async fn answers_find_who_asked_in_any_order_and_what_a_dead_one_had_fails_at_once() {
        let (mut agent, server) = pair();
        let fetch = Fetch::start(server);
        let mut first = fetcher(&mut agent).await;
        let (one, other, work) = tokio::join!(fetch.request(get("one")), fetch.request(get("other")), async {
            let (one, other) = (asked(&mut first).await, asked(&mut first).await);
            assert_eq!((one.url.as_str(), &one.headers[0].1), ("https://a.test/one", &"b".to_owned()));
            answer(&mut first, &other).await;
            answer(&mut first, &one).await;
            first
        });
        for (answer, url) in [(one, "https://a.test/one"), (other, "https://a.test/other")] {
            let answer = answer.unwrap();
            assert_eq!((answer.status().as_u16(), &answer.body()[..]), (404, &b"\0\xff"[..]));
            assert_eq!(answer.headers()["x-c"], url);
        }
        let mut first = work;
        let (lost, ()) = tokio::join!(fetch.request(get("lost")), async {
            asked(&mut first).await;
            drop(first);
        });
        assert!(lost.unwrap_err().0.contains("ended"));
        let (found, ()) = tokio::join!(fetch.request(get("again")), async {
            let mut second = fetcher(&mut agent).await;
            let again = asked(&mut second).await;
            answer(&mut second, &again).await;
        });
        assert!(found.is_ok());
        drop(agent);
        assert!(fetch.request(get("never")).await.is_err());
    }

    #[tokio::test]
    async fn without_an_answer_it_is_an_error_in_time() {
        let (_agent, server) = pair();
        let limits = Limits { time: Duration::from_millis(20), ..Limits::default() };
        let error = Fetch::start(server).request_within(get("x"), limits).await.unwrap_err();
        assert_eq!(error.0, "https://a.test/x: no whole answer within 20ms");
    }
}
