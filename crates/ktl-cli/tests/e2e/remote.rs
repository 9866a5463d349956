//! `--remote`: a real sshd, whose user has no rights of his own; what his ktl enforces, and what is left when the line is cut.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::ktl::{Ran, World, is_root};
use crate::private::{BUSYBOX, wait_until};
use crate::ssh::Server;

const LINES: [&str; 1] =
    ["SetEnv PATH=BASE/bin:/usr/sbin:/usr/bin:/sbin:/bin KTL_CACHE_DIR=BASE/h/c KTL_STATE_DIR=BASE/h/s \
     XDG_CONFIG_HOME=BASE/h/config KTL_SANDBOX_RUNTIME=native"];

/// A server on which ktl has a place for its files, and a client's world.
struct Remote {
    server: Server,
    world: World,
}

impl Remote {
    fn start(dockerfile: &str) -> Option<Remote> {
        Remote::with_lines(dockerfile, &LINES)
    }

    fn with_lines(dockerfile: &str, lines: &[&str]) -> Option<Remote> {
        let server = Server::start(lines)?;
        let remote = Remote { server, world: World::with_dockerfile(dockerfile) };
        fs::create_dir_all(remote.there("h/config/ktl")).unwrap();
        remote.own("h");
        Some(remote)
    }

    fn there(&self, name: &str) -> PathBuf {
        self.server.base.path().join(name)
    }

    /// Gives it to the server's user.
    fn own(&self, name: &str) {
        let owner = format!("{}:{}", self.server.user.uid(), self.server.user.gid());
        let done = Command::new("chown").args(["-R", &owner]).arg(self.there(name)).status().unwrap();
        assert!(done.success());
    }

    fn command(&self, remote: &str, args: &[&str]) -> Command {
        let mut command = self.server.command(&self.world);
        command.args(["build", "ctx", "--progress=plain", "--remote", remote]).args(args);
        command
    }

    /// A build with the server's plain buildkitd.
    fn build(&self, args: &[&str]) -> Ran {
        self.world.run(&mut self.command(&self.server.address(), args))
    }

    fn pin(&self, text: &str) {
        fs::write(self.there("h/config/ktl/remote.toml"), text).unwrap();
        self.own("h/config");
    }

    /// The copy of ktl on the server.
    fn binary(&self) -> PathBuf {
        let mut found = fs::read_dir(self.there("h/c/bin")).unwrap().map(|entry| entry.unwrap().path());
        let binary = found.next().unwrap();
        assert_eq!(found.next(), None, "nothing else lies there");
        binary
    }

    /// Processes of the server's user that run ktl, in a jail or around one.
    fn processes(&self) -> Vec<String> {
        let uid = format!("Uid:\t{}\t", self.server.user.uid());
        let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
        let all = fs::read_dir("/proc").unwrap().flatten();
        let own = all.filter(|entry| read(entry.path().join("status")).contains(&uid));
        own.map(|entry| read(entry.path().join("cmdline"))).filter(|line| line.contains("__remote")).collect()
    }
}

const OUT: [&str; 2] = ["-o", "out"];

#[test]
fn a_server_enforces_a_jail_and_says_what_is_seen_from_inside() {
    let Some(remote) = Remote::start("FROM BUSYBOX\nRUN echo far > /made\n") else { return };
    let hidden = fs::canonicalize("/etc/hostname").unwrap();
    let probe = ["--sandbox-probe-path", hidden.to_str().unwrap()];
    remote
        .build(&[&OUT[..], &probe].concat())
        .ok()
        .says("putting ktl onto the server")
        .says("[sandbox] server: jailed by native, policy linux-strict.cfg sha256:")
        .says("[probe] server: /etc/hostname: hidden")
        .says("[probe] /etc/hostname: hidden");
    assert_eq!(remote.world.read("out/made"), "far\n");
    // The second time nothing is sent, and a binary that somebody has changed is not started.
    remote.build(&["-v"]).ok().says_not("putting ktl").says("[sandbox] server: proof: ");
    let binary = remote.binary();
    let started = remote.there("h/started");
    // The file may be busy for a moment longer; its name is not.
    fs::remove_file(&binary).unwrap();
    fs::write(&binary, format!("#!/bin/sh\n: > {}\n", started.display())).unwrap();
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
    remote.build(&[]).ok().says("putting ktl onto the server");
    assert!(!started.exists(), "what lies there with another hash is not started");
    assert!(fs::metadata(remote.binary()).unwrap().len() > 1_000_000);
    fs::set_permissions(remote.there("h/c/bin"), fs::Permissions::from_mode(0o777)).unwrap();
    remote.build(&[]).ends_with(3).says("open to others").says("chmod 700");
    fs::set_permissions(remote.there("h/c/bin"), fs::Permissions::from_mode(0o700)).unwrap();
    // Without a jail it says so.
    remote.build(&["--sandbox=off"]).ok().says("[sandbox] server: off");
    // What the probe says is what is there: a policy that shows the path makes it visible.
    let wide = "clone_newuser: true clone_newns: true clone_newpid: true clone_newipc: true clone_newuts: true \
                clone_newcgroup: true clone_newnet: true mount { dst: \"/proc\" fstype: \"proc\" } \
                mount { src: \"/etc/hostname\" dst: \"/etc/hostname\" is_bind: true }";
    fs::write(remote.there("h/wide.cfg"), wide).unwrap();
    remote.pin(&format!("policy = \"{}\"\n", remote.there("h/wide.cfg").display()));
    remote
        .build(&probe)
        .ok()
        .says("[probe] server: /etc/hostname: VISIBLE")
        .says("[probe] /etc/hostname: hidden");
    wait_until("no process is left", || remote.processes().is_empty());
}

#[test]
fn what_the_server_pins_counts() {
    let Some(remote) = Remote::start("FROM BUSYBOX\nRUN echo far > /made\n") else { return };
    let address = remote.server.address();
    let socket = address.strip_prefix("ssh://there").unwrap();
    for (pinned, args, code, says) in [
        ("sandbox = \"required\"", &["--sandbox=off"][..], 5, "wants a jail"),
        ("runtime = \"native\"", &["--sandbox-runtime", "nsjail"], 5, "runtime"),
        ("network = \"none\"", &[], 5, "is not ktl's own"),
        ("entitlements = \"none\"", &[], 5, "is not ktl's own"),
        ("builders = [\"jail://\"]", &[], 5, "does not allow the builder unix://"),
        ("trust = \"fork\"", &["--trust", "other"], 5, "trust `fork`"),
        ("trust = \"fork\"", &[], 5, "cannot be kept for one trust"),
        ("sandbox = \"sometimes\"", &[], 5, "remote.toml"),
        ("no-such = 1", &[], 5, "no-such"),
    ] {
        remote.pin(pinned);
        remote.build(args).ends_with(code).says("the server says: ").says(says);
    }
    remote.pin(&format!("sandbox = \"required\"\nbuilders = [\"unix://{socket}\"]\n"));
    remote.build(&[]).ok();
    // With no builder named, the allowed one is taken.
    remote.world.run(&mut remote.command("ssh://there", &[])).ok().says(&format!("server: unix://{socket}"));
    let file = remote.there("h/config/ktl/remote.toml");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    remote.build(&[]).ends_with(5).says("others could have written it");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    chown(&file, Some(0), Some(0)).unwrap();
    remote.build(&[]).ok();
    for (args, says) in [
        (&["--builder", "unix:///x.sock"][..], "names the server's builder"),
        (&["--tlsdir", "x"], "cannot be used with"),
    ] {
        remote.build(args).ends_with(2).says(says);
    }
    let elsewhere = "https://elsewhere.example/Dockerfile";
    remote.build(&["-f", elsewhere]).ends_with(5).says("--remote: the Dockerfile https://elsewhere.example");
    let far = ["--builder", "tcp://127.0.0.1:1"];
    remote.world.run(&mut remote.command("ssh://there", &far)).ends_with(5).says("does not allow");
    remote.pin("");
    remote
        .world
        .run(&mut remote.command("ssh://there", &far))
        .ends_with(2)
        .says("no builder of that machine");
    remote.world.run(&mut remote.command("tcp://there:1", &[])).ends_with(2).says("is no server");
}

#[test]
fn a_hermetic_build_takes_the_servers_private_builder() {
    let Some(remote) = Remote::start(&format!("{BUSYBOX}RUN echo far > /made\n")) else { return };
    if !Path::new("/usr/bin/newuidmap").exists() {
        return eprintln!("skipped: needs newuidmap");
    }
    fs::copy(xtask::tools::busybox().unwrap(), remote.world.path("ctx/busybox")).unwrap();
    remote.server.give(&xtask::tools::buildkitd().unwrap());
    let args = ["--hermetic", "--report", "report.json", "--idle-timeout", "1s", "-o", "out"];
    remote
        .world
        .run(&mut remote.command("ssh://there", &args))
        .ok()
        .says("[builder] server: jail://default (network none)")
        .says("[hermetic] held: the relay's jail: server: ")
        .says("[hermetic] held: the builder's jail: server: ")
        .says("[hermetic] held: the builder's network: server: ")
        .says("[hermetic] held: RUN: loopback of the host: ");
    assert_eq!(remote.world.read("out/made"), "far\n");
    let report: serde_json::Value = serde_json::from_str(&remote.world.read("report.json")).unwrap();
    assert_eq!((&report["builder"], &report["private"]), (&"ssh://there".into(), &true.into()));
    // A builder of the server's that could prove nothing is refused there.
    remote.build(&["--hermetic"]).ends_with(5).says("cannot prove that a build had no network");
    wait_until("no process is left", || remote.processes().is_empty());
}

#[test]
fn a_line_that_is_cut_leaves_nothing_on_the_server() {
    let Some(mut remote) = Remote::start("FROM BUSYBOX\nRUN echo the-step-runs; sleep 600\n") else { return };
    let begin = |remote: &Remote| {
        let mut command = remote.command(&remote.server.address(), &[]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let seen = lines.by_ref().find(|line| line.contains("the-step-runs") && !line.contains("RUN"));
        assert!(seen.is_some(), "{:?}", child.wait());
        (child, lines)
    };
    // Once the program of ssh's that holds the line is killed, once the server's end.
    for by_ssh in [true, false] {
        let (mut child, lines) = begin(&remote);
        assert!(!remote.processes().is_empty(), "the control: ktl runs there");
        if by_ssh {
            let children = format!("/proc/{0}/task/{0}/children", child.id());
            let pids = fs::read_to_string(children).unwrap();
            let ssh = pids.split_whitespace().find(|pid| {
                fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains("__remote"))
            });
            let ssh = nix::unistd::Pid::from_raw(ssh.expect("ssh runs").parse().unwrap());
            nix::sys::signal::kill(ssh, nix::sys::signal::Signal::SIGKILL).unwrap();
        } else {
            remote.server.sshd.stop();
        }
        let rest: Vec<String> = lines.collect();
        assert_eq!(child.wait().unwrap().code(), Some(3), "{}", rest.join("\n"));
        wait_until("no process is left", || remote.processes().is_empty());
    }
}

/// A small file system, unmounted when dropped.
struct Small(PathBuf);

impl Drop for Small {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_full_disk_is_told() {
    if !is_root("a small file system") {
        return;
    }
    // Before sshd, which has a mount namespace of its own.
    let dir = tempfile::Builder::new().prefix("ktl-small-").tempdir_in("/var/tmp").unwrap();
    let small = Small(dir.path().to_owned());
    let size = Some("size=256k,mode=777");
    mount(Some("small"), &small.0, Some("tmpfs"), MsFlags::empty(), size).unwrap();
    let line = LINES[0].replace("BASE/h/c", &small.0.display().to_string());
    let Some(remote) = Remote::with_lines("FROM BUSYBOX\n", &[&line]) else { return };
    remote.build(&[]).ends_with(3).says("is the disk full?");
    assert!(remote.processes().is_empty());
    let left = fs::read_dir(small.0.join("bin")).unwrap().count();
    assert_eq!(left, 0, "nothing of what did not fit stays");
}
