//! The host's side of the corpus: a rig, what the probes look for, and how a policy of the corpus is settled.

use std::fs;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;

use sandbox_linux::{Bind, Caller, Jail, JailError, Outcome, Overrides, Policy, Runtime, Tenant};

use crate::rig::{PROMISES, REPORT, Rig, Run, bind, run_with};
use crate::view::Outside;

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

    pub fn view(&self, runtime: &Runtime, tenant: Tenant, name: &str, text: &str) -> String {
        let mut overrides = self.overrides();
        overrides.tenant = tenant;
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
    assert_eq!(super::POSITIVE, crate::kafel::POSITIVE);
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
