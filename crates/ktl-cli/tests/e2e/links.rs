//! Hermetic builds whose links are broken, each by something that really is so: the claim is named, the code is 5, and nothing is
//! written. Beside each stands the same build with the link mended.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sched::{CloneFlags, unshare};
use xtask::parts::{Buildkitd, Options, ScratchDir};

use crate::ktl::{PARTS, Ran, is_root};
use crate::parallel::family;
use crate::private::{Private, wait_until};

const HERMETIC: &[&str] = &["--builder", "jail://", "--hermetic", "--no-cache", "-o", "out"];

/// Ends with nothing written, having named the link.
#[track_caller]
fn breaks(private: &Private, args: &[&str], link: &str) -> Ran {
    let ran = private.build(args).ends_with(5).says(link).says("missing, so no output is written");
    assert!(!private.world().path("out").exists(), "{}", ran.stderr);
    ran
}

#[track_caller]
fn holds(private: &Private, args: &[&str]) -> Ran {
    let ran = private.build(args).ok().says_not("BROKEN").says_not("unproven");
    fs::remove_dir_all(private.world().path("out")).unwrap();
    ran
}

fn socket(private: &Private) -> PathBuf {
    private.world().path("s/daemons/default/none/run/buildkitd.sock")
}

#[test]
fn a_builder_with_an_uplink_or_without_a_jail() {
    if !is_root("a_builder_with_an_uplink_or_without_a_jail") || xtask::tools::on_path("nsenter").is_none() {
        return eprintln!("skipped: needs root and nsenter");
    }
    let private = Private::new("RUN echo made > /made\n");
    holds(&private, HERMETIC);
    let [supervisor] = private.supervisors()[..] else { panic!("{:?}", private.supervisors()) };
    let family = family(supervisor);
    let daemon = family.iter().find(|process| process.name == "buildkitd").unwrap();
    let link = |words: &str| {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", daemon.pid)).args(["ip", "link"]);
        assert!(command.args(words.split(' ')).status().unwrap().success(), "ip link {words}");
    };
    link("add canary0 type veth peer name canary1");
    let ran =
        breaks(&private, HERMETIC, "BROKEN: the builder's network: its own network namespace has canary");
    ran.says("held: the builder's jail").says_not("load build definition");
    link("del canary0");
    holds(&private, HERMETIC);

    // Somebody else's daemon, at the same address.
    let (socket, aside) = (socket(&private), private.world().path("aside"));
    fs::rename(&socket, &aside).unwrap();
    symlink(PARTS.daemon.socket(), &socket).unwrap();
    let ran = breaks(&private, HERMETIC, "BROKEN: the builder's jail: ");
    ran.says("shares with this machine: user")
        .says("BROKEN: the builder's network: ")
        .says_not("load build definition");
    fs::remove_file(&socket).unwrap();
    fs::rename(&aside, &socket).unwrap();
    holds(&private, HERMETIC);
}

#[test]
fn an_input_that_the_lock_does_not_know() {
    if !is_root("an_input_that_the_lock_does_not_know") {
        return;
    }
    let private = Private::bare("FROM BUSYBOX\nRUN echo made > /made\n");
    let world = private.world();
    world.run(world.command().args(["stage", "ctx", "--allow-host=127.0.0.1", "--to", "store"])).ok();
    let locked = [HERMETIC, &["--store", "store"]].concat();
    holds(&private, &locked).says("held: materials: 1, all of them in the lock sha256:");
    // An image of this machine's own, which no lock has.
    world.write("other/Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
    world.run(world.command().args(["build", "other", "-o", "type=oci,dest=other.tar"])).ok();
    fs::create_dir(world.path("layout")).unwrap();
    world
        .run(Command::new("tar").args(["-xf", "other.tar", "-C", "layout"]).current_dir(world.path("")))
        .ok();
    let plain = world.read("ctx/Dockerfile");
    world.write("ctx/Dockerfile", format!("{plain}COPY --from=other /Dockerfile /\n"));
    let other = [&locked[..], &["--build-context", "other=oci-layout://layout"]].concat();
    breaks(&private, &other, "BROKEN: materials: not in the lock sha256:");
    // Without a lock, the source policy is what holds.
    fs::remove_file(world.path("ctx/ktl.lock")).unwrap();
    world.write("ctx/Dockerfile", "FROM scratch\nCOPY --from=other /Dockerfile /\n");
    holds(&private, &other).says("held: materials: 1, each by its digest");
}

/// A plain daemon on whose network the steps are, because its runtime leaves their own out `when` this is so.
struct Outside {
    daemon: Buildkitd,
    _scratch: ScratchDir,
}

impl Outside {
    fn start(when: &str) -> Outside {
        let scratch = ScratchDir::new("outside").unwrap();
        let runtime = scratch.join("runc");
        let real = xtask::tools::runc().unwrap();
        let script = format!(
            "#!/bin/sh\nbundle=\nnext=\nfor word in \"$@\"; do\n\
             [ -z \"$next\" ] || bundle=$word\nnext=\n\
             case $word in --bundle|-b) next=1;; --bundle=*) bundle=${{word#*=}};; esac\ndone\n\
             config=$bundle/config.json\n\
             if [ -n \"$bundle\" ] && {when}; then\n\
             sed -i 's/{{\"type\":\"network\"[^}}]*}},\\{{0,1\\}}//; s/,]/]/' \"$config\"\nfi\n\
             exec {} \"$@\"\n",
            real.display()
        );
        fs::write(&runtime, script).unwrap();
        fs::set_permissions(&runtime, fs::Permissions::from_mode(0o755)).unwrap();
        let arguments = vec![format!("--oci-worker-binary={}", runtime.display())];
        let daemon =
            Buildkitd::start(&scratch.join("d"), &Options { arguments, ..Options::default() }).unwrap();
        Outside { daemon, _scratch: scratch }
    }
}

/// A process in namespaces of its own that passes on what it hears to a daemon elsewhere: a builder that is not what it seems.
struct Relay {
    child: Child,
    _dir: tempfile::TempDir,
}

impl Relay {
    /// In the place of the socket `at`; `swap` are two texts of one length, of which the daemon's answers have the other one.
    fn start(at: &Path, to: &Path, swap: (&str, &str)) -> Relay {
        assert_eq!(swap.0.len(), swap.1.len());
        let _ = fs::remove_file(at);
        let dir = tempfile::tempdir().unwrap();
        // A directory of the daemon's belongs to ids that the process does not have.
        let own = dir.path().join("socket");
        symlink(&own, at).unwrap();
        let told = [own.to_str().unwrap(), to.to_str().unwrap(), swap.0, swap.1].join("\n");
        fs::write(dir.path().join("relay"), told).unwrap();
        let mut command = Command::new("unshare");
        command.args([
            "--user",
            "--map-root-user",
            "--mount",
            "--pid",
            "--ipc",
            "--uts",
            "--cgroup",
            "--net",
        ]);
        command.args(["--fork", "--kill-child=SIGKILL"]).arg(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "links::the_relay"]).stdout(Stdio::null());
        let child = command.current_dir(dir.path()).spawn().unwrap();
        let relay = Relay { child, _dir: dir };
        wait_until("the relay listens", || UnixStream::connect(at).is_ok());
        relay
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "what a relay runs: it wants to be told in its directory between which sockets"]
fn the_relay() {
    let told = fs::read_to_string("relay").unwrap();
    let [at, to, swap, by] = told.split('\n').map(str::to_owned).collect::<Vec<_>>().try_into().unwrap();
    let listener = UnixListener::bind(at).unwrap();
    for here in listener.incoming() {
        let (here, there) = (here.unwrap(), UnixStream::connect(&to).unwrap());
        let (from, back) = (there.try_clone().unwrap(), here.try_clone().unwrap());
        std::thread::spawn(move || pass(here, there, &[], &[]));
        let (swap, by) = (swap.clone(), by.clone());
        std::thread::spawn(move || pass(from, back, swap.as_bytes(), by.as_bytes()));
    }
}

fn pass(mut from: UnixStream, mut to: UnixStream, swap: &[u8], by: &[u8]) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        let heard = &mut buffer[..length];
        for at in 0..(length + 1).saturating_sub(swap.len()) {
            if !swap.is_empty() && heard[at..].starts_with(swap) {
                heard[at..at + by.len()].copy_from_slice(by);
            }
        }
        if to.write_all(heard).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

#[test]
fn a_builder_that_is_not_what_it_seems() {
    if !is_root("a_builder_that_is_not_what_it_seems") || xtask::tools::on_path("ip").is_none() {
        return eprintln!("skipped: needs root and ip");
    }
    // In a network of their own, where the steps find nobody else's servers.
    let private = Private::new("RUN echo made > /made\n");
    std::thread::spawn(|| in_a_network_of_its_own(private)).join().unwrap();
}

fn in_a_network_of_its_own(private: Private) {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
    let same = ("", "");
    holds(&private, HERMETIC);
    let socket = socket(&private);

    // The control: of a daemon that does as it is told, all that can be looked at through the relay holds.
    let honest = Outside::start("false");
    let relay = Relay::start(&socket, honest.daemon.socket(), same);
    holds(&private, HERMETIC);
    drop(relay);
    let relay = Relay::start(&socket, honest.daemon.socket(), old_version());
    let ran = private
        .build(HERMETIC)
        .ends_with(5)
        .says("cannot keep a build to what is pinned")
        .says("v0.13.0 or newer");
    ran.says_not("load build definition");
    drop(relay);

    let outside = Outside::start("true");
    let relay = Relay::start(&socket, outside.daemon.socket(), same);
    let ran = breaks(&private, HERMETIC, "BROKEN: RUN: loopback of the host: 127.0.0.1:");
    ran.says("BROKEN: RUN: abstract socket of the host: ").says_not("load build definition");
    drop(relay);
}

/// The daemon's version, and one that is too old and as long.
fn old_version() -> (&'static str, &'static str) {
    let said = Command::new(xtask::tools::buildkitd().unwrap()).arg("--version").output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    let version = said.split_whitespace().find(|word| word.starts_with("v0.")).unwrap().to_owned();
    let minor = version.split('.').nth(1).unwrap();
    let old = version.replacen(&format!(".{minor}."), &format!(".{:0>width$}.", 12, width = minor.len()), 1);
    (version.leak(), old.leak())
}
