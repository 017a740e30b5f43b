//! Signing in at a real OpenID provider with a real browser, and everything that comes back otherwise than it was begun.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use edge_tests::{
    agent::Edge,
    authority::AUTHORITY,
    browser::{Browser, Scripts},
    client::{Client, Seen},
    net::{ATTACKER4, HOST6, Lab},
    provider::{CLIENT_ID, CLIENT_SECRET, Manner, Provider},
};
use serde_json::json;

use super::{COOKIE, SITE, asks, is_quiet, me, sessions};

const CALLBACK: &str = "https://edge.test/auth/oidc/corp/callback";
const BEGIN: &str = "/auth/oidc/corp/login?next=/auth/me";
const BEGUN: &str = "__Host-edge-begun";
const NOT_COMPLETED: &str = "The sign-in was not completed. Begin again.";
const FAILED: &str = "The other side does not answer as it should. Try again in a minute.";

/// An edge where browsers sign in at `corp`, and that provider; `elsewhere` is the same by an address that it does not call
/// itself by.
fn corp(lab: &Lab, email_in_token: bool) -> Result<(Edge, Provider<'_>)> {
    let mut edge = Edge::new(lab)?;
    let secret = edge.path("client-secret");
    let provider = Provider::start(lab, &edge.path(""), Manner { redirect: CALLBACK, email_in_token })?;
    fs::write(&secret, CLIENT_SECRET)?;
    fs::set_permissions(&secret, Permissions::from_mode(0o600))?;
    edge.canaries.watch("the client's secret", CLIENT_SECRET)?;
    let elsewhere = Provider::issuer().replace("10.77.0.1", &format!("[{HOST6}]"));
    for (name, issuer) in [("corp", Provider::issuer()), ("elsewhere", elsewhere)] {
        let section = format!("auth.oidc.{name}");
        edge.config.text(&section, "issuer", issuer).text(&section, "client_id", CLIENT_ID);
        edge.config.text(&section, "client_secret_file", &secret);
        edge.config.set(&section, "allowed_domains", "[\"Example.org\"]").set(
            &section,
            "roles",
            "[\"chat\", \"staff\"]",
        );
    }
    edge.environment.push(("SSL_CERT_FILE".to_owned(), edge.path(AUTHORITY).display().to_string()));
    edge.run()?;
    Ok((edge, provider))
}

/// From the page of edge to the provider, and through its pages.
fn signs_in_as(browser: &Browser<'_>, name: &str) -> Result<()> {
    browser.go(&format!("{SITE}/auth/login?next=/auth/me"))?;
    browser.click("a.other[href^='/auth/oidc/corp/']")?;
    through_the_provider(browser, name)
}

fn through_the_provider(browser: &Browser<'_>, name: &str) -> Result<()> {
    browser.arrives(&format!("{}/interaction/", Provider::issuer()))?;
    browser.fill("[name=login]", name)?;
    browser.fill("[name=password]", "whatever")?;
    browser.click("button[type=submit]")?;
    // The next page has the same button, and asks whether edge may know who this is.
    browser.click("button[autofocus]")
}

/// The page that refuses: what it says, and that it leads on and tells nothing of the inside.
fn refuses(browser: &Browser<'_>, told: &str) -> Result<()> {
    browser.arrives(CALLBACK)?;
    let page = browser.text("body")?.unwrap_or_default();
    ensure!(browser.text("[role=alert]")?.as_deref() == Some(told), "{page}");
    ensure!(
        page == format!("Sign in\n{told}\nUser name\nPassword\nSign in\nSign in with corp\nSign in with elsewhere"),
        "{page}"
    );
    ensure!(browser.cookies()?.iter().all(|cookie| cookie["name"] != COOKIE), "somebody is signed in");
    is_quiet(browser)
}

/// A sign-in that was begun, and has not gone to the provider yet.
struct Begun {
    to: String,
    cookie: String,
}

impl Begun {
    fn new(client: &Client<'_>) -> Result<Begun> {
        let seen = client.get(BEGIN)?;
        ensure!(seen.status() == Some(303), "{seen:?}");
        let cookie =
            seen.header("set-cookie").and_then(|line| line.strip_prefix(BEGUN)?.strip_prefix('=')?.split(';').next());
        let to = seen.header("location").context("it leads nowhere")?.to_owned();
        Ok(Begun { to, cookie: cookie.context("no cookie")?.to_owned() })
    }

    fn parameter(&self, name: &str) -> Result<&str> {
        parameter(&self.to, name)
    }

    /// Makes the browser the one that began, and has it go on with another value in the request; empty: with none.
    fn goes_on(&self, browser: &Browser<'_>, name: &str, value: &str) -> Result<()> {
        browser.go(&format!("{SITE}/health"))?;
        browser.set_cookie(BEGUN, &self.cookie)?;
        let pair = format!("{name}={}", self.parameter(name)?);
        let other = if value.is_empty() { String::new() } else { format!("{name}={value}") };
        browser.go(&self.to.replace(&pair, &other))
    }
}

fn parameter<'a>(url: &'a str, name: &str) -> Result<&'a str> {
    let pairs = url.split_once('?').map_or("", |(_, query)| query).split('&');
    pairs
        .filter_map(|pair| pair.split_once('='))
        .find_map(|(found, value)| (found == name).then_some(value))
        .with_context(|| format!("no {name} in {url}"))
}

/// 43 characters, as edge and providers have them.
const ANOTHER: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

#[test]
fn who_signed_in_at_the_provider_comes_back_as_who_the_config_says() -> Result<()> {
    let lab = Lab::new()?;
    let (edge, mut provider) = corp(&lab, false)?;
    let browser = Browser::start(&lab, &edge.path(AUTHORITY), Scripts::Run)?;
    signs_in_as(&browser, "ann@example.org")?;
    browser.arrives(&format!("{SITE}/auth/me")).with_context(|| format!("{}\n{}", edge.log(), provider.log()))?;
    let told = me(&browser)?.context("nobody is signed in")?;
    ensure!(told["username"] == "corp:ann@example.org" && told["roles"] == json!(["chat", "staff"]), "{told}");
    let verified = asks(&browser, "GET", "/auth/verify?require=staff", "")?;
    ensure!(verified["status"] == 200 && verified["email"] == "ann@example.org", "{verified}");
    ensure!(asks(&browser, "GET", "/auth/verify?require=admin", "")?["status"] == 403);
    let cookies = browser.cookies()?;
    ensure!(cookies.len() == 1 && cookies[0]["name"] == COOKIE && cookies[0]["httpOnly"] == true, "{cookies:?}");
    let begun = sessions(&edge)?;
    ensure!(begun.len() == 1 && begun[0]["kind"] == "oidc" && begun[0]["user"] == "corp:ann@example.org", "{begun:?}");

    // Who signs out here is known there, and asked nothing.
    let csrf = told["csrf_token"].as_str().context("no token")?.to_owned();
    ensure!(asks(&browser, "POST", "/auth/logout", &csrf)?["status"] == 204 && me(&browser)?.is_none());
    browser.go(&format!("{SITE}{BEGIN}"))?;
    browser.arrives(&format!("{SITE}/auth/me"))?;
    let csrf = me(&browser)?.context("nobody is signed in")?["csrf_token"].clone();
    ensure!(asks(&browser, "POST", "/auth/logout", csrf.as_str().context("no token")?)?["status"] == 204);

    for name in ["eve@evil.test", "unverified@example.org", "nobody"] {
        provider.again()?;
        signs_in_as(&browser, name)?;
        refuses(&browser, "This account may not sign in here.")?;
    }
    provider.again()?;
    browser.go(&format!("{SITE}{BEGIN}"))?;
    browser.arrives(&format!("{}/interaction/", Provider::issuer()))?;
    browser.click(".login-help a")?;
    refuses(&browser, NOT_COMPLETED)?;
    ensure!(sessions(&edge)?.is_empty() && edge.json(&["list"])?.as_array().is_some_and(Vec::is_empty));
    Ok(())
}

#[test]
fn what_comes_back_from_the_provider_otherwise_than_it_was_begun_is_refused() -> Result<()> {
    let lab = Lab::new()?;
    let (edge, provider) = corp(&lab, true)?;
    let client = Client::new(&lab, &edge, ATTACKER4);
    let browser = Browser::start(&lab, &edge.path(AUTHORITY), Scripts::Blocked)?;
    // With nothing changed it is good, and from here on the provider knows who this is.
    let begun = Begun::new(&client)?;
    begun.goes_on(&browser, "state", begun.parameter("state")?)?;
    through_the_provider(&browser, "ann@example.org")?;
    browser.arrives(&format!("{SITE}/auth/me")).with_context(|| format!("{}\n{}", edge.log(), provider.log()))?;
    let begun = sessions(&edge)?;
    edge.cli(&["session", "end", begun[0]["id"].as_str().context("no id")?])?.good()?;

    browser.go(&format!("{SITE}/health"))?;
    browser.forget_cookies()?;
    for (name, value) in [
        ("state", ANOTHER),
        ("state", ""),
        ("nonce", ANOTHER),
        ("nonce", ""),
        ("code_challenge", ANOTHER),
        ("code_challenge", ""),
        ("scope", "email"),
    ] {
        let begun = Begun::new(&client)?;
        begun.goes_on(&browser, name, value)?;
        refuses(&browser, NOT_COMPLETED).with_context(|| format!("{name}={value}: {}", provider.log()))?;
    }

    // Codes that are good, and were brought back with another state, are still unused.
    let coded = || -> Result<(Begun, String)> {
        let begun = Begun::new(&client)?;
        begun.goes_on(&browser, "state", ANOTHER)?;
        refuses(&browser, NOT_COMPLETED)?;
        let code = parameter(&browser.url()?, "code")?.to_owned();
        Ok((begun, code))
    };
    let back = |begun: &Begun, code: &str, issuer: &str| -> Result<String> {
        Ok(format!("{CALLBACK}?state={}&code={code}&iss={issuer}", begun.parameter("state")?))
    };
    let issuer = "https%3A%2F%2F10.77.0.1%3A8443";
    let (begun, code) = coded()?;
    browser.go(&back(&begun, &code, "https%3A%2F%2Fevil.test")?)?;
    refuses(&browser, NOT_COMPLETED)?;
    // A state is good once, also where it was refused.
    browser.go(&back(&begun, &code, issuer)?)?;
    refuses(&browser, NOT_COMPLETED)?;

    // In a browser that did not begin.
    let (begun, code) = coded()?;
    browser.set_cookie(BEGUN, ANOTHER)?;
    browser.go(&back(&begun, &code, issuer)?)?;
    refuses(&browser, NOT_COMPLETED)?;
    // At another provider than it began.
    let (begun, code) = coded()?;
    browser.go(&back(&begun, &code, issuer)?.replace("/corp/", "/elsewhere/"))?;
    ensure!(browser.text("[role=alert]")?.as_deref() == Some(NOT_COMPLETED));
    // A code of another sign-in: of another verifier.
    let ((_, code), (begun, _)) = (coded()?, coded()?);
    browser.go(&back(&begun, &code, issuer)?)?;
    refuses(&browser, NOT_COMPLETED)?;

    let (begun, code) = coded()?;
    browser.go(&back(&begun, &code, issuer)?)?;
    browser.arrives(&format!("{SITE}/auth/me"))?;
    edge.cli(&["session", "end", sessions(&edge)?[0]["id"].as_str().context("no id")?])?.good()?;
    browser.forget_cookies()?;
    for begun in [begun, Begun::new(&client)?] {
        browser.set_cookie(BEGUN, &begun.cookie)?;
        browser.go(&back(&begun, &code, issuer)?)?;
        refuses(&browser, NOT_COMPLETED).context("a code is replayed")?;
    }

    // A provider that calls itself otherwise.
    let seen = client.get("/auth/oidc/elsewhere/login")?;
    ensure!(seen.status() == Some(502), "{seen:?}");
    ensure!(edge.log().contains("it calls itself \"https://10.77.0.1:8443\""), "{}", edge.log());
    ensure!(sessions(&edge)?.is_empty() && edge.json(&["list"])?.as_array().is_some_and(Vec::is_empty));
    Ok(())
}

#[test]
fn a_provider_that_is_gone_or_mute_is_told_as_one_and_nobody_hangs() -> Result<()> {
    /// What edge waits for one, and what the machine takes besides.
    const BOUND: Duration = Duration::from_secs(18);
    let lab = Lab::new()?;
    let (mut edge, mut provider) = corp(&lab, true)?;
    let client = Client::new(&lab, &edge, ATTACKER4);
    let fails = |seen: &Seen| {
        let Seen::Answer { status: 502, body, .. } = seen else { return false };
        body.contains(FAILED) && body.contains("/auth/oidc/corp/login") && !body.contains("10.77")
    };
    provider.halt()?;
    let began = Instant::now();
    let patient = ["--max-time", "60"];
    let seen: Vec<Seen> = thread::scope(|scope| {
        let asked: Vec<_> = (0..4).map(|_| scope.spawn(|| client.request(BEGIN, &patient))).collect();
        asked.into_iter().map(|asked| asked.join().expect("a thread")).collect::<Result<_>>()
    })?;
    ensure!(seen.iter().all(fails) && began.elapsed() < BOUND, "{:?}: {seen:?}", began.elapsed());

    provider.again()?;
    let browser = Browser::start(&lab, &edge.path(AUTHORITY), Scripts::Run)?;
    signs_in_as(&browser, "ann@example.org")?;
    browser.arrives(&format!("{SITE}/auth/me"))?;
    let begun = Begun::new(&client)?;
    begun.goes_on(&browser, "state", ANOTHER)?;
    let code = parameter(&browser.arrives(CALLBACK)?, "code")?.to_owned();
    provider.stop();
    browser.go(&format!("{CALLBACK}?code={code}&state={}", begun.parameter("state")?))?;
    ensure!(browser.text("[role=alert]")?.as_deref() == Some(FAILED), "{:?}", browser.text("body"));
    // Who is signed in stays it.
    browser.go(&format!("{SITE}/auth/me"))?;
    ensure!(me(&browser)?.is_some());

    ensure!(edge.stop()? == 0);
    edge.run()?;
    let seen = client.get(BEGIN)?;
    ensure!(fails(&seen), "{seen:?}");
    ensure!(edge.json(&["list"])?.as_array().is_some_and(Vec::is_empty));
    Ok(())
}
