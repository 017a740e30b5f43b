//! Plain HTTP (`http_redirect`): every request is sent on to https, with its name, path and query, but for those by which
//! an authority has a name proven. One request a connection, HTTP/1 alone; nothing of it is believed.

use std::{
    convert::Infallible,
    net::{Ipv6Addr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Uri, Version,
    body::Incoming,
    header::{CONTENT_TYPE, EXPECT, HOST, HeaderValue, LOCATION, X_CONTENT_TYPE_OPTIONS},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

use super::{acme::Challenges, auth::MAX_HEAD};
use crate::config::listens_on;

/// The longest name that DNS has room for.
const MAX_NAME: usize = 253;

/// Where a client goes that came in at this end: by the same address where one listens there, else by the first.
pub fn port(listen: &[SocketAddr], local: SocketAddr) -> u16 {
    let same = listen.iter().find(|one| listens_on(&[**one], SocketAddr::new(local.ip(), one.port())));
    same.or(listen.first()).map_or(443, SocketAddr::port)
}

/// Of a body so much is thrown away, in bytes.
const MAX_BODY: usize = 64 << 10;

/// Answers the first request of a connection, and ends it.
pub async fn serve(stream: TcpStream, port: u16, challenges: &Challenges, head_within: Duration) {
    let service = service_fn(|request: Request<Incoming>| async move {
        let answer = proof(&request, challenges)
            .unwrap_or_else(|| answer(request.version(), request.uri(), request.headers(), port));
        if !request.headers().contains_key(EXPECT) {
            // What was sent and is never read would cost the client the answer.
            let _ = Limited::new(request.into_body(), MAX_BODY).collect().await;
        }
        Ok::<_, Infallible>(answer)
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_within)
        .max_buf_size(MAX_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!("plain HTTP: {error}");
    }
}

/// What an authority that issues a certificate asks for (RFC 8555, section 8.3).
fn proof(request: &Request<Incoming>, challenges: &Challenges) -> Option<Response<Full<Bytes>>> {
    let token = request.uri().path().strip_prefix("/.well-known/acme-challenge/")?;
    let proof = challenges.proof(token).filter(|_| matches!(*request.method(), Method::GET | Method::HEAD))?;
    Some(marked(Response::new(Full::new(Bytes::from(proof)))))
}

/// 308 keeps method and body (RFC 9110, section 15.4.9); a client of HTTP/1.0 is older than it.
fn answer(version: Version, uri: &Uri, headers: &HeaderMap, port: u16) -> Response<Full<Bytes>> {
    let location = name(uri, headers).and_then(|name| location(&name, port, uri));
    let status = match location {
        None => StatusCode::BAD_REQUEST,
        Some(_) if version < Version::HTTP_11 => StatusCode::MOVED_PERMANENTLY,
        Some(_) => StatusCode::PERMANENT_REDIRECT,
    };
    let mut response = Response::new(Full::new(Bytes::new()));
    *response.status_mut() = status;
    response.headers_mut().extend(location.map(|location| (LOCATION, location)));
    marked(response)
}

fn marked(mut response: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

fn location(name: &str, port: u16, uri: &Uri) -> Option<HeaderValue> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let port = if port == 443 { String::new() } else { format!(":{port}") };
    let slash = if path.starts_with('?') { "/" } else { "" };
    // `*` and what CONNECT asks for have no address.
    let has_path = path.starts_with(['/', '?']) && (uri.scheme().is_some() || uri.authority().is_none());
    let location = format!("https://{name}{port}{slash}{path}");
    has_path.then(|| HeaderValue::from_str(&location).ok()).flatten()
}

/// The host that the request is for, without its port: of the whole address where the client gave one, else of the one
/// `Host` (RFC 9112, section 3.2).
fn name(uri: &Uri, headers: &HeaderMap) -> Option<String> {
    let mut hosts = headers.get_all(HOST).iter();
    let (host, more) = (hosts.next(), hosts.next());
    if more.is_some() {
        return None;
    }
    let host = host.map(|host| host.to_str()).transpose().ok()?;
    host_name(uri.authority().map(|authority| authority.as_str()).or(host)?)
}

/// The name in `name`, `name:port`, `[address]`, `[address]:port`; `None` where it is none.
fn host_name(host: &str) -> Option<String> {
    let end = if host.starts_with('[') { host.find(']')? + 1 } else { host.find(':').unwrap_or(host.len()) };
    let (name, port) = host.split_at(end);
    let port_is_good = match port.strip_prefix(':') {
        Some(port) => port.is_empty() || port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok(),
        None => port.is_empty(),
    };
    let name_is_good = match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => is_name(name),
    };
    (port_is_good && name_is_good).then(|| name.to_ascii_lowercase())
}

fn is_name(name: &str) -> bool {
    let labels = name.strip_suffix('.').unwrap_or(name);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    name.len() <= MAX_NAME && labels.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(target: &str, hosts: &[&str], port: u16) -> (u16, String) {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(HOST, HeaderValue::from_bytes(host.as_bytes()).unwrap());
        }
        let response = answer(Version::HTTP_11, &target.parse().unwrap(), &headers, port);
        let location = response.headers().get(LOCATION).map(|location| location.to_str().unwrap().to_owned());
        assert_eq!(response.headers()[X_CONTENT_TYPE_OPTIONS], "nosniff");
        (response.status().as_u16(), location.unwrap_or_default())
    }

    #[test]
    fn name_path_and_query_go_along_and_the_port_is_that_of_tls() {
        for (target, host, port, location) in [
            ("/", "edge.test", 443, "https://edge.test/"),
            ("/a/b?c=d&e=%2F", "Edge.Test:80", 8443, "https://edge.test:8443/a/b?c=d&e=%2F"),
            ("//evil.test/x", "edge.test.", 443, "https://edge.test.//evil.test/x"),
            ("/", "[2001:DB8::1]:8080", 443, "https://[2001:db8::1]/"),
            ("/", "192.0.2.1", 443, "https://192.0.2.1/"),
            ("http://other.test:81/x?y", "edge.test", 443, "https://other.test/x?y"),
            ("http://other.test?y", "edge.test", 443, "https://other.test/?y"),
            ("/?next=https://evil.test", "edge.test:", 443, "https://edge.test/?next=https://evil.test"),
        ] {
            assert_eq!(asked(target, &[host], port), (308, location.to_owned()), "{target} {host}");
        }
    }

    #[test]
    fn an_invalid_host_and_what_has_no_address_is_400() {
        let long = format!("{}.test", "a".repeat(64));
        for host in [
            "",
            " ",
            ".",
            "a..b",
            "a b",
            "a/b",
            "a@b",
            "user:pass@b",
            "a:b",
            "a:99999",
            "a:+1",
            "a:1:2",
            "[::1",
            "::1",
            "[x]",
            "[::1]x",
            "a\\b",
            "a?b",
            "a#b",
            "%61",
            "\u{e4}.test",
            "a,b",
            &long,
            "evil.test/\t",
        ] {
            assert_eq!(asked("/", &[host], 443), (400, String::new()), "{host}");
        }
        assert_eq!(asked("/", &[], 443).0, 400);
        assert_eq!(asked("/", &["a.test", "a.test"], 443).0, 400);
        assert_eq!(asked("*", &["a.test"], 443).0, 400);
        assert_eq!(asked("a.test:443", &["a.test"], 443).0, 400);
        assert_eq!(asked("http://user@a.test/", &["a.test"], 443).0, 400);
    }

    #[test]
    fn the_oldest_clients_get_what_they_know() {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("a.test"));
        let response = answer(Version::HTTP_10, &Uri::from_static("/"), &headers, 443);
        assert_eq!(response.status().as_u16(), 301);
    }

    #[test]
    fn the_port_is_that_of_the_same_address_where_one_listens() {
        let listen = ["192.0.2.1:443", "[::]:8443", "192.0.2.2:444"].map(|one| one.parse().unwrap());
        let port = |local: &str| port(&listen, local.parse().unwrap());
        assert_eq!([port("192.0.2.2:80"), port("[2001:db8::1]:80"), port("192.0.2.9:80")], [444, 8443, 443]);
    }
}
