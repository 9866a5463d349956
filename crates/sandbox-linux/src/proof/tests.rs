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
    let status = "CapInh 0\nCapPrm 0\nCapEff 0\nCapBnd 0\nCapAmb 0\nNoNewPrivs 1\nSeccomp 2\nGroups ";
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
    let cases: [(Edit, &str); 26] = [
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
