//! Documents that programs read have the keys and types that docker buildx gives them, for the same build.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::ktl::{Ran, World};

/// Where a type is found: `/vertexes/*/name` is a string. Of an optional key it is enough to be there once.
type Shape = BTreeMap<String, &'static str>;

fn add(shape: &mut Shape, path: &str, value: &Value) {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(items) => {
            items.iter().for_each(|item| add(shape, &format!("{path}/*"), item));
            "array"
        }
        Value::Object(object) => {
            object.iter().for_each(|(key, value)| add(shape, &format!("{path}/{key}"), value));
            "object"
        }
    };
    shape.insert(path.to_owned(), kind);
}

fn of(values: impl IntoIterator<Item = Value>) -> Shape {
    let mut shape = Shape::new();
    values.into_iter().for_each(|value| add(&mut shape, "", &value));
    shape
}

/// The same but below `excepted`.
#[track_caller]
fn same(ours: &Shape, theirs: &Shape, excepted: &[&str]) {
    let kept = |shape: &Shape| -> Shape {
        let kept = shape.iter().filter(|(path, _)| !excepted.iter().any(|prefix| path.starts_with(prefix)));
        kept.map(|(path, kind)| (path.clone(), *kind)).collect()
    };
    assert_eq!(kept(ours), kept(theirs));
}

/// A build with a warning, a log and a transfer.
fn world(salt: &str) -> World {
    let world = World::with_dockerfile(&format!(
        "from BUSYBOX AS b\nRUN echo {salt}\nFROM scratch\nCOPY --from=b /bin/busybox /\nCOPY f /\n"
    ));
    world.write("ctx/f", "f");
    world
}

fn both(world: &World, args: &[&str]) -> (Ran, Ran) {
    let ours = world.build(&[args, &["--metadata-file", "ktl.json", "-o", "type=oci,dest=ktl.oci"]].concat());
    let mut theirs = world.buildx();
    theirs.args(["build", "ctx"]).args(args).args([
        "--metadata-file",
        "buildx.json",
        "-o",
        "type=oci,dest=buildx.oci",
    ]);
    (ours.ok(), world.run(&mut theirs).ok())
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

#[test]
fn progress_in_json() {
    let (ours, theirs) = both(&world("progress"), &["--progress=rawjson", "--no-cache"]);
    let lines = |ran: &Ran| of(ran.stderr.lines().filter(|line| line.starts_with('{')).map(json));
    let (ours, theirs) = (lines(&ours), lines(&theirs));
    for path in ["/vertexes/*/name", "/statuses/*/current", "/logs/*/data", "/warnings/*/short"] {
        assert!(theirs.contains_key(path), "{path}: {theirs:#?}");
    }
    // How long a fast transfer is seen is a matter of chance, and the second of two builds finds the image there. How a Dockerfile was loaded is not told: steps of the client's own
    // session, which nobody can repeat.
    same(&ours, &theirs, &["/statuses/*/total", "/vertexes/*/cached", "/warnings/*/sourceInfo/definition"]);
}

#[test]
fn metadata_files() {
    let world = world("metadata");
    for args in [&[][..], &["--provenance=true", "--platform=linux/amd64", "-t", "a:1"]] {
        both(&world, args);
        let of_file = |name: &str| of([json(&world.read(name))]);
        let theirs = of_file("buildx.json");
        assert_eq!(theirs["/buildx.build.ref"], "string");
        // Where ktl tells of the jail.
        same(&of_file("ktl.json"), &theirs, &["/buildx.build.provenance/invocation/parameters/args"]);
    }
}

#[test]
fn records_of_builds() {
    let world = world("records");
    both(&world, &[]);
    let inspected = |document: &str, mut command: std::process::Command| {
        let metadata = json(&world.read(document));
        let reference = metadata["buildx.build.ref"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
        command.args(["history", "inspect", &reference, "--format", "json"]);
        of([json(&world.run(&mut command).ok().stdout)])
    };
    let theirs = inspected("buildx.json", world.buildx());
    assert_eq!(theirs["/Ref"], "string", "{theirs:#?}");
    // Where ktl tells of the jail; and what buildx has of its own notes, not of the builder's record.
    same(&inspected("ktl.json", world.command()), &theirs, &["/Config/RestRaw", "/Context", "/Name"]);
}
