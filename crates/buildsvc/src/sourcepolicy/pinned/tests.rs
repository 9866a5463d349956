//! The rules, read as the daemon reads them (`sourcepolicy/engine.go`): its patterns are RE2's, and so are the regex crate's.

use super::*;

const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

struct Daemon(Vec<(wire::Rule, Option<regex::Regex>)>);

impl Daemon {
    fn with(policy: &SourcePolicy) -> Daemon {
        let pattern = |rule: &wire::Rule| {
            let selector = rule.selector.as_ref().unwrap();
            let is_one = selector.match_type == i32::from(wire::MatchType::Regex);
            is_one.then(|| regex::Regex::new(&selector.identifier).unwrap())
        };
        Daemon(policy.to_wire().rules.into_iter().map(|rule| (rule.clone(), pattern(&rule))).collect())
    }
}

fn denied(Daemon(rules): &Daemon, identifier: &str, attrs: &[(&str, &str)]) -> bool {
    let attr = |key: &str| attrs.iter().find(|(name, _)| *name == key).map_or("", |(_, value)| value);
    let mut denied = false;
    for (rule, pattern) in rules {
        let selector = rule.selector.as_ref().unwrap();
        let constrained = selector.constraints.iter().all(|constraint| {
            assert_eq!(constraint.condition, i32::from(wire::AttrMatch::Notequal));
            attr(&constraint.key) != constraint.value
        });
        let matches = match pattern {
            Some(pattern) => selector.identifier == identifier || pattern.is_match(identifier),
            None => selector.identifier == "*" || selector.identifier == identifier,
        };
        if constrained && matches {
            denied = rule.action == i32::from(wire::PolicyAction::Deny);
        }
    }
    denied
}

fn pinned() -> Pinned {
    let set = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    Pinned {
        locals: set(&["context", "dockerfile", "_context", "co", "a.b"]),
        stores: set(&["s0", "s1"]),
        served: set(&["http://buildkit-session/0123"]),
        checksums: set(&["sha256:aa", "sha256:bb"]),
    }
}

#[test]
fn nothing_but_what_is_pinned() {
    let policy = Daemon::with(&SourcePolicy::default().pinned(&pinned()));
    for allowed in [
        "local://context",
        "local://dockerfile",
        "local://_context",
        "local://co",
        "local://a.b",
        &format!("docker-image://docker.io/library/a:3@sha256:{HEX}"),
        &format!("docker-image://r.example:5000/a@sha256:{HEX}"),
        &format!("oci-layout://docker.io/library/a@sha256:{HEX}"),
        &format!("oci-layout+blob://x/y@sha256:{HEX}"),
        "http://buildkit-session/0123",
    ] {
        assert!(!denied(&policy, allowed, &[("oci.store", "s1")]), "{allowed}");
        assert!(!denied(&policy, allowed, &[]), "{allowed}");
    }
    for other in [
        "",
        "local://",
        "local://c",
        "local://contex",
        "local://contextual",
        "local://context/",
        "local://other",
        "local://axb",
        "local://context\n",
        "local:/context",
        "locals://context",
        "LOCAL://context",
        "docker-image://docker.io/library/a:3",
        "docker-image://docker.io/library/a:latest",
        &format!("docker-image://@sha256:{HEX}"),
        &format!("docker-image://a@sha256:{}", &HEX[1..]),
        &format!("docker-image://a@sha256:{HEX}0"),
        &format!("docker-image://a@sha256:{HEX}\n"),
        &format!("docker-image://a@sha256:{}", HEX.to_uppercase()),
        &format!("docker-image://a@sha256:g{}", &HEX[1..]),
        &format!("docker-image://a@sha256:{}g", &HEX[1..]),
        &format!("docker-image://a@sha512:{HEX}"),
        &format!("docker-image://a@sha256-{HEX}"),
        &format!("docker-image://a:sha256:{HEX}"),
        &format!("docker-image://a@xha256:{HEX}"),
        &format!("docker-image+blob://a@sha256:{HEX}"),
        "oci-layout://a",
        "oci-layout://a:latest",
        "http://h/x",
        "http://buildkit-session/01234",
        "http://buildkit-session/012",
        "http://buildkit-session/",
        "https://buildkit-session/0123",
        "https://h/x",
        "HTTPS://h/x",
        "git://h/x",
        "git://h/x#c0ffee",
        "ssh://h/x",
        "ftp://h/x",
        "newscheme://x",
        "x",
    ] {
        assert!(denied(&policy, other, &[]), "{other:?}");
    }
}

#[test]
fn attributes_pin_as_well() {
    let policy = Daemon::with(&SourcePolicy::default().pinned(&pinned()));
    let image = format!("oci-layout://a@sha256:{HEX}");
    for (identifier, attrs, want) in [
        ("https://h/x", &[("http.checksum", "sha256:aa")][..], false),
        ("http://h/x", &[("http.checksum", "sha256:bb")], false),
        ("https://h/x", &[("http.checksum", "sha256:cc")], true),
        ("https://h/x", &[("git.checksum", "c0ffee")], true),
        ("git://h/x#main", &[("git.checksum", "c0ffee")], true),
        ("ssh://h/x", &[("git.checksum", "c0ffee"), ("http.checksum", "sha256:aa")], true),
        ("docker-image://a", &[("http.checksum", "sha256:aa")], true),
        (&image, &[("oci.store", "s0")], false),
        (&image, &[("oci.store", "other")], true),
    ] {
        assert_eq!(denied(&policy, identifier, attrs), want, "{identifier} {attrs:?}");
    }
    let nothing = Daemon::with(&SourcePolicy::default().pinned(&Pinned::default()));
    for identifier in ["https://h/x", "http://h/x", "git://h/x", "local://context", "local://"] {
        assert!(denied(&nothing, identifier, &[("http.checksum", "")]), "{identifier}");
    }
}

#[test]
fn the_users_rules_stay_and_take_nothing_back() {
    let json = r#"{"version": 1, "rules": [
        {"action": "DENY", "selector": {"identifier": "local://context"}},
        {"action": "ALLOW", "selector": {"identifier": "https://h/x"}}
    ]}"#;
    let policy = Daemon::with(&SourcePolicy::parse(json.as_bytes()).unwrap().pinned(&pinned()));
    assert!(denied(&policy, "local://context", &[]) && !denied(&policy, "local://dockerfile", &[]));
    assert!(denied(&policy, "https://h/x", &[]));
    let all = r#"{"rules": [{"action": "ALLOW", "selector": {"identifier": "*"}}]}"#;
    let policy = Daemon::with(&SourcePolicy::parse(all.as_bytes()).unwrap().pinned(&pinned()));
    assert!(denied(&policy, "docker-image://a", &[]) && !denied(&policy, "local://context", &[]));
}
