use super::*;
use crate::caller::{Extent, NAMESPACES};

/// A caller with these ids on an ordinary host.
pub(crate) fn caller(uid: u32) -> Caller {
    let all = vec![Extent { inside: 0, outside: 0, count: u32::MAX }];
    Caller {
        uid,
        gid: uid,
        pid: 77,
        groups: Vec::new(),
        uid_map: all.clone(),
        gid_map: all,
        hard_limits: BTreeMap::new(),
        namespaces: NAMESPACES.iter().map(|kind| ((*kind).to_owned(), 1)).collect(),
        mount_points: Vec::new(),
        capabilities: u64::MAX >> 23,
        filters: Some(0),
    }
}

fn settle(text: &str, overrides: Overrides) -> Result<Jail, JailError> {
    Jail::new(Policy::parse("p", text.as_bytes()).unwrap(), overrides, &caller(1001))
}

fn bind(src: &Path, dst: &str) -> Bind {
    Bind { src: src.to_owned(), dst: dst.into(), rw: false, idmap: false, is_dir: src.is_dir() }
}

/// Destinations of the settled mounts, in order.
fn places(jail: &Jail) -> String {
    let dsts: Vec<&str> = jail.config.mount.iter().map(|m| m.dst.as_str()).collect();
    dsts.join(" ")
}

#[test]
fn settles_the_mount_tree() {
    for (text, want) in [
        ("#", "/proc"),
        ("mount_proc: true", "/proc"),
        (
            "mount { dst: \"/\" fstype: \"tmpfs\" } mount { dst: \"/proc\" fstype: \"proc\" rw: true }",
            "/ /proc",
        ),
        ("mount { dst: \"/etc/passwd\" src: \"/etc/passwd\" is_bind: true }", "/etc/passwd /proc"),
        ("mount { dst: \"/x\" src: \"/etc/no-such-file\" is_bind: true }", "/proc"),
        ("mount { dst: \"/x\" src: \"/no/such\" is_bind: true mandatory: false }", "/proc"),
        (
            "mount { dst: \"/dev\" src: \"/dev\" is_bind: true rw: true }",
            "/dev /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/fd /dev/stdin /dev/stdout /dev/stderr /proc",
        ),
        ("mount { dst: \"/proc\" src: \"/proc\" is_bind: true }", "/proc"),
        ("mount { dst: \"/r\" src: \"/run\" is_bind: true }", "/proc"),
        ("mount { dst: \"/r\" src: \"/root\" is_bind: true }", "/proc"),
        ("mount { dst: \"/s\" src: \"/sys/kernel\" is_bind: true }", "/proc"),
        ("mount { dst: \"//a//b/./c/\" fstype: \"tmpfs\" }", "/a/b/c /proc"),
        ("mount { dst: \"/etc/motd\" src_content: \"hi\" }", "/etc/motd /proc"),
        (
            "mount { dst: \"/ws/x\" fstype: \"tmpfs\" } mount { dst: \"/t\" fstype: \"tmpfs\" }",
            "/ws/x /t /proc",
        ),
    ] {
        let jail = settle(text, Overrides::default()).unwrap();
        assert_eq!(places(&jail), want, "{text}");
        assert_eq!(jail.promises().mounts.iter().filter(|m| m.dst == "/").count(), 1, "{text}");
    }
    let over = Overrides { binds: vec![bind(Path::new("/etc"), "/ws")], ..Overrides::default() };
    let jail = settle("mount { dst: \"/ws/x\" fstype: \"tmpfs\" }", over).unwrap();
    assert_eq!(places(&jail), "/proc /ws");
    assert!(
        jail.corrections()
            .iter()
            .any(|c| c.to_string() == "mount[0]: /ws/x -> left out (ktl mounts its own /ws)")
    );
}

#[test]
fn refuses_mounts_that_would_touch_the_host() {
    let etc = "mount { dst: \"/e\" src: \"/etc\" is_bind: true } ";
    for (text, want) in [
        ("mount { dst: \"/../x\" fstype: \"tmpfs\" }", "\"..\""),
        ("mount { dst: \"x\" fstype: \"tmpfs\" }", "not an absolute path"),
        ("mount { dst: \"/x\" }", "not a file system"),
        ("mount { dst: \"/x\" fstype: \"overlay\" }", "not a file system"),
        ("mount { dst: \"/x\" src: \"/\" is_bind: true }", "the host's root"),
        ("mount { dst: \"/x\" src: \"/proc/self/root\" is_bind: true }", "the host's root"),
        ("mount { dst: \"/\" src: \"/etc\" is_bind: true }", "the first entry"),
        ("mount { dst: \"/a\" fstype: \"tmpfs\" } mount { dst: \"/\" fstype: \"tmpfs\" }", "the first entry"),
        ("mount { dst: \"/x\" src: \"etc\" is_bind: true }", "absolute path"),
        ("mount { dst: \"/x\" src: \"/no/such\" is_bind: true }", "mount[0]: /no/such"),
        (
            "mount { dst: \"/x\" prefix_src_env: \"HOME\" src: \"/d\" is_bind: true }",
            "prefix HOME is not set",
        ),
        ("mount { dst: \"/x\" prefix_dst_env: \"HOME\" fstype: \"tmpfs\" }", "prefix HOME is not set"),
        (&format!("{etc} mount {{ dst: \"/e/new\" fstype: \"tmpfs\" }}"), "would be created there"),
        (&format!("{etc} mount {{ dst: \"/e/passwd\" fstype: \"tmpfs\" }}"), "would be created there"),
        (&format!("{etc} mount {{ dst: \"/e/l\" src: \"/x\" is_symlink: true }}"), "would be created in"),
        (
            "mount { dst: \"/l\" src: \"/etc\" is_symlink: true } mount { dst: \"/l/x\" fstype: \"tmpfs\" }",
            "symbolic link /l",
        ),
    ] {
        let error = settle(text, Overrides::default()).unwrap_err().to_string();
        assert!(error.contains(want), "{text}: {error}");
    }
    for (dst, want) in [("ws", "absolute"), ("/a/../b", "\"..\""), ("/", "its own"), ("/proc", "its own")] {
        let over = Overrides { binds: vec![bind(Path::new("/etc"), dst)], ..Overrides::default() };
        let error = settle("#", over).unwrap_err().to_string();
        assert!(error.contains(want), "{dst}: {error}");
    }
    let mut wrong = bind(Path::new("/etc/passwd"), "/ws");
    wrong.is_dir = true;
    let over = Overrides { binds: vec![wrong], ..Overrides::default() };
    match settle("#", over).unwrap_err() {
        JailError::Source { source, .. } => assert_eq!(source.to_string(), "is not a directory"),
        other => panic!("{other}"),
    }
}

#[test]
fn sockets_and_homes_stay_outside() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("docker.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&socket, &link).unwrap();
    let home = dir.path().join("home");
    std::os::unix::fs::symlink("/root", &home).unwrap();
    for src in [&socket, &link, &home] {
        let text = format!("mount {{ dst: \"/x\" src: {src:?} is_bind: true }}");
        let jail = settle(&text, Overrides::default()).unwrap();
        assert_eq!(places(&jail), "/proc", "{text}");
        assert!(jail.corrections().iter().any(|c| c.now == "left out"), "{text}");
    }
}

#[test]
fn prefixes_come_from_the_overrides() {
    let over = Overrides {
        prefix_env: BTreeMap::from([("P".to_owned(), "/etc".to_owned())]),
        ..Overrides::default()
    };
    let text = "mount { prefix_src_env: \"P\" src: \"/passwd\" dst: \"/p\" is_bind: true }";
    let jail = settle(text, over).unwrap();
    assert_eq!(jail.config.mount[0].src(), "/etc/passwd");
    assert!(jail.config.mount[0].prefix_src_env.is_none());
}

#[test]
fn environment_is_the_list() {
    let env = |pairs: &[(&str, &str)]| Overrides {
        env: pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        ..Overrides::default()
    };
    let jail = settle("envar: \"LANG=C\" envar: \"A=0\"", env(&[("A", "1=2"), ("B", "x\ny")])).unwrap();
    assert_eq!(jail.config.envar, ["LANG=C", "A=1=2", "B=x\ny"]);
    assert_eq!(jail.promises().env, ["A", "B", "LANG"]);
    assert!(settle("#", env(&[("A=B", "")])).is_err());
    assert!(settle("#", env(&[("", "")])).is_err());
}

#[test]
fn text_form_reads_back_as_itself() {
    let dir = tempfile::tempdir().unwrap();
    let odd = dir.path().join("a:b \"c\"\n} mount { dst: '/' \\é");
    std::fs::create_dir_all(&odd).unwrap();
    let over = Overrides {
        binds: vec![bind(&odd, "/ws")],
        env: vec![("A".to_owned(), "\"}\nmode: EXECVE\t\u{1}".to_owned())],
        cwd: "/ws".into(),
        pass_fds: vec![10, 11],
        ..Overrides::default()
    };
    let jail = settle("clone_newnet: false", over).unwrap();
    let text = jail.config_text();
    let back = Policy::parse("back", text.as_bytes()).unwrap().into_config();
    assert_eq!(back, jail.config);
    assert!(text.contains("mode: ONCE") && text.contains("clone_newnet: false"), "{text}");
    assert!(!jail.promises().no_network && !jail.promises().host_namespaces.contains_key("net"));
}

#[test]
fn sources_need_not_be_utf8() {
    use std::os::unix::ffi::OsStrExt as _;
    let dir = tempfile::tempdir().unwrap();
    let odd = dir.path().join(std::ffi::OsStr::from_bytes(b"\xff\"x"));
    std::fs::create_dir_all(&odd).unwrap();
    let over = Overrides { binds: vec![bind(&odd, "/ws")], ..Overrides::default() };
    let text = settle("#", over).unwrap().config_text();
    assert!(text.contains("\\377\\042\\170\""), "{text}");
    assert!(!text.contains("raw-source"), "{text}");
}

#[test]
fn submounts_of_a_read_only_bind_are_made_read_only() {
    let mut user = caller(1001);
    user.mount_points = vec![b"/proc/sys".to_vec(), b"/".to_vec(), b"/procx".to_vec()];
    let over = Overrides { binds: vec![bind(Path::new("/proc"), "/ws")], ..Overrides::default() };
    let jail = Jail::new(Policy::parse("p", b"#").unwrap(), over, &user).unwrap();
    assert_eq!(places(&jail), "/proc /ws /ws/sys");
}

#[test]
fn builtin_policies_need_no_correction() {
    use crate::policy::Builtin;
    for which in Builtin::ALL {
        let mut caller = caller(1001);
        caller.hard_limits = limits::RESOURCES.iter().map(|(name, _)| (*name, u64::MAX)).collect();
        let jail = Jail::new(Policy::builtin(which), Overrides::default(), &caller).unwrap();
        assert!(jail.corrections().is_empty(), "{which:?}: {:?}", jail.corrections());
        assert!(jail.promises().no_network, "{which:?}");
    }
}

#[test]
fn article_policy_is_corrected_line_by_line() {
    let jail =
        settle(include_str!("../../tests/policies/article-linux-ci.cfg"), Overrides::default()).unwrap();
    let fields: Vec<&str> = jail.corrections().iter().map(|c| c.field.as_str()).collect();
    assert!(
        fields.starts_with(&["mode", "rlimit_as, rlimit_cpu, rlimit_fsize, rlimit_nofile"]),
        "{fields:?}"
    );
    assert!(jail.corrections().iter().any(|c| c.was == "all of /dev"));
    assert!(!jail.promises().no_network, "its choice of network stays");
    for correction in jail.corrections() {
        assert_eq!(correction.to_string().lines().count(), 1);
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(256))]

    /// Whatever a policy for any program says: nobody inside is the host's root, nobody without a user namespace has a
    /// privilege, no filter stands beside new privileges, and the policy that comes out is read back as itself.
    #[test]
    fn no_policy_gives_the_host_away(
        flags in proptest::prelude::any::<u32>(),
        ids in "(|0|1|5|root|nobody|007|100000|4294967295|x)",
        others in "(|0|1|65536|4294967290)",
        count in 0_u32..200_000,
        cap in "(CAP_CHOWN|CAP_SYS_ADMIN|CAP_NONE)",
        src in "(/|/run|/var/run|/dev|/proc|/proc/1|/sys|/root|/etc/passwd|/none)",
        dst in "(/proc|/x|/dev|/../x|/)",
        root in proptest::prelude::any::<bool>(),
    ) {
        use crate::proto::{IdMap, MountPt};
        let on = |bit: u32| flags >> bit & 1 == 1;
        let flag = |bit: u32| Some(on(bit));
        let mut config = Policy::parse("p", b"#").unwrap().into_config();
        (config.keep_caps, config.clone_newuser, config.clone_newpid) = (flag(0), flag(1), flag(2));
        (config.disable_no_new_privs, config.seccomp_unotify, config.clone_newnet) = (flag(3), flag(4), flag(5));
        (config.skip_setsid, config.disable_rl, config.keep_env) = (flag(6), flag(7), flag(8));
        if on(9) {
            config.seccomp_string.push("DEFAULT ALLOW".to_owned());
        }
        if on(10) {
            config.cap.push(cap);
        }
        if on(11) {
            let entry = |inside: &str, outside: &str, helper| IdMap {
                inside_id: Some(inside.to_owned()),
                outside_id: Some(outside.to_owned()),
                count: Some(count),
                use_newidmap: helper,
            };
            config.uidmap = vec![entry(&others, &ids, flag(12)), entry("9", &others, flag(13))];
            config.gidmap = vec![entry(&ids, &ids, flag(12))];
        }
        if on(14) {
            let bind = MountPt {
                src: Some(src),
                dst,
                is_bind: flag(15),
                fstype: (!on(15)).then(|| "proc".to_owned()),
                rw: flag(16),
                ..MountPt::default()
            };
            config.mount.push(bind);
        }
        let over = Overrides { tenant: Tenant::Program, ..Overrides::default() };
        let caller = caller(if root { 0 } else { 1001 });
        let Ok(jail) = Jail::new(Policy::from_config("p", config), over, &caller) else { return Ok(()) };
        let promises = jail.promises();
        let own = jail.config.clone_newuser();
        proptest::prop_assert_ne!(jail.host_ids().uid, 0);
        proptest::prop_assert_ne!(jail.host_ids().gid, 0);
        if own {
            let mut extents = promises.uid_map.iter().chain(&promises.gid_map);
            proptest::prop_assert!(extents.all(|e| e.outside > 0 && e.outside.checked_add(e.count).is_some()));
        } else {
            proptest::prop_assert!(root && promises.capabilities == 0 && promises.no_new_privs && promises.uid != 0);
        }
        proptest::prop_assert_eq!(promises.no_new_privs, promises.filters > 0 || !jail.config.disable_no_new_privs());
        for point in &jail.config.mount {
            let open = point.is_bind() && ["/", "/run", "/var/run", "/proc/1"].contains(&point.src());
            let settings = point.rw() && (point.fstype() == "proc" || point.src() == "/proc");
            proptest::prop_assert!(!open && (!settings || (own && promises.capabilities != 0)), "{point:?}");
        }
        let effective = jail.policy();
        let back = Policy::parse("back", effective.to_text().as_bytes()).unwrap();
        proptest::prop_assert_eq!(back.config(), effective.config());
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(128))]

    /// Whatever a name or value contains, it cannot become policy.
    #[test]
    fn no_string_escapes_its_quotes(value in "[^\\x00]{0,40}", path in "[^\\x00/.][^\\x00/]{0,19}", host in "[ -~]{0,64}") {
        let over = Overrides {
            env: vec![("A".to_owned(), value)],
            cwd: format!("/ws/{path}.").into(),
            ..Overrides::default()
        };
        let mut policy = Policy::parse("p", b"hostname: 'x'").unwrap().into_config();
        policy.hostname = Some(host);
        let jail = Jail::new(Policy::from_config("p", policy), over, &caller(1001)).unwrap();
        let back = Policy::parse("back", jail.config_text().as_bytes()).unwrap().into_config();
        proptest::prop_assert_eq!(back, jail.config);
    }
}
