//! One policy, two runtimes, one view: every policy of the corpus is started as it is written in nsjail and in ktl's own
//! runtime, the same program makes the [probes](crate::view) inside, and the answers are compared line by line. Where they
//! may differ, native is the stricter one, and [`STRICTER`] says why.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;

use sandbox_linux::{Bind, Builtin, Caller, Jail, JailError, Outcome, Overrides, Policy, Runtime, Tenant};

use crate::rig::{PROMISES, REPORT, Rig, Run, bind, is_root, nsjail, run_with};
use crate::view::Outside;

macro_rules! written {
    ($($name:literal),* $(,)?) => { &[$(($name, include_str!(concat!("../policies/", $name)))),*] };
}

/// `tests/policies`, each about one thing; embedded, because a plain user may not read the directory.
const WRITTEN: &[(&str, &str)] = written![
    "article-linux-ci.cfg",
    "bind-flags.cfg",
    "bind-link.cfg",
    "bind-nested.cfg",
    "bind-optional.cfg",
    "bind-options.cfg",
    "bind-writable.cfg",
    "capabilities-admin.cfg",
    "capabilities-kept.cfg",
    "capabilities.cfg",
    "content.cfg",
    "course.cfg",
    "description.cfg",
    "devices.cfg",
    "environment-kept.cfg",
    "environment.cfg",
    "file-systems.cfg",
    "filter-allow-list.cfg",
    "filter-arguments.cfg",
    "filter-errno.cfg",
    "filter-kill.cfg",
    "filter-log.cfg",
    "ids-newidmap.cfg",
    "ids-ranges.cfg",
    "ids.cfg",
    "limits-hard.cfg",
    "limits-off.cfg",
    "limits-soft.cfg",
    "limits.cfg",
    "mute-errors.cfg",
    "mute.cfg",
    "namespaces-shared.cfg",
    "network-shared.cfg",
    "network-without-loopback.cfg",
    "new-privileges.cfg",
    "notation.json",
    "personality-compat.cfg",
    "personality.cfg",
    "place.cfg",
    "prefixes.cfg",
    "proc-masked.cfg",
    "proc-twice.cfg",
    "proc-writable.cfg",
    "processes-shared.cfg",
    "root-of-its-own.cfg",
    "root-writable.cfg",
    "session.cfg",
    "silent.cfg",
    "symlink-optional.cfg",
    "symlinks.cfg",
    "time.cfg",
    "tmpfs-nested.cfg",
    "tmpfs-read-only.cfg",
    "tmpfs-stacked.cfg",
    "user-shared.cfg",
];

/// Those that a plain user starts as well: what depends on who one is.
const PLAIN: &[&str] = &[
    "silent.cfg",
    "ids.cfg",
    "bind-writable.cfg",
    "bind-flags.cfg",
    "capabilities-kept.cfg",
    "limits-hard.cfg",
    "network-shared.cfg",
    "filter-kill.cfg",
    "linux-ci.cfg",
    "linux-strict.cfg",
];

/// The probes that a program makes; the module `view` names them.
const PROBES: &[u8] = &[1, 2, 3, 4, 5, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 27, 28];

/// What a probe's program ends with when its call returned a positive number.
pub const POSITIVE: i32 = 200;

/// A difference that is meant: policy (`*` for each), probe, the key's beginning, what nsjail and what native shows, and why
/// native is stricter.
struct Stricter {
    policy: &'static str,
    probe: u8,
    key: &'static str,
    nsjail: &'static str,
    native: &'static str,
    why: &'static str,
}

const fn stricter(
    policy: &'static str,
    probe: u8,
    key: &'static str,
    nsjail: &'static str,
    native: &'static str,
    why: &'static str,
) -> Stricter {
    Stricter { policy, probe, key, nsjail, native, why }
}

const STRICTER: &[Stricter] = &[
    stricter(
        "*",
        9,
        "is the first process",
        "true",
        "false",
        "native has an init, so that signals act on the program as anywhere and nothing is left unreaped",
    ),
    stricter("*", 9, "environment of the first process", "yes", "errno 13", INIT),
    stricter("*", 9, "root of the first process", "yes", "errno 13", INIT),
    stricter("*", 3, "/proc/1/root/etc/shadow", "hidden", "unreachable (permission denied)", INIT),
    stricter(
        "*",
        23,
        "call x32",
        "errno 38",
        "signal 31",
        "a list of refused calls does not name them by their x32 numbers, so native lets none of those through",
    ),
    stricter(
        "*",
        28,
        "call user namespace",
        "returns 0",
        "errno 28",
        "a nested user namespace gives every capability to attack the kernel with; the namespace's own limit is 0",
    ),
    stricter(
        "*",
        17,
        "the host's abstract socket",
        "yes",
        "errno 1",
        "Landlock keeps the host's abstract sockets out of reach where a policy shares its network",
    ),
    stricter(
        "devices.cfg",
        4,
        "/dev/zero",
        "yes",
        "errno 13",
        "read-only: the mount alone does not stop a write to a device, Landlock does",
    ),
];

/// Root stages what it binds, with these flags for either runtime.
const OF_A_USER: &[Stricter] = &[
    stricter("*", 2, "* nosuid", "no", "yes", HOST_FILES),
    stricter("*", 2, "* nodev", "no", "yes", HOST_FILES),
];

/// Where the caller's session has a keyring, which not every host gives it.
const WITH_A_SESSION: &[Stricter] = &[stricter(
    "*",
    27,
    "the caller's session keyring",
    "in sight",
    "hidden",
    "a session's keys may be credentials; native joins a keyring of its own",
)];

const HOST_FILES: &str = "set-user-ID programs and device nodes of the host are of no use inside";
const INIT: &str = "nothing of native's init can be looked into";

/// Name and text of every policy: those that the program carries, the article's, and those written for this.
pub fn policies() -> Vec<(String, String)> {
    let builtin = Builtin::ALL.map(|which| (which.file_name(), which.text()));
    builtin.iter().chain(WRITTEN).map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

#[test]
fn the_corpus_is_whole() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/policies");
    let files: BTreeSet<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let listed: BTreeSet<String> = WRITTEN.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(files, listed);
    let own: Vec<_> = WRITTEN.iter().filter(|(name, _)| !name.starts_with("article")).collect();
    assert!(own.len() >= 25);
    for (name, text) in own {
        assert!(text.starts_with("# ") || name.ends_with(".json"), "{name} does not say what it is about");
    }
    for name in PLAIN {
        assert!(policies().iter().any(|(other, _)| other == name), "{name}");
    }
}

#[test]
fn both_runtimes_show_the_same() {
    compare();
}

/// As root all of the corpus, as a plain user what depends on that. Called by the plain user's suite as well.
pub fn compare() {
    let Some(nsjail) = nsjail() else { return };
    let Some(bench) = Bench::new(Runtime::Nsjail(nsjail)) else { return };
    let mut differences = String::new();
    let mut used = BTreeSet::new();
    let meant: Vec<&Stricter> =
        STRICTER.iter().chain(if is_root() { &[][..] } else { OF_A_USER }).chain(WITH_A_SESSION).collect();
    for (name, text) in policies() {
        if !is_root() && !PLAIN.contains(&name.as_str()) {
            continue;
        }
        let theirs = keyed(&bench.view(&bench.rig.runtime, &name, &text));
        let ours = keyed(&bench.view(&Runtime::Native, &name, &text));
        if ours.len() < 150 || theirs.len() < 150 {
            writeln!(differences, "{name}:\n  nsjail {theirs:?}\n  native {ours:?}").unwrap();
            continue;
        }
        for probe in PROBES {
            let made = |view: &BTreeMap<String, String>| {
                view.keys().any(|key| key.split(' ').next() == Some(probe.to_string().as_str()))
            };
            assert!(made(&theirs) && made(&ours), "{name}: no answer to probe {probe}");
        }
        let keys: BTreeSet<&String> = theirs.keys().chain(ours.keys()).collect();
        for key in keys {
            let none = "nothing".to_owned();
            let (a, b) = (theirs.get(key).unwrap_or(&none), ours.get(key).unwrap_or(&none));
            if a == b {
                continue;
            }
            let meant = meant.iter().position(|entry| entry.fits(&name, key, a, b) && on_a_bind(key, &ours));
            match meant {
                Some(index) => drop(used.insert(index)),
                None => writeln!(differences, "{name}: {key}\n  nsjail {a}\n  native {b}").unwrap(),
            }
        }
    }
    assert!(differences.is_empty(), "{differences}");
    for (index, entry) in meant.iter().enumerate() {
        assert!(!entry.why.is_empty());
        let tried = is_root() || entry.policy == "*" || PLAIN.contains(&entry.policy);
        let certain = tried && entry.probe != WITH_A_SESSION[0].probe;
        assert!(
            used.contains(&index) || !certain,
            "no such difference any more: {} {}",
            entry.policy,
            entry.key
        );
    }
}

/// A mount's flags may differ on what comes from the host only.
fn on_a_bind(key: &str, view: &BTreeMap<String, String>) -> bool {
    let Some((point, _)) = key.strip_prefix("2 ").and_then(|rest| rest.rsplit_once(' ')) else { return true };
    view.get(&format!("1 {point}")).is_some_and(|mount| mount.contains(" part of a tree"))
}

impl Stricter {
    fn fits(&self, policy: &str, key: &str, nsjail: &str, native: &str) -> bool {
        let (probe, rest) = key.split_once(' ').unwrap_or_default();
        let like = |pattern: &str, text: &str| match pattern.strip_prefix('*') {
            Some(end) => text.ends_with(end),
            None => text == pattern,
        };
        (self.policy == "*" || self.policy == policy)
            && probe == self.probe.to_string()
            && like(self.key, rest)
            && like(self.nsjail, nsjail)
            && like(self.native, native)
    }
}

fn keyed(view: &str) -> BTreeMap<String, String> {
    view.lines()
        .map(|line| line.split_once('\t').unwrap_or((line, "")))
        .map(|(k, v)| (k.into(), v.into()))
        .collect()
}

/// One rig for both runtimes, and what the probes need of the host.
pub struct Bench {
    pub rig: Rig,
    outside: Outside,
    _tcp: TcpListener,
    _abstract: UnixListener,
    _path: UnixListener,
}

impl Bench {
    pub fn new(runtime: Runtime) -> Option<Bench> {
        let rig = Rig::with(runtime)?;
        let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let shared = rig.path("shared");
        fs::create_dir_all(shared.join("sub/below")).unwrap();
        fs::write(shared.join("file"), "shared").unwrap();
        open(&shared, 0o777);
        open(&shared.join("file"), 0o666);
        std::os::unix::fs::symlink(&shared, rig.path("to-shared")).unwrap();
        let odd = rig.path("odd");
        fs::create_dir(&odd).unwrap();
        let socket = UnixListener::bind(odd.join("socket")).unwrap();
        open(&odd.join("socket"), 0o666);
        let calls = rig.path("calls");
        fs::create_dir(&calls).unwrap();
        place_calls(&calls);
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let abstract_name = format!("ktl-corpus-{}-{}", std::process::id(), tcp.local_addr().unwrap().port());
        let named = SocketAddr::from_abstract_name(&abstract_name).unwrap();
        let kinds = ["user", "mnt", "pid", "ipc", "uts", "cgroup", "net", "time"];
        let namespaces = kinds.map(|kind| {
            let link = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
            (kind.to_owned(), link.to_str().unwrap().to_owned())
        });
        let keys = fs::read_to_string("/proc/keys").unwrap_or_default();
        let session =
            keys.lines().find(|line| line.contains(" _ses")).and_then(|line| line.split(' ').next());
        let outside = Outside {
            namespaces: namespaces.into(),
            tcp_port: tcp.local_addr().unwrap().port(),
            abstract_name,
            session_keyring: session.unwrap_or("none").to_owned(),
        };
        Some(Bench {
            rig,
            outside,
            _abstract: UnixListener::bind_addr(&named).unwrap(),
            _tcp: tcp,
            _path: socket,
        })
    }

    pub fn overrides(&self) -> Overrides {
        let mut overrides = self.rig.overrides();
        overrides.tenant = Tenant::Program;
        overrides.cwd = "".into();
        overrides.pass_fds = vec![REPORT, PROMISES];
        overrides.binds.push(bind(&self.rig.path("calls"), "/ktl-bin/calls"));
        let variables = [("HOST", "value"), ("KEPT", "value")];
        overrides.host_env = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        overrides.prefix_env = [
            ("RIG".to_owned(), self.rig.dir.path().to_str().unwrap().to_owned()),
            ("PLACE".to_owned(), "/place".to_owned()),
        ]
        .into();
        overrides
    }

    pub fn jail(&self, text: &str, overrides: Overrides) -> Result<Jail, JailError> {
        let policy = Policy::parse("p", text.as_bytes()).unwrap();
        Jail::new(policy, overrides, &Caller::current().unwrap())
    }

    fn view(&self, runtime: &Runtime, name: &str, text: &str) -> String {
        let mut overrides = self.overrides();
        overrides.env[0].1 = "view".to_owned();
        overrides.env.push(("KTL_TEST_OUTSIDE".to_owned(), serde_json::to_string(&self.outside).unwrap()));
        overrides.binds.push(Bind { rw: true, ..bind(&self.rig.path("odd"), "/odd: \"name\"") });
        if name.starts_with("article") {
            overrides.binds.push(bind(&self.rig.path("shared"), "/workspace"));
        }
        let jail = self.jail(text, overrides).unwrap_or_else(|error| panic!("{name}: {error}"));
        let run: Run = run_with(runtime, &jail, "/ktl-bin/guest", crate::rig::GUEST_ARGS)
            .unwrap_or_else(|error| panic!("{name} in {runtime}: {error}"));
        if run.outcome == Outcome::Exited(0) { run.report } else { format!("{run:?}") }
    }
}

#[cfg(target_arch = "x86_64")]
fn place_calls(dir: &Path) {
    use crate::kafel::{foreign_probe, probe};
    use crate::kafel_sample::call;
    assert_eq!(POSITIVE, crate::kafel::POSITIVE);
    let user_namespace = 0x1000_0000;
    for (name, program) in [
        ("personality", probe(call(135, 0xffff_ffff, 0, 0))),
        ("tiocsti", probe(call(16, 0, 0x5412, 0))),
        ("getppid", probe(call(110, 0, 0, 0))),
        ("socket", probe(call(41, 1, 1, 0))),
        ("netlink", probe(call(41, 16, 3, 0))),
        ("keyctl", probe(call(250, 99, 0, 0))),
        ("syslog", probe(call(103, 9, 0, 0))),
        ("unshare nothing", probe(call(272, 0, 0, 0))),
        ("x32", probe(call(0x4000_0027, 0, 0, 0))),
        ("int80", foreign_probe(20)),
        ("no call", probe(call(499, 0, 0, 0))),
        ("session keyring", probe(call(250, 0, 0xffff_fffd, 0))),
        ("user namespace", probe(call(272, user_namespace, 0, 0))),
    ] {
        crate::rig::place(&dir.join(name), &program);
    }
    assert_eq!(fs::read_dir(dir).unwrap().count(), crate::view::CALLS.len());
}

#[cfg(not(target_arch = "x86_64"))]
fn place_calls(_: &Path) {}
