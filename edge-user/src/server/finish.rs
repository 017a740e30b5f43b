//! Work that goes on to its end even if nobody waits for it any more. The library drops the answer to a client that has
//! gone away; what a refused credential costs must not depend on whether the client stayed to hear it.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::runtime::Handle;

/// Handed over to the runtime when it is dropped before its end. It costs an allocation, and a task only then.
pub struct Finish<F>(Option<Pin<Box<F>>>)
where
    F: Future<Output: Send> + Send + 'static;

impl<F: Future<Output: Send> + Send + 'static> Finish<F> {
    pub fn new(work: F) -> Finish<F> {
        Finish(Some(Box::pin(work)))
    }
}

impl<F: Future<Output: Send> + Send + 'static> Future for Finish<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Some(work) = &mut self.0 else { return Poll::Pending };
        let polled = work.as_mut().poll(cx);
        if polled.is_ready() {
            self.0 = None;
        }
        polled
    }
}

impl<F: Future<Output: Send> + Send + 'static> Drop for Finish<F> {
    fn drop(&mut self) {
        if let (Some(work), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(work);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn what_nobody_waits_for_is_finished_all_the_same() {
        let (go, gone) = oneshot::channel::<()>();
        let (done, finished) = oneshot::channel();
        let mut work = Box::pin(Finish::new(async move {
            let _ = gone.await;
            let _ = done.send(7);
        }));
        assert!(is_pending(work.as_mut()).await);
        drop(work);
        go.send(()).unwrap();
        assert_eq!(finished.await, Ok(7));
        assert_eq!(Finish::new(async { 8 }).await, 8);
    }

    async fn is_pending<F: Future>(mut work: Pin<&mut F>) -> bool {
        std::future::poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx).is_pending())).await
    }
}
