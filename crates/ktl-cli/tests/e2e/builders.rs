//! `ktl builder ls|inspect|du|prune`, compared with what BuildKit's own clients say.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use crate::ktl::{PARTS, World, is_root};
use crate::private::Private;

fn ids(listed: &str) -> BTreeSet<String> {
    let listed: serde_json::Value = serde_json::from_str(listed).unwrap();
    let builders = listed.as_array().unwrap().iter();
    builders
        .flat_map(|builder| builder["records"].as_array().unwrap().clone())
        .map(|record| record["id"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn what_a_builder_keeps_is_shown_and_removed() {
    if !is_root("what_a_builder_keeps_is_shown_and_removed") {
        return;
    }
    let private = Private::new("RUN echo kept >/x\nRUN --mount=type=cache,target=/c echo more >/c/x\n");
    private.builder(&["du", "default"]).ends_with(2).says("no private builder `default`");
    private.build(&["--builder", "jail://", "--hermetic"]).ok();

    let kept = ids(&private.builder(&["du", "default", "--json"]).ok().stdout);
    let socket = private.world().path("s/daemons/default/none/run/buildkitd.sock");
    let mut buildctl = Command::new(xtask::tools::buildctl().unwrap());
    buildctl.args(["--addr", &format!("unix://{}", socket.display()), "du", "--format", "{{json .}}"]);
    let theirs = String::from_utf8(buildctl.output().unwrap().stdout).unwrap();
    let theirs: serde_json::Value = serde_json::from_str(theirs.trim()).unwrap();
    let theirs = theirs.as_array().unwrap().iter().map(|record| record["id"].as_str().unwrap().to_owned());
    assert_eq!(kept, theirs.collect());
    assert!(kept.len() >= 3, "{kept:?}");

    let table = private.builder(&["du", "jail://default"]).ok().stdout;
    assert!(
        table.starts_with("ID ") && table.contains("Reclaimable:") && table.contains("Total:"),
        "{table}"
    );
    let lines =
        private.builder(&["du", "default", "--format", "json", "--filter", "type=exec.cachemount"]).ok();
    let lines: Vec<serde_json::Value> =
        lines.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(lines[0]["Type"], "exec.cachemount");
    assert!(lines[0]["Size"].as_str().unwrap().ends_with('B'), "{lines:?}");
    let pretty = private.builder(&["du", "default", "-v"]).ok().stdout;
    assert!(pretty.contains("Usage count:") && pretty.contains("Type:"), "{pretty}");
    private.builder(&["du", "default", "--filter", "a b"]).ends_with(1).says("jail://default");

    // Nobody is there to say yes, somebody says no, and what is too young stays.
    private.builder(&["prune", "default"]).ends_with(2).says("[y/N]").says("--force");
    let mut no = private.command();
    no.args(["builder", "prune", "default"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut no = no.spawn().unwrap();
    std::io::Write::write_all(&mut no.stdin.take().unwrap(), b"n\n").unwrap();
    let no = no.wait_with_output().unwrap();
    assert!(no.status.success() && String::from_utf8_lossy(&no.stderr).contains("Nothing was removed"));
    private.builder(&["prune", "default", "-f", "--filter", "until=24h"]).ok();
    private.builder(&["prune", "default", "-f", "--reserved-space", "10g"]).ok();
    assert_eq!(ids(&private.builder(&["du", "default", "--json"]).ok().stdout), kept);

    let one = private.builder(&["prune", "default", "-f", "--filter", "type=exec.cachemount", "--json"]).ok();
    let removed = ids(&one.stdout);
    assert!(removed.len() == 1 && removed.is_subset(&kept), "{removed:?}");
    let rest = private.builder(&["prune", "default", "-a", "-f", "--max-used-space", "1"]).ok().stdout;
    assert!(rest.contains("Total:"), "{rest}");
    let left = ids(&private.builder(&["du", "default", "--json"]).ok().stdout);
    assert!(left.is_empty(), "{left:?}");
    private.build(&["--builder", "jail://", "--hermetic"]).ok().says_not("CACHED");
}

#[test]
fn builders_of_buildx_are_found_by_name() {
    let world = World::with_dockerfile("FROM scratch\nCOPY Dockerfile /\n");
    let build = |name: &str, value: &str, args: &[&str]| {
        let mut command = world.command();
        command.env_remove("KTL_BUILDER").env("BUILDX_CONFIG", &PARTS.buildx_config).env(name, value);
        world.run(command.args(["build", "ctx", "-v"]).args(args))
    };
    let found = format!("builder: {}, named by", PARTS.daemon.address());
    build("BUILDX_BUILDER", "e2e", &[]).ok().says(&format!("{found} BUILDX_BUILDER"));
    build("BUILDX_BUILDER", "absent", &["--builder", "e2e"]).ok().says(&format!("{found} --builder"));
    build("BUILDX_BUILDER", "absent", &[]).ends_with(2).says("BUILDX_BUILDER: `absent`").says("instances");
    build("BUILDKIT_HOST", "e2e", &[]).ends_with(2).says("BUILDKIT_HOST: `e2e` is no builder address");
}

#[test]
fn builders_are_listed_and_introduced() {
    let private = Private::bare("FROM scratch\n");
    // The world's builder is a plain daemon, named by KTL_BUILDER.
    let shown = private.builder(&["inspect"]).ok().stdout;
    let version = format!("v{}", xtask::tools::buildkit_version());
    for part in [
        "Endpoint:",
        PARTS.daemon.address().as_str(),
        &version,
        "Platforms:",
        "linux/amd64",
        "GC policy rule#0:",
    ] {
        assert!(
            shown.contains(part) || part == "linux/amd64" && !cfg!(target_arch = "x86_64"),
            "{part} in\n{shown}"
        );
    }
    let object = private.builder(&["inspect", &PARTS.daemon.address(), "--json"]).ok().stdout;
    let object: serde_json::Value = serde_json::from_str(&object).unwrap();
    let label = "org.mobyproject.buildkit.worker.moby.host-gateway-ip";
    assert_eq!(object[0]["workers"][0]["labels"][label], "10.9.8.7", "{object}");
    assert_eq!(object[0]["workers"][0]["gc"].as_array().map(|gc| gc.is_empty()), Some(false));

    let listed = private.builder(&["ls"]).ok().stdout;
    assert!(listed.contains(&format!("{}*", PARTS.daemon.address())), "{listed}");
    private.builder(&["inspect", "unix:///nowhere.sock"]).ends_with(3).says("/nowhere.sock");
    private.builder(&["inspect", "ftp://x"]).ends_with(2);
    private.builder(&["du", "x", "--builder", "jail://x"]).ends_with(2).says("cannot be used with");
    private.builder(&["du", &PARTS.daemon.address(), "--trust", "fork"]).ends_with(5).says("one trust");
}
