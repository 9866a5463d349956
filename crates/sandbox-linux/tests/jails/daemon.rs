//! A program that makes containers itself, in a jail of its own: buildkitd with runc and a range of ids.

use std::ffi::OsString;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::time::{Duration, Instant};

use sandbox_linux::{Bind, Caller, Command, Jail, OnSignal, Outcome, Overrides, Policy, Runtime, Tenant};
use xtask::parts::ScratchDir;

use crate::rig::{bind, is_root, nsjail};

const POLICY: &str = include_str!("../../../../sandbox/daemon.cfg");
/// What ktl adds for a daemon without network.
const VIEW: &str = "mount { dst: \"/sys\" fstype: \"sysfs\" } \
                    mount { dst: \"/sys/fs/cgroup\" fstype: \"cgroup2\" rw: true }\n";
/// Owns nothing on any host.
const FIRST_ID: u32 = 0x7200_0000;

/// The program and its libraries, where it finds them.
fn with_libraries(program: &Path, dst: &str) -> Vec<Bind> {
    let mut binds = vec![bind(program, dst)];
    let listed = Process::new("ldd").arg(program).output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let libraries = listed.split_whitespace().filter(|word| word.starts_with('/'));
    binds.extend(libraries.map(|library| bind(Path::new(library), library)));
    binds
}

fn jail(dir: &Path) -> Jail {
    let ids = format!("{{ inside_id: \"0\" outside_id: \"{FIRST_ID}\" count: 65536 }}");
    let policy = format!("{POLICY}{VIEW}uidmap {ids}\ngidmap {ids}\n");
    let room = |name: &str, dst: &str| {
        let path = dir.join(name);
        fs::create_dir_all(&path).unwrap();
        std::os::unix::fs::chown(&path, Some(FIRST_ID), Some(FIRST_ID)).unwrap();
        Bind { rw: true, ..bind(&path, dst) }
    };
    let mut binds = vec![room("state", "/var/lib/buildkit"), room("run", "/run/buildkit")];
    binds.extend(with_libraries(&xtask::tools::buildkitd().unwrap(), "/usr/bin/buildkitd"));
    binds.extend(with_libraries(&xtask::tools::runc().unwrap(), "/usr/bin/runc"));
    let overrides = Overrides { binds, tenant: Tenant::Program, ..Overrides::default() };
    let policy = Policy::parse("daemon.cfg", policy.as_bytes()).unwrap();
    Jail::new(policy, overrides, &Caller::current().unwrap()).unwrap()
}

fn build(socket: &Path, context: &Path) -> String {
    let built = Process::new(xtask::tools::buildctl().unwrap())
        .arg("--addr")
        .arg(format!("unix://{}", socket.display()))
        .args(["build", "--progress=plain", "--no-cache", "--frontend=dockerfile.v0"])
        .arg(format!("--local=context={}", context.display()))
        .arg(format!("--local=dockerfile={}", context.display()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&built.stderr).into_owned();
    assert!(built.status.success(), "{said}");
    said
}

#[test]
fn a_buildkitd_in_a_jail_builds_and_sees_nothing_of_the_host() {
    if !is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    for runtime in nsjail().map(Runtime::Nsjail).into_iter().chain([Runtime::Native]) {
        let scratch = ScratchDir::new("jailed").unwrap();
        let context = scratch.dir("ctx").unwrap();
        fs::copy(xtask::tools::busybox().unwrap(), context.join("busybox")).unwrap();
        let steps = "FROM scratch\n\
            COPY busybox /bin/busybox\n\
            RUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\n\
            RUN touch /x && chown 33:65535 /x && echo \"owner $(stat -c %u:%g /x)\"\n\
            RUN echo \"devices $(ls /sys/class/net 2>/dev/null | tr '\\n' ' ')\"; echo \"sockets $(grep -c @ /proc/net/unix)\"\n";
        fs::write(context.join("Dockerfile"), steps).unwrap();
        let jail = jail(scratch.path());
        let command = Command {
            program: PathBuf::from("/usr/bin/buildkitd"),
            args: ["--root=/var/lib/buildkit", "--addr=unix:///run/buildkit/buildkitd.sock"]
                .map(OsString::from)
                .into(),
            fds: Vec::new(),
        };
        let socket = scratch.join("run/buildkitd.sock");
        let running = runtime.spawn(&jail, command).unwrap();
        let id = i32::try_from(running.id()).unwrap();
        let (said, outcome) = std::thread::scope(|scope| {
            let client = scope.spawn(|| {
                let until = Instant::now() + Duration::from_secs(60);
                while UnixStream::connect(&socket).is_err() && Instant::now() < until {
                    std::thread::sleep(Duration::from_millis(20));
                }
                let said = std::panic::catch_unwind(|| build(&socket, &context));
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), nix::sys::signal::Signal::SIGTERM)
                    .unwrap();
                said
            });
            let mut log = Vec::new();
            let outcome = running.supervise(&mut |_| OnSignal::Kill, &mut |line| log.push(line.to_string()));
            (client.join().unwrap().unwrap_or_else(|_| panic!("{runtime}: {log:#?}")), outcome)
        });
        assert!(said.contains("owner 33:65535"), "{runtime}: {said}");
        assert!(said.contains("sockets 0"), "{runtime}: {said}");
        // Native passes the signal on, and buildkitd ends in its own way; nsjail kills.
        match outcome {
            Outcome::Exited(_) => assert_eq!(runtime, Runtime::Native),
            other => assert_eq!(other, Outcome::Signaled(9), "{runtime}"),
        }
    }
}
