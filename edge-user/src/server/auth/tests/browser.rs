//! The sign-in page, the cookie that it gives, and what a cookie alone is not good for.

use hyper::header::{CONTENT_SECURITY_POLICY, LOCATION, SET_COOKIE};

use super::*;

const FORM: &str = "username=alice&password=correct+horse&next=%2Fapp%3Fa%3Db";

async fn cookie(world: &World) -> String {
    let (answer, _) = world.form("/auth/login", &[("origin", "https://a.test"), ("host", "a.test")], FORM).await;
    assert_eq!(answer.response.status(), 303);
    let cookie = header(&answer, "set-cookie").unwrap();
    cookie.split(';').next().unwrap().to_owned()
}

async fn asked(world: &World, method: &str, path: &str, headers: &[(&str, &str)]) -> (u16, Value) {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (answer, body) = world.send(request.body(Full::default()).unwrap()).await;
    (answer.response.status().as_u16(), body)
}

async fn html(world: &World, request: Request<Full<Bytes>>) -> (Answer, String) {
    let ends = Ends { peer: "203.0.113.7:5000".parse().unwrap(), local: "192.0.2.1:443".parse().unwrap() };
    let mut answer = world.auth.answer(ends, request).await;
    let body = answer.response.body_mut().collect().await.unwrap().to_bytes();
    (answer, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn the_form_leads_to_a_cookie_and_on() {
    let world = world();
    let page = Request::get("/auth/login?next=/app").body(Full::default()).unwrap();
    let (answer, page) = html(&world, page).await;
    assert_eq!(answer.response.status(), 200);
    let policy = answer.response.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap();
    assert!(policy.contains("frame-ancestors 'none'") && policy.contains("default-src 'none'"), "{policy}");
    assert!(page.contains("name=\"next\" value=\"/app\"") && !page.contains("<script"), "{page}");
    let (answer, _) = world.form("/auth/login", &[], FORM).await;
    assert_eq!((answer.response.status().as_u16(), header(&answer, "location")), (303, Some("/app?a=b")));
    let set = header(&answer, "set-cookie").unwrap();
    assert!(set.starts_with("__Host-edge=") && set.ends_with("; Path=/; Secure; HttpOnly; SameSite=Lax"), "{set}");
    for (form, next) in [("", "/"), ("&next=//evil.test", "/"), ("&next=https://evil.test/", "/")] {
        let (answer, _) = world.form("/auth/login", &[], &format!("username=alice&password=correct+horse{form}")).await;
        assert_eq!(answer.response.headers()[LOCATION], next);
    }
    let (status, me) = asked(&world, "GET", "/auth/me", &[("cookie", &cookie(&world).await)]).await;
    assert_eq!((status, text(&me, "username"), text(&me, "csrf_token").len()), (200, "alice", 43));
    assert_eq!(world.offences(), 0);
}

#[tokio::test]
async fn a_wrong_sign_in_shows_the_form_again_and_tells_nothing_apart() {
    let world = world();
    let mut pages = Vec::new();
    for name in ["alice", "bobby"] {
        let form = format!("username={name}&password=wrong&next=/app");
        let request = Request::post("/auth/login").header("content-type", "application/x-www-form-urlencoded");
        let (answer, page) = html(&world, request.body(Full::new(Bytes::from(form))).unwrap()).await;
        assert_eq!(answer.response.status(), 401);
        assert!(answer.response.headers().get(SET_COOKIE).is_none());
        assert!(page.contains("role=\"alert\"") && page.contains("value=\"/app\"") && !page.contains("wrong\""));
        pages.push(page.replace(name, "NAME"));
    }
    assert_eq!(pages[0], pages[1]);
    assert_eq!(world.offences(), 2);
    let (answer, _) = world.form("/auth/login", &[], "username=alice").await;
    assert_eq!(answer.response.status(), 400);
    let (answer, login) =
        world.form("/auth/login", &[], "{\"username\":\"alice\",\"password\":\"correct horse\"}").await;
    assert_eq!((answer.response.status().as_u16(), login["refresh_token"].is_string()), (200, true));
    // Nobody else's page signs anybody in.
    for origin in ["https://evil.test", "null", "https://a.test.evil.test", "http://a.test"] {
        let (answer, _) = world.form("/auth/login", &[("origin", origin), ("host", "a.test")], FORM).await;
        assert_eq!(answer.response.status(), 403, "{origin}");
    }
    assert_eq!(world.offences(), 2);
}

#[tokio::test]
async fn a_cookie_alone_changes_nothing() {
    let world = world();
    let cookie = cookie(&world).await;
    let (_, me) = asked(&world, "GET", "/auth/me", &[("cookie", &cookie)]).await;
    let token = text(&me, "csrf_token");
    let with = |more: &[(&'static str, &str)]| {
        let mut all = vec![("cookie".to_owned(), cookie.clone()), ("host".to_owned(), "a.test".to_owned())];
        all.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        all
    };
    let (own, other) = ("https://a.test", "https://b.test");
    for (method, more, status) in [
        ("GET", with(&[]), 200),
        ("GET", with(&[("origin", other)]), 200),
        ("POST", with(&[]), 403),
        ("POST", with(&[("origin", other)]), 403),
        ("POST", with(&[("origin", "null")]), 403),
        ("POST", with(&[("origin", own), ("origin", other)]), 403),
        ("POST", with(&[("x-csrf-token", "guess")]), 403),
        ("POST", with(&[("origin", own)]), 200),
        ("POST", with(&[("x-csrf-token", token)]), 200),
        ("DELETE", with(&[("origin", other), ("x-csrf-token", token)]), 200),
        ("GET", with(&[("upgrade", "websocket")]), 403),
        ("GET", with(&[("upgrade", "websocket"), ("origin", own)]), 200),
        ("GET", with(&[("x-original-method", "POST")]), 403),
        ("GET", with(&[("x-forwarded-method", "GET")]), 200),
    ] {
        let headers: Vec<_> = more.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(asked(&world, method, "/auth/verify", &headers).await.0, status, "{method} {more:?}");
    }
    assert_eq!(asked(&world, "POST", "/auth/logout", &[("cookie", &cookie)]).await.0, 403);
    let leave = [("cookie", cookie.as_str()), ("x-csrf-token", token)];
    assert_eq!(asked(&world, "POST", "/auth/logout", &leave).await.0, 204);
    // Ended, not guessed; what nobody was ever given is a guess.
    assert_eq!((asked(&world, "GET", "/auth/me", &[("cookie", &cookie)]).await.0, world.offences()), (401, 0));
    let guess = format!("__Host-edge={}", "A".repeat(43));
    assert_eq!((asked(&world, "GET", "/auth/me", &[("cookie", &guess)]).await.0, world.offences()), (401, 1));
    assert_eq!(asked(&world, "GET", "/auth/me", &[("cookie", "other=1")]).await.0, 401);
    assert_eq!(world.offences(), 1);
}

#[tokio::test]
async fn a_cookie_ends_with_its_user() {
    let mut world = world();
    let cookie = cookie(&world).await;
    world.users.set_password("alice", "another horse").unwrap();
    assert_eq!((asked(&world, "GET", "/auth/me", &[("cookie", &cookie)]).await.0, world.offences()), (401, 0));
}
