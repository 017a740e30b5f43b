//! Browsers: the form in, the cookie out, and whom a cookie names. A cookie comes along with whatever any site has the
//! browser send, so it counts for a change only beside a proof that this site asked for it.

use bytes::Bytes;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::Body,
    header::{COOKIE, HOST, HeaderValue, LOCATION, ORIGIN, SET_COOKIE, UPGRADE},
};

use super::{
    Auth, Good,
    answer::Denial,
    credential::{Identity, Kind},
    page::{Page, same_site},
    query::{Form, parameter},
};
use crate::{
    clock::Wall,
    server::{report::Ends, users::Cookie},
};

/// Only over TLS, only of this host, for every path (RFC 6265bis, section 4.1.3.2).
pub(super) const SESSION: &str = "__Host-edge";
const CSRF: &str = "x-csrf-token";
/// In which a proxy that asks says what the method of the request was.
const FORWARDED_METHODS: [&str; 2] = ["x-original-method", "x-forwarded-method"];

/// From a request, what tells whose idea it was.
pub(super) struct Asked<'a> {
    pub method: &'a Method,
    pub headers: &'a HeaderMap,
    /// As the address of the request has it, over HTTP/2.
    pub authority: Option<&'a str>,
}

impl<'a> Asked<'a> {
    pub(super) fn of<B>(request: &'a Request<B>) -> Asked<'a> {
        let authority = request.uri().authority().map(|authority| authority.as_str());
        Asked { method: request.method(), headers: request.headers(), authority }
    }

    /// Whether it changes something, or opens a connection that can.
    fn is_unsafe(&self) -> bool {
        let unsafe_name = |name: &str| !["GET", "HEAD", "OPTIONS", "TRACE"].contains(&name);
        let forwarded = FORWARDED_METHODS.iter().flat_map(|name| self.headers.get_all(*name));
        unsafe_name(self.method.as_str())
            || self.headers.contains_key(UPGRADE)
            || forwarded.into_iter().any(|method| method.to_str().map_or(true, unsafe_name))
    }

    /// Whether the page that asks is of this very host. `None`: it does not say.
    fn is_own(&self, production: bool) -> Option<bool> {
        let mut origins = self.headers.get_all(ORIGIN).iter();
        let origin = origins.next()?;
        let host = self.authority.or_else(|| self.headers.get(HOST)?.to_str().ok())?;
        let is = |scheme: &str| {
            let own = format!("{scheme}://{host}");
            origin.to_str().is_ok_and(|origin| origin.eq_ignore_ascii_case(&own))
        };
        Some(origins.next().is_none() && (is("https") || !production && is("http")))
    }
}

impl Auth {
    /// The form, for whoever asks.
    pub(super) fn sign_in_page(&self, query: Option<&str>) -> Good {
        let next = parameter(query.unwrap_or_default(), "next");
        Good::of(self.page(same_site(next.as_deref()), String::new()).shown(), None)
    }

    pub(super) fn page(&self, next: String, username: String) -> Page {
        Page { next, username, providers: self.oidc.names() }
    }

    /// A form that was sent: a session and the way on, or the form again.
    pub(super) async fn browser_login<B>(&self, ends: Ends, request: Request<B>) -> Result<Good, Denial>
    where
        B: Body<Data = Bytes> + Send,
    {
        let query = request.uri().query().and_then(|query| parameter(query, "next"));
        let forged = Asked::of(&request).is_own(self.production) == Some(false);
        let mut page = self.page(same_site(query.as_deref()), String::new());
        let body = self.body(request).await.map_err(|denial| page.clone().denied(denial))?;
        if body.trim_ascii_start().starts_with(b"{") {
            // Many a client calls JSON a form.
            return self.login_with(ends, &body).await;
        }
        if forged {
            return Err(page.denied(Denial::Forged));
        }
        let form = Form::parse(&body).ok_or_else(|| page.clone().denied(Denial::Malformed))?;
        if let Some(next) = form.value("next") {
            page.next = same_site(Some(next));
        }
        let (Some(username), Some(password)) = (form.value("username"), form.value("password")) else {
            return Err(page.denied(Denial::Malformed));
        };
        page.username = username.to_owned();
        let begun = self.begin_browser(ends, username.to_owned(), password.to_owned()).await;
        let (user, cookie) = begun.map_err(|denial| page.clone().denied(denial))?;
        let response = leading_to(&page.next, &[&set_cookie(SESSION, &cookie, None)])?;
        Ok(Good { is_sign_in: true, ..Good::of(response, user) })
    }

    /// Whom the cookie of a request names.
    pub(super) fn by_cookie(&self, headers: &HeaderMap) -> Result<Identity, Denial> {
        let guess = || Denial::Token { guessed: true, account: None };
        let mut texts = cookies(headers, SESSION);
        let text = texts.next().ok_or(Denial::NoCredential)?;
        if texts.next().is_some() {
            return Err(guess());
        }
        let now = Wall::now();
        let ended = |account: Option<String>| Denial::Token { guessed: false, account };
        let (session, user, generation, begun, email) = match self.store.read(|store| store.cookie(text, now))? {
            Cookie::Good { session, user, generation, begun, email } => (session, user, generation, begun, email),
            Cookie::Ended => return Err(ended(None)),
            Cookie::Unknown => return Err(guess()),
        };
        let roles = if user.contains(':') {
            let revoked = begun.0 / 1000 < self.store.read(|store| store.external_not_before(&user))?;
            self.roles_of_external(&user).filter(|_| !revoked)
        } else {
            let account = self.store.read(|store| store.lookup(&user))?;
            account.filter(|account| !account.disabled && account.generation == generation).map(|account| account.roles)
        };
        let roles = roles.ok_or_else(|| ended(Some(user.clone())))?;
        self.seen.session(session, now);
        Ok(Identity { name: user, roles, email, kind: Kind::Browser { session }, token: None })
    }

    /// The roles of a caller by sign-in with OpenID; `None`: its provider is not there any more.
    fn roles_of_external(&self, name: &str) -> Option<Vec<String>> {
        self.oidc.roles(name)
    }

    /// Whom a request names, if it is this site's idea where that matters.
    pub(super) fn identify_asked(&self, asked: &Asked<'_>) -> Result<Identity, Denial> {
        let identity = self.identify(asked.headers)?;
        let by_cookie = matches!(identity.kind, Kind::Browser { .. });
        if by_cookie && asked.is_unsafe() && !self.is_meant(asked) {
            return Err(Denial::Forged);
        }
        Ok(identity)
    }

    fn is_meant(&self, asked: &Asked<'_>) -> bool {
        let token = csrf_token(asked.headers);
        let told = asked.headers.get(CSRF).and_then(|told| told.to_str().ok());
        match (token, told) {
            (Some(token), Some(told)) => {
                aws_lc_rs::constant_time::verify_slices_are_equal(token.as_bytes(), told.as_bytes()).is_ok()
            }
            _ => asked.is_own(self.production) == Some(true),
        }
    }
}

impl Page {
    pub(super) fn denied(self, cause: Denial) -> Denial {
        Denial::Page { cause: Box::new(cause), page: Box::new(self) }
    }
}

/// What a page of this site sends along, and no other can know: from the cookie, which no script can read.
pub(super) fn csrf_token(headers: &HeaderMap) -> Option<String> {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let text = cookies(headers, SESSION).next()?;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, format!("edge csrf {text}").as_bytes());
    Some(URL_SAFE_NO_PAD.encode(digest))
}

/// The values of a cookie. HTTP/2 may send each pair in a line of its own.
pub(super) fn cookies<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(move |(found, _)| *found == name).map(|(_, value)| value)
}

/// Without an age it ends with the browser, at the latest with its session.
pub(super) fn set_cookie(name: &str, value: &str, seconds: Option<u32>) -> String {
    let age = seconds.map(|seconds| format!("; Max-Age={seconds}")).unwrap_or_default();
    format!("{name}={value}; Path=/; Secure; HttpOnly; SameSite=Lax{age}")
}

/// 303 to an address, with cookies.
pub(super) fn leading_to(address: &str, cookies: &[&str]) -> Result<Response<http_body_util::Full<Bytes>>, Denial> {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::SEE_OTHER;
    let value = |text: &str| HeaderValue::from_str(text).map_err(|_| Denial::Malformed);
    response.headers_mut().insert(LOCATION, value(address)?);
    for cookie in cookies {
        response.headers_mut().append(SET_COOKIE, value(cookie)?);
    }
    Ok(response)
}

/// Whether a body is a form, as its sender says.
pub(super) fn is_form<B>(request: &Request<B>) -> bool {
    request.headers().get(hyper::header::CONTENT_TYPE).is_some_and(super::body::is_form)
}
