//! Builds that may reach the servers of a list: what passes, what does not, and what is told of it.

use std::fs;
use std::process::Command;

use sha2::{Digest as _, Sha256};

use crate::ktl::{World, is_root};
use crate::mirror::{Files, Mirror, files};
use crate::private::Private;
use xtask::parts::{BaseImage, push_base_images};

#[test]
fn exactly_what_is_listed_is_reached() {
    let other = Mirror::start(files(&[("/elsewhere", "no")]));
    let away = format!("->http://{}/elsewhere", other.address);
    let mirror = Mirror::start(files(&[
        ("/good/a", "a"),
        ("/good/b", "b"),
        ("/good/moved", "->/good/a"),
        ("/good/away", &away),
        ("/secret", "s"),
    ]));
    let at = &mirror.address;
    let steps = [
        format!("wget -q -O- http://{at}/good/a | grep -qx a && echo reached a"),
        format!("wget -q -O- http://{at}/good/moved | grep -qx a && echo reached by redirect"),
        format!("wget -O- http://{at}/secret 2>&1 || echo secret not reached"),
        format!("wget -O- http://{at}/good/../secret 2>&1 || echo dots not reached"),
        format!("wget -O- http://{at}/good/away 2>&1 || echo away not reached"),
        "wget -O- http://169.254.169.254/latest 2>&1 || echo metadata not reached".to_owned(),
        // Past the proxy there is nothing at all.
        format!(
            "printf 'GET /good/b HTTP/1.0\\r\\n\\r\\n' | nc -w 3 {} || echo unproxied not reached",
            at.replace(':', " ")
        ),
    ];
    let world = World::with_dockerfile("FROM BUSYBOX\nCOPY steps /\nRUN sh /steps\n");
    world.write("ctx/steps", steps.join("\n"));
    let registry = crate::ktl::PARTS.registry.address();
    let rule = format!("http://{at}/good");
    let build = |world: &World, record: &str| {
        let report = format!("{record}.report");
        let listed =
            ["--egress", &rule, "--egress", registry, "--egress-record", record, "--report", &report];
        world.build(&[&["--progress=plain", "--no-cache"], &listed[..]].concat()).ok()
    };
    let ran = build(&world, "one.jsonl");
    let ran =
        ran.says("reached a").says("reached by redirect").says("secret not reached").says("403 Forbidden");
    let ran = ran.says("dots not reached").says("away not reached").says("metadata not reached");
    let ran = ran.says("unproxied not reached").says("[egress] unproven: where a listed name leads");
    ran.says(&format!("[egress] denied http://{at}/secret by [3/3] RUN")).says("link-local");
    assert!(mirror.was_asked("/good/a") && !mirror.was_asked("/secret") && !mirror.was_asked("/good/b"));
    assert!(!other.was_asked("/elsewhere"));

    let record = world.read("one.jsonl");
    let lines: Vec<serde_json::Value> =
        record.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |url: &str| {
        lines.iter().find(|line| line["url"] == url).unwrap_or_else(|| panic!("no {url} in:\n{record}"))
    };
    let good = of(&format!("http://{at}/good/a"));
    assert_eq!(
        (&good["verdict"], &good["method"], &good["status"]),
        (&"allowed".into(), &"GET".into(), &200.into())
    );
    assert_eq!(good["sha256"], hex(b"a"));
    assert_eq!(good["rule"], rule);
    let denied = of(&format!("http://{at}/secret"));
    assert_eq!(denied["verdict"], "denied");
    assert!(denied["step"].as_str().unwrap().contains("RUN"));
    build(&world, "two.jsonl");
    assert_eq!(world.read("two.jsonl"), record, "two builds have one record");
    let report: serde_json::Value = serde_json::from_str(&world.read("one.jsonl.report")).unwrap();
    assert_eq!(report["egress"]["requests"], serde_json::Value::Array(lines));
    assert_eq!(report["egress"]["list"].as_array().map(Vec::len), Some(2), "{report}");
    assert_eq!(claim(&report, "RUN reaches only the list")["state"], "held", "{report}");
    assert_eq!(claim(&report, "RUN: request through the proxy")["state"], "held", "{report}");
    assert_eq!(claim(&report, "where a listed name leads")["state"], "unproven", "{report}");

    // The control: without the list everything is there.
    let ran = world.build(&["--progress=plain", "--no-cache"]).ok();
    ran.says_not("secret not reached").says_not("away not reached").says_not("unproxied not reached");
    assert!(mirror.was_asked("/secret") && mirror.was_asked("/good/b") && other.was_asked("/elsewhere"));
}

pub fn claim<'a>(report: &'a serde_json::Value, about: &str) -> &'a serde_json::Value {
    let claims = report["claims"].as_array().unwrap();
    claims.iter().find(|claim| claim["about"] == about).unwrap_or_else(|| panic!("{about}: {report}"))
}

#[test]
fn a_list_in_ktl_toml_is_a_list() {
    let mirror = Mirror::start(files(&[("/good/a", "a"), ("/secret", "s")]));
    let at = &mirror.address;
    let registry = crate::ktl::PARTS.registry.address();
    let world = World::with_dockerfile("FROM BUSYBOX\nCOPY steps /\nRUN sh /steps\n");
    let steps = ["good/a", "secret"].map(|path| {
        format!("wget -q -O- http://{at}/{path} >/dev/null && echo reached {path} || echo refused {path}")
    });
    world.write("ctx/steps", steps.join("\n"));
    let good = format!("http://{at}/good");
    let list = |servers: &[&str]| format!("# Of this test\n[egress]\nallow = {servers:?}\n");
    let own = world.write("home/.config/ktl/ktl.toml", list(&[&good, registry]));
    let shown = ["--progress=plain", "--no-cache", "-v", "--report", "report", "--egress-record"];
    let build = |record: &str, more: &[&str]| world.build(&[&shown[..], &[record], more].concat());

    let ran = build("of-file", &[]).ok().says("reached good/a").says("refused secret");
    ran.says("[config] --egress ").says("home/.config/ktl/ktl.toml:3)");
    assert!(mirror.was_asked("/good/a") && !mirror.was_asked("/secret"));
    let report: serde_json::Value = serde_json::from_str(&world.read("report")).unwrap();
    let setting = &report["settings"][0];
    assert_eq!(
        (&setting["flag"], &setting["value"]),
        (&"--egress".into(), &format!("{good} {registry}").into())
    );
    assert_eq!(claim(&report, "RUN reaches only the list")["state"], "held", "{report}");
    // What is typed counts instead, and is the same list here.
    build("typed", &["--egress", &good, "--egress", registry]).ok().says_not("[config] --egress ");
    assert_eq!(world.read("of-file"), world.read("typed"));

    // The context's own file narrows it, and opens nothing.
    world.write("ctx/ktl.toml", list(&[registry, &format!("http://{at}/secret")]));
    let ran = build("narrowed", &[]).ok().says("refused good/a").says("refused secret");
    ran.says("ctx/ktl.toml:3 and ").says("home/.config/ktl/ktl.toml:3)");
    fs::remove_file(own).unwrap();
    let ran = build("opened", &[]).ends_with(5);
    ran.says("ctx/ktl.toml:3: ").says("is loopback, and not for a repository to open").says("--egress");
    assert!(!mirror.was_asked("/secret"));

    // The control: without a list everything is there.
    fs::remove_file(world.path("ctx/ktl.toml")).unwrap();
    world.build(&["--progress=plain", "--no-cache"]).ok().says("reached good/a").says("reached secret");
}

#[test]
fn what_the_daemon_fetches_obeys_too() {
    let mirror = Mirror::start(files(&[("/file", "x")]));
    let at = &mirror.address;
    let registry = crate::ktl::PARTS.registry.address();
    let add = World::with_dockerfile(&format!("FROM scratch\nADD http://{at}/file /\n"));
    let listed = ["--egress", at.as_str(), "--no-cache", "--egress-record", "r"];
    add.build(&listed).ok();
    assert!(add.read("r").contains(&format!("\"url\":\"http://{at}/file\"")), "{}", add.read("r"));
    let denied = add.build(&["--egress", registry, "--no-cache"]).ends_with(5);
    denied.says(&format!("denied http://{at}/file: ")).says(&format!("--egress http://{at} would"));
    let image = World::with_dockerfile("FROM BUSYBOX\nRUN true\n");
    image.build(&["--egress", registry, "--no-cache"]).ok();
    image
        .build(&["--egress", at, "--no-cache"])
        .ends_with(5)
        .says("image://")
        .says("is loopback, and no rule names it");
    image
        .build(&["--egress", at, "-t", "other.example/a", "--push"])
        .ends_with(5)
        .says("the push to other.example/a");
    image
        .build(&["--egress", at, "--cache-from", "other.example/a"])
        .ends_with(5)
        .says("the cache other.example/a");
    image.build(&["--egress", "http://a.example/../b"]).ends_with(2).says("a path of a rule");
    image.build(&["--egress", "a.example", "--hermetic"]).ends_with(2).says("Leave one of them out");
    image.build(&["--egress-record", "r"]).ends_with(2).says("means nothing without");
}

pub fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A `.deb` with one file, and an index that has it.
fn repository(scratch: &std::path::Path) -> Files {
    let tar = |name: &str, files: &[(&str, &str)]| {
        let dir = scratch.join(name);
        for (path, text) in files {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let mut command = Command::new("tar");
        command
            .args(["--owner=0", "--group=0", "--mtime=@0", "--sort=name", "-cf", "-", "-C"])
            .arg(&dir)
            .arg(".");
        let made = command.output().unwrap();
        assert!(made.status.success());
        made.stdout
    };
    let about = "Package: ktl-sample\nVersion: 1.0\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\nDescription: sample\n";
    let members = [
        ("debian-binary", b"2.0\n".to_vec()),
        ("control.tar", tar("control", &[("control", about)])),
        ("data.tar", tar("data", &[("usr/share/ktl-sample", "sampled\n")])),
    ];
    let mut deb = b"!<arch>\n".to_vec();
    for (name, bytes) in members {
        deb.extend(
            format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100_644, bytes.len()).bytes(),
        );
        deb.extend(&bytes);
        deb.extend(vec![b'\n'; bytes.len() % 2]);
    }
    let index =
        format!("{about}Filename: pool/./ktl-sample.deb\nSize: {}\nSHA256: {}\n\n", deb.len(), hex(&deb));
    [("/debian/index/Packages", index.into_bytes()), ("/debian/pool/./ktl-sample.deb", deb)]
        .map(|(path, body)| (path.to_owned(), body))
        .into()
}

#[test]
fn apt_installs_from_what_is_listed() {
    let scratch = tempfile::tempdir().unwrap();
    let mirror = Mirror::start(repository(scratch.path()));
    let at = &mirror.address;
    let parts = &crate::ktl::PARTS;
    push_base_images(&parts.daemon, &parts.registry, &[BaseImage::Debian]).unwrap();
    let debian = BaseImage::Debian.reference(&parts.registry);
    let private = Private(World::with_dockerfile(&format!(
        "FROM {debian}\n\
         RUN rm -rf /etc/apt/sources.list*; echo 'deb [trusted=yes] http://{at}/debian index/' > /etc/apt/sources.list; \
             apt-get update && apt-get install -y ktl-sample && cat /usr/share/ktl-sample\n"
    )));
    let world = &private.0;
    let registry = parts.registry.address();
    let listed = |rule: &str, record: &str, more: &[&str]| {
        let report = format!("{record}.report");
        let args = ["--no-cache", "--egress", registry, "--egress", rule, "--egress-record", record];
        let args = [&args[..], &["--report", &report]].concat();
        private.build(&[&args[..], more].concat())
    };
    let all = format!("{at}/debian");
    listed(&all, "one", &[]).ok().says(" sampled");
    listed(&all, "two", &[]).ok();
    let record = world.read("one");
    assert_eq!(record, world.read("two"));
    let report = |name: &str| -> serde_json::Value { serde_json::from_str(&world.read(name)).unwrap() };
    let [one, two] = ["one.report", "two.report"].map(report);
    assert_eq!(one["egress"], two["egress"]);
    assert_eq!(one["materials"], two["materials"]);
    assert_eq!(one["egress"]["requests"].as_array().map(Vec::len), Some(record.lines().count()));
    if is_root("apt_installs_from_what_is_listed on a private builder") {
        listed(&all, "private", &["--builder", "jail://"]).ok().says(" sampled");
        assert_eq!(record, world.read("private"), "the same record, whoever builds");
    }
    let body =
        |line: &serde_json::Value| line["url"].as_str().is_some_and(|url| url.ends_with("ktl-sample.deb"));
    let lines: Vec<serde_json::Value> =
        record.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let deb = lines.iter().find(|line| body(line)).unwrap_or_else(|| panic!("{record}"));
    assert_eq!(deb["sha256"], hex(&repository(scratch.path())["/debian/pool/./ktl-sample.deb"]));
    // The index alone is not enough, and the record of a build that fails is there as well.
    let ran = listed(&format!("{at}/debian/index"), "three", &[]).ends_with(1);
    ran.says("403").says(&format!("[egress] denied http://{at}/debian/pool/./ktl-sample.deb"));
    assert!(world.read("three").contains("denied"));
    let failed = report("three.report");
    assert_eq!(
        (&failed["outcome"], &claim(&failed, "RUN reaches only the list")["state"]),
        (&"failed".into(), &"held".into())
    );
    assert_eq!(
        failed["egress"]["requests"].as_array().map(Vec::len),
        Some(world.read("three").lines().count())
    );

    // What was learned is what suffices.
    let learn = ["--no-cache", "--egress", registry, "--egress", &all, "--egress-learn", "list"];
    world.build(&learn).ok();
    let list = world.read("list");
    assert!(list.contains(&all) && list.contains(registry), "{list}");
    world.build(&["--no-cache", "--egress", "@list"]).ok();
}

#[test]
fn a_private_builder_has_no_other_way_out() {
    if !is_root("a_private_builder_has_no_other_way_out") {
        return;
    }
    let inside = Mirror::at("127.0.0.1", files(&[("/x", "x")]));
    let port = inside.address.rsplit(':').next().unwrap();
    let other = Mirror::start(files(&[("/elsewhere", "no")]));
    let away = format!("->http://{}/elsewhere", other.address);
    let mirror = Mirror::start(files(&[("/good/a", "a"), ("/good/away", &away), ("/secret", "s")]));
    let at = &mirror.address;
    let private = Private::new("COPY steps /\nRUN sh /steps\n");
    let steps = [
        format!("wget -q -O- http://{at}/good/a | grep -qx a && echo reached a"),
        format!("wget -O- http://{at}/secret 2>&1 || echo secret not reached"),
        format!("wget -O- http://localhost:{port}/x 2>&1 || echo inside not reached"),
        format!("nc -w 3 {} </dev/null && echo reached past the proxy", at.replace(':', " ")),
        "true".to_owned(),
    ];
    private.0.write("ctx/steps", steps.join("\n"));
    let good = format!("http://{at}/good");
    let localhost = format!("localhost:{port}");
    let listed = ["--no-cache", "--egress", &good, "--egress", &localhost, "--egress-record"];
    for runtime in ["native", "nsjail"] {
        let name = format!("jail://{runtime}");
        let mut command = private.command();
        command.env("KTL_SANDBOX_RUNTIME", runtime).args([
            "build",
            "ctx",
            "--progress=plain",
            "--builder",
            &name,
        ]);
        let ran = private.0.run(command.args(listed).arg(runtime)).ok();
        let ran = ran.says("reached a").says("secret not reached").says("inside not reached").says("502");
        let ran = ran.says("[egress] held: RUN reaches only the list: ").says("leads to these servers alone");
        ran.says_not("past the proxy").says_not("unproven").says("(network egress-");
        assert!(!mirror.was_asked("/secret") && !inside.was_asked("/x"));
        let log = private.builder(&["logs", runtime]).ok().stdout;
        assert!(log.contains(&format!("localhost:{port} was not reached: it leads to 127.0.0.1")), "{log}");
    }
    assert_eq!(private.0.read("native"), private.0.read("nsjail"));

    // Where the address is named as well, the name leads there; and that is another builder.
    let address = format!("127.0.0.1:{port}");
    let jail = ["--builder", "jail://native", "--egress", &address];
    let ran = private.build(&[&jail[..], &listed[..5]].concat()).ok();
    ran.says_not("inside not reached").says("started jail://native (network egress-");
    assert!(inside.was_asked("/x"));
    let listing = private.builder(&["ls"]).ok().stdout;
    assert_eq!(listing.matches("egress-").count(), 6, "three builders, with their sockets: {listing}");

    // A redirect of an ADD is followed by the daemon itself: a plain one reaches what it was never asked about.
    private.0.write("ctx/Dockerfile", format!("FROM scratch\nADD http://{at}/good/away /\n"));
    let plain = private.command().args(["build", "ctx", "--no-cache", "--egress", &good]).output().unwrap();
    assert!(plain.status.success() && other.was_asked("/elsewhere"));
    private
        .build(&["--no-cache", "--builder", "jail://", "--egress", &good])
        .ends_with(1)
        .says("connection refused");
    private
        .build(&["--no-cache", "--builder", "jail://", "--egress", "other.example"])
        .ends_with(5)
        .says("no rule");
}
