//! What a hermetic build is kept from. Each way out succeeds in an ordinary build, so that the test can fail, and is stopped with
//! `--hermetic` on a private builder and with `--hermetic=best-effort` on a plain one, by a rule that the message names.
//!
//! All of it happens in a network namespace of the test's own, with a LAN address, a name server, a web server, repositories, a
//! registry and a plain buildkitd in it.

use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use xtask::parts::{Auth, BaseImage, Buildkitd, Options, Registry, ScratchDir, push_base_images};

use crate::inputs::{GitDaemon, git, serve};
use crate::ktl::{Ran, is_root};
use crate::private::Private;

const LAN: &str = "192.168.77.1";
const NAME: &str = "canary.test";

/// The parts, as long as they are needed.
struct Network {
    daemon: Buildkitd,
    registry: Registry,
    repositories: GitDaemon,
    web: String,
    /// Ports on loopback, on the LAN address and on loopback by IPv6.
    ports: [u16; 3],
    abstract_name: String,
    _listeners: Vec<UnixListener>,
    _scratch: ScratchDir,
}

impl Network {
    /// In this thread's network namespace, which is a new one afterwards.
    fn start(private: &Private) -> Network {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        for command in ["link set lo up", "addr add 192.168.77.1/24 dev lo"] {
            let done = Command::new("ip").args(command.split(' ')).status().unwrap();
            assert!(done.success(), "ip {command}");
        }
        let ports = ["127.0.0.1", LAN, "::1"].map(|address| {
            let listener = TcpListener::bind((address, 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            // Whoever connects is hung up on.
            std::thread::spawn(move || while listener.accept().is_ok() {});
            port
        });
        let names = UdpSocket::bind((LAN, 53)).unwrap();
        std::thread::spawn(move || answer(&names));
        let abstract_name = format!("ktl-hermetic-{}", std::process::id());
        let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&abstract_name).unwrap());

        let repository = private.world().path("repos/r.git");
        std::fs::create_dir_all(&repository).unwrap();
        git(&repository, &["init", "-q"]);
        std::fs::write(repository.join("file"), "file").unwrap();
        git(&repository, &["add", "."]);
        git(&repository, &["commit", "-q", "-m", "first"]);
        let web = private.world().path("web");
        std::fs::create_dir_all(&web).unwrap();
        std::fs::write(web.join("file"), "file").unwrap();

        let scratch = ScratchDir::new("hermetic").unwrap();
        let registry = Registry::start(&scratch.join("registry"), Auth::None).unwrap();
        let entitled = ["network.host", "security.insecure"];
        let options = Options {
            plain_http: vec![registry.address().to_owned()],
            arguments: entitled.map(|name| format!("--allow-insecure-entitlement={name}")).into(),
            ..Options::default()
        };
        let daemon = Buildkitd::start(&scratch.join("daemon"), &options).unwrap();
        push_base_images(&daemon, &registry, &[BaseImage::Busybox, BaseImage::Reaching]).unwrap();
        Network {
            daemon,
            registry,
            repositories: GitDaemon::start(&private.world().path("repos")),
            web: serve(&web),
            ports,
            abstract_name,
            _listeners: vec![listener.unwrap()],
            _scratch: scratch,
        }
    }

    /// Steps that try to reach what is on the network, tell of each, and fail when one was not reached.
    fn probes(&self) -> String {
        let [loopback, lan, six] = self.ports;
        let name = &self.abstract_name;
        let tries = [
            ("loopback", format!("nc -w 2 127.0.0.1 {loopback} </dev/null")),
            ("lan", format!("nc -w 2 {LAN} {lan} </dev/null")),
            ("ipv6", format!("nc -w 2 ::1 {six} </dev/null")),
            ("dns", format!("nslookup {NAME} {LAN}")),
            ("abstract", format!("grep -q {name} /proc/net/unix")),
        ];
        let tries = tries.map(|(what, how)| {
            format!("if {how} >/dev/null 2>&1; then echo {what} reached; else echo {what} barred; e=1; fi; ")
        });
        format!("RUN e=0; {}exit $e\n", tries.concat())
    }
}

/// A name server that knows one address for every name.
fn answer(socket: &UdpSocket) {
    let mut query = [0; 512];
    while let Ok((length, from)) = socket.recv_from(&mut query) {
        let query = &query[..length];
        let is_for_ipv4 = length > 16 && query[length - 4..length - 2] == [0, 1];
        let mut reply = query.to_vec();
        // A response without an error, with the question and at most one answer.
        reply[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_for_ipv4), 0, 0, 0, 0]);
        if is_for_ipv4 {
            reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 168, 77, 1]);
        }
        let _ = socket.send_to(&reply, from);
    }
}

/// One way out.
struct Way {
    /// After the steps that make a busybox, or all of the Dockerfile if it says FROM.
    steps: String,
    /// What an ordinary build needs for it.
    entitlement: Option<&'static str>,
    code: i32,
    /// What a hermetic one says.
    says: Vec<&'static str>,
}

fn ways(network: &Network) -> Vec<Way> {
    let image = BaseImage::Busybox.reference(&network.registry);
    let frontend = BaseImage::Reaching.reference(&network.registry);
    let (web, git) = (&network.web, &network.repositories.address);
    let way =
        |steps: String, says: &[&'static str]| Way { steps, entitlement: None, code: 5, says: says.into() };
    let barred = ["loopback barred", "lan barred", "ipv6 barred", "dns barred", "abstract barred"];
    let by_tag = "rule: --hermetic: images are taken by digest";
    vec![
        Way { code: 1, ..way(network.probes(), &barred) },
        way(
            format!("ADD {web}/file /file\n"),
            &["rule: --hermetic: nothing is fetched from the web", "Dockerfile:4", ">>> ADD"],
        ),
        way(
            format!("ADD {git}/r.git#main /r\n"),
            &["rule: --hermetic: no repository is fetched", "Dockerfile:4", ">>> ADD"],
        ),
        way(format!("FROM {image}\nRUN true\n"), &[by_tag, "Dockerfile:1", ">>> FROM"]),
        way(format!("COPY --from={image} /bin /b\n"), &[by_tag, "Dockerfile:4", ">>> COPY"]),
        way(format!("RUN --mount=from={image},target=/m true\n"), &[by_tag, "Dockerfile:4", ">>> RUN"]),
        way(
            format!("# syntax={frontend}\nFROM scratch\n"),
            &["ERROR: --hermetic: ", "Dockerfile:1: the frontend "],
        ),
        Way {
            entitlement: Some("network.host"),
            ..way("RUN --network=host true\n".to_owned(), &["`RUN --network=host`", "Dockerfile:4"])
        },
        Way {
            entitlement: Some("security.insecure"),
            ..way("RUN --security=insecure true\n".to_owned(), &["`RUN --security=insecure`", "Dockerfile:4"])
        },
    ]
}

#[test]
fn every_way_out_is_barred() {
    if !is_root("every_way_out_is_barred") || xtask::tools::on_path("ip").is_none() {
        eprintln!("skipped: every_way_out_is_barred makes a network namespace, with root and `ip`");
        return;
    }
    // A thread of its own, for the others are to stay in their network.
    std::thread::spawn(in_a_network_of_its_own).join().unwrap();
}

fn in_a_network_of_its_own() {
    let private = Private::new("");
    let base = private.world().read("ctx/Dockerfile");
    let network = Network::start(&private);
    let address = network.daemon.address();
    // Where a build without a named builder would find a plain one.
    let runtime = private.world().path("run");
    std::fs::create_dir_all(runtime.join("buildkit")).unwrap();
    std::os::unix::fs::symlink(network.daemon.socket(), runtime.join("buildkit/buildkitd.sock")).unwrap();
    let build = |builder: Option<&str>, args: &[&str]| -> Ran {
        let mut command = private.command();
        command.env_remove("KTL_BUILDER").env("XDG_RUNTIME_DIR", &runtime);
        command.args(["build", "ctx", "--progress=plain"]).args(args);
        command.args(builder.iter().flat_map(|address| ["--builder", *address]));
        private.world().run(&mut command)
    };
    let plain = Some(address.as_str());
    build(plain, &["--hermetic"]).ends_with(5).says("named by --builder").says("--hermetic=best-effort");
    for Way { steps, entitlement, code, says } in ways(&network) {
        let whole = if steps.contains("FROM ") { steps.clone() } else { format!("{base}{steps}") };
        private.world().write("ctx/Dockerfile", &whole);
        // The counter-check.
        let allowed = entitlement.map(|name| ["--allow", name]);
        eprintln!("{steps}");
        let ordinary = build(plain, allowed.as_ref().map_or(&[][..], |args| args)).ok();
        assert!(code == 5 || !ordinary.stderr.contains(" barred\n"), "{}", ordinary.stderr);
        for (builder, hermetic) in [(None, "--hermetic"), (plain, "--hermetic=best-effort")] {
            let ran = build(builder, &[hermetic]).ends_with(code);
            let ran = says.iter().fold(ran, |ran, part| ran.says(part));
            assert!(!ran.stderr.contains(" reached\n"), "{steps}: {}", ran.stderr);
            assert_eq!(
                ran.stderr.contains("] unproven: the builder's own network"),
                builder.is_some() && !steps.starts_with("# syntax")
            );
        }
    }
    what_is_pinned_goes_in(&network, &private, &base, &build);
}

fn what_is_pinned_goes_in(
    network: &Network,
    private: &Private,
    base: &str,
    build: &dyn Fn(Option<&str>, &[&str]) -> Ran,
) {
    let address = network.daemon.address();
    let plain = Some(address.as_str());
    let pinned = BaseImage::Busybox.by_digest(&network.registry).unwrap();
    let dockerfile = |text: &str| drop(private.world().write("ctx/Dockerfile", text));
    dockerfile(&format!(
        "FROM {pinned}\nCOPY --from={pinned} /bin/busybox /b\nRUN --mount=from={pinned},target=/m true\n"
    ));
    build(plain, &["--hermetic=best-effort"]).ok();
    // The builder without a network cannot have it.
    build(None, &["--hermetic"])
        .ends_with(5)
        .says("rule: --hermetic: the builder of a hermetic build has no network");
    dockerfile(&format!("{base}COPY --from=other f /\n"));
    private.world().write("other/f", "f");
    build(None, &["--hermetic", "--build-context", "other=other"]).ok().says("[hermetic] held: sources");
    // The whole context as an archive.
    dockerfile(base);
    let tar = private.world().run(
        Command::new("tar")
            .args(["-C"])
            .arg(private.world().path("ctx"))
            .args(["-cf"])
            .arg(private.world().path("c.tar"))
            .arg("."),
    );
    tar.ok();
    let mut piped = private.command();
    piped.stdin(std::fs::File::open(private.world().path("c.tar")).unwrap());
    private.world().run(piped.args(["build", "-", "--hermetic=best-effort", "--builder", &address])).ok();

    // A frontend that was allowed is used, and held to the sources as well.
    let frontend = BaseImage::Reaching.by_digest(&network.registry).unwrap();
    dockerfile(&format!("# syntax={}\nFROM scratch\n", BaseImage::Reaching.reference(&network.registry)));
    let tagged = frontend.replacen("@", ":latest@", 1);
    let args = ["--hermetic=best-effort", "--allow-frontend", &tagged, "-o", "out"];
    build(plain, &args).ok().says("which --allow-frontend allows").says("unproven: the frontend: ");
    let report = private.world().read("out/frontend");
    assert!(report.contains("context: "), "{report}");
}
