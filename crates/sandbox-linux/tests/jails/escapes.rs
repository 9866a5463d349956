//! Attempts to get out, or to get at what is outside. Each is tried in both runtimes with the policy that a build
//! takes by itself, and once more without a filter, so that it is not the filter alone that holds.

use std::fs;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use sandbox_linux::{Builtin, Outcome, Policy, Runtime, take_fd};

use crate::rig::{REPORT, Rig, bind, is_root};

/// (what, script whose output must not contain the word "OUT"); `$b` is busybox.
const ATTEMPTS: &[(&str, &str)] = &[
    ("remount writable", "$b mount -o remount,rw / && $b touch /x && echo OUT"),
    ("remount a bind writable", "$b mount -o remount,rw,bind /tree && $b touch /tree/x && echo OUT"),
    (
        "remount in a nested namespace",
        "$b unshare -Urm $b sh -c '/ktl-bin/busybox mount -o remount,rw,bind /tree; /ktl-bin/busybox touch /tree/x && echo OUT'",
    ),
    (
        "uncover in a nested namespace",
        "$b unshare -Urm $b sh -c '/ktl-bin/busybox umount /tree; /ktl-bin/busybox umount -l /; [ -e /etc/shadow ] && echo OUT'",
    ),
    ("look over the root", "[ -e /../etc/shadow ] && echo OUT; cd /..; [ -e etc/shadow ] && echo OUT"),
    ("chroot out", "$b chroot /.. /ktl-bin/busybox ls /root && echo OUT"),
    ("make a device", "$b mknod /tmp/d c 1 1 && $b head -c1 /tmp/d && echo OUT"),
    ("core pattern", "echo '|/x' > /proc/sys/kernel/core_pattern && echo OUT"),
    ("sysrq", "echo h > /proc/sysrq-trigger && echo OUT"),
    ("own program", "echo x >> /proc/self/exe && echo OUT; echo x >> /ktl-bin/busybox && echo OUT"),
    (
        "files of init",
        "[ $$ = 1 ] || { ls /proc/1/root/ && echo OUT; cat /proc/1/mem && echo OUT; ls /proc/1/fd && echo OUT; }",
    ),
    ("end of init", "[ $$ = 1 ] || { kill -9 1; kill -STOP 1; [ -e /proc/1/stat ] || echo OUT; }"),
    ("host processes", "for p in /proc/[0-9]*; do [ ${p#/proc/} -gt 60 ] && echo OUT $p; done"),
    ("a terminal", "echo x > /dev/tty && echo OUT"),
    ("set-uid", "$b cp $b /tmp/su; $b chmod 4755 /tmp/su; /tmp/su id -u | $b grep -x 0 && echo OUT"),
    (
        "host descriptors",
        "for f in /proc/self/fd/*; do case ${f##*/} in 0|1|2|3|10|11) ;; *) echo OUT $f;; esac; done",
    ),
    ("debug the parent", "[ $PPID = 0 ] || { cat /proc/$PPID/environ && echo OUT; }"),
];

#[test]
fn attempts_fail() {
    attempts();
}

/// Called for the plain user by its suite.
pub fn attempts() {
    // A descriptor without close-on-exec, as a careless caller may have.
    let leak = fs::File::open("/").unwrap();
    rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).unwrap();
    assert!(leak.as_raw_fd() > 2);
    for rig in Rig::each() {
        let tree = rig.path("tree");
        fs::create_dir(&tree).unwrap();
        for policy in [Builtin::Strict, Builtin::Ci] {
            let mut overrides = rig.overrides();
            overrides.binds.push(bind(&tree, "/tree"));
            let script: String = ATTEMPTS
                .iter()
                .map(|(what, script)| format!("echo '{what}:'; ( {script} ) 2>&1;\n"))
                .collect();
            // A shell's own names for applets are the static program again.
            let script = script
                .replace("; cat ", "; $b cat ")
                .replace("{ ls ", "{ $b ls ")
                .replace("; ls ", "; $b ls ")
                .replace("{ cat ", "{ $b cat ");
            let script = format!("exec >&10 2>&1; b=/ktl-bin/busybox; {script} echo end");
            let run = rig.shell(&rig.jail(Policy::builtin(policy), overrides), &script);
            assert_eq!(run.outcome, Outcome::Exited(0), "{run:#?}");
            assert!(run.report.ends_with("end\n"), "{run:#?}");
            assert!(!run.report.contains("OUT"), "{} {policy:?}: {}", rig.runtime, run.report);
            assert_eq!(fs::read_dir(&tree).unwrap().count(), 0);
        }
    }
}

/// The host's abstract socket names and its processes stay out of reach where a policy shares the network, and
/// nothing can be nested: Landlock and the namespace's own setting, which nsjail has not.
#[test]
pub fn a_shared_network_is_not_the_hosts_sockets() {
    let Some(rig) = Rig::with(Runtime::Native) else { return };
    let name = format!("ktl-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let _listener = UnixListener::bind_addr(&address).unwrap();
    assert!(UnixStream::connect_addr(&address).is_ok());
    let mut overrides = rig.overrides();
    overrides.env[0].1 = format!("connect {name}");
    let policy = Policy::parse("p", b"clone_newnet: false").unwrap();
    let run = rig.guest(&rig.jail(policy, overrides));
    assert_eq!(run.outcome, Outcome::Exited(0), "{run:#?}");
    assert_eq!(run.report, "PermissionDenied\n");
    let jail = rig.jail(Policy::builtin(Builtin::Ci), rig.overrides());
    let run = rig.shell(
        &jail,
        "kill -0 1 2>&10; echo x >/dev/null && echo x >/tmp/x && mv /tmp/x /tmp/y && echo written >&10",
    );
    assert!(run.report.contains("Operation not permitted"), "{run:#?}");
    assert!(run.report.ends_with("written\n"), "{run:#?}");
}

/// The guest's half.
pub fn connect(name: &str) {
    let mut report = fs::File::from(take_fd(REPORT).unwrap());
    let address = SocketAddr::from_abstract_name(name).unwrap();
    match UnixStream::connect_addr(&address) {
        Ok(_) => writeln!(report, "connected").unwrap(),
        Err(error) => writeln!(report, "{:?}", error.kind()).unwrap(),
    }
}

/// Somebody who may write in a bound tree swaps the place of another mount for a link that leads out, again and again,
/// while jails are started. The mount comes to its place or the start fails.
#[test]
pub fn a_swapped_destination_leads_nowhere() {
    for rig in Rig::each() {
        let [tree, outside, inner] = ["tree", "outside", "inner"].map(|name| rig.path(name));
        for dir in [&tree, &outside, &inner, &tree.join("have")] {
            fs::create_dir(dir).unwrap();
        }
        std::os::unix::fs::symlink(&outside, tree.join("link")).unwrap();
        let swap = || {
            let (have, link) = (tree.join("have"), tree.join("link"));
            renameat_with(CWD, have, CWD, link, RenameFlags::EXCHANGE).unwrap();
        };
        let (mut came, mut failed, mut misled) = (0, 0, 0);
        for _ in 0..400 {
            if came >= 5 && failed >= 5 {
                break;
            }
            // A jail is settled on a place that is as it should be.
            if tree.join("have").is_symlink() {
                swap();
            }
            let mut overrides = rig.overrides();
            overrides.binds.extend([bind(&tree, "/tree"), bind(&inner, "/tree/have")]);
            let jail = rig.jail(Policy::builtin(Builtin::Ci), overrides);
            let over = AtomicBool::new(false);
            let run = std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        swap();
                        std::thread::yield_now();
                    }
                });
                let run = rig.shell(&jail, "/ktl-bin/busybox cat /proc/self/mountinfo >&10");
                over.store(true, Ordering::Relaxed);
                run
            });
            match run.outcome {
                // The directory has another name by now, perhaps, but it is where it was.
                Outcome::Exited(0) => {
                    let places: Vec<&str> = run
                        .report
                        .lines()
                        .map(|line| line.split(' ').collect::<Vec<_>>())
                        .filter(|fields| fields[3].ends_with("/inner"))
                        .map(|fields| fields[4])
                        .collect();
                    match places[..] {
                        ["/tree/have" | "/tree/link"] => came += 1,
                        _ => misled += 1,
                    }
                }
                Outcome::JailFailed { .. } => failed += 1,
                _ => panic!("{run:#?}"),
            }
            assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        }
        eprintln!("{}: mounted {came} times, refused {failed}, led astray {misled}", rig.runtime);
        if rig.runtime == Runtime::Native {
            assert!(came > 0 && failed > 0, "the race was never on: {came} {failed}");
            assert_eq!(misled, 0);
        }
    }
}

/// Keys of the caller's session: nsjail leaves them in reach, native does not.
#[test]
fn the_session_keyring_is_another_one() {
    let (true, Some(rig)) = (is_root(), Rig::with(Runtime::Native)) else { return };
    if !fs::exists("/proc/keys").unwrap() {
        return eprintln!("skipped: this kernel has no keys");
    }
    // An id that no other jail has: only the keys of one's own id are listed.
    let id = 0x6100_0000 + std::process::id();
    let map = format!("uidmap {{ inside_id: \"0\" outside_id: \"{id}\" }}");
    let jail = rig.jail(Policy::parse("p", map.as_bytes()).unwrap(), rig.overrides());
    let run = rig.shell(&jail, "/ktl-bin/busybox grep -c ' _ses' /proc/keys >&10; exit 0");
    assert_eq!(run.report, "1\n", "{run:#?}");
}
