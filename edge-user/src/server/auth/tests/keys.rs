//! Keys as credentials: where they count, when they end, and what of it is an offence.

use super::*;

#[tokio::test]
async fn an_api_key_counts_in_its_header_and_as_bearer_an_internal_one_in_its_own_alone() {
    let mut world = world();
    let (api, internal) = (world.key("ci", KeyKind::Api), world.key("peer", KeyKind::Internal));
    let ci = json!({"username": "key:ci", "roles": ["ci"]});
    for line in [("x-api-key", api.key.to_string()), ("authorization", format!("Bearer {}", *api.key))] {
        assert_eq!(world.me(&[(line.0, &line.1)]).await, (200, ci.clone()), "{}", line.0);
    }
    let peer = json!({"username": "key:peer", "roles": ["ci"]});
    assert_eq!(world.me(&[("x-internal-api-key", &internal.key)]).await, (200, peer));
    for (name, value) in [
        ("x-internal-api-key", api.key.to_string()),
        ("x-api-key", internal.key.to_string()),
        ("authorization", format!("Bearer {}", *internal.key)),
    ] {
        assert_eq!(world.me(&[(name, &value)]).await, (401, json!({"error": "invalid_key"})), "{name}");
    }
    assert_eq!(world.offences(), 0, "each is one of ours");
    // What is meant for the service behind edge is not judged beside a key.
    assert_eq!(world.me(&[("x-api-key", &api.key), ("authorization", "Basic eDp5")]).await.0, 200);
}

#[tokio::test]
async fn unknown_keys_are_offences_and_ended_ones_are_not() {
    let mut world = world();
    let expired = world.users.create_key("old", KeyKind::Api, &[], Some(Wall(1)), Wall(0)).unwrap();
    let revoked = world.key("ci", KeyKind::Api);
    world.users.revoke_key("ci", Wall::now()).unwrap();
    for key in [&expired.key, &revoked.key] {
        assert_eq!(world.me(&[("x-api-key", key)]).await.0, 401);
    }
    assert_eq!(world.offences(), 0);
    let unknown = format!("Bearer edge_api_{}", "A".repeat(43));
    assert_eq!(world.me(&[("x-api-key", "anything")]).await.0, 401);
    assert_eq!(world.me(&[("authorization", &unknown)]).await.0, 401);
    assert_eq!(world.me(&[("x-internal-api-key", "")]).await.0, 401);
    assert_eq!(world.kinds(), [Kind::Key; 3]);
}

#[tokio::test]
async fn more_than_one_line_of_a_credential_header_is_refused() {
    let mut world = world();
    let (api, internal) = (world.key("ci", KeyKind::Api), world.key("peer", KeyKind::Internal));
    let bearer = format!("Bearer {}", *api.key);
    for twice in [
        ("x-api-key", api.key.as_str()),
        ("x-internal-api-key", internal.key.as_str()),
        ("authorization", bearer.as_str()),
    ] {
        assert_eq!(world.me(&[twice, twice]).await.0, 401, "{}", twice.0);
    }
    let beside = [("x-internal-api-key", &**internal.key), ("x-api-key", &*api.key), ("x-api-key", &*api.key)];
    assert_eq!(world.me(&beside).await.0, 401);
}

#[tokio::test]
async fn a_use_is_written_once_it_is_told_to() {
    let mut world = world();
    let api = world.key("ci", KeyKind::Api);
    let (_, login) = world.login("alice", "correct horse").await;
    let begun = world.users.sessions(None, Wall::now()).unwrap().remove(0);
    world.me(&[("x-api-key", &api.key)]).await;
    world.ask("GET", "/auth/me", Some(text(&login, "access_token")), "").await;
    assert_eq!(world.users.keys(Wall::now()).unwrap()[0].last_used, None);
    world.auth.write_seen().await;
    assert!(world.users.keys(Wall::now()).unwrap()[0].last_used.is_some());
    assert!(world.users.sessions(None, Wall::now()).unwrap()[0].last_seen >= begun.last_seen);
}
