//! Signing in at an OpenID provider: one that does as it should, and every way in which it, or somebody, does not.

use std::{collections::BTreeMap, sync::Mutex};

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::*;
use crate::server::{
    auth::query::Form,
    jws::{Algorithm, Members, SigningKey},
};

const PROVIDER: &str = "https://id.test";

/// What the provider says, beyond what is right.
#[derive(Default)]
struct Said {
    nonce: String,
    challenge: String,
    /// Claims of the ID token in place of the right ones; null: none.
    claims: BTreeMap<&'static str, Value>,
    userinfo: Value,
    /// What is answered under a path in place of 200.
    status: BTreeMap<&'static str, u16>,
    signs: Option<SigningKey>,
    /// How often it was asked about itself.
    discovered: usize,
}

type Provider = Arc<Mutex<Said>>;

fn key() -> SigningKey {
    let pem = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap().serialize_pem();
    SigningKey::new(Algorithm::ES256, &pem).unwrap()
}

fn answer(said: &Provider, key: &SigningKey, request: &Request<Bytes>) -> Response<Bytes> {
    let mut said = said.lock().unwrap();
    let path = request.uri().path();
    said.discovered += usize::from(path.starts_with("/.well-known/"));
    let said = &*said;
    let told = |status: u16, body: &Value| {
        let status = said.status.get(path).copied().unwrap_or(status);
        Response::builder().status(status).body(Bytes::from(body.to_string())).unwrap()
    };
    match path {
        "/.well-known/openid-configuration" => told(
            200,
            &json!({"issuer": PROVIDER, "authorization_endpoint": "https://id.test/auth?tenant=x",
                "token_endpoint": "https://id.test/token", "jwks_uri": "https://id.test/jwks",
                "userinfo_endpoint": "https://id.test/userinfo"}),
        ),
        "/jwks" => told(200, &json!({"keys": [key.public()]})),
        "/userinfo" => told(200, &said.userinfo),
        "/token" => {
            let form = Form::parse(request.body()).unwrap();
            let verifier = digest(&SHA256, form.value("code_verifier").unwrap().as_bytes());
            let good = form.value("code") == Some("good") && URL_SAFE_NO_PAD.encode(verifier) == said.challenge;
            assert_eq!(request.headers()["authorization"], "Basic ZWRnZTpzJTNBZWNyZXQ=");
            assert_eq!(form.value("redirect_uri"), Some("https://a.test/auth/oidc/corp/callback"));
            if !good {
                return told(400, &json!({"error": "invalid_grant"}));
            }
            let now = Wall::now().0 / 1000;
            let hash = URL_SAFE_NO_PAD.encode(&digest(&SHA256, b"access").as_ref()[..16]);
            let mut claims = json!({"iss": PROVIDER, "aud": "edge", "sub": "42", "exp": now + 60, "iat": now,
                "nonce": said.nonce, "email": "ann@Corp.test", "email_verified": true, "at_hash": hash});
            for (name, value) in &said.claims {
                claims[*name] = value.clone();
            }
            claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
            let signs = said.signs.as_ref().unwrap_or(key);
            let id_token = signs.sign(&Members::default(), claims.to_string().as_bytes()).unwrap();
            told(200, &json!({"id_token": id_token, "access_token": "access", "token_type": "Bearer"}))
        }
        _ => told(404, &Value::Null),
    }
}

fn signing_in() -> (World, Provider) {
    let (said, key) = (Provider::default(), key());
    let provider = said.clone();
    let fetch = Fetch::answered_by(move |request| answer(&provider, &key, &request));
    let world = world_with(Some(&fetch), |config| {
        config.oidc = vec![OidcProvider {
            name: "corp".to_owned(),
            issuer: PROVIDER.to_owned(),
            client_id: "edge".to_owned(),
            client_secret: "s:ecret".to_owned(),
            allowed_emails: vec!["Bob@other.test".to_owned()],
            allowed_domains: vec!["corp.test".to_owned()],
            roles: vec!["chat".to_owned()],
        }];
    });
    (world, said)
}

async fn get(world: &World, path: &str, cookie: &str) -> Answer {
    seen(world, path, cookie).await.0
}

/// With the page that comes.
async fn seen(world: &World, path: &str, cookie: &str) -> (Answer, String) {
    let request = Request::get(path).header("cookie", cookie).body(Full::default()).unwrap();
    let (answer, page) = world.send(request).await;
    (answer, page.as_str().unwrap_or_default().to_owned())
}

/// Begins; gives the state and the browser's cookie, and tells the provider what it has to know.
async fn begun(world: &World, said: &Provider) -> (String, String) {
    let answer = get(world, "/auth/oidc/corp/login?next=/app", "").await;
    assert_eq!(answer.response.status(), 303);
    let query = header(&answer, "location").unwrap().strip_prefix("https://id.test/auth?tenant=x&").unwrap();
    let query = Form::parse(query.as_bytes()).unwrap();
    for (name, value) in [("response_type", "code"), ("client_id", "edge"), ("code_challenge_method", "S256")] {
        assert_eq!(query.value(name), Some(value));
    }
    let mut said = said.lock().unwrap();
    said.nonce = query.value("nonce").unwrap().to_owned();
    said.challenge = query.value("code_challenge").unwrap().to_owned();
    let cookie = header(&answer, "set-cookie").unwrap();
    assert!(cookie.starts_with("__Host-edge-begun=") && cookie.contains("HttpOnly") && cookie.contains("Secure"));
    (query.value("state").unwrap().to_owned(), cookie.split(';').next().unwrap().to_owned())
}

/// The status of a whole sign-in.
async fn signed_in(world: &World, said: &Provider) -> u16 {
    let (state, cookie) = begun(world, said).await;
    let back = format!("/auth/oidc/corp/callback?state={state}&code=good");
    get(world, &back, &cookie).await.response.status().as_u16()
}

#[tokio::test]
async fn who_comes_back_is_signed_in_once() {
    let (world, said) = signing_in();
    let (state, cookie) = begun(&world, &said).await;
    let back = format!("/auth/oidc/corp/callback?state={state}&code=good&iss=https%3A%2F%2Fid.test");
    let answer = get(&world, &back, &cookie).await;
    assert_eq!((answer.response.status().as_u16(), header(&answer, "location")), (303, Some("/app")));
    let session = header(&answer, "set-cookie").unwrap().split(';').next().unwrap().to_owned();
    let answer = get(&world, "/auth/verify?require=chat", &session).await;
    assert_eq!((answer.response.status().as_u16(), header(&answer, "x-auth-request-user")), (200, Some("corp:42")));
    assert_eq!(header(&answer, "x-auth-request-email"), Some("ann@Corp.test"));
    assert_eq!(get(&world, &back, &cookie).await.response.status(), 400, "a state is good once");
    let page = get(&world, "/auth/login", "").await;
    assert_eq!(page.response.status(), 200);
    assert_eq!(world.users.sessions(Some("corp:42"), Wall::now()).unwrap()[0].kind, "oidc");
    assert_eq!(world.offences(), 0);
}

#[tokio::test]
async fn what_comes_back_elsewhere_or_otherwise_is_refused_and_no_offence() {
    let (world, said) = signing_in();
    for (query, with_cookie) in [
        ("code=good", false),
        ("", true),
        ("code=bad", true),
        ("code=good&error=access_denied", true),
        ("error=access_denied", true),
        ("code=good&iss=https%3A%2F%2Fevil.test", true),
        ("code=good&code=good", true),
    ] {
        let (state, cookie) = begun(&world, &said).await;
        let back = format!("/auth/oidc/corp/callback?state={state}&{query}");
        let (answer, page) = seen(&world, &back, if with_cookie { &cookie } else { "" }).await;
        assert_eq!(answer.response.status(), 400, "{query}");
        // Who is to begin again can.
        assert!(page.contains("/auth/oidc/corp/login?next="), "{query}");
        assert!(answer.response.headers().get("set-cookie").is_none());
    }
    let (_, cookie) = begun(&world, &said).await;
    for path in ["/auth/oidc/corp/callback?state=x&code=good", "/auth/oidc/corp/callback"] {
        let (answer, page) = seen(&world, path, &cookie).await;
        assert!(answer.response.status() == 400 && page.contains("/auth/oidc/corp/login"), "{path}");
    }
    for path in ["/auth/oidc/none/login", "/auth/oidc/none/callback?state=x", "/auth/oidc/corp/other", "/auth/oidc/"] {
        assert_eq!(get(&world, path, "").await.response.status(), 404, "{path}");
    }
    assert_eq!(world.offences(), 0);
}

#[tokio::test]
async fn an_id_token_is_for_this_sign_in_and_of_who_may() {
    let (world, said) = signing_in();
    for (name, value, status) in [
        ("nonce", json!("another"), 400),
        ("nonce", Value::Null, 400),
        ("aud", json!("another"), 400),
        ("aud", json!(["edge", "another"]), 400),
        ("azp", json!("another"), 400),
        ("azp", json!("edge"), 303),
        ("exp", json!(1), 400),
        ("iss", json!("https://evil.test"), 400),
        ("at_hash", json!("AAAA"), 400),
        ("at_hash", Value::Null, 303),
        ("sub", json!("a\nb"), 400),
        ("email_verified", json!(false), 403),
        ("email", json!("ann@sub.corp.test"), 403),
        ("email", json!("ann@corp.test.evil.test"), 403),
        ("email", json!("bob@OTHER.test"), 303),
        ("email", json!("eve@other.test"), 403),
        ("email", Value::Null, 403),
    ] {
        said.lock().unwrap().claims = [(name, value.clone())].into();
        said.lock().unwrap().userinfo = json!({"sub": "42"});
        assert_eq!(signed_in(&world, &said).await, status, "{name} {value}");
    }
    // Without an address in the token the provider is asked for it.
    said.lock().unwrap().claims = [("email", Value::Null)].into();
    for (sub, verified, status) in [("42", true, 303), ("42", false, 403), ("43", true, 400)] {
        said.lock().unwrap().userinfo = json!({"sub": sub, "email": "ann@corp.test", "email_verified": verified});
        assert_eq!(signed_in(&world, &said).await, status, "{sub} {verified}");
    }
    said.lock().unwrap().claims.clear();
    said.lock().unwrap().signs = Some(key());
    assert_eq!(signed_in(&world, &said).await, 400, "signed by somebody else");
    assert_eq!(world.offences(), 0);
}

#[tokio::test]
async fn a_provider_that_fails_is_told_as_one() {
    let (world, said) = signing_in();
    said.lock().unwrap().status.insert("/.well-known/openid-configuration", 500);
    assert_eq!(get(&world, "/auth/oidc/corp/login", "").await.response.status(), 502);
    assert_eq!(said.lock().unwrap().discovered, 1);
    // Whoever waits for the answer has it, and does not wait for another one.
    let login = || seen(&world, "/auth/oidc/corp/login?next=/app", "");
    for (answer, page) in <[_; 3]>::from(tokio::join!(login(), login(), login())) {
        assert_eq!(answer.response.status(), 502);
        assert!(page.contains("/auth/oidc/corp/login?next=%2Fapp") && !page.contains("id.test"), "{page}");
    }
    assert_eq!(said.lock().unwrap().discovered, 2);
    said.lock().unwrap().status.clear();
    for status in [401, 500, 503, 302] {
        said.lock().unwrap().status = [("/token", status)].into();
        assert_eq!(signed_in(&world, &said).await, 502, "{status}");
    }
    said.lock().unwrap().status = [("/userinfo", 500)].into();
    said.lock().unwrap().claims = [("email", Value::Null)].into();
    assert_eq!(signed_in(&world, &said).await, 502);
    assert_eq!(world.offences(), 0);
}
