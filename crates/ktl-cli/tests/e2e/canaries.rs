//! Canaries: what lies and listens on the host, and how much of it a RUN step gets at.
//!
//! The step is this test program itself, which is one static file and so runs in an empty root; as root there, it tries
//! [every way](Way) to every canary. Three runs show that the ways work: on the host they reach all, on a plain daemon what
//! they share with the host, in a private builder none.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::chown;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::kill;
use nix::unistd::Pid;

use crate::ktl::{Ran, is_root};
use crate::private::{PlainUser, Private};

/// In each canary that can be read.
pub const SONG: &str = "canary-song-4f1d";
const STEPS: &str = "FROM scratch\nCOPY probe canaries /\n\
                     RUN [\"/probe\", \"--ignored\", \"--exact\", \"canaries::the_step\", \"--nocapture\"]\n";

/// How to get at a canary; a word in the list that the step reads.
type Way = &'static str;

pub struct Canary {
    name: &'static str,
    way: Way,
    target: String,
    /// A plain daemon's steps get there: they are on the host's network.
    pub shared: bool,
    cage: Cage,
}

/// What the host can tell of a canary afterwards.
enum Cage {
    File(PathBuf),
    Stream(UnixListener),
    Datagram(UnixDatagram),
    Tcp(TcpListener),
    Udp(UdpSocket),
    /// Only the step's own words tell.
    Silent,
}

impl Cage {
    fn is_untouched(&self) -> bool {
        let mut buffer = [0; 16];
        match self {
            Cage::File(path) => fs::read_to_string(path).unwrap() == SONG,
            Cage::Stream(listener) => listener.accept().is_err(),
            Cage::Datagram(socket) => socket.recv(&mut buffer).is_err(),
            Cage::Tcp(listener) => listener.accept().is_err(),
            Cage::Udp(socket) => socket.recv(&mut buffer).is_err(),
            Cage::Silent => true,
        }
    }
}

/// All of them, for as long as this lives.
pub struct Aviary {
    canaries: Vec<Canary>,
    bird: Child,
    /// Outside of directories that go by themselves.
    strays: Vec<PathBuf>,
}

impl Aviary {
    /// `home` and `dir` are of the user's who builds, `state` is where his private builders are; `place` is the one that is
    /// going to be used.
    pub fn new(home: &Path, dir: &Path, state: &Path, place: &str) -> Aviary {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let id = format!("{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let dir = &dir.join(&id);
        fs::create_dir_all(dir).unwrap();
        let bird = Command::new("/bin/sleep")
            .arg("600")
            .env("SONG", SONG)
            .current_dir(dir)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let pid = bird.id();
        let mut aviary = Aviary { canaries: Vec::new(), bird, strays: Vec::new() };

        aviary.file("a key in the home directory", home.join(".ssh/id_ed25519"));
        aviary.file("credentials in the home directory", home.join(".aws/credentials"));
        aviary.file("another user's file", dir.join("others"));
        chown(dir.join("others"), Some(4242), Some(4242)).unwrap();
        aviary.file("another builder's state", state.join("daemons/other/none/state/secret"));
        aviary.file("beside the daemon's state", state.join("daemons").join(place).join("canary"));
        for stray in ["/etc", "/tmp", "/var/tmp", "/dev/shm", "/run"] {
            let path = Path::new(stray).join(format!("ktl-canary-{id}"));
            aviary.strays.push(path.clone());
            let name = match stray {
                "/etc" => "a file in /etc",
                "/tmp" => "a file in /tmp",
                "/var/tmp" => "a file in /var/tmp",
                "/run" => "a file in /run",
                _ => "shared memory",
            };
            aviary.file(name, path);
        }
        let etc = format!("/proc/{pid}/root/etc/ktl-canary-{id}");
        aviary.add("/etc by way of /proc", "file", etc, false, Cage::Silent);
        aviary.add(
            "a process's environment",
            "contains",
            format!("/proc/{pid}/environ"),
            false,
            Cage::Silent,
        );
        aviary.add("a process's directory", "file", format!("/proc/{pid}/cwd/others"), false, Cage::Silent);
        aviary.add("a process", "signal", pid.to_string(), false, Cage::Silent);

        let run = format!("/run/ktl-canary-{id}.sock");
        aviary.strays.push(run.clone().into());
        for (name, path) in [
            ("docker's socket", dir.join("docker.sock")),
            ("an ssh agent", dir.join("agent.1")),
            ("a socket in /run", run.into()),
        ] {
            let listener = UnixListener::bind(&path).unwrap();
            listener.set_nonblocking(true).unwrap();
            aviary.add(name, "unix", path.display().to_string(), false, Cage::Stream(listener));
        }
        let name = format!("ktl-canary-{id}-stream");
        let listener = UnixListener::bind_addr(&UnixAddr::from_abstract_name(&name).unwrap()).unwrap();
        listener.set_nonblocking(true).unwrap();
        aviary.add(
            "a listing of abstract sockets",
            "lists",
            format!("/proc/net/unix {name}"),
            true,
            Cage::Silent,
        );
        aviary.add("an abstract socket", "abstract", name, true, Cage::Stream(listener));
        let name = format!("ktl-canary-{id}-datagram");
        let socket = UnixDatagram::bind_addr(&UnixAddr::from_abstract_name(&name).unwrap()).unwrap();
        socket.set_nonblocking(true).unwrap();
        aviary.add("an abstract datagram socket", "datagram", name, true, Cage::Datagram(socket));

        let tcp = |address: &str| {
            let listener = TcpListener::bind(address).ok()?;
            listener.set_nonblocking(true).unwrap();
            Some((listener.local_addr().unwrap(), listener))
        };
        let (address, listener) = tcp("127.0.0.1:0").unwrap();
        let port = format!("/proc/net/tcp :{:04X}", address.port());
        aviary.add("a listing of ports", "lists", port, true, Cage::Silent);
        aviary.add("a loopback server", "tcp", address.to_string(), true, Cage::Tcp(listener));
        if let Some((address, listener)) = tcp("[::1]:0") {
            aviary.add("an IPv6 loopback server", "tcp", address.to_string(), true, Cage::Tcp(listener));
        }
        if let Some((address, listener)) = own_address().and_then(|ip| tcp(&format!("{ip}:0"))) {
            aviary.add("a LAN address", "tcp", address.to_string(), true, Cage::Tcp(listener));
        }
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        udp.set_nonblocking(true).unwrap();
        let address = udp.local_addr().unwrap().to_string();
        aviary.add("a loopback datagram server", "udp", address, true, Cage::Udp(udp));
        let interface = crate::ktl::names(Path::new("/sys/class/net")).into_iter().find(|name| {
            name != "lo"
                && !["tunl0", "sit0", "ip6tnl0", "gre0", "gretap0", "erspan0"].contains(&name.as_str())
        });
        if let Some(interface) = interface {
            let path = format!("/sys/class/net/{interface}/mtu");
            aviary.add("a network interface by way of /sys", "look", path, true, Cage::Silent);
        }
        assert!(aviary.canaries.len() >= 20, "{}", aviary.canaries.len());
        aviary
    }

    fn add(&mut self, name: &'static str, way: Way, target: String, shared: bool, cage: Cage) {
        self.canaries.push(Canary { name, way, target, shared, cage });
    }

    fn file(&mut self, name: &'static str, path: PathBuf) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, SONG).unwrap();
        self.add(name, "file", path.display().to_string(), false, Cage::File(path));
    }

    pub fn list(&self) -> String {
        let line = |canary: &Canary| format!("{}\t{}\t{}\n", canary.name, canary.way, canary.target);
        self.canaries.iter().map(line).collect()
    }

    /// What a run says it has reached must be this, and nothing that is not among it may have been touched.
    pub fn assert_reached(&self, ran: &Ran, expected: impl Fn(&Canary) -> bool) {
        for canary in &self.canaries {
            let said = |what: &str| {
                let line = format!("{what} <{}>", canary.name);
                ran.stderr.contains(&line) || ran.stdout.contains(&line)
            };
            let expected = expected(canary);
            assert_ne!(said("REACHED"), said("missed"), "{}: the step has not tried\n{ran:?}", canary.name);
            assert_eq!(said("REACHED"), expected, "{}\n{ran:?}", canary.name);
            if !matches!(canary.cage, Cage::Silent) {
                assert_eq!(canary.cage.is_untouched(), !expected, "{}: touched", canary.name);
            }
        }
    }
}

impl Drop for Aviary {
    fn drop(&mut self) {
        let _ = self.bird.kill();
        let _ = self.bird.wait();
        for stray in &self.strays {
            let _ = fs::remove_file(stray);
        }
    }
}

/// The address that this machine would be asked at from outside; nothing is sent.
fn own_address() -> Option<std::net::IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

#[test]
#[ignore = "what a step runs: it wants a list of canaries in its directory"]
fn the_step() {
    let list = fs::read_to_string("canaries").unwrap();
    for line in list.lines() {
        let [name, way, target] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let reached = reach(way, target).is_some();
        println!("{} <{name}>", if reached { "REACHED" } else { "missed" });
    }
}

/// `None` when there is no way.
fn reach(way: &str, target: &str) -> Option<()> {
    let patience = Duration::from_secs(2);
    match way {
        // To change one is to reach it too.
        "file" => {
            let read = fs::read_to_string(target);
            let opened = fs::OpenOptions::new().append(true).open(target);
            let written = opened.and_then(|mut file| file.write_all(b" was heard"));
            read.map(drop).or(written).ok()
        }
        "look" => fs::read_to_string(target).ok().map(drop),
        "contains" => contains(target, SONG),
        "lists" => target.split_once(' ').and_then(|(path, needle)| contains(path, needle)),
        "signal" => kill(Pid::from_raw(target.parse().ok()?), None).ok(),
        "unix" => UnixStream::connect(target).ok().map(drop),
        "abstract" => UnixStream::connect_addr(&UnixAddr::from_abstract_name(target).ok()?).ok().map(drop),
        "datagram" => {
            let socket = UnixDatagram::unbound().ok()?;
            socket.send_to_addr(b"hello", &UnixAddr::from_abstract_name(target).ok()?).ok().map(drop)
        }
        "tcp" => {
            let address: SocketAddr = target.parse().ok()?;
            TcpStream::connect_timeout(&address, patience).ok().map(drop)
        }
        // Nobody answers. On a loopback, where nobody listens, the first one comes back as the second one's error.
        "udp" => {
            let socket = UdpSocket::bind("127.0.0.1:0").ok()?;
            socket.connect(target).ok()?;
            socket.send(b"hello").ok()?;
            socket.send(b"hello").ok().map(drop)
        }
        other => panic!("no such way: {other}"),
    }
}

fn contains(path: &str, needle: &str) -> Option<()> {
    let mut bytes = Vec::new();
    fs::File::open(path).ok()?.read_to_end(&mut bytes).ok()?;
    String::from_utf8_lossy(&bytes).contains(needle).then_some(())
}

fn probe_into(context: &Path) {
    fs::copy(std::env::current_exe().unwrap(), context.join("probe")).unwrap();
}

#[test]
fn no_step_of_a_private_builder_reaches_a_canary() {
    if !is_root("no_step_of_a_private_builder_reaches_a_canary") {
        return;
    }
    let private = Private::bare(STEPS);
    let world = private.world();
    probe_into(&world.path("ctx"));
    for runtime in ["native", "nsjail"] {
        let aviary = Aviary::new(&world.path("home"), &world.path("canaries"), &world.path("s"), runtime);
        world.write("ctx/canaries", aviary.list());
        let mut command = private.command();
        command.env("KTL_SANDBOX_RUNTIME", runtime).args(["build", "ctx", "--progress=plain", "--hermetic"]);
        let ran = world.run(command.args(["--builder", &format!("jail://{runtime}")])).ok();
        aviary.assert_reached(&ran, |_| false);
        if runtime == "native" {
            continue;
        }
        // The controls: a plain daemon shares the host's network with its steps, and the host is the host.
        let mut plain = private.command();
        let ran = world.run(plain.args(["build", "ctx", "--progress=plain"])).ok();
        aviary.assert_reached(&ran, |canary| canary.shared);
        let mut host = Command::new(world.path("ctx/probe"));
        host.current_dir(world.path("ctx"));
        host.args(["--ignored", "--exact", "canaries::the_step", "--nocapture"]);
        aviary.assert_reached(&world.run(&mut host).ok(), |_| true);
    }
}

#[test]
fn no_step_of_a_plain_users_builder_does() {
    let Some(user) = PlainUser::new(STEPS) else { return };
    probe_into(&user.path("ctx"));
    let aviary = Aviary::new(&user.path("home"), &user.path("canaries"), &user.path("native"), "default");
    fs::write(user.path("ctx/canaries"), aviary.list()).unwrap();
    user.owns_all();
    let build = ["build", "ctx", "--progress=plain", "--hermetic", "--builder", "jail://"];
    let ran = user.run("native", &build).ok();
    aviary.assert_reached(&ran, |_| false);
    user.run("native", &["builder", "rm", "default"]).ok();
}
