//! Jails that root starts: no host id 0, id-mapped and staged bind sources, nothing left behind.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::mount::OpenTreeFlags;
use sandbox_linux::{Builtin, Nsjail, OnSignal, Outcome, Policy, Runtime};

use crate::guest::HOST_PATHS;
use crate::rig::{GUEST_ARGS, Rig, bind, is_root, run_with, traces};

fn rigs() -> Vec<Rig> {
    if !is_root() {
        eprintln!("skipped: ids other than one's own take root");
        return Vec::new();
    }
    Rig::each()
}

/// False, with a word on stderr, for the root of a container that may not handle mounts.
fn may_mount() -> bool {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::AT_RECURSIVE;
    let may = rustix::mount::open_tree(rustix::fs::CWD, "/", flags).is_ok();
    if !may {
        eprintln!("skipped: this root lacks CAP_SYS_ADMIN");
    }
    may
}

#[test]
fn every_builtin_policy_proves_itself_and_hides_the_host() {
    rigs().iter().for_each(check_every_builtin_policy_proves_itself_and_hides_the_host);
}

fn check_every_builtin_policy_proves_itself_and_hides_the_host(rig: &Rig) {
    for which in Builtin::ALL {
        let jail = rig.jail(Policy::builtin(which), rig.overrides());
        let run = rig.guest(&jail);
        assert_eq!(run.outcome, Outcome::Exited(0), "{which:?}: {run:#?}");
        assert!(!run.report.contains("as host 0"), "{}", run.report);
        assert!(run.report.contains("uid 1000 as host"), "{}", run.report);
        assert!(run.report.contains("no network"), "{}", run.report);
        let processes = format!("threads 6\nprocesses {}\n", rig.processes());
        assert!(run.report.contains(&processes), "{}", run.report);
        rig.assert_hidden(&run.report, HOST_PATHS);
    }
}

#[test]
fn article_policy_works_unchanged() {
    rigs().iter().for_each(check_article_policy_works_unchanged);
}

fn check_article_policy_works_unchanged(rig: &Rig) {
    let context = rig.path("ws");
    fs::create_dir(&context).unwrap();
    let mut overrides = rig.overrides();
    overrides.binds.push(bind(&context, "/workspace"));
    overrides.cwd = "/workspace".into();
    let policy = Policy::parse("article", include_bytes!("../policies/article-linux-ci.cfg")).unwrap();
    let jail = rig.jail(policy, overrides);
    let run = rig.guest(&jail);
    assert_eq!(run.outcome, Outcome::Exited(0), "{run:#?}");
    assert!(run.report.contains("/etc/shadow hidden"), "{}", run.report);
    assert!(run.report.contains("/dev/kvm hidden"), "{}", run.report);
    let shown: Vec<String> = jail.corrections().iter().map(ToString::to_string).collect();
    assert!(shown.iter().any(|line| line.starts_with("mode: EXECVE -> ONCE")), "{shown:?}");
}

#[test]
fn sources_are_reached_and_owned_through_staging() {
    rigs().iter().filter(|_| may_mount()).for_each(check_sources_are_reached_and_owned_through_staging);
}

fn check_sources_are_reached_and_owned_through_staging(rig: &Rig) {
    // A private parent that the guest's id may not search, and a name made of what nsjail splits at.
    let private = rig.path("private");
    let context = private.join("a:b c\nd");
    fs::create_dir_all(&context).unwrap();
    fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).unwrap();
    for (name, owner, mode) in [("own", 0, 0o600), ("other", 1234, 0o600), ("shared", 1234, 0o644)] {
        let file = context.join(name);
        fs::write(&file, name).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        chown(&file, Some(owner), Some(owner)).unwrap();
    }
    let out = rig.path("out");
    fs::create_dir(&out).unwrap();
    chown(&out, Some(4321), Some(4321)).unwrap();
    fs::set_permissions(&out, fs::Permissions::from_mode(0o700)).unwrap();

    let mut overrides = rig.overrides();
    let mut ws = bind(&context, "/workspace");
    ws.idmap = true;
    let mut dest = bind(&out, "/out");
    (dest.idmap, dest.rw) = (true, true);
    overrides.binds.extend([ws, dest]);
    overrides.cwd = "/workspace".into();
    let jail = rig.jail(Policy::builtin(Builtin::Ci), overrides);
    let run = rig.shell(
        &jail,
        "exec >&10 2>&1; for f in own other shared; do /ktl-bin/busybox cat $f && echo; done; \
         echo made > /out/made && echo written; echo x > own; echo x > /ktl-bin/x; /ktl-bin/busybox id -u",
    );
    assert_eq!(run.outcome, Outcome::Exited(0), "{run:#?}");
    let mapped = jail.idmapped(Path::new("/workspace"));
    if mapped {
        assert!(run.report.starts_with("own\n"), "{}", run.report);
        assert!(run.report.contains("can't open 'other': Permission denied"), "{}", run.report);
        assert!(run.report.contains("shared\n"), "{}", run.report);
        assert!(jail.idmapped(Path::new("/out")) && run.report.contains("written"));
        let made = fs::metadata(out.join("made")).unwrap();
        assert_eq!((made.uid(), made.gid()), (4321, 4321));
    } else {
        // ext4, xfs, btrfs and tmpfs map ids for the first user namespace's root; a container's overlay, and other roots, do not.
        let base = rig.dir.path();
        let kind = rustix::fs::statfs(base).unwrap().f_type;
        let map = fs::read_to_string("/proc/self/uid_map").unwrap();
        let everywhere = map.split_whitespace().eq(["0", "0", "4294967295"]);
        assert!(
            !everywhere || ![0xef53, 0x5846_5342, 0x9123_683e].contains(&kind),
            "{} should map ids",
            base.display()
        );
        eprintln!("this file system maps no ids; the mapped half was not tried");
    }
    assert!(run.report.contains("own: Read-only file system"), "{}", run.report);
    assert!(run.report.ends_with("1000\n"), "{}", run.report);
}

#[test]
fn a_file_system_without_id_maps_is_bound_plainly() {
    rigs().iter().for_each(check_a_file_system_without_id_maps_is_bound_plainly);
}

fn check_a_file_system_without_id_maps_is_bound_plainly(rig: &Rig) {
    let mut overrides = rig.overrides();
    let mut tree = bind(Path::new("/sys/kernel"), "/tree");
    tree.idmap = true;
    overrides.binds.push(tree);
    // An overlay over directories that can be mapped cannot be mapped itself.
    let [lower, upper, work, merged] = ["lower", "upper", "work", "merged"].map(|name| rig.path(name));
    for dir in [&lower, &upper, &work, &merged] {
        fs::create_dir(dir).unwrap();
    }
    fs::write(lower.join("f"), "layered").unwrap();
    let data =
        format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    let nothing = MsFlags::empty();
    let mounted = mount(Some("overlay"), &merged, Some("overlay"), nothing, Some(data.as_str())).is_ok();
    if mounted {
        let mut layered = bind(&merged, "/layered");
        (layered.idmap, layered.rw) = (true, true);
        overrides.binds.push(layered);
    }
    let jail = rig.jail(Policy::builtin(Builtin::Ci), overrides);
    let run = rig.shell(
        &jail,
        "exec >&10 2>&1; /ktl-bin/busybox ls -d /tree/mm; [ ! -e /layered ] || /ktl-bin/busybox cat /layered/f; \
         echo x > /layered/new",
    );
    if mounted {
        umount2(&merged, MntFlags::MNT_DETACH).unwrap();
        assert!(!jail.idmapped(Path::new("/layered")));
        assert!(
            run.report.contains("layered") && run.report.contains("/layered/new: Permission"),
            "{run:#?}"
        );
    }
    assert!(!jail.idmapped(Path::new("/tree")));
    assert!(run.report.starts_with("/tree/mm\n"), "{run:#?}");
}

#[test]
fn submounts_of_a_read_only_source_are_read_only() {
    rigs().iter().for_each(check_submounts_of_a_read_only_source_are_read_only);
}

fn check_submounts_of_a_read_only_source_are_read_only(rig: &Rig) {
    let mut overrides = rig.overrides();
    overrides.binds.push(bind(Path::new("/dev"), "/tree"));
    // /dev/shm is a mount of its own on every host.
    if !fs::read_to_string("/proc/self/mountinfo").unwrap().contains(" /dev/shm ") {
        eprintln!("skipped: /dev/shm is no mount here");
        return;
    }
    let jail = rig.jail(Policy::builtin(Builtin::Strict), overrides);
    let run = rig.shell(&jail, "/ktl-bin/busybox touch /tree/shm/ktl-x 2>&10; echo $? >&10");
    assert!(run.report.contains("Read-only file system"), "{run:#?}");
    let run = rig.guest(&rig.jail(Policy::builtin(Builtin::Ci), {
        let mut overrides = rig.overrides();
        overrides.binds.push(bind(Path::new("/dev"), "/tree"));
        overrides
    }));
    assert_eq!(run.outcome, Outcome::Exited(0), "{run:#?}");
}

#[test]
fn a_shim_is_caught_from_both_sides() {
    let Some(rig) = rigs().pop() else { return };
    let shim = rig.path("nsjail");
    let script = "#!/bin/sh\nwhile [ \"$1\" != -- ]; do shift; done\nshift\nexec \"$@\"\n";
    fs::write(&shim, script).unwrap();
    fs::set_permissions(&shim, fs::Permissions::from_mode(0o755)).unwrap();
    let shim = Runtime::Nsjail(Nsjail::find(Some(&shim), None).unwrap());
    let jail = rig.jail(Policy::builtin(Builtin::Ci), rig.overrides());
    // The shim has no /ktl-bin, so it is given the program where the host has it, and the role by a variable.
    let guest = rig.path("guest");
    let env = "/usr/bin/env";
    let mut args = vec!["KTL_TEST_ROLE=guest", guest.to_str().unwrap()];
    args.extend(GUEST_ARGS);
    let run = run_with(&shim, &jail, env, &args).unwrap();
    assert!(run.report.starts_with("broken: "), "{run:#?}");
    for fact in [
        "the user namespace is the host's",
        "the pid namespace is the host's",
        "no system call filter is on",
        "was not promised",
        "no_new_privs is not set",
    ] {
        assert!(run.report.contains(fact), "{fact}: {}", run.report);
    }
    match run.outcome {
        Outcome::JailFailed { detail, .. } => assert!(detail.contains("without starting"), "{detail}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_jail_starts_once() {
    rigs().iter().filter(|_| may_mount()).for_each(check_a_jail_starts_once);
}

fn check_a_jail_starts_once(rig: &Rig) {
    let jail = rig.jail(Policy::builtin(Builtin::Ci), rig.overrides());
    assert_eq!(rig.shell(&jail, "exit 3").outcome, Outcome::Exited(3));
    let again =
        sandbox_linux::Command { program: "/ktl-bin/busybox".into(), args: Vec::new(), fds: Vec::new() };
    match rig.runtime.spawn(&jail, again) {
        Err(error) => assert!(error.to_string().contains("staging a bind source"), "{error}"),
        Ok(running) => {
            let outcome = running.supervise(&mut |_| OnSignal::Kill, &mut |_| ());
            assert!(
                matches!(&outcome, Outcome::JailFailed { stage, .. } if stage == "mount tree"),
                "{outcome:?}"
            );
        }
    }
}

#[test]
fn nothing_stays_on_the_host() {
    rigs().iter().for_each(check_nothing_stays_on_the_host);
}

fn check_nothing_stays_on_the_host(rig: &Rig) {
    let before = traces();
    let jail = rig.jail(Policy::builtin(Builtin::Ci), rig.overrides());
    assert_eq!(rig.shell(&jail, "exit 0").outcome, Outcome::Exited(0));
    let after = traces();
    let new: Vec<_> = after.iter().filter(|trace| !before.contains(trace)).collect();
    assert!(new.is_empty(), "{new:?}");
}
