//! Serves `/metrics`: HTTP/1.1 without TLS, one request a connection, few connections at once and each for a short
//! time, so that nobody who reaches the port can hold more than a corner of the agent.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time,
};

use super::{Own, Snapshot, render};

const CONNECTIONS: usize = 16;
/// For a whole connection: request, snapshot and answer.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// After a failed `accept`, which a lack of descriptors makes fail again at once.
const BACK_OFF: Duration = Duration::from_millis(100);

/// Serves for ever. `snapshot` is asked once for each scrape.
pub async fn serve<F, S>(listener: TcpListener, own: Own, snapshot: F)
where
    F: Fn() -> S + Clone + Send + Sync + 'static,
    S: Future<Output = Snapshot> + Send + 'static,
{
    serve_within(TIME_LIMIT, listener, own, snapshot).await;
}

async fn serve_within<F, S>(limit: Duration, listener: TcpListener, own: Own, snapshot: F)
where
    F: Fn() -> S + Clone + Send + Sync + 'static,
    S: Future<Output = Snapshot> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // Never closed, so never an error.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (own, snapshot) = (own.clone(), snapshot.clone());
                tokio::spawn(async move {
                    let _place = place;
                    let _ = time::timeout(limit, connection(stream, own, snapshot)).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection to the metrics");
                time::sleep(BACK_OFF).await;
            }
        }
    }
}

async fn connection<F, S>(stream: TcpStream, own: Own, snapshot: F)
where
    F: Fn() -> S + Send + Sync,
    S: Future<Output = Snapshot> + Send,
{
    let answer =
        service_fn(async |request: Request<Incoming>| Ok::<_, Infallible>(answer(&request, &own, &snapshot).await));
    let served = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(TIME_LIMIT)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(stream), answer)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection to the metrics failed");
    }
}

async fn answer<F, S>(request: &Request<Incoming>, own: &Own, snapshot: &F) -> Response<Full<Bytes>>
where
    F: Fn() -> S,
    S: Future<Output = Snapshot>,
{
    if request.uri().path() != "/metrics" {
        return plain(StatusCode::NOT_FOUND, "there is only /metrics here\n");
    }
    if request.method() != Method::GET {
        let mut refused = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n");
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return refused;
    }
    let mut found = plain(StatusCode::OK, render(&snapshot().await, own));
    let format = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    found.headers_mut().insert(CONTENT_TYPE, format);
    found
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn started(limit: Duration) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let snapshot = async || Snapshot { drift: 42, ..Snapshot::default() };
        tokio::spawn(serve_within(limit, listener, Own::new().unwrap(), snapshot));
        address
    }

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("{request} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn only_get_of_metrics_is_answered() {
        let address = started(TIME_LIMIT).await;
        let found = ask(address, "GET /metrics").await;
        assert!(found.starts_with("HTTP/1.1 200 ") && found.contains("text/plain; version=0.0.4"), "{found}");
        assert!(found.contains("\nedge_drift_entries 42\n"));
        assert!(ask(address, "GET /").await.starts_with("HTTP/1.1 404 "));
        assert!(ask(address, "GET /metrics/x").await.starts_with("HTTP/1.1 404 "));
        let refused = ask(address, "POST /metrics").await;
        assert!(refused.starts_with("HTTP/1.1 405 ") && refused.contains("allow: GET"), "{refused}");
    }

    #[tokio::test]
    async fn those_who_hold_every_place_and_say_nothing_are_sent_away() {
        let address = started(Duration::from_secs(1)).await;
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        assert!(ask(address, "GET /metrics").await.starts_with("HTTP/1.1 200 "));
    }
}
