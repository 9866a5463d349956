use super::*;
use crate::Builtin;

/// `severity field: what` of each finding.
fn findings(text: &str) -> Vec<String> {
    let policy = Policy::parse("p.cfg", format!("#\n{text}").as_bytes()).unwrap();
    lint(&policy).iter().map(|f| format!("{} {}: {}", f.severity, f.field, f.what)).collect()
}

fn open(text: &str) -> Vec<String> {
    findings(text).into_iter().filter(|line| line.starts_with("open")).collect()
}

#[test]
fn the_carried_policies_have_no_way_out() {
    for which in Builtin::ALL {
        let findings = lint(&Policy::builtin(which));
        let open: Vec<_> = findings.iter().filter(|f| f.severity == Severity::Open).collect();
        assert!(open.is_empty(), "{}: {open:?}", which.file_name());
        assert!(findings.iter().all(|f| f.why.len() > 10 && !f.mend.is_empty()));
    }
}

/// The shape of a policy that many people copied: EXECVE, the host's network and its whole `/dev`.
#[test]
fn a_much_copied_policy_scores() {
    let text = "name: \"ci\"\nmode: EXECVE\ncwd: \"/workspace\"\nclone_newuts: true\nclone_newpid: true\nclone_newuser: true\n\
                clone_newnet: false\nkeep_caps: false\nseccomp_string: \"DEFAULT ALLOW\"\n\n\
                mount { dst: \"/\" fstype: \"tmpfs\" rw: true }\nmount { dst: \"/proc\" fstype: \"proc\" }\n\
                mount { dst: \"/tmp\" fstype: \"tmpfs\" rw: true options: \"size=2G\" }\n\
                mount { src: \"/etc/resolv.conf\" dst: \"/etc/resolv.conf\" is_bind: true }\n\
                mount { src: \"/etc/hosts\" dst: \"/etc/hosts\" is_bind: true }\n\
                mount { src: \"/etc/ssl/certs\" dst: \"/etc/ssl/certs\" is_bind: true }\n\
                mount { src: \"/dev\" dst: \"/dev\" is_bind: true rw: true }\n";
    let found = lint(&Policy::parse("ci.cfg", text.as_bytes()).unwrap());
    let count = |severity| found.iter().filter(|f| f.severity == severity).count();
    assert_eq!(count(Severity::Open), 3, "{found:#?}");
    for (field, line, severity) in [
        ("mode", Some(2), Severity::Open),
        ("clone_newnet", Some(7), Severity::Open),
        ("mount[6]", Some(17), Severity::Open),
        ("seccomp_string", Some(9), Severity::Weak),
        ("mount[0]", Some(11), Severity::Weak),
        ("uidmap", None, Severity::Weak),
        ("gidmap", None, Severity::Weak),
        ("cgroup_pids_max", None, Severity::Weak),
        ("mount[3]", Some(14), Severity::Note),
        ("mount[5]", Some(16), Severity::Note),
        ("rlimit_fsize", None, Severity::Note),
        ("rlimit_nofile", None, Severity::Note),
    ] {
        let hit = found.iter().find(|f| f.field == field && f.severity == severity);
        assert_eq!(hit.map(|f| f.line), Some(line), "{severity} {field}");
    }
    assert!(found.is_sorted_by_key(|f| f.severity));
    assert!(!found.iter().any(|f| f.field == "mount[2]" || f.field == "mount[1]"), "{found:#?}");
}

#[test]
fn ways_out_are_open() {
    for (text, field) in [
        ("mode: EXECVE", "mode"),
        ("mode: LISTEN", "mode"),
        ("clone_newns: false", "clone_newns"),
        ("clone_newuser: false", "clone_newuser"),
        ("clone_newpid: false", "clone_newpid"),
        ("clone_newnet: false", "clone_newnet"),
        ("keep_env: true", "keep_env"),
        ("keep_caps: true", "keep_caps"),
        ("cap: \"CAP_CHOWN\" cap: \"CAP_SYS_ADMIN\"", "cap[1]"),
        ("disable_no_new_privs: true", "disable_no_new_privs"),
        ("uidmap { inside_id: \"0\" outside_id: \"0\" }", "uidmap[0]"),
        ("uidmap { outside_id: \"9\" } gidmap { outside_id: \"root\" }", "gidmap[0]"),
        ("user_net { backend: PASTA pasta {} }", "user_net"),
        ("mount { dst: \"/r\" src: \"/\" is_bind: true }", "mount[0]"),
        ("mount { dst: \"/dev\" src: \"/dev/\" is_bind: true }", "mount[0]"),
        ("mount { dst: \"/d\" src: \"/srv/..//./dev\" is_bind: true }", "mount[0]"),
        ("mount { dst: \"/d\" src: \"/srv/../..\" is_bind: true }", "mount[0]"),
        ("mount { dst: \"/s\" src: \"/var/run/docker.sock\" is_bind: true }", "mount[0]"),
        ("mount { dst: \"/s\" src: \"/run/buildkit/buildkitd.sock\" is_bind: true }", "mount[0]"),
        ("mount { dst: \"/s\" src: \"/run/containerd/containerd.sock\" is_bind: true }", "mount[0]"),
        ("mount { dst: \"/run\" src: \"/run\" is_bind: true }", "mount[0]"),
        ("mount { dst: \"/run\" src: \"/run/user/1000\" is_bind: true }", "mount[0]"),
        ("mount { dst: \"/h\" src: \"/home/me\" is_bind: true }", "mount[0]"),
        ("mount { dst: \"/h\" src: \"/home/me/.ssh\" is_bind: true }", "mount[0]"),
        ("mount { dst: \"/h\" src: \"/root\" is_bind: true }", "mount[0]"),
        ("mount { dst: \"/h\" prefix_src_env: \"HOME\" src: \"\" is_bind: true }", "mount[0]"),
        ("mount { dst: \"/s\" src: \"/etc/shadow\" is_bind: true }", "mount[0]"),
        ("mount { dst: \"/u\" src: \"/usr\" is_bind: true rw: true }", "mount[0]"),
        ("mount { dst: \"/p\" src: \"/proc\" is_bind: true }", "mount[0]"),
        ("mount { dst: \"/proc\" fstype: \"proc\" rw: true }", "mount[0]"),
        ("mount { dst: \"/sys\" fstype: \"sysfs\" rw: true }", "mount[0]"),
        ("mount { dst: \"/a/../../x\" fstype: \"tmpfs\" }", "mount[0]"),
    ] {
        let open = open(text);
        assert!(
            open.len() <= 2 && open.iter().any(|l| l.starts_with(&format!("open {field}: "))),
            "{text}: {open:?}"
        );
    }
}

#[test]
fn what_is_closed_is_not_called_open() {
    for text in [
        "",
        "uidmap { outside_id: \"100000\" } gidmap { outside_id: \"100000\" }",
        "mount { dst: \"/dev/null\" src: \"/dev/null\" is_bind: true rw: true }",
        "mount { dst: \"/w\" src: \"/home/me/project\" is_bind: true }",
        "mount { dst: \"/u\" src: \"/usr\" is_bind: true }",
        "mount { dst: \"/etc/motd\" src_content: \"hi\" rw: true }",
        "mount { dst: \"/x\" src: \"/dev\" is_symlink: true }",
        "user_net { rule4 { dst_ip: \"10.0.0.1\" } rule4 { action: REJECT } rule6 { action: DROP } }",
        "cap: \"CAP_NET_BIND_SERVICE\"",
        "disable_no_new_privs: true seccomp_string: \"DEFAULT ALLOW\"",
    ] {
        assert_eq!(open(text), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn rules_of_a_user_network_must_end() {
    for (rules, want) in [
        ("", 2),
        ("rule4 { action: REJECT }", 1),
        ("rule6 { action: REJECT } rule4 { action: REJECT }", 0),
        ("rule4 { action: REJECT proto: TCP } rule6 { action: REJECT }", 1),
        ("rule4 {} rule4 { action: REJECT } rule6 { action: REJECT }", 1),
        ("rule4 { dst_ip: \"registry.example\" } rule4 { action: REJECT } rule6 { action: REJECT }", 1),
        ("rule4 { action: REJECT dst_ip: \"0.0.0.0/0\" } rule6 { action: REJECT }", 0),
        ("rule4 { action: REJECT direction: HOST_TO_GUEST } rule6 { action: REJECT }", 1),
    ] {
        assert_eq!(open(&format!("user_net {{ {rules} }}")).len(), want, "{rules}");
    }
}

#[test]
fn thin_walls_are_weak_and_surprises_are_noted() {
    for (text, line) in [
        ("", "weak seccomp_string: unset"),
        ("seccomp_string: \"DEFAULT  ALLOW // x\"", "weak seccomp_string: DEFAULT ALLOW alone"),
        ("seccomp_string: \"DEFAULT LOG\"", "weak seccomp_string: DEFAULT LOG alone"),
        ("seccomp_string: \"KILL { ptrace } DEFAULT ALLOW\"", "note seccomp_string: a list of refusals"),
        ("seccomp_policy_file: \"f.kafel\"", "note seccomp_policy_file: f.kafel"),
        (
            "mount { dst: \"/tmp\" fstype: \"tmpfs\" rw: true options: \"mode=755\" }",
            "weak mount[0]: a writable tmpfs on /tmp without size",
        ),
        (
            "mount { dst: \"/c\" src: \"/srv/cache\" is_bind: true rw: true }",
            "weak mount[0]: /srv/cache, writable",
        ),
        ("mount { dst: \"/a\" src: \"/tmp/agent.sock\" is_bind: true }", "weak mount[0]: /tmp/agent.sock"),
        ("mount { dst: \"/k\" src: \"/dev/kvm\" is_bind: true }", "weak mount[0]: /dev/kvm"),
        ("mount { dst: \"/sys\" src: \"/sys\" is_bind: true }", "weak mount[0]: /sys"),
        ("mount { dst: \"/etc\" src: \"/etc\" is_bind: true }", "weak mount[0]: /etc"),
        (
            "mount { dst: \"/x\" prefix_src_env: \"X\" src: \"/y\" is_bind: true }",
            "weak mount[0]: prefix_src_env X",
        ),
        ("mount { dst: \"/u\" src: \"/usr\" is_bind: true }", "note mount[0]: /usr is read-only at its top"),
        ("mount { dst: \"/h\" src: \"/etc/hosts\" is_bind: true }", "note mount[0]: /etc/hosts must exist"),
        ("clone_newipc: false", "weak clone_newipc: false"),
        ("uidmap { inside_id: \"0\" }", "weak uidmap[0]: 0 is the caller's own id"),
        ("rlimit_as_type: HARD", "weak cgroup_mem_max: unset, and rlimit_as is no number"),
        ("rlimit_nofile_type: INF", "note rlimit_nofile_type: INF"),
        ("disable_rl: true", "weak disable_rl: true"),
        ("", "note time_limit: unset, so 600"),
        ("envar: \"A=1\" envar: \"NPM_TOKEN\"", "weak envar[1]: NPM_TOKEN"),
        ("envar: \"LANG\"", "note envar[0]: LANG"),
        ("no_pivotroot: true", "weak no_pivotroot: true"),
        ("skip_setsid: true", "weak skip_setsid: true"),
        ("pass_fd: 5", "weak pass_fd: 5"),
        ("exec_bin { path: \"/bin/sh\" }", "note exec_bin: /bin/sh"),
        ("macvlan_iface: \"eth0\"", "weak macvlan_iface: eth0"),
        ("persona_addr_no_randomize: true", "weak persona_addr_no_randomize: true"),
    ] {
        let findings = findings(text);
        assert!(findings.iter().any(|found| found == line), "{text}: no {line:?} in {findings:#?}");
    }
    let bounded = "rlimit_nproc: 9 rlimit_nproc_type: VALUE cgroup_mem_max: 1 rlimit_fsize: 1 time_limit: 0";
    let found = findings(bounded).join("\n");
    for field in ["cgroup_pids_max", "cgroup_mem_max", "rlimit_fsize", "time_limit"] {
        assert!(!found.contains(field), "{found}");
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(256))]

    /// Whatever stands in a policy, it can be linted, explained, compared with another one, and written and read again.
    #[test]
    fn any_policy_can_be_reported_on(
        src in "[/.a-z\\x00-\\x7fé]{0,24}",
        dst in "[/.a-z ]{0,24}",
        words in "[^\\x00]{0,40}",
        flags in 0_u16..512,
    ) {
        use crate::proto::{IdMap, MountPt};
        let flag = |bit: u16| (flags >> bit & 1 == 1).then_some(true);
        let mut config = Policy::builtin(Builtin::Ci).config().clone();
        config.mount.push(MountPt {
            src: Some(src.replace('\0', "")),
            dst: dst.clone(),
            fstype: flag(0).map(|_| words.clone()),
            options: Some(words.clone()),
            is_bind: flag(1),
            rw: flag(2),
            is_symlink: flag(3),
            mandatory: flag(4),
            prefix_src_env: flag(5).map(|_| words.clone()),
            ..MountPt::default()
        });
        config.mount.push(MountPt { dst, ..MountPt::default() });
        config.uidmap.push(IdMap { outside_id: Some(words.clone()), ..IdMap::default() });
        config.envar.push(words.clone());
        config.cap.push(words.clone());
        config.seccomp_string = vec![words];
        (config.clone_newuser, config.keep_env, config.disable_rl) = (flag(6), flag(7), flag(8));
        let policy = Policy::from_config("p", config);
        let findings = lint(&policy);
        proptest::prop_assert!(findings.is_sorted_by_key(|f| f.severity));
        proptest::prop_assert!(crate::explain(&policy, None).iter().all(|e| !e.does.is_empty()));
        proptest::prop_assert!(!crate::diff(&policy, &Policy::builtin(Builtin::Ci)).is_empty());
        let again = Policy::parse("again", policy.to_text().as_bytes()).unwrap();
        proptest::prop_assert!(crate::diff(&policy, &again).is_empty());
        let again = Policy::parse("again", policy.to_json().to_string().as_bytes()).unwrap();
        proptest::prop_assert!(crate::diff(&policy, &again).is_empty());
    }
}
