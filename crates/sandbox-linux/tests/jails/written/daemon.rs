//! The jail that a daemon needs which itself makes containers: a range of ids, capabilities, mounting.

use std::fs;
use std::path::Path;
use std::process::Command;

use sandbox_linux::{Outcome, Policy, Runtime};
use xtask::parts::{ScratchDir, User};
use xtask::tools;

use super::{ALL, check, jail, overrides};
use crate::rig::{Rig, Run, bind, copy_program, is_root, role, run_with};

/// A daemon's jail: many ids, root inside with all capabilities, its own `/proc` writable, mounting allowed.
fn daemon(rigs: &[Rig], maps: &str, uid_map: &str) {
    let text = format!(
        "{maps} keep_caps: true mount {{ dst: \"/proc\" fstype: \"proc\" rw: true }} \
         mount {{ dst: \"/sys\" fstype: \"sysfs\" }} \
         mount {{ dst: \"/sys/fs/cgroup\" fstype: \"cgroup2\" rw: true }}"
    );
    let wants = [
        ("uid_map", uid_map),
        ("CapEff", ALL),
        ("Uid", "0\t0\t0\t0"),
        ("Groups", ""),
        ("mounting", "yes"),
        ("settings", "yes"),
        ("nesting", "yes"),
        ("ns cgroup", "own"),
    ];
    check(rigs, &text, &wants, "all capabilities of its user namespace");
    // Ids beyond the first are there, so files can be given to them; and what makes a container can be made.
    for rig in rigs {
        let script = "b=/ktl-bin/busybox; exec 2>&10; cd /tmp; $b touch f; $b chown 33:65535 f; $b stat -c %u:%g f >&10; \
            $b mkdir low up work all proc; echo below > low/x; \
            $b mount -t overlay -o lowerdir=low,upperdir=up,workdir=work none all && $b cat all/x >&10; \
            $b unshare -m -p -f $b sh -c '/ktl-bin/busybox mount -t proc none proc && echo process $$ >&10'";
        let run = rig.shell(&jail(rig, &text), script);
        assert_eq!(run.report, "33:65535\nbelow\nprocess 1\n", "{run:#?}");
    }
}

/// The real buildkitd in such a jail, with RUN and all. It comes up without any help from outside.
fn builds(rigs: &[Rig], maps: &str) {
    let (Ok(buildkitd), Ok(buildctl), Ok(runc)) = (tools::buildkitd(), tools::buildctl(), tools::runc())
    else {
        return eprintln!("skipped: no buildkitd, buildctl or runc; run `cargo xtask setup`");
    };
    let devices = ["null", "zero", "full", "random", "urandom", "tty"]
        .map(|name| format!("mount {{ src: \"/dev/{name}\" dst: \"/dev/{name}\" is_bind: true rw: true }} "));
    let directories = ["/dev", "/run", "/state", "/tmp"]
        .map(|dir| format!("mount {{ dst: {dir:?} fstype: \"tmpfs\" rw: true options: \"mode=755\" }} "));
    let links = ["bin", "lib", "lib64"]
        .map(|name| format!("mount {{ src: \"usr/{name}\" dst: \"/{name}\" is_symlink: true }} "));
    let text = format!(
        "{maps} keep_caps: true disable_no_new_privs: true disable_rl: true \
         mount {{ dst: \"/\" fstype: \"tmpfs\" rw: true options: \"mode=755\" }} \
         mount {{ dst: \"/proc\" fstype: \"proc\" rw: true }} mount {{ dst: \"/sys\" fstype: \"sysfs\" }} \
         mount {{ dst: \"/sys/fs/cgroup\" fstype: \"cgroup2\" rw: true }} \
         mount {{ src: \"/usr\" dst: \"/usr\" is_bind: true }} {} {} {} \
         envar: \"PATH=/usr/sbin:/usr/bin\" envar: \"HOME=/tmp\"",
        links.concat(),
        directories.concat(),
        devices.concat()
    );
    let script = format!(
        "exec >&10 2>&10; b=/ktl-bin/busybox; c='/ktl-bin/buildctl --addr unix:///state/socket'; \
         /ktl-bin/buildkitd --root /state/root --addr unix:///state/socket --containerd-worker=false \
         --oci-worker-net=host --oci-worker-binary {} --cdi-disabled --otel-socket-path /state/otel >/state/log 2>&1 & \
         until $c debug workers >/dev/null 2>&1; do kill -0 $! 2>/dev/null || break; done; \
         $c build --progress plain --frontend dockerfile.v0 --local context=/context --local dockerfile=/context; \
         echo code $?; $b tail -n 20 /state/log",
        runc.display()
    );
    for rig in rigs {
        let context = rig.path("context");
        fs::create_dir(&context).unwrap();
        fs::copy(rig.path("busybox"), context.join("busybox")).unwrap();
        let run = "RUN [\"/bin/busybox\", \"grep\", \"-e\", \"NoNewPrivs\", \"-e\", \"Uid\", \"/proc/self/status\"]";
        let dockerfile = format!("FROM scratch\nCOPY --chown=33:44 busybox /bin/busybox\n{run}\n");
        fs::write(context.join("Dockerfile"), dockerfile).unwrap();
        let mut overrides = overrides(rig);
        overrides.binds.push(bind(&context, "/context"));
        for (program, dst) in [(&buildkitd, "/ktl-bin/buildkitd"), (&buildctl, "/ktl-bin/buildctl")] {
            // By a copy that the jail's ids may read.
            let copy = rig.path(Path::new(dst).file_name().unwrap().to_str().unwrap());
            copy_program(program, &copy);
            overrides.binds.push(bind(&copy, dst));
        }
        let jail = rig.jail(Policy::parse("p", text.as_bytes()).unwrap(), overrides);
        let run = rig.shell(&jail, &script);
        assert!(run.report.contains("code 0\n"), "{}: {}", rig.runtime, run.report);
        assert!(run.report.contains(" Uid:\t0\t0\t0\t0\n"), "{}: {}", rig.runtime, run.report);
        assert!(run.report.contains(" NoNewPrivs:\t0\n"), "{}: {}", rig.runtime, run.report);
    }
}

#[test]
fn root_makes_a_daemons_jail_of_a_range() {
    if !is_root() {
        return eprintln!("skipped: ids other than one's own take root");
    }
    let map = "{ inside_id: \"0\" outside_id: \"1879048192\" count: 65536 }";
    let (rigs, maps) = (Rig::each(), format!("uidmap {map} gidmap {map}"));
    daemon(&rigs, &maps, "0 1879048192 65536,");
    builds(&rigs, &maps);
}

#[test]
fn a_user_makes_a_daemons_jail_of_subordinate_ids() {
    if let Some(own) = role().filter(|role| role.to_string_lossy().starts_with("subordinate ")) {
        let own = own.to_string_lossy().into_owned();
        let words: Vec<&str> = own.split(' ').collect();
        let [_, uid, gid, uids, gids] = words[..] else { panic!("{own}") };
        let rigs = Rig::each();
        let map = |own: &str, first: &str| {
            format!(
                "{{ inside_id: \"0\" outside_id: \"{own}\" use_newidmap: true }} \
                 map {{ inside_id: \"1\" outside_id: \"{first}\" count: 65535 use_newidmap: true }}"
            )
        };
        let maps = format!("uidmap {} gidmap {}", map(uid, uids), map(gid, gids));
        let maps = maps.replacen(" map", " uidmap", 1).replacen(" map", " gidmap", 1);
        daemon(&rigs, &maps, &format!("0 {uid} 1, 1 {uids} 65535,"));
        builds(&rigs, &maps);
        // Ids that are not the user's are refused by the helper, in its words.
        let foreign = "uidmap { inside_id: \"0\" outside_id: \"1\" use_newidmap: true }";
        for rig in &rigs {
            let run = run_with(&rig.runtime, &jail(rig, foreign), "/ktl-bin/busybox", &["true"]);
            match run {
                Ok(Run { outcome: Outcome::JailFailed { stage, .. }, .. }) => {
                    assert_eq!(stage, "user namespace")
                }
                Err(error) => {
                    let cause = std::error::Error::source(&error).unwrap().to_string();
                    assert!(cause.contains("newuidmap"), "{cause}");
                }
                Ok(other) => panic!("{other:#?}"),
            }
        }
        return;
    }
    if !is_root() {
        return eprintln!("skipped: making a user takes root");
    }
    let Some(rig) = Rig::with(Runtime::Native) else { return };
    let scratch = ScratchDir::new("written").unwrap();
    let user = match User::create(&scratch) {
        Ok(user) => user,
        Err(error) => return eprintln!("skipped: {error:#}"),
    };
    let first = |file: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let of_user = text.lines().find_map(|line| line.strip_prefix(&format!("{}:", user.name())));
        of_user.and_then(|rest| Some(rest.split(':').next()?.to_owned()))
    };
    let (Some(uids), Some(gids)) = (first("/etc/subuid"), first("/etc/subgid")) else {
        return eprintln!("skipped: useradd gave no subordinate ids");
    };
    if !Path::new("/usr/bin/newuidmap").exists() {
        return eprintln!("skipped: no newuidmap; run `cargo xtask setup`");
    }
    // With a group of the host, which the jail has to drop.
    let status = Command::new("setpriv")
        .args(["--reuid", &user.uid().to_string(), "--regid", &user.gid().to_string(), "--groups", "54322"])
        .arg(rig.path("guest"))
        .args(["--exact", "written::daemon::a_user_makes_a_daemons_jail_of_subordinate_ids", "--nocapture"])
        .env("KTL_TEST_ROLE", format!("subordinate {} {} {uids} {gids}", user.uid(), user.gid()))
        .current_dir("/")
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
}
