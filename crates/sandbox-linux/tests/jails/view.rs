//! What a program sees of its jail: the probes of the corpus that one program can make, each line under its number.
//!
//! `1` mounts · `2` their flags · `3` readable host paths · `4` writable places · `5` sizes, modes and owners · `9` processes and
//! /proc · `10` ids · `11` capabilities · `12` privileges and filters · `13` limits · `14` course · `15` namespaces · `16` names ·
//! `17` network · `18` ways out · `19` environment · `20` program · `21` descriptors · `22` session · `23` filtered calls ·
//! `27` keyring · `28` nesting. What it takes a caller to see (6, 7, 8, 24, 25) is in `corpus_rig`, 26 in `parser`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;

use sandbox_linux::take_fd;
use serde::{Deserialize, Serialize};

use crate::rig::REPORT;

mod tree;

/// What the guest cannot know by itself; it travels in the environment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outside {
    /// The caller's namespaces by kind, as `kind:[number]`.
    pub namespaces: BTreeMap<String, String>,
    pub tcp_port: u16,
    pub abstract_name: String,
    /// Serials of the keyring that the caller's session has, in the notation of /proc/keys.
    pub session_keyring: String,
}

/// Names of the programs under `/ktl-bin/calls`, which the rig makes, and the probe that each belongs to.
pub const CALLS: &[(u8, &str)] = &[
    (14, "personality"),
    (22, "tiocsti"),
    (23, "getppid"),
    (23, "socket"),
    (23, "netlink"),
    (23, "keyctl"),
    (23, "syslog"),
    (23, "unshare nothing"),
    (23, "x32"),
    (23, "int80"),
    (23, "no call"),
    (27, "session keyring"),
    (28, "user namespace"),
];

pub fn tell() {
    let mut report = fs::File::from(take_fd(REPORT).unwrap());
    let environment = read("/proc/self/environ");
    let outside = environment.split('\0').find_map(|entry| entry.strip_prefix("KTL_TEST_OUTSIDE=")).unwrap();
    let outside: Outside = serde_json::from_str(outside).unwrap();
    let mut view = View { out: String::new() };
    view.mounts();
    view.places();
    view.process();
    view.network(&outside);
    view.start();
    view.around(&outside);
    view.calls();
    report.write_all(view.out.as_bytes()).unwrap();
}

struct View {
    out: String,
}

fn read(path: &str) -> String {
    match fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => word(&error),
    }
}

/// The error's name without the words that differ between libraries.
fn word(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.kind().to_string(), |number| format!("errno {number}"))
}

fn outcome<T>(result: io::Result<T>) -> String {
    result.map_or_else(|error| word(&error), |_| "yes".to_owned())
}

impl View {
    fn say(&mut self, probe: u8, key: impl AsRef<str>, value: impl AsRef<str>) {
        let escaped = |text: &str| text.replace(['\n', '\t'], " ");
        writeln!(self.out, "{probe} {}\t{}", escaped(key.as_ref()), escaped(value.as_ref())).unwrap();
    }

    fn process(&mut self) {
        let own = std::process::id();
        let stat = read("/proc/self/stat");
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let field = |at: usize| fields.get(at).copied().unwrap_or("none");
        let parent = field(1).parse::<u32>().ok();
        let processes: Vec<u32> = fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        let others =
            processes.iter().filter(|pid| **pid != own && Some(**pid) != parent && **pid != 1).count();
        self.say(9, "other processes", if others == 0 { "none" } else { "some" });
        self.say(9, "is the first process", (own == 1).to_string());
        self.say(9, "/proc/self", outcome(fs::read_link("/proc/self")));
        self.say(9, "environment of the first process", outcome(fs::read("/proc/1/environ")));
        self.say(9, "root of the first process", outcome(fs::read_dir("/proc/1/root")));
        // Of this thread: the harness's main one may be busy with starting it, all signals blocked.
        for line in read("/proc/thread-self/status").lines() {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let probe = match name {
                "Uid" | "Gid" | "Groups" => 10,
                name if name.starts_with("Cap") => 11,
                "NoNewPrivs" | "Seccomp" | "Seccomp_filters" => 12,
                "Cpus_allowed" => {
                    // Which processor it is may vary, how many may not.
                    let count: u32 = value.chars().filter_map(|c| c.to_digit(16)).map(u32::count_ones).sum();
                    self.say(14, "processors", count.to_string());
                    continue;
                }
                "Umask" | "SigBlk" | "SigIgn" => 22,
                _ => continue,
            };
            self.say(probe, name, value.trim());
        }
        for file in ["uid_map", "gid_map", "setgroups"] {
            let map = read(&format!("/proc/self/{file}"));
            self.say(10, file, map.split_whitespace().collect::<Vec<_>>().join(" "));
        }
        for line in read("/proc/self/limits").lines().skip(1) {
            let (name, values) = line.split_at(26.min(line.len()));
            self.say(13, name.trim(), values.split_whitespace().collect::<Vec<_>>().join(" "));
        }
        self.say(14, "nice", field(16));
        self.say(14, "oom_score_adj", read("/proc/self/oom_score_adj").trim());
        self.say(14, "personality", read("/proc/self/personality").trim());
        self.say(22, "leads its group", (field(2) == own.to_string()).to_string());
        self.say(22, "leads its session", (field(3) == own.to_string()).to_string());
        self.say(22, "session is inside", (field(3) != "0").to_string());
        self.say(22, "terminal", field(4));
    }

    fn network(&mut self, outside: &Outside) {
        let interfaces = read("/proc/self/net/dev");
        let mut names: Vec<&str> =
            interfaces.lines().filter_map(|l| Some(l.split_once(':')?.0.trim())).collect();
        names.sort_unstable();
        self.say(17, "interfaces", names.join(" "));
        self.say(17, "routes", read("/proc/self/net/route").lines().count().to_string());
        let send = || UdpSocket::bind("127.0.0.1:0")?.send_to(b"x", "127.0.0.1:9");
        self.say(17, "loopback", outcome(send()));
        self.say(17, "the host's loopback", outcome(TcpStream::connect(("127.0.0.1", outside.tcp_port))));
        let named =
            SocketAddr::from_abstract_name(&outside.abstract_name).and_then(|a| UnixStream::connect_addr(&a));
        self.say(17, "the host's abstract socket", outcome(named));
        self.say(17, "a socket below a bind", outcome(UnixStream::connect("/odd: \"name\"/socket")));
        // A datagram socket only looks for a route.
        for (own, other) in
            [("0.0.0.0:0", "192.0.2.1:9"), ("[::]:0", "[2001:db8::1]:9"), ("0.0.0.0:0", "192.0.2.53:53")]
        {
            self.say(18, other, outcome(UdpSocket::bind(own).and_then(|socket| socket.connect(other))));
        }
    }

    fn start(&mut self) {
        for (index, entry) in read("/proc/self/environ").split('\0').enumerate() {
            if !entry.starts_with("KTL_TEST_") {
                self.say(19, format!("entry {index}"), entry);
            }
        }
        let dir = std::env::current_dir().map(|dir| dir.display().to_string());
        self.say(20, "directory", dir.unwrap_or_else(|error| word(&error)));
        self.say(20, "arguments", read("/proc/self/cmdline").replace('\0', " "));
        let program = fs::read_link("/proc/self/exe").map(|path| path.display().to_string());
        self.say(20, "program", program.unwrap_or_else(|error| word(&error)));
        let mut numbers: Vec<i32> = fs::read_dir("/proc/self/fd")
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .collect();
        numbers.sort_unstable();
        for number in numbers {
            let info = read(&format!("/proc/self/fdinfo/{number}"));
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap_or_default().trim();
            let kept = u32::from_str_radix(flags, 8).is_ok_and(|flags| flags & 0o2_000_000 == 0);
            let target = fs::read_link(format!("/proc/self/fd/{number}")).unwrap_or_default();
            let kind = target.to_string_lossy();
            let kind = kind.split(['[', '(']).next().unwrap_or_default();
            // A file of the host has no path inside.
            let kind = if kind.ends_with("/null") { "null" } else { kind };
            // The directory that is being read comes and goes.
            if !kind.ends_with("/fd") {
                self.say(
                    21,
                    number.to_string(),
                    format!("{kind} {}", if kept { "kept" } else { "not kept" }),
                );
            }
        }
    }

    fn around(&mut self, outside: &Outside) {
        for (kind, host) in &outside.namespaces {
            let own = fs::read_link(format!("/proc/self/ns/{kind}"));
            let own = own.map_or_else(|error| word(&error), |own| own.display().to_string());
            self.say(15, kind, if own == *host { "the host's" } else { "another" });
        }
        self.say(
            15,
            "cgroup path",
            read("/proc/self/cgroup").lines().filter(|line| !line.ends_with(":/")).count().to_string(),
        );
        self.say(16, "host name", read("/proc/sys/kernel/hostname").trim());
        self.say(16, "domain name", read("/proc/sys/kernel/domainname").trim());
        let keys = read("/proc/keys");
        let seen = keys.lines().any(|line| line.split(' ').next() == Some(outside.session_keyring.as_str()));
        self.say(27, "the caller's session keyring", if seen { "in sight" } else { "hidden" });
    }

    fn calls(&mut self) {
        for (probe, name) in CALLS {
            let status = Command::new(format!("/ktl-bin/calls/{name}")).status();
            let ended = match status {
                Ok(status) => match (status.code(), status.signal()) {
                    (Some(0), _) => "returns 0".to_owned(),
                    (Some(crate::corpus::POSITIVE), _) => "returns a number".to_owned(),
                    (Some(errno), _) => format!("errno {errno}"),
                    (None, signal) => format!("signal {}", signal.unwrap_or_default()),
                },
                Err(error) => format!("not started: {}", word(&error)),
            };
            self.say(*probe, format!("call {name}"), ended);
        }
    }
}
