//! What travels between a server and its fetcher, as frames.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use hyper::{HeaderMap, Request, Response, header::HeaderName, header::HeaderValue};
use serde::{Deserialize, Serialize};

use super::Limits;

/// The longest body of an answer, in bytes, whatever is asked for.
pub const MAX_BODY: usize = 2 << 20;
/// The largest frame either way: a body in base64, and a head.
pub const MAX_FRAME: usize = MAX_BODY / 3 * 4 + (256 << 10);
/// The longest time for one request, whatever is asked for.
pub const MOST: Duration = Duration::from_secs(60);
/// Requests that one fetcher has in flight.
pub const IN_FLIGHT: usize = 32;

/// From the server.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ToFetcher {
    Fetch(Asked),
    /// The certificates that are trusted are read again.
    ReadRoots,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// Chosen by the server, to match the answer.
    pub id: u64,
    pub method: String,
    pub url: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
    pub max_body: usize,
    pub within: Duration,
}

/// From the fetcher.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answered {
    pub id: u64,
    /// Or one sentence.
    pub result: Result<Got, String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Got {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Asked {
    pub fn new(id: u64, request: &Request<Bytes>, limits: Limits) -> Asked {
        Asked {
            id,
            method: request.method().to_string(),
            url: request.uri().to_string(),
            headers: pairs(request.headers()),
            body: STANDARD.encode(request.body()),
            max_body: limits.bytes.min(MAX_BODY),
            within: limits.time.min(MOST),
        }
    }

    pub fn request(&self) -> Result<Request<Bytes>, String> {
        let body = STANDARD.decode(&self.body).map_err(|error| format!("the request's body is broken: {error}"))?;
        let mut request = Request::builder()
            .method(self.method.as_str())
            .uri(&self.url)
            .body(Bytes::from(body))
            .map_err(|error| format!("the request to {} is broken: {error}", self.url))?;
        insert(request.headers_mut(), &self.headers)?;
        Ok(request)
    }
}

impl Got {
    pub fn new(response: &Response<Bytes>) -> Got {
        Got {
            status: response.status().as_u16(),
            headers: pairs(response.headers()),
            body: STANDARD.encode(response.body()),
        }
    }

    pub fn response(&self) -> Result<Response<Bytes>, String> {
        let body = STANDARD.decode(&self.body).map_err(|error| format!("the answer's body is broken: {error}"))?;
        let mut response = Response::builder()
            .status(self.status)
            .body(Bytes::from(body))
            .map_err(|error| format!("the answer is broken: {error}"))?;
        insert(response.headers_mut(), &self.headers)?;
        Ok(response)
    }
}

/// Those that are plain text; of what is edge's business, all are.
fn pairs(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |(name, value): (&HeaderName, &HeaderValue)| Some((name.to_string(), value.to_str().ok()?.to_owned()));
    headers.iter().filter_map(text).collect()
}

fn insert(into: &mut HeaderMap, headers: &[(String, String)]) -> Result<(), String> {
    for (name, value) in headers {
        let broken = || format!("the header {name} is broken");
        let value = HeaderValue::from_str(value).map_err(|_| broken())?;
        into.append(HeaderName::try_from(name).map_err(|_| broken())?, value);
    }
    Ok(())
}
