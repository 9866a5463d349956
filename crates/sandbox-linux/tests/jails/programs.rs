//! Twelve ways out of a jail as small programs (`escapes.py`), run in three places: without a jail, where each must succeed,
//! or it would prove nothing; in the native runtime, where each must fail; and in nsjail, whose answers are told. The
//! policy shares the network and has no filter, so that what holds is the jail itself.
//!
//! All of it happens in a process of its own with what a caller may have about it: a controlling terminal, a session
//! keyring, a careless descriptor, and a mount namespace in which the tests may mount.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{IoSlice, Read as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use rustix::io::FdFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use sandbox_linux::{Command as Guest, OnSignal, Outcome, Policy, Runtime};

use crate::rig::{REPORT, Rig, bind, is_root, role};

const PYTHON: &str = "/usr/bin/python3";
const PROGRAMS: &str = include_str!("escapes.py");
/// The end of a socket whose other end sends a directory.
const PEER: i32 = 12;
/// A session keyring with a key in it (keyctl(2), add_key(2)), then the test again.
const WITH_KEYRING: &str = "import ctypes, os, platform, sys
keyctl, add_key = {'x86_64': (250, 248), 'aarch64': (219, 217)}[platform.machine()]
libc = ctypes.CDLL(None)
libc.syscall(keyctl, 1, None)
libc.syscall(add_key, b'user', b'ktl-escape', b'a secret', ctypes.c_size_t(8), -3)
os.execv(sys.argv[1], sys.argv[1:])";

/// As the programs are named.
const ATTEMPTS: [&str; 12] = [
    "descriptor_leak",
    "program_overwrite",
    "trace_the_parent",
    "abstract_socket",
    "session_keyring",
    "type_into_the_terminal",
    "nested_namespaces",
    "remount",
    "propagation",
    "device_node",
    "core_pattern",
    "directory_from_a_peer",
];

#[test]
fn twelve_programs_get_out_of_no_jail() {
    if role().is_some_and(|role| role == "programs") {
        return compare();
    }
    if role().is_some() || !is_root() {
        return;
    }
    for program in [PYTHON, "/usr/bin/setsid", "/usr/bin/unshare"] {
        if !Path::new(program).exists() {
            return eprintln!("skipped: no {program}");
        }
    }
    let terminal = nix::pty::openpty(None, None).unwrap();
    rustix::io::fcntl_setfd(&terminal.master, FdFlags::CLOEXEC).unwrap();
    let output = Command::new("setsid")
        .args([
            "--ctty",
            "--wait",
            "unshare",
            "--mount",
            "--propagation",
            "private",
            PYTHON,
            "-c",
            WITH_KEYRING,
        ])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "programs::twelve_programs_get_out_of_no_jail", "--nocapture", "--test-threads=1"])
        .env("KTL_TEST_ROLE", "programs")
        .stdin(Stdio::from(terminal.slave))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    eprintln!("{said}");
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

/// What a run of the programs said, by name.
type Answers = BTreeMap<String, String>;

fn compare() {
    let mut table: Vec<(String, Answers)> = Vec::new();
    // A descriptor without close-on-exec, as a careless caller may have.
    let leak = File::open("/").unwrap();
    rustix::io::fcntl_setfd(&leak, FdFlags::empty()).unwrap();
    for rig in Rig::each() {
        let scene = Scene::new(&rig);
        table.push((rig.runtime.to_string(), scene.jailed(&rig)));
        if rig.runtime == Runtime::Native {
            table.push(("no jail".to_owned(), scene.free(&rig)));
        }
    }
    for name in ATTEMPTS {
        println!("{name}");
        for (place, answers) in &table {
            println!("    {place:<8} {}", answers[name]);
        }
    }
    // The kernel has no keys, or lets nobody type into terminals.
    let lacks = |answer: &str| ["[Errno 38]", "[Errno 5]"].iter().any(|errno| answer.contains(errno));
    for (place, answers) in &table {
        for name in ATTEMPTS {
            let out = answers[name].starts_with("OUT ");
            match place.as_str() {
                "native" => assert!(!out, "{name}: {}", answers[name]),
                "no jail" => assert!(out || lacks(&answers[name]), "{name}: {}", answers[name]),
                _ => {}
            }
        }
    }
}

/// What lies about on the host.
struct Scene {
    tree: PathBuf,
    /// Given to the guest as a descriptor only.
    given: PathBuf,
    scratch: PathBuf,
    address: String,
    _listener: UnixListener,
}

impl Scene {
    fn new(rig: &Rig) -> Scene {
        let [tree, given, scratch] = ["tree", "given", "scratch"].map(|name| rig.path(name));
        for dir in [&tree, &given, &scratch] {
            fs::create_dir(dir).unwrap();
            fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap();
        }
        // A mount of its own that is read-only and tells others of what is mounted on it.
        for options in [&["--bind"][..], &["-o", "remount,bind,ro"], &["--make-shared"]] {
            let mut mount = Command::new("mount");
            mount.args(options);
            if options == ["--bind"] {
                mount.arg(&tree);
            }
            assert!(mount.arg(&tree).status().unwrap().success());
        }
        let address = format!("ktl-test-programs-{}-{}", rig.runtime, std::process::id());
        let name = SocketAddr::from_abstract_name(&address).unwrap();
        let _listener = UnixListener::bind_addr(&name).unwrap();
        Scene { tree, given, scratch, address, _listener }
    }

    fn jailed(&self, rig: &Rig) -> Answers {
        let mut overrides = rig.overrides();
        overrides.binds.push(bind(&self.tree, "/tree"));
        let system = ["/usr", "/lib", "/lib64"].map(Path::new).into_iter().filter(|dir| dir.exists());
        overrides.binds.extend(system.map(|dir| bind(dir, dir.to_str().unwrap())));
        overrides.pass_fds = vec![REPORT, PEER];
        let policy = br#"clone_newnet: false rlimit_as_type: HARD
            mount { dst: "/proc" fstype: "proc" }
            mount { dst: "/tmp" fstype: "tmpfs" rw: true options: "mode=1777" }"#;
        let jail = rig.jail(Policy::parse("p", policy).unwrap(), overrides);
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let args = self.arguments("/tree", "/tmp", "/ktl-bin/busybox");
        let fds = vec![(writer, REPORT), (self.peer(), PEER)];
        let guest = Guest { program: PYTHON.into(), args: args.into_iter().map(Into::into).collect(), fds };
        self.watched(reader, || {
            let running = rig.runtime.spawn(&jail, guest).unwrap();
            let mut log = Vec::new();
            let outcome = running.supervise(&mut |_| OnSignal::Kill, &mut |line| log.push(line.to_string()));
            assert_eq!(outcome, Outcome::Exited(0), "{log:#?}");
        })
    }

    /// The same programs in an ordinary process.
    fn free(&self, rig: &Rig) -> Answers {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let place = |path: &Path| path.to_str().unwrap().to_owned();
        let busybox = place(&rig.path("busybox"));
        let args = self.arguments(&place(&self.tree), &place(&self.scratch), &busybox);
        // Out of the way of the numbers that they get.
        let high = |fd: OwnedFd| {
            let fd = rustix::io::fcntl_dupfd_cloexec(fd, 100).unwrap();
            rustix::io::fcntl_setfd(&fd, FdFlags::empty()).unwrap();
            fd
        };
        let (writer, peer) = (high(writer), high(self.peer()));
        let numbers = [(writer.as_raw_fd(), REPORT), (peer.as_raw_fd(), PEER)];
        // The shell gives the two descriptors their numbers; it is the parent that is attacked.
        let moves: String = numbers.iter().map(|(from, to)| format!(" {to}<&{from}")).collect();
        let closed: String = numbers.iter().map(|(from, _)| format!(" {from}<&-")).collect();
        let script = format!("exec{moves}; exec{closed}; {PYTHON} \"$@\"; exit $?");
        let mut shell = Command::new("bash");
        shell.args(["-c", &script, "bash"]).args(args).stdin(Stdio::inherit());
        self.watched(reader, || {
            let mut child = shell.spawn().unwrap();
            drop((writer, peer));
            assert!(child.wait().unwrap().success());
        })
    }

    /// Arguments of the interpreter: the programs, and where things are.
    fn arguments(&self, tree: &str, scratch: &str, victim: &str) -> Vec<String> {
        let known = format!("0,1,2,{PEER}");
        let peer = PEER.to_string();
        ["-S", "-E", "-c", PROGRAMS, &REPORT.to_string(), tree, scratch, victim, &self.address, &known, &peer]
            .map(str::to_owned)
            .to_vec()
    }

    /// A socket with a directory waiting in it.
    fn peer(&self) -> OwnedFd {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let directory = File::open(&self.given).unwrap();
        let fds = [directory.as_raw_fd()];
        let message = [ControlMessage::ScmRights(&fds)];
        sendmsg::<()>(ours.as_raw_fd(), &[IoSlice::new(b"d")], &message, MsgFlags::empty(), None).unwrap();
        theirs.into()
    }

    /// Runs the programs and looks at the host before and after.
    fn watched(&self, reader: OwnedFd, run: impl FnOnce()) -> Answers {
        let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap().matches("ktl-escape").count();
        assert_eq!(mounts(), 0);
        run();
        let mut report = String::new();
        File::from(reader).read_to_string(&mut report).unwrap();
        let answer =
            |line: &str| line.split_once(": ").map(|(name, text)| (name.to_owned(), text.to_owned()));
        let mut answers: Answers = report.lines().filter_map(answer).collect();
        assert!(answers.remove("end").is_some() && answers.len() == ATTEMPTS.len(), "{report}");
        if mounts() > 0 {
            answers.insert("propagation".to_owned(), "OUT mounted on the host".to_owned());
            assert!(Command::new("umount").arg(&self.tree).status().unwrap().success());
        }
        for (name, dir) in [("remount", &self.tree), ("directory_from_a_peer", &self.given)] {
            let written = dir.join("written");
            assert_eq!(written.exists(), answers[name].starts_with("OUT "), "{name}: {}", answers[name]);
            let _ = fs::remove_file(written);
        }
        answers
    }
}

/// A directory that is mounted on cannot be removed.
impl Drop for Scene {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.tree).status();
    }
}
