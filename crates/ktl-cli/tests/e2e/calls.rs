//! Questions about a Dockerfile are answered as docker buildx shows the answers.

use serde_json::Value;

use crate::ktl::{NATIVE, Ran, World};

fn world() -> World {
    World::with_dockerfile(
        "# the base of all\nFROM BUSYBOX AS base\nARG COLOUR=blue\nRUN --mount=type=secret,id=token,required=true --mount=type=ssh true\n\n\
         # what is shipped\nfrom scratch AS last\nARG SIZE\nMAINTAINER me\nCOPY --from=base / /\n",
    )
}

fn asked(world: &World, args: &[&str]) -> (Ran, Ran) {
    let ours = world.build(args);
    let theirs = world.run(world.buildx().args(["build", "ctx"]).args(args));
    (ours, theirs)
}

/// Blank ends of lines say nothing, and ktl does not quote the empty line behind the last one.
fn lines(text: &str) -> Vec<&str> {
    text.lines().map(str::trim_end).filter(|line| !line.ends_with(" |")).collect()
}

#[test]
fn answers_are_those_of_buildx() {
    let world = world();
    for (args, code) in [
        (&["--check"][..], 1),
        (&["--call", "check"], 1),
        (&["--call", "lint,ignorestatus=1"], 0),
        (&["--call", "outline"], 0),
        (&["--call", "outline", "--target", "base", "--build-arg", "COLOUR=red"], 0),
        (&["--call=targets"], 0),
        (&["--call=subrequests.describe"], 0),
    ] {
        let (ours, theirs) = asked(&world, args);
        assert_eq!((ours.code, theirs.code), (Some(code), Some(code)), "{args:?}\n{}", ours.stderr);
        assert!(!ours.stdout.is_empty(), "{args:?}\n{}", ours.stderr);
        assert_eq!(lines(&ours.stdout), lines(&theirs.stdout), "{args:?}");
    }
    for args in [
        ["--call", "check,format=json"],
        ["--call", "outline,format=json"],
        ["--call", "targets,format=json"],
    ] {
        let (ours, theirs) = asked(&world, &args);
        assert_eq!(ours.code, theirs.code, "{args:?}");
        let json = |ran: &Ran| {
            let mut json = serde_json::from_str::<Value>(&ran.stdout).unwrap();
            // How the Dockerfile was fetched, in which the session has its number.
            json["sources"][0].as_object_mut().map(|source| source.remove("definition"));
            json
        };
        assert_eq!(json(&ours), json(&theirs), "{args:?}");
    }
}

#[test]
fn nothing_is_built_and_nothing_written() {
    let world = world();
    let args = ["--call", "targets", "-t", "app", "-o", "out", "--metadata-file", "meta.json"];
    world.build(&args).ok().says_not("stays in the builder's cache");
    assert_eq!(world.names(), ["ctx", "home", "meta.json"]);
    let meta: Value = serde_json::from_str(&world.read("meta.json")).unwrap();
    let mut theirs = world.buildx();
    theirs.args(["build", "ctx", "--call", "targets", "--metadata-file", "theirs.json"]);
    world.run(&mut theirs).ok();
    assert_eq!(meta, serde_json::from_str::<Value>(&world.read("theirs.json")).unwrap());
}

#[test]
fn a_dockerfile_that_is_wrong() {
    let world = World::with_dockerfile("FROM scratch\nCOPY --from=nowhere\nWHAT\n");
    let (ours, theirs) = asked(&world, &["--check"]);
    assert_eq!((ours.code, theirs.code), (Some(1), Some(1)));
    assert_eq!(lines(&ours.stdout), lines(&theirs.stdout));
    let first = |ran: &Ran| ran.stderr.lines().find(|line| line.starts_with("ERROR")).map(str::to_owned);
    assert!(first(&ours).is_some() && first(&theirs).is_some(), "{}", ours.stderr);
    let good = World::with_dockerfile("FROM scratch\nCOPY Dockerfile /\n");
    for extra in [&[][..], NATIVE, &["--sandbox=off"], &["--hermetic=best-effort"]] {
        let ran = good.build(&[&["--check"], extra].concat()).ok();
        assert_eq!(ran.stdout, "Check complete, no warnings found.\n", "{extra:?}");
    }
}
