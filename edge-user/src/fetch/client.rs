//! One request by HTTP, over TLS: each on a connection of its own, bounded in time and size, redirects not followed.
//! Variables that name proxies are not honoured.

use std::{error::Error, net::IpAddr, sync::Arc};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{Request, Response, Uri, header, header::HeaderValue};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, version};
use tokio::time::timeout;

use super::protocol::{Asked, Got, MAX_BODY, MOST};

/// The longest head of an answer, in bytes.
const MAX_HEAD: usize = 64 << 10;
const AGENT: &str = concat!("edge/", env!("CARGO_PKG_VERSION"));

pub struct Client {
    inner: legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    trusts_nobody: bool,
    plain_http: bool,
}

/// The system's certificate authorities, or those of `SSL_CERT_FILE` and `SSL_CERT_DIR`.
pub fn roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    // What cannot be read is missed where it is needed: the error then names the address.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

impl Client {
    /// `plain_http`: also to other hosts than this one.
    pub fn new(roots: RootCertStore, plain_http: bool) -> Result<Client, String> {
        let trusts_nobody = roots.is_empty();
        let tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&version::TLS13, &version::TLS12])
            .map_err(|error| format!("TLS 1.2 and 1.3 cannot be set up: {error}"))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .enable_http2()
            .wrap_connector(connector);
        let inner = legacy::Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(0)
            .http1_max_buf_size(MAX_HEAD)
            .http2_max_header_list_size(MAX_HEAD as u32)
            .build(connector);
        Ok(Client { inner, trusts_nobody, plain_http })
    }

    /// The answer, whatever its status; an error is one sentence that names the address.
    pub async fn fetch(&self, asked: &Asked) -> Result<Got, String> {
        let request = asked.request()?;
        self.may(request.uri()).map_err(|why| format!("{}: {why}", asked.url))?;
        let within = asked.within.min(MOST);
        let told = timeout(within, self.exchange(request, asked.max_body.min(MAX_BODY))).await;
        let told = told.unwrap_or_else(|_| Err(format!("no whole answer within {within:?}")));
        told.map(|response| Got::new(&response)).map_err(|why| format!("{}: {why}", asked.url))
    }

    fn may(&self, uri: &Uri) -> Result<(), &'static str> {
        may_ask(uri, self.plain_http)?;
        if uri.scheme_str() == Some("https") && self.trusts_nobody {
            return Err("no certificate authority is trusted here; install ca-certificates, or set SSL_CERT_FILE");
        }
        Ok(())
    }

    async fn exchange(&self, mut request: Request<Bytes>, max: usize) -> Result<Response<Bytes>, String> {
        request.headers_mut().entry(header::USER_AGENT).or_insert(HeaderValue::from_static(AGENT));
        let answer = self.inner.request(request.map(Full::new)).await.map_err(|error| in_words(&error))?;
        let (head, body) = answer.into_parts();
        match Limited::new(body, max).collect().await {
            Ok(body) => Ok(Response::from_parts(head, body.to_bytes())),
            Err(error) if error.is::<LengthLimitError>() => Err(format!("the answer is longer than {max} bytes")),
            Err(error) => Err(in_words(&*error)),
        }
    }
}

/// Whether an address is one that is ever asked.
pub fn may_ask(uri: &Uri, plain_http: bool) -> Result<(), &'static str> {
    let host = uri.host().ok_or("the address names no host")?;
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err("the address has a user name in it; leave it out");
    }
    match uri.scheme_str() {
        Some("https") => Ok(()),
        Some("http") if plain_http || is_this_host(host) => Ok(()),
        Some("http") => Err("plain HTTP is only for this host; write https"),
        _ => Err("only https is asked; write an address that begins with https://"),
    }
}

/// Addresses of the loopback interface, and the name that stands for them (RFC 6761).
fn is_this_host(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare.eq_ignore_ascii_case("localhost") || bare.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// With all that led to it: the library's own words say only at which step.
fn in_words<'e>(error: &'e (dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error: &&'e (dyn Error + 'static)| (*error).source());
    let mut words: Vec<String> = causes.map(ToString::to_string).collect();
    words.dedup();
    words.join(": ")
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, time::Duration};

    use rustls_pki_types::{CertificateDer, pem::PemObject};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::{
        fetch::Limits,
        server::{link::CertificatePem, tls},
    };

    const LIMITS: Limits = Limits { bytes: 1000, time: Duration::from_secs(5) };

    async fn ask(client: &Client, url: &str, limits: Limits) -> Result<Response<Bytes>, String> {
        let request = Request::get(url).body(Bytes::new()).unwrap();
        client.fetch(&Asked::new(1, &request, limits)).await.map(|got| got.response().unwrap())
    }

    /// A server that reads a request and then says this, and whom it trusts; with `endless` it says the last byte on and on.
    async fn server(says: &'static [u8], endless: bool) -> (SocketAddr, RootCertStore) {
        let (chain, key) = tls::self_signed(&["127.0.0.1".to_owned()], crate::clock::Wall::now()).unwrap();
        let certificates = tls::Certificates::from_pem(&[CertificatePem { chain: chain.clone(), key }]).unwrap();
        let mut config = (*tls::server_config(Arc::new(certificates), false).unwrap()).clone();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(chain.as_bytes()).unwrap()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let acceptor = TlsAcceptor::from(Arc::new(config));
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(says).await;
                while endless && stream.write_all(&[*says.last().unwrap(); 1024]).await.is_ok() {}
                if says.is_empty() {
                    std::future::pending::<()>().await;
                }
                let _ = stream.shutdown().await;
            }
        });
        (address, roots)
    }

    async fn told(says: &'static [u8], endless: bool, limits: Limits) -> Result<Response<Bytes>, String> {
        let (address, roots) = server(says, endless).await;
        ask(&Client::new(roots, false).unwrap(), &format!("https://{address}/x"), limits).await
    }

    #[tokio::test]
    async fn an_answer_comes_whole_and_a_redirect_is_one() {
        let answer = told(b"HTTP/1.1 200 OK\r\nX-A: b\r\nContent-Length: 2\r\n\r\nhi", false, LIMITS).await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["x-a"], &answer.body()[..]),
            (200, &"b".parse().unwrap(), &b"hi"[..])
        );
        let answer =
            told(b"HTTP/1.1 302 Found\r\nLocation: https://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", false, LIMITS);
        assert_eq!(answer.await.unwrap().status(), 302);
    }

    #[tokio::test]
    async fn what_is_no_answer_is_an_error() {
        let short = Limits { time: Duration::from_millis(300), ..LIMITS };
        for (says, endless, limits, why) in [
            (&b"HTTP/1.1 200 OK\r\n\r\nx"[..], true, LIMITS, "longer than 1000 bytes"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\nx", true, LIMITS, "longer than 1000 bytes"),
            (b"HTTP/1.1 200 OK\r\nA: x", true, LIMITS, "message head is too large"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx", false, LIMITS, "end of file before message length"),
            (b"rubbish\r\n\r\n", false, LIMITS, "invalid HTTP version"),
            (b"", false, short, "no whole answer within 300ms"),
        ] {
            let error = told(says, endless, limits).await.unwrap_err();
            assert!(error.contains(why) && error.starts_with("https://127.0.0.1:"), "{error}");
        }
    }

    #[tokio::test]
    async fn only_who_can_prove_who_it_is_is_asked() {
        let ((address, _), (_, others)) = (server(b"", false).await, server(b"", false).await);
        let stranger = ask(&Client::new(others, false).unwrap(), &format!("https://{address}/"), LIMITS).await;
        assert!(stranger.as_ref().is_err_and(|error| error.contains("certificate")), "{stranger:?}");
        let nobody = Client::new(RootCertStore::empty(), false).unwrap();
        for (url, why) in [
            ("https://127.0.0.1:1/", "SSL_CERT_FILE"),
            ("http://192.0.2.1/", "plain HTTP"),
            ("http://127.0.0.1@192.0.2.1/", "user name"),
            ("ftp://127.0.0.1/", "https"),
            ("/etc/passwd", "no host"),
        ] {
            let error = ask(&nobody, url, LIMITS).await.unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        for url in ["http://127.0.0.1:1/", "http://[::1]:1/", "http://LocalHost:1/"] {
            let error = ask(&nobody, url, LIMITS).await.unwrap_err();
            assert!(error.contains("refused") || error.contains("address"), "{error}");
            // At which step, and why.
            assert!(error.contains("(Connect): tcp connect error: "), "{error}");
        }
        assert!(!is_this_host("localhost.example.org") && !is_this_host("127.0.0.1.example.org"));
    }
}
