use super::*;
use crate::caller;
use crate::promises::PromisedMount;

fn promises() -> Promises {
    let extent = Extent { inside: 1000, outside: 77_000, count: 1 };
    let mount = |dst: &str, fstype: Option<&str>, read_only| PromisedMount {
        dst: dst.to_owned(),
        fstype: fstype.map(str::to_owned),
        read_only,
        optional: dst == "/maybe",
    };
    Promises {
        host_namespaces: caller::NAMESPACES.iter().map(|k| ((*k).to_owned(), 1)).collect(),
        shared_namespaces: Vec::new(),
        uid: 1000,
        gid: 1000,
        capabilities: 0,
        no_new_privs: true,
        filters: 1,
        host_filters: Some(2),
        uid_map: vec![extent],
        gid_map: vec![extent],
        by_root: true,
        mounts: vec![
            mount("/", Some("tmpfs"), false),
            mount("/proc", Some("proc"), true),
            mount("/ws", None, true),
            mount("/out", None, false),
            mount("/maybe", None, true),
        ],
        fds: vec![10],
        env: vec!["LANG".to_owned()],
        limits: BTreeMap::from([("core".to_owned(), 0), ("nofile".to_owned(), 64)]),
        no_network: true,
    }
}

fn facts() -> Facts {
    let status = "CapInh 0\nCapPrm 0\nCapEff 0\nCapBnd 0\nCapAmb 0\nNoNewPrivs 1\nSeccomp 2\nGroups \n\
                  Seccomp_filters 3\nUid 1000\t1000\t1000\t1000\nGid 1000\t1000\t1000\t1000";
    Facts {
        namespaces: caller::NAMESPACES.iter().map(|k| ((*k).to_owned(), 2)).collect(),
        uid_map: promises().uid_map,
        gid_map: promises().gid_map,
        status: status
            .lines()
            .filter_map(|l| l.split_once(' '))
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect(),
        mounts: [
            ("/", false, "tmpfs"),
            ("/proc", true, "proc"),
            ("/ws", true, "ext4"),
            ("/out", false, "ext4"),
        ]
        .into_iter()
        .map(entry)
        .collect(),
        fds: vec![0, 1, 2, 10],
        env: vec!["LANG".to_owned()],
        limits: BTreeMap::from([("core".to_owned(), 0), ("nofile".to_owned(), 64)]),
        interfaces: vec!["lo".to_owned()],
        own_proc: true,
    }
}

fn entry((point, read_only, fstype): (&str, bool, &str)) -> MountEntry {
    MountEntry { mount_point: point.as_bytes().to_vec(), read_only, fstype: fstype.to_owned() }
}

type Edit = fn(&mut Facts);

#[test]
fn the_promised_jail_passes() {
    let same: [Edit; 4] = [
        |_| (),
        |f| f.mounts.push(entry(("/ws/sub", true, "xfs"))),
        |f| f.mounts.extend([entry(("/ws/sub", false, "xfs")), entry(("/ws/sub", true, "xfs"))]),
        |f| f.mounts.push(entry(("/out/sub", false, "xfs"))),
    ];
    for edit in same {
        let mut facts = facts();
        edit(&mut facts);
        let proof = compare(&promises(), &facts).unwrap();
        assert!(proof.to_string().contains("uid 1000 as host 77000"), "{proof}");
        assert!(!proof.to_string().contains('\n') && proof.warnings.is_empty());
    }
}

#[test]
fn each_difference_is_found() {
    let cases: [(Edit, &str); 30] = [
        (
            |f| {
                f.namespaces.insert("user".into(), 1);
            },
            "user namespace is the host's",
        ),
        (
            |f| {
                f.namespaces.insert("mnt".into(), 1);
            },
            "mnt namespace is the host's",
        ),
        (
            |f| {
                f.namespaces.insert("pid".into(), 1);
            },
            "pid namespace is the host's",
        ),
        (
            |f| {
                f.namespaces.insert("net".into(), 1);
            },
            "net namespace is the host's",
        ),
        (
            |f| {
                f.namespaces.remove("uts");
            },
            "uts namespace is unknown",
        ),
        (|f| f.own_proc = false, "/proc belongs to another"),
        (|f| f.interfaces.push("eth0".into()), "network interface \"eth0\""),
        (|f| f.uid_map[0].outside = 0, "uid_map reaches the host's id 0"),
        (|f| f.uid_map[0].inside = 0, "uid_map is"),
        (|f| f.gid_map.clear(), "gid_map is"),
        (
            |f| {
                f.status.insert("Groups".into(), "27".into());
            },
            "groups are left: 27",
        ),
        (
            |f| {
                f.status.remove("Groups");
            },
            "groups are unknown",
        ),
        (
            |f| {
                f.status.insert("CapBnd".into(), "0000000000000001".into());
            },
            "CapBnd is",
        ),
        (
            |f| {
                f.status.remove("CapAmb");
            },
            "CapAmb is unknown",
        ),
        (
            |f| {
                f.status.insert("NoNewPrivs".into(), "0".into());
            },
            "no_new_privs",
        ),
        (
            |f| {
                f.status.insert("Seccomp".into(), "0".into());
            },
            "no system call filter",
        ),
        (
            |f| {
                f.status.insert("Seccomp_filters".into(), "2".into());
            },
            "2 system call filters are on, not 3",
        ),
        (
            |f| {
                f.status.remove("Seccomp_filters");
            },
            "unknown system call filters",
        ),
        (
            |f| {
                f.status.insert("Uid".into(), "1000\t0\t1000\t1000".into());
            },
            "Uid is",
        ),
        (
            |f| {
                f.status.insert("CapEff".into(), "".into());
            },
            "CapEff is",
        ),
        (
            |f| {
                f.mounts.remove(2);
            },
            "nothing is mounted on \"/ws\"",
        ),
        (|f| f.mounts[2].read_only = false, "\"/ws\" is writable"),
        (|f| f.mounts[1].fstype = "tmpfs".into(), "\"/proc\" is tmpfs, not proc"),
        (|f| f.mounts.push(entry(("/ws/sub", false, "xfs"))), "writable below the read-only"),
        (|f| f.mounts.push(entry(("/wsx", true, "xfs"))), "\"/wsx\" is mounted and was not promised"),
        (|f| f.mounts.push(entry(("/ws", false, "xfs"))), "\"/ws\" is writable"),
        (|f| f.fds.push(7), "descriptor 7 leaked"),
        (|f| f.env.push("AWS_SECRET".into()), "\"AWS_SECRET\" came in"),
        (
            |f| {
                f.limits.insert("core".into(), 1);
            },
            "limit core is 1",
        ),
        (
            |f| {
                f.limits.remove("nofile");
            },
            "limit nofile is unknown",
        ),
    ];
    for (edit, want) in cases {
        let mut facts = facts();
        edit(&mut facts);
        let error = compare(&promises(), &facts).unwrap_err().to_string();
        assert!(error.contains(want), "{want}: {error}");
    }
}

type Promise = fn(&mut Promises);

/// What a policy for any program may promise is found or missed as well.
#[test]
fn privileges_are_compared_both_ways() {
    let full = "000001ffffffffff";
    let with = |capabilities: &str, no_new_privs: &str, seccomp: &str, filters: &str| {
        let mut facts = facts();
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            facts.status.insert(set.to_owned(), capabilities.to_owned());
        }
        for (name, value) in
            [("NoNewPrivs", no_new_privs), ("Seccomp", seccomp), ("Seccomp_filters", filters)]
        {
            facts.status.insert(name.to_owned(), value.to_owned());
        }
        facts
    };
    let cases: [(Promise, Facts, Result<&str, &str>); 9] = [
        (
            |p| p.capabilities = u64::MAX >> 23,
            with(full, "1", "2", "3"),
            Ok("all capabilities of its user namespace, no new privileges"),
        ),
        (
            |p| p.capabilities = 1 | 1 << 21,
            with("0000000000200001", "1", "2", "3"),
            Ok("capabilities: CHOWN SYS_ADMIN, no new"),
        ),
        (|p| p.capabilities = 1, with("0", "1", "2", "3"), Err("capability set CapInh is 0")),
        (|_| (), with("1", "1", "2", "3"), Err("capability set CapAmb is 1")),
        (
            |p| {
                p.capabilities = 1;
                p.host_namespaces.remove("user");
                p.shared_namespaces.push("user".to_owned());
            },
            with("1", "1", "2", "3"),
            Err("the capabilities are the host's"),
        ),
        (
            |p| (p.no_new_privs, p.filters, p.host_filters) = (false, 0, Some(0)),
            with("0", "0", "0", "0"),
            Ok("new privileges by exec, no system call filter"),
        ),
        (|p| p.no_new_privs = false, with("0", "1", "2", "3"), Err("no_new_privs is set")),
        (|p| p.filters = 0, with("0", "1", "2", "3"), Err("3 system call filters are on, not 2")),
        (|p| p.host_filters = None, with("0", "1", "2", ""), Ok("system call filter on")),
    ];
    for (edit, facts, want) in cases {
        let mut promises = promises();
        edit(&mut promises);
        match (compare(&promises, &facts), want) {
            (Ok(proof), Ok(want)) => assert!(proof.to_string().contains(want), "{want}: {proof}"),
            (Err(error), Err(want)) => assert!(error.to_string().contains(want), "{want}: {error}"),
            (got, want) => panic!("{want:?}: {got:?}"),
        }
    }
}

#[test]
fn shared_namespaces_are_named_and_never_the_mounts() {
    let share = |kind: &str| {
        let mut promises = promises();
        promises.host_namespaces.remove(kind);
        promises.shared_namespaces.push(kind.to_owned());
        promises.no_network = false;
        compare(&promises, &facts())
    };
    for kind in ["pid", "ipc", "uts", "cgroup", "net"] {
        let proof = share(kind).unwrap();
        assert!(proof.to_string().contains(&format!("the host's: {kind};")), "{proof}");
        assert_eq!(proof.warnings.len(), usize::from(kind == "pid"));
    }
    let mut range = promises();
    range.uid_map[0].count = 9;
    range.uid_map.push(Extent { inside: 0, outside: 5, count: 1 });
    let kernels = Facts { uid_map: vec![range.uid_map[1], range.uid_map[0]], ..facts() };
    let proof = compare(&range, &kernels).unwrap().to_string();
    assert!(proof.contains("uid 0 as host 5, 1000-1008 as host 77000-77008; "), "{proof}");
    assert!(share("user").unwrap().to_string().contains("; uid 1000 of the host; "));
    assert!(share("mnt").unwrap_err().to_string().contains("no mnt namespace was promised"));
    let mut root = promises();
    root.host_namespaces.remove("user");
    root.shared_namespaces.push("user".to_owned());
    root.uid = 0;
    assert!(compare(&root, &facts()).unwrap_err().to_string().contains("Uid is the host's 0"));
}

#[test]
fn empty_promises_prove_nothing() {
    let mut none = promises();
    none.host_namespaces.clear();
    none.uid_map.clear();
    assert!(compare(&none, &facts()).is_err());
}

#[test]
fn plain_users_groups_are_a_warning() {
    let mut promises = promises();
    promises.by_root = false;
    let mut facts = facts();
    facts.status.insert("Groups".into(), "65534".into());
    assert_eq!(compare(&promises, &facts).unwrap().warnings.len(), 1);
}

#[test]
fn this_process_is_in_no_jail() {
    let mut promises = promises();
    promises.host_namespaces = caller::namespaces().unwrap();
    let error = verify(&promises).unwrap_err().to_string();
    assert!(error.contains("the user namespace is the host's"), "{error}");
}
