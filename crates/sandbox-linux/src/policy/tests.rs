//! The whole table of what is a policy, compared with nsjail's own reading, is in `tests/jails/parser.rs`.

use super::*;

fn verdict(text: &str) -> String {
    match Policy::parse("p.cfg", text.as_bytes()) {
        Ok(policy) => policy.to_text().split_whitespace().collect::<Vec<_>>().join(" "),
        Err(error) => error.to_string(),
    }
}

#[test]
fn messages_say_what_was_meant() {
    for (text, want) in [
        ("", "p.cfg:1:1: the file is empty; the smallest policy is a comment"),
        ("mount { src: \"/x\" }", "p.cfg:1:7: the required field `dst` is missing in here"),
        ("{\"mount\": [{\"src\": \"/x\"}]}", "p.cfg:1:12: the required field `dst` is missing in here"),
        ("exec_bin { arg: \"x\" }", "p.cfg:1:10: the required field `path` is missing in here"),
        ("hostname: \"a\\0b\"", "p.cfg:1:11: contains a NUL byte"),
        ("# é\nmode: once", "p.cfg:2:7: expected one of LISTEN, ONCE, RERUN, EXECVE, found `once`"),
        ("Mode: ONCE", "p.cfg:1:1: NsJailConfig has no field `Mode`; did you mean `mode`?"),
        ("{\"Hostname\": 1}", "p.cfg:1:2: NsJailConfig has no field `Hostname`; did you mean `hostname`?"),
        ("mode: ONCE\n mode: ONCE", "p.cfg:2:2: `mode` is given a second time"),
        ("hostname \"x\"", "p.cfg:1:10: expected `:`, found `\"x\"`"),
        ("hostname: \"é\n\"", "p.cfg:1:13: the string does not end on its line; write a line break as \\n"),
        ("mount { dst: \"/\"", "p.cfg:1:17: expected the name of a field, the file ends"),
        ("nice_level: 2147483648", "p.cfg:1:13: 2147483648 is out of range"),
        ("clone_newnet: yes", "p.cfg:1:15: expected true or false, found `yes`"),
    ] {
        assert_eq!(verdict(text), want, "{text}");
    }
}

#[test]
fn spans_lie_within_the_text() {
    let long = format!("{}: 1", "é".repeat(100));
    for text in [
        "mode: é",
        "{\"é",
        "{\"hostname\": \"\\",
        "hostname: \"\\",
        "{\"a\": \"\\uD83D\\u00e",
        &long,
        "\u{feff}#",
    ] {
        match Policy::parse("p", text.as_bytes()) {
            Err(PolicyError::Syntax { span, message, .. }) => {
                assert!(text.get(span.clone()).is_some(), "{text}: {span:?} {message}");
            }
            other => panic!("{text}: {other:?}"),
        }
    }
}

#[test]
fn nesting_is_bounded() {
    for (open, close) in [("[", "]"), ("{\"mount\":", "}")] {
        let text = format!("{{\"mount\":{}{}}}", open.repeat(100_000), close.repeat(100_000));
        assert!(verdict(&text).contains("nested too deeply"), "{open}");
    }
    assert!(verdict(&"mount {".repeat(100_000)).contains("MountPt has no field"));
}

#[test]
fn bounds_the_size_and_refuses_other_bytes() {
    let long = vec![b'#'; MAX_POLICY_BYTES + 1];
    assert!(matches!(Policy::parse("p", &long), Err(PolicyError::TooLarge { .. })));
    assert!(matches!(
        Policy::parse("p", b"mode: ONCE\nhostname: \"\xff\""),
        Err(PolicyError::Syntax { line: 2, column: 12, .. })
    ));
}

#[test]
fn embedded_policies_parse() {
    for which in Builtin::ALL {
        assert_eq!(Policy::builtin(which).name(), which.file_name());
    }
}

#[test]
fn limits_of_control_groups_are_listed() {
    for (text, limits) in [
        ("hostname: \"x\"", &[][..]),
        ("cgroup_pids_max: 0 cgroup_mem_swap_max: -1", &[]),
        ("cgroup_pids_max: 9 cgroup_mem_max: 1", &["cgroup_mem_max", "cgroup_pids_max"]),
        ("cgroup_mem_swap_max: 0", &["cgroup_mem_swap_max"]),
    ] {
        assert_eq!(Policy::parse("p", text.as_bytes()).unwrap().cgroup_limits(), limits, "{text}");
    }
}
