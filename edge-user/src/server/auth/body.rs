//! The bodies of requests, bounded in size and time.

use std::{pin::Pin, time::Duration};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{
    Request,
    body::Body,
    header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HeaderMap, HeaderValue},
};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::{Auth, answer::Denial, query::Form};

/// The longest body under `/auth/`, in bytes.
const MAX_BODY: usize = 64 << 10;
/// Of a longer body so much is read before it is refused, in bytes.
const MAX_THROWN_AWAY: usize = 4 << 20;
/// Whoever sends has sent something by then.
pub(super) const GOES_ON_WITHIN: Duration = Duration::from_secs(1);

impl Auth {
    /// A form that is said to be one and has no parameter twice.
    pub(super) async fn form<B>(&self, request: Request<B>) -> Result<Form, Denial>
    where
        B: Body<Data = Bytes> + Send,
    {
        let is_form = request.headers().get(CONTENT_TYPE).is_some_and(is_form);
        let body = self.body(request).await?;
        is_form.then(|| Form::parse(&body)).flatten().ok_or(Denial::Malformed)
    }

    pub(super) async fn json<T, B>(&self, request: Request<B>) -> Result<T, Denial>
    where
        T: serde::de::DeserializeOwned,
        B: Body<Data = Bytes> + Send,
    {
        serde_json::from_slice(&self.body(request).await?).map_err(|_| Denial::Malformed)
    }

    pub(super) async fn body<B>(&self, request: Request<B>) -> Result<Zeroizing<Vec<u8>>, Denial>
    where
        B: Body<Data = Bytes> + Send,
    {
        let read = timeout(self.body_within, read_body(request)).await;
        read.map_err(|_| Denial::TooSlow)?.map(Zeroizing::new)
    }
}

impl Auth {
    /// Reads what is left of a body that nobody wants: many clients do not see an answer that comes before they have sent
    /// all, over HTTP/2 for the reset of the stream that may follow it (RFC 9113, section 8.1), over HTTP/1.1 for that of
    /// the connection. One that is too long, or does not come, is left; what is owed to such a client is an answer.
    /// It is waited for as long as its next piece comes `within`.
    pub(super) async fn throw_away<B>(&self, mut body: Pin<&mut B>, within: Duration)
    where
        B: Body<Data = Bytes> + Send,
    {
        let rest = async {
            let mut came = 0;
            while came <= MAX_THROWN_AWAY && !body.is_end_stream() {
                match timeout(within, body.frame()).await {
                    Ok(Some(Ok(frame))) => came += frame.data_ref().map_or(0, Bytes::len),
                    Ok(Some(Err(_)) | None) | Err(_) => return,
                }
            }
        };
        // However much of it came.
        let _ = timeout(self.body_within, rest).await;
    }
}

/// Whether the rest of a body will come whatever is answered, and is short enough to be read.
pub(super) fn comes_anyway(headers: &HeaderMap) -> bool {
    !headers.contains_key(EXPECT) && length(headers).is_none_or(|length| length <= MAX_THROWN_AWAY)
}

fn length(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

pub(super) fn is_form(value: &HeaderValue) -> bool {
    let media = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
    media.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded")
}

/// The body, if it is short enough. What is too long is read on and thrown away, up to a limit: over HTTP/2 many clients
/// do not see an answer that comes before they have sent all.
async fn read_body<B>(request: Request<B>) -> Result<Vec<u8>, Denial>
where
    B: Body<Data = Bytes> + Send,
{
    if length(request.headers()).is_some_and(|length| length > MAX_THROWN_AWAY) {
        return Err(Denial::TooLarge);
    }
    let mut parts = std::pin::pin!(request.into_body());
    let (mut body, mut came) = (Vec::new(), 0);
    while let Some(frame) = parts.frame().await {
        let Ok(data) = frame.map_err(|_| Denial::Malformed)?.into_data() else { continue };
        came += data.len();
        if came > MAX_THROWN_AWAY {
            break;
        }
        if came <= MAX_BODY {
            body.extend_from_slice(&data);
        }
    }
    if came > MAX_BODY { Err(Denial::TooLarge) } else { Ok(body) }
}
