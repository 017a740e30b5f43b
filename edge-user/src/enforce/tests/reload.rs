//! Another config: whom it protects counts at once, and where the kernel does not take it all is as it was.

use super::*;

fn with_proxies(enforcer: &Enforcer<Fake>, proxies: &[&str]) -> Surroundings {
    let trusted_proxies = proxies.iter().map(|text| target(text)).collect();
    Surroundings { trusted_proxies, ..enforcer.surroundings().clone() }
}

#[test]
fn who_is_named_and_protected_is_told_by_the_config_that_comes() {
    let directory = tempfile::tempdir().unwrap();
    let mut enforcer = started(&directory, "block = [\"198.51.100.7\", \"198.51.100.8\"]");
    let surroundings = with_proxies(&enforcer, &["198.51.100.7"]);
    enforcer.surround(surroundings, START).unwrap();
    assert!(!enforcer.is_blocked("198.51.100.7".parse().unwrap(), START));
    let filter = Config::load(&directory.path().join("edge.toml"), &Overrides::default()).unwrap().filter;
    // The one is a proxy no more, and the other is one from now on.
    let surroundings = with_proxies(&enforcer, &["198.51.100.8"]);
    let former = enforcer.configure(&filter, surroundings, START);
    assert_eq!(enforcer.held_back, [target("198.51.100.8")].into_iter().collect());
    assert_eq!(enforcer.named_blocks().into_keys().collect::<Vec<_>>(), [target("198.51.100.7")]);
    enforcer.unconfigure(former);
    assert_eq!(enforcer.surroundings().trusted_proxies, [target("198.51.100.7")]);
}

#[test]
fn what_the_kernel_does_not_take_leaves_protected_who_was() {
    let directory = tempfile::tempdir().unwrap();
    let mut enforcer = started(&directory, "");
    let before = enforcer.surroundings().clone();
    let held = enforcer.tables.trusted.clone();
    enforcer.tables.trusts = Some(held.len());
    let failure = enforcer.surround(with_proxies(&enforcer, &["203.0.113.7"]), START).unwrap_err();
    assert!(failure.message.contains("full"), "{failure}");
    assert_eq!((enforcer.surroundings(), &enforcer.tables.trusted), (&before, &held));
}
