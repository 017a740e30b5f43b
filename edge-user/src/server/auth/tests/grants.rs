//! Tokens for passwords, refresh tokens and keys, with the refusals of RFC 6749; what introspection says of them, and
//! that what is revoked is good no more.

use base64::{Engine, engine::general_purpose::STANDARD};

use super::*;

const PASSWORD: &str = "grant_type=password&username=alice&password=correct+horse";

fn basic(id: &str, key: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{id}:{key}")))
}

async fn introspected(world: &World, key: &Issued, token: &str) -> Value {
    let (answer, body) =
        world.form("/auth/introspect", &[("x-internal-api-key", &key.key)], &format!("token={token}")).await;
    assert_eq!(answer.response.status(), 200);
    body
}

#[tokio::test]
async fn each_grant_gives_its_tokens() {
    let mut world = world();
    let key = world.key("ci", KeyKind::Api);
    let (answer, by_password) = world.form("/auth/token", &[], PASSWORD).await;
    assert_eq!(answer.response.status(), 200);
    assert_eq!((header(&answer, "cache-control"), header(&answer, "pragma")), (Some("no-store"), Some("no-cache")));
    assert_eq!((text(&by_password, "token_type"), by_password["expires_in"].as_u64()), ("bearer", Some(3600)));
    let form = format!("grant_type=refresh_token&refresh_token={}", text(&by_password, "refresh_token"));
    let (answer, refreshed) = world.form("/auth/token", &[], &form).await;
    assert_eq!((answer.response.status().as_u16(), refreshed["refresh_token"].is_string()), (200, true));
    let in_form = format!("grant_type=client_credentials&client_id={}&client_secret={}", key.id, *key.key);
    let by_basic = basic(&key.id, &key.key);
    for (headers, form) in
        [(&[][..], &*in_form), (&[("authorization", &*by_basic)], "grant_type=client_credentials&scope=")]
    {
        let (answer, body) = world.form("/auth/token", headers, form).await;
        assert_eq!((answer.response.status().as_u16(), &body["refresh_token"]), (200, &Value::Null));
        let bearer = format!("Bearer {}", text(&body, "access_token"));
        let me = world.me(&[("authorization", &bearer)]).await;
        assert_eq!(me, (200, json!({"username": "key:ci", "roles": ["ci"]})));
    }
    assert_eq!(world.offences(), 0);
}

#[tokio::test]
async fn each_refusal_is_that_of_the_rfc() {
    let mut world = world();
    let (key, internal) = (world.key("ci", KeyKind::Api), world.key("peer", KeyKind::Internal));
    let (no_form, _) = world.ask("POST", "/auth/token", None, PASSWORD).await;
    assert_eq!(no_form.response.status(), 400);
    let bad_basic = basic(&key.id, "edge_api_x");
    let good_basic = basic(&key.id, &key.key);
    let empty_basic = basic("", "");
    let client = format!("client_id={}&client_secret={}", key.id, *key.key);
    let misnamed = format!("grant_type=client_credentials&client_id={}&client_secret={}", internal.id, *key.key);
    let misplaced =
        format!("grant_type=client_credentials&client_id={0}&client_secret={1}", internal.id, *internal.key);
    let none = "";
    for (authorization, form, status, error) in [
        (none, "", 400, "invalid_request"),
        (none, "grant_type=", 400, "invalid_request"),
        (none, "grant_type=password&grant_type=password&username=a&password=b", 400, "invalid_request"),
        (none, "grant_type=password&username=alice", 400, "invalid_request"),
        (none, "grant_type=refresh_token", 400, "invalid_request"),
        (none, "grant_type=password&username=alice&password=%FF", 400, "invalid_request"),
        (none, "grant_type=client_credentials&client_secret=x", 400, "invalid_request"),
        (&*good_basic, &*format!("grant_type=client_credentials&{client}"), 400, "invalid_request"),
        (none, "grant_type=authorization_code&code=x", 400, "unsupported_grant_type"),
        (none, &*format!("{PASSWORD}&scope=admin"), 400, "invalid_scope"),
        (none, "grant_type=client_credentials", 401, "invalid_client"),
        (&*empty_basic, "grant_type=client_credentials", 401, "invalid_client"),
        (none, &*misnamed, 401, "invalid_client"),
        (none, &*misplaced, 401, "invalid_client"),
    ] {
        let headers = [("authorization", authorization)];
        let headers = if authorization.is_empty() { &[][..] } else { &headers[..] };
        let (answer, body) = world.form("/auth/token", headers, form).await;
        assert_eq!((answer.response.status().as_u16(), body), (status, json!({"error": error})), "{form}");
        let challenge = header(&answer, "www-authenticate").map(str::to_owned);
        assert_eq!(challenge.as_deref(), (status == 401).then_some("Bearer realm=\"edge\""), "{form}");
    }
    assert_eq!(world.offences(), 0, "none of them was a guess");
    let (answer, body) =
        world.form("/auth/token", &[("authorization", &bad_basic)], "grant_type=client_credentials").await;
    assert_eq!((answer.response.status().as_u16(), body), (401, json!({"error": "invalid_client"})));
    assert_eq!(header(&answer, "www-authenticate"), Some("Basic realm=\"edge\""));
    for guess in
        ["grant_type=password&username=alice&password=wrong", "grant_type=refresh_token&refresh_token=never-issued"]
    {
        let (answer, body) = world.form("/auth/token", &[], guess).await;
        assert_eq!((answer.response.status().as_u16(), body), (400, json!({"error": "invalid_grant"})), "{guess}");
    }
    assert_eq!(world.kinds(), [Kind::Key, Kind::Login, Kind::Token]);
}

#[tokio::test]
async fn a_token_issued_with_a_key_ends_with_the_key() {
    let mut world = world();
    let ends = Wall::now().plus(Duration::from_secs(600));
    let first = world.users.create_key("ci", KeyKind::Api, &[], Some(ends), Wall::now()).unwrap();
    let ask = async |world: &World, id: &str, key: &str| {
        let authorization = basic(id, key);
        let headers = [("authorization", &*authorization)];
        let (_, body) = world.form("/auth/token", &headers, "grant_type=client_credentials").await;
        assert!(body["expires_in"].as_u64().unwrap() <= 600, "it is no longer good than its key");
        format!("Bearer {}", text(&body, "access_token"))
    };
    let of_first = ask(&world, &first.id, &first.key).await;
    let second = world.users.rotate_key("ci", Duration::from_secs(60), Wall::now()).unwrap();
    // A client goes on with the id that it knows.
    let of_second = ask(&world, &first.id, &second.key).await;
    assert_eq!(world.me(&[("authorization", &of_first)]).await.0, 200);
    let third = world.users.rotate_key("ci", Duration::ZERO, Wall::now()).unwrap();
    assert_eq!(world.me(&[("authorization", &of_second)]).await.0, 401);
    assert_eq!(world.me(&[("authorization", &of_first)]).await.0, 200, "its own overlap goes on");
    let of_third = ask(&world, &third.id, &third.key).await;
    world.users.revoke_all(Wall::now()).unwrap();
    assert_eq!(world.me(&[("authorization", &of_third)]).await.0, 401);
    let again = ask(&world, &third.id, &third.key).await;
    world.users.revoke_key("ci", Wall::now()).unwrap();
    assert_eq!(world.me(&[("authorization", &again)]).await.0, 401);
    assert_eq!(world.offences(), 0);
}

#[tokio::test]
async fn introspection_asks_for_an_internal_key_and_tells_what_is_good() {
    let mut world = world();
    let (api, internal) = (world.key("ci", KeyKind::Api), world.key("peer", KeyKind::Internal));
    let (_, login) = world.login("alice", "correct horse").await;
    let access = text(&login, "access_token");
    let bearer = format!("Bearer {access}");
    for path in ["/auth/introspect", "/auth/revoke"] {
        let form = format!("token={access}");
        for (headers, status) in
            [(&[][..], 401), (&[("authorization", &*bearer)], 403), (&[("x-api-key", &**api.key)], 403)]
        {
            assert_eq!(world.form(path, headers, &form).await.0.response.status(), status, "{path}");
        }
        let own = [("x-internal-api-key", &**internal.key)];
        for bad in ["", "token=", "token=a&token=b"] {
            let (answer, body) = world.form(path, &own, bad).await;
            assert_eq!((answer.response.status().as_u16(), body), (400, json!({"error": "invalid_request"})), "{bad}");
        }
    }
    let about = introspected(&world, &internal, access).await;
    let expected = json!([true, "alice", "alice", "https://a.test", "api"]);
    assert_eq!(json!([about["active"], about["sub"], about["username"], about["iss"], about["aud"]]), expected);
    assert_eq!(about["exp"].as_i64().unwrap() - about["iat"].as_i64().unwrap(), 3600);
    let about = introspected(&world, &internal, text(&login, "refresh_token")).await;
    assert_eq!((&about["active"], &about["username"]), (&json!(true), &json!("alice")));
    assert_eq!(introspected(&world, &internal, &api.key).await["username"], "key:ci");
    world.users.set_disabled("alice", true).unwrap();
    for nothing in [access, text(&login, "refresh_token"), &internal.key, "a.b.c", "x", "edge_api_x"] {
        assert_eq!(introspected(&world, &internal, nothing).await, json!({"active": false}), "{nothing}");
    }
    assert_eq!(world.offences(), 0);
}

#[tokio::test]
async fn what_is_revoked_is_good_no_more_and_nothing_else_with_it() {
    let mut world = world();
    let internal = world.key("peer", KeyKind::Internal);
    let (_, one) = world.login("alice", "correct horse").await;
    let (_, two) = world.login("alice", "correct horse").await;
    let revoke = async |world: &World, token: &str| {
        let headers = [("x-internal-api-key", &**internal.key)];
        let form = format!("token={token}&token_type_hint=whatever");
        world.form("/auth/revoke", &headers, &form).await.0.response.status().as_u16()
    };
    assert_eq!(revoke(&world, text(&one, "access_token")).await, 200);
    let (answer, _) = world.ask("GET", "/auth/me", Some(text(&one, "access_token")), "").await;
    assert_eq!(answer.response.status(), 401);
    let refresh = json!({"refresh_token": one["refresh_token"]}).to_string();
    let (answer, next) = world.ask("POST", "/auth/refresh", None, &refresh).await;
    assert_eq!(answer.response.status(), 200, "the session goes on");
    assert_eq!(revoke(&world, text(&next, "refresh_token")).await, 200);
    let (answer, _) = world.ask("GET", "/auth/me", Some(text(&next, "access_token")), "").await;
    assert_eq!(answer.response.status(), 401, "a refresh token is its session");
    let (answer, _) = world.ask("GET", "/auth/me", Some(text(&two, "access_token")), "").await;
    assert_eq!(answer.response.status(), 200);
    for unknown in ["x", "a.b.c"] {
        assert_eq!(revoke(&world, unknown).await, 200, "{unknown}");
    }
    assert_eq!(revoke(&world, &internal.key).await, 400);
    assert_eq!(world.offences(), 0);
}

#[tokio::test]
async fn who_was_imported_with_bcrypt_signs_in_and_is_kept_with_argon2id_then() {
    let mut world = world();
    let account = world.users.lookup("alice").unwrap().unwrap();
    let hash = bcrypt::hash_with_result("correct horse", 4).unwrap().format_for_version(bcrypt::Version::TwoY);
    world.users.renew_hash(&account, &hash).unwrap();
    assert_eq!(world.login("alice", "wrong").await.0.response.status(), 401);
    assert_eq!(world.users.lookup("alice").unwrap().unwrap().hash, hash, "only a good login renews it");
    assert_eq!(world.login("alice", "correct horse").await.0.response.status(), 200);
    assert!(world.users.lookup("alice").unwrap().unwrap().hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
    assert_eq!(world.users.schemes().unwrap().len(), 1);
    assert_eq!(world.login("alice", "correct horse").await.0.response.status(), 200);
}
