//! Signing in with a real browser: the page, the cookie, and what other sites can have the browser do with it.

mod openid;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use edge_tests::{
    agent::{Edge, PASSWORD, USER},
    authority::AUTHORITY,
    browser::{Browser, Scripts},
    client::Client,
    net::{ATTACKER4, Lab},
    provider::{Manner, Provider},
    wait_for,
};
use serde_json::{Value, json};

use super::{SOON, only_block};

const SITE: &str = "https://edge.test";
const COOKIE: &str = "__Host-edge";
const WRONG: &str = "This user name and password do not go together. Check both and try again.";

/// Types both into the form that is shown, and sends it.
fn types(browser: &Browser<'_>, user: &str, password: &str) -> Result<()> {
    browser.fill("#username", user)?;
    browser.fill("#password", password)?;
    browser.click("button[type=submit]")
}

fn signs_in(browser: &Browser<'_>) -> Result<()> {
    browser.go(&format!("{SITE}/auth/login?next=/auth/me"))?;
    types(browser, USER, PASSWORD)?;
    browser.arrives(&format!("{SITE}/auth/me")).map(drop)
}

/// Status and body of what a page of the site itself asks for.
fn asks(browser: &Browser<'_>, method: &str, path: &str, csrf: &str) -> Result<Value> {
    let body = "const [method, path, csrf] = arguments;
        const headers = csrf ? {'X-CSRF-Token': csrf} : {};
        return fetch(path, {method, headers}).then(async answer =>
            ({status: answer.status, user: answer.headers.get('x-auth-request-user'),
              email: answer.headers.get('x-auth-request-email'), body: await answer.text()}))";
    browser.script(body, &[method, path, csrf])
}

fn me(browser: &Browser<'_>) -> Result<Option<Value>> {
    let told = asks(browser, "GET", "/auth/me", "")?;
    match told["status"].as_u64() {
        Some(200) => Ok(Some(serde_json::from_str(told["body"].as_str().context("no body")?)?)),
        Some(401) => Ok(None),
        _ => anyhow::bail!("{told}"),
    }
}

/// Has a page of whatever site send a form to this one, as if its visitor had.
fn forges(browser: &Browser<'_>, from: &str, path: &str, fields: &[(&str, &str)]) -> Result<String> {
    browser.go(from)?;
    let body = "const form = document.createElement('form');
        form.method = 'post';
        form.action = arguments[0];
        for (const [name, value] of JSON.parse(arguments[1])) {
            const field = document.createElement('input');
            [field.name, field.value] = [name, value];
            form.append(field);
        }
        document.body.append(form);
        form.submit()";
    let to = format!("{SITE}{path}");
    browser.script(body, &[&to, &json!(fields).to_string()])?;
    browser.arrives(&to)?;
    browser.text("body")?.context("an empty page")
}

/// That no page went against its own policy.
fn is_quiet(browser: &Browser<'_>) -> Result<()> {
    let told = browser.console()?;
    ensure!(told.iter().all(|line| !line.contains("Content Security Policy")), "{told:#?}");
    Ok(())
}

fn sessions(edge: &Edge) -> Result<Vec<Value>> {
    Ok(edge.json(&["session", "list"])?.as_array().context("no list")?.clone())
}

#[test]
fn without_script_a_wrong_password_is_told_and_counts_and_the_right_one_signs_in() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start_with(&lab, |config| {
        config.set("learn", "threshold", "3");
    })?;
    let browser = Browser::start(&lab, &edge.path(AUTHORITY), Scripts::Blocked)?;
    browser.go(&format!("{SITE}/auth/login?next=/auth/me"))?;
    ensure!(browser.title()? == "Sign in" && browser.text("[role=alert]")?.is_none());
    for user in [USER, "nobody-has-this-name"] {
        types(&browser, user, "wrong password")?;
        wait_for("what was wrong", SOON, || Ok(browser.text("[role=alert]")?.filter(|told| told == WRONG).map(drop)))?;
        ensure!(browser.value("#username")? == user && browser.value("#password")? == "");
        ensure!(browser.value("[name=next]")? == "/auth/me" && browser.cookies()?.is_empty());
        is_quiet(&browser)?;
    }

    types(&browser, USER, PASSWORD)?;
    browser.arrives(&format!("{SITE}/auth/me"))?;
    let told = browser.text("body")?.context("nothing is told")?;
    ensure!(told.contains(r#""username":"alice""#) && told.contains(r#""roles":["chat"]"#), "{told}");
    let cookies = browser.cookies()?;
    ensure!(cookies.len() == 1 && cookies[0]["name"] == COOKIE, "{cookies:?}");
    ensure!(cookies[0]["httpOnly"] == true && cookies[0]["secure"] == true, "{cookies:?}");
    ensure!(cookies[0]["sameSite"] == "Lax" && cookies[0]["path"] == "/", "{cookies:?}");
    // Of this very host, and gone with the browser.
    ensure!(cookies[0]["domain"] == "edge.test" && cookies[0]["expiry"].is_null(), "{cookies:?}");
    let begun = sessions(&edge)?;
    ensure!(begun.len() == 1 && begun[0]["kind"] == "browser" && begun[0]["peer"] == "10.77.0.2", "{begun:?}");
    is_quiet(&browser)?;

    // Who signs in takes back what that name failed; what the browser failed under the other makes the third of these.
    let client = Client::new(&lab, &edge, ATTACKER4);
    client.login("nobody-either", "wrong password")?;
    ensure!(edge.json(&["list"])?.as_array().is_some_and(Vec::is_empty));
    client.login("nobody-either", "wrong password")?;
    wait_for("the block", SOON, || Ok(only_block(&edge).ok()))?;
    ensure!(only_block(&edge)?["address"] == "10.77.0.2/32");
    Ok(())
}

#[test]
fn no_other_site_acts_by_the_cookie_and_a_session_that_is_ended_is_over() -> Result<()> {
    let lab = Lab::new()?;
    let edge = Edge::start(&lab)?;
    // It serves for pages of other origins: of another port, for which the browser sends the cookie all the same, and of
    // another site.
    let manner = Manner { redirect: SITE, email_in_token: true };
    let _others = Provider::start(&lab, &edge.path(""), manner)?;
    let browser = Browser::start(&lab, &edge.path(AUTHORITY), Scripts::Run)?;
    // The page has its style, and reaches for nothing; the browser tells where one does.
    browser.go(&format!("{SITE}/auth/login"))?;
    let style = browser.script("return getComputedStyle(document.querySelector('main')).borderRadius", &[])?;
    ensure!(style == "12px", "{style}");
    is_quiet(&browser)?;
    let fetched = browser.script("return fetch('/health').then(() => 'sent', () => 'refused')", &[])?;
    ensure!(fetched == "refused" && is_quiet(&browser).is_err(), "{fetched}");

    signs_in(&browser)?;
    for (from, told) in [("https://edge.test:8443/", "forged"), ("https://10.77.0.1:8443/", "unauthorized")] {
        let answer = forges(&browser, from, "/auth/logout", &[])?;
        ensure!(answer.contains(told), "from {from}: {answer}");
        let answer = forges(&browser, from, "/auth/login", &[("username", USER), ("password", PASSWORD)])?;
        ensure!(answer.contains("This sign-in was sent from another site. Sign in here."), "from {from}: {answer}");
        is_quiet(&browser)?;
        browser.go(&format!("{SITE}/auth/me"))?;
        ensure!(me(&browser)?.is_some(), "from {from}: it signs out");
    }
    ensure!(sessions(&edge)?.len() == 1);

    ensure!(asks(&browser, "POST", "/auth/logout", "another")?["status"] == 403);
    let told = me(&browser)?.context("the session is over")?;
    ensure!(told["username"] == USER, "{told}");
    let csrf = told["csrf_token"].as_str().context("no token")?;
    ensure!(asks(&browser, "POST", "/auth/logout", csrf)?["status"] == 204);
    ensure!(me(&browser)?.is_none() && sessions(&edge)?.is_empty());

    signs_in(&browser)?;
    let begun = sessions(&edge)?;
    let id = begun[0]["id"].as_str().context("no id")?;
    edge.cli(&["session", "end", id])?.good()?;
    ensure!(me(&browser)?.is_none());
    signs_in(&browser)?;
    ensure!(me(&browser)?.is_some() && edge.json(&["list"])?.as_array().is_some_and(Vec::is_empty));
    Ok(())
}

#[test]
fn a_session_ends_when_nobody_uses_it_and_in_the_end_also_when_somebody_does() -> Result<()> {
    const IDLE: Duration = Duration::from_secs(4);
    const ABSOLUTE: Duration = Duration::from_secs(9);
    let lab = Lab::new()?;
    let edge = Edge::start_with(&lab, |config| {
        config.set("auth", "session", &format!("{{ idle = \"{IDLE:?}\", absolute = \"{ABSOLUTE:?}\" }}"));
    })?;
    let browser = Browser::start(&lab, &edge.path(AUTHORITY), Scripts::Run)?;
    signs_in(&browser)?;
    let begin = Instant::now();
    // The list is no use of it.
    wait_for("the end of the unused", SOON, || Ok(sessions(&edge)?.is_empty().then_some(())))?;
    ensure!(begin.elapsed() < ABSOLUTE, "it ended after {:?}", begin.elapsed());
    ensure!(me(&browser)?.is_none());

    browser.go(&format!("{SITE}/auth/login?next=/auth/me"))?;
    let begin = Instant::now();
    types(&browser, USER, PASSWORD)?;
    browser.arrives(&format!("{SITE}/auth/me"))?;
    wait_for("the end of the used", ABSOLUTE + SOON, || Ok(me(&browser)?.is_none().then_some(())))?;
    ensure!(begin.elapsed() >= ABSOLUTE, "it ended after {:?}", begin.elapsed());
    ensure!(edge.json(&["list"])?.as_array().is_some_and(Vec::is_empty), "an ended session counts as a guess");
    Ok(())
}
