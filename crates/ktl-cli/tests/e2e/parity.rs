//! The same build through buildctl and through ktl gives the same result.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use crate::ktl::{PARTS, World};

fn buildctl(world: &World, args: &[&str]) {
    let output = PARTS
        .daemon
        .buildctl()
        .unwrap()
        .args(["build", "--frontend", "dockerfile.v0", "--local", "context=ctx", "--local", "dockerfile=ctx"])
        .args(args)
        .current_dir(world.path("."))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn world() -> World {
    let world = World::with_dockerfile(
        "FROM BUSYBOX AS base\nRUN mkdir -p /o/d && echo x > /o/f && ln /o/f /o/hard && ln -s /nowhere /o/sym && chmod 4711 /o/f && chmod 1777 /o/d\n\
         FROM scratch\nCOPY --from=base /o /o\nCOPY . /ctx\n",
    );
    world.write("ctx/a/b/c", "c");
    world.write("ctx/empty", "");
    world.write("ctx/large", vec![7; 5 << 20]);
    std::os::unix::fs::symlink("a/b", world.path("ctx/link")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", world.path("ctx/outside")).unwrap();
    fs::hard_link(world.path("ctx/a/b/c"), world.path("ctx/hard")).unwrap();
    world
}

#[test]
fn images_have_the_same_digest() {
    let world = world();
    let attrs = "type=oci,name=docker.io/library/same:1,rewrite-timestamp=true";
    buildctl(
        &world,
        &["--opt", "build-arg:SOURCE_DATE_EPOCH=1700000000", "--output", &format!("{attrs},dest=theirs.oci")],
    );
    for (name, extra) in [("jailed.oci", None), ("unjailed.oci", Some("--sandbox=off"))] {
        let mut command = world.command();
        command
            .env("SOURCE_DATE_EPOCH", "1700000000")
            .args(["build", "ctx", "--provenance=false", "-o", &format!("{attrs},dest={name}")])
            .args(extra);
        world.run(&mut command).ok();
        let index = |name: &str| {
            let tar =
                Command::new("tar").args(["-xOf"]).arg(world.path(name)).arg("index.json").output().unwrap();
            let index: serde_json::Value = serde_json::from_slice(&tar.stdout).unwrap();
            index["manifests"][0]["digest"].as_str().unwrap().to_owned()
        };
        assert_eq!(index("theirs.oci"), index(name));
    }
}

#[test]
fn directories_are_the_same_file_by_file() {
    let world = world();
    buildctl(&world, &["--output", "type=local,dest=theirs"]);
    // With its set-user-id bits, as theirs has them.
    world.build(&["-o", "ours", "--output-privileged"]).ok();
    world.build(&["--sandbox=off", "-o", "unjailed", "--output-privileged"]).ok();
    world.build_native(&["-o", "native", "--output-privileged"]).ok();
    let theirs = tree(&world.path("theirs"));
    assert!(theirs.len() > 12, "{theirs:#?}");
    assert_eq!(tree(&world.path("ours")), theirs);
    assert_eq!(tree(&world.path("unjailed")), theirs);
    assert_eq!(tree(&world.path("native")), theirs);
}

/// One line for each entry: what makes two trees equal.
fn tree(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut inodes = std::collections::BTreeMap::new();
    walk(root, root, &mut inodes, &mut lines);
    lines
}

fn walk(
    root: &Path,
    dir: &Path,
    inodes: &mut std::collections::BTreeMap<u64, String>,
    lines: &mut Vec<String>,
) {
    let mut entries: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let meta = fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(root).unwrap().display().to_string();
        let first = inodes.entry(meta.ino()).or_insert_with(|| name.clone()).clone();
        let content = if meta.is_file() {
            format!(
                "{} bytes, sum {}",
                meta.len(),
                fs::read(&path).unwrap().iter().map(|byte| u64::from(*byte)).sum::<u64>()
            )
        } else if meta.is_symlink() {
            format!("-> {}", fs::read_link(&path).unwrap().display())
        } else {
            String::new()
        };
        let xattrs = Command::new("getfattr")
            .args(["-hd", "-m", "-"])
            .arg(&path)
            .output()
            .map(|got| got.stdout)
            .unwrap_or_default();
        let xattrs = String::from_utf8_lossy(&xattrs).lines().skip(1).collect::<Vec<_>>().join(" ");
        lines.push(format!(
            "{name} {:o} {}:{} {}.{:09} nlink {} first {first} {content} {xattrs}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.nlink(),
        ));
        if meta.is_dir() {
            walk(root, &path, inodes, lines);
        }
    }
}
