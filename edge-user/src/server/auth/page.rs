//! The sign-in page: plain HTML that works without script, and what it says when a sign-in fails.

use std::sync::LazyLock;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Response, StatusCode,
    header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, REFERRER_POLICY, X_FRAME_OPTIONS},
};

use super::answer::Denial;

/// What the form shows, and where a good sign-in leads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// A path of this site.
    pub next: String,
    pub username: String,
    /// Names of OpenID providers.
    pub providers: Vec<String>,
}

const STYLE: &str = "*{box-sizing:border-box}html{font:16px/1.5 system-ui,sans-serif;color-scheme:light dark}\
body{margin:0;min-height:100vh;display:grid;place-items:center;background:Canvas;color:CanvasText}\
main{width:min(24rem,92vw);padding:2rem;border:1px solid #8885;border-radius:.75rem;box-shadow:0 .5rem 2rem #0002}\
h1{margin:0 0 1rem;font-size:1.5rem}label{display:block;margin:1rem 0 .25rem}\
input{width:100%;padding:.6rem .7rem;font:inherit;border:1px solid #888;border-radius:.4rem;background:Field;color:FieldText}\
button,a.other{display:block;width:100%;margin-top:1.5rem;padding:.65rem;font:inherit;font-weight:600;text-align:center;\
border:1px solid #1d4ed8;border-radius:.4rem;background:#1d4ed8;color:#fff;cursor:pointer;text-decoration:none}\
a.other{background:none;color:inherit;border-color:#888;margin-top:.75rem}\
:focus-visible{outline:3px solid #60a5fa;outline-offset:2px}\
p.error{margin:0;padding:.6rem .7rem;border-left:4px solid #dc2626;background:#dc26261a}";

/// Nothing but this one style, and forms to this site; shown in no frame (CSP level 3).
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, STYLE.as_bytes());
    let style = STANDARD.encode(digest);
    format!(
        "default-src 'none'; style-src 'sha256-{style}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
});

impl Page {
    pub fn shown(&self) -> Response<Full<Bytes>> {
        self.response(StatusCode::OK, None)
    }

    /// The same form again, with what to do about it.
    pub fn refused(&self, status: StatusCode, why: &Denial) -> Response<Full<Bytes>> {
        let told = match why {
            Denial::Login { .. } => "This user name and password do not go together. Check both and try again.",
            Denial::Busy | Denial::Unavailable => "Signing in is not possible at this moment. Try again in a minute.",
            Denial::Forged => "This sign-in was sent from another site. Sign in here.",
            Denial::Callback => "The sign-in was not completed. Begin again.",
            Denial::NotAllowed { .. } => "This account may not sign in here.",
            Denial::Provider => "The other side does not answer as it should. Try again in a minute.",
            Denial::TooLarge => "What was sent is too long.",
            _ => "The sign-in was not complete. Fill in both fields.",
        };
        self.response(status, Some(told))
    }

    fn response(&self, status: StatusCode, told: Option<&str>) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(Bytes::from(self.html(told))));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        if let Ok(policy) = HeaderValue::from_str(&POLICY) {
            headers.insert(CONTENT_SECURITY_POLICY, policy);
        }
        headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
        // With less, a browser would send the form with the origin `null`.
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
        response
    }

    fn html(&self, told: Option<&str>) -> String {
        let (next, username) = (escaped(&self.next), escaped(&self.username));
        let error = told.map(|told| format!("<p class=\"error\" role=\"alert\">{told}</p>")).unwrap_or_default();
        let focus = |here: bool| if here { " autofocus" } else { "" };
        let (first, second) = (focus(username.is_empty()), focus(!username.is_empty()));
        let link = |name: &String| {
            let target = format!("/auth/oidc/{name}/login?next={}", encoded(&self.next));
            format!("<a class=\"other\" href=\"{}\">Sign in with {}</a>", escaped(&target), escaped(name))
        };
        let others: String = self.providers.iter().map(link).collect();
        format!(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Sign in</title>\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><style>{STYLE}</style></head>\
             <body><main><h1>Sign in</h1>{error}<form method=\"post\" action=\"/auth/login\">\
             <input type=\"hidden\" name=\"next\" value=\"{next}\">\
             <label for=\"username\">User name</label><input id=\"username\" name=\"username\" value=\"{username}\" \
             autocomplete=\"username\" autocapitalize=\"none\" spellcheck=\"false\" maxlength=\"256\" required{first}>\
             <label for=\"password\">Password</label><input id=\"password\" name=\"password\" type=\"password\" \
             autocomplete=\"current-password\" maxlength=\"1024\" required{second}>\
             <button type=\"submit\">Sign in</button></form>{others}</main></body></html>"
        )
    }
}

/// A path of this very site, else its top: whatever a browser takes for another host is none.
pub fn same_site(next: Option<&str>) -> String {
    let good = |next: &&str| {
        let plain = next.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
        next.starts_with('/') && !next.starts_with("//") && plain && next.len() <= 2048
    };
    next.filter(good).unwrap_or("/").to_owned()
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

/// A value of a query.
pub fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_path_of_this_site_leads_on() {
        for good in ["/", "/a?b=c&d#e", "/a//b", "/%2F%2Fevil.test"] {
            assert_eq!(same_site(Some(good)), good);
        }
        for bad in
            ["", "a", "//evil.test", "/\\evil.test", "https://evil.test", "/\tevil", "/a b", "/ä", "/a\r\nb", "\\/x"]
        {
            assert_eq!(same_site(Some(bad)), "/", "{bad:?}");
        }
        assert_eq!(same_site(None), "/");
    }

    #[test]
    fn what_strangers_write_is_text_and_nothing_else() {
        let hostile = "\"><script>alert(1)</script>'&";
        let page = Page { next: hostile.to_owned(), username: hostile.to_owned(), providers: vec!["corp".to_owned()] };
        let html = page.html(None);
        assert!(
            !html.contains("<script") && html.contains("&quot;&gt;&lt;script&gt;alert(1)&lt;/script&gt;&#39;&amp;")
        );
        assert!(html.contains("/auth/oidc/corp/login?next=%22%3E%3Cscript"), "{html}");
        assert!(!html.contains("role=\"alert\"") && page.html(Some("x")).contains("role=\"alert\">x</p>"));
    }
}
