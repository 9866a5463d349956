//! What a build was asked for, written down.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::ktl::World;

fn lines(world: &World) -> Vec<Value> {
    world.read("audit").lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn having<'a>(lines: &'a [Value], key: &'a str, value: &'a str) -> impl Iterator<Item = &'a Value> {
    lines.iter().filter(move |line| line[key] == value)
}

#[test]
fn a_build_is_written_down_and_read_again() {
    let world = World::with_dockerfile(
        "FROM BUSYBOX\nRUN --mount=type=secret,id=s cat /run/secrets/s >/dev/null\nCOPY in /\n",
    );
    world.write("ctx/in", "content of the context");
    world.write("secret", "precious");
    let args = [
        "--secret",
        "id=s,src=secret",
        "-o",
        "type=oci,dest=a.tar",
        "-o",
        "out",
        "--audit",
        "audit",
        "--no-cache",
    ];
    for (run, extra) in [&[][..], &["--sandbox=off"]].into_iter().enumerate() {
        let _ = fs::remove_file(world.path("audit"));
        world.build(&[&args[..], extra].concat()).ok().says_not("[audit]");
        let lines = lines(&world);
        assert_eq!(lines[0]["event"], "begin", "{run}");
        assert_eq!(lines[0]["version"], 1);
        let last = lines.last().unwrap();
        assert_eq!(last["event"], "end");
        assert_eq!(last["exit"], 0);
        let context = having(&lines, "method", "/moby.filesync.v1.FileSync/DiffCopy").find(|line| {
            line["about"]["dir-name"][0] == "context" && line["about"]["followpaths"][0] == "in"
        });
        let context = context.unwrap_or_else(|| panic!("no transfer of the context in {lines:#?}"));
        assert!(context["end"] == "ok" && context["sent"].as_u64() > Some(20), "{context}");
        let secret = having(&lines, "kind", "secret").next().unwrap();
        assert_eq!(secret["about"]["id"], "s");
        assert_eq!(secret["end"], "ok");
        assert_eq!(having(&lines, "method", "/moby.filesync.v1.FileSend/DiffCopy").count(), 2);
        let hex: String = Sha256::digest(fs::read(world.path("a.tar")).unwrap())
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        let tar = having(&lines, "event", "output").find(|line| line["digest"].is_string()).unwrap();
        assert_eq!(tar["digest"], format!("sha256:{hex}"));
    }
    for text in ["precious", "content of the context"] {
        assert!(!world.read("audit").contains(text), "{text}");
    }
    assert_eq!(fs::metadata(world.path("audit")).unwrap().permissions().mode() & 0o777, 0o600);

    let show =
        |extra: &[&str]| world.run(world.command().args(["audit", "show", "audit"]).args(extra)).ok().stdout;
    let all = show(&[]);
    assert!(all.contains("FileSync/DiffCopy dir-name=context") && all.contains("secret id=s"), "{all}");
    assert_eq!(show(&["--json"]).lines().count(), world.read("audit").lines().count());
    assert!(!show(&["--refused"]).contains(" ok "));
}

#[test]
fn a_build_that_fails_is_written_down_as_well() {
    let world = World::with_dockerfile("FROM BUSYBOX\nRUN --mount=type=secret,id=unknown false\n");
    world.write("ctx/server.key", "x");
    world.build(&["--audit", "audit"]).ends_with(1);
    world.build(&["--audit", "audit", "--call", "nonsense"]).ends_with(2);
    let first = lines(&world);
    assert_eq!(having(&first, "event", "begin").count(), 1);
    assert_eq!(having(&first, "event", "end").next().unwrap()["exit"], 1);
    world.write("not-ktls", "something else\n");
    world.run(world.command().args(["audit", "show", "not-ktls"])).ends_with(1).says("line 1 of not-ktls");
    world.run(world.command().args(["audit", "show", "gone"])).ends_with(2);
    world.build(&["--audit", "no/such/dir"]).ends_with(2).says("--audit no/such/dir");
}
