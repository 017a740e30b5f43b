//! The bodies of requests, bounded in size and time.

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{
    Request,
    body::Body,
    header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue},
};
use zeroize::Zeroizing;

use super::{Auth, answer::Denial, query::Form};

/// The longest body under `/auth/`, in bytes.
const MAX_BODY: usize = 64 << 10;
/// Of a longer body so much is read before it is refused, in bytes.
const MAX_THROWN_AWAY: usize = 4 << 20;

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
        let read = tokio::time::timeout(self.body_within, read_body(request)).await;
        read.map_err(|_| Denial::TooSlow)?.map(Zeroizing::new)
    }
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
    let length = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > MAX_THROWN_AWAY) {
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
