//! Results that are equal wherever they are built, and what provenance tells of where they come from.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::ktl::World;

const COMMITTED: u64 = 1_700_000_000;

fn git(dir: &Path, args: &[&str]) {
    let date = format!("{COMMITTED} +0000");
    let mut git = Command::new("git");
    git.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", dir).env("GIT_CONFIG_NOSYSTEM", "1");
    git.env("GIT_COMMITTER_DATE", &date).env("GIT_AUTHOR_DATE", "1600000000 +0000");
    let ran = git.args(["-C"]).arg(dir).args(args).output().unwrap();
    assert!(ran.status.success(), "{args:?}: {}", String::from_utf8_lossy(&ran.stderr));
}

fn has_git(test: &str) -> bool {
    let found = xtask::tools::on_path("git").is_some();
    if !found {
        eprintln!("skipped: {test} needs git");
    }
    found
}

/// A context in a commit, whose files were changed `age` after that, or before it.
fn checkout(later: bool) -> World {
    let world = World::with_dockerfile("FROM BUSYBOX\nCOPY sub /sub\nRUN echo made > /made\n");
    world.write("ctx/sub/file", "content");
    commit(&world);
    let changed = Duration::from_secs(if later { COMMITTED + 1000 } else { COMMITTED - 100_000 });
    for name in ["ctx/sub/file", "ctx/sub", "ctx/Dockerfile"] {
        let file = std::fs::File::open(world.path(name)).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + changed).unwrap();
    }
    world
}

fn commit(world: &World) {
    let dir = world.path("ctx");
    git(&dir, &["init", "-q", "-b", "main"]);
    git(&dir, &["add", "."]);
    let who = ["-c", "user.name=n", "-c", "user.email=e"];
    git(&dir, &[&who[..], &["commit", "-q", "-m", "m"]].concat());
}

fn digest_of(world: &World, args: &[&str]) -> String {
    let built = world.build(&[&["--no-cache", "-o", "type=oci,dest=x.oci"], args].concat()).ok();
    built.stdout.trim().to_owned()
}

/// The first blob of an archive that satisfies `wanted`.
fn blob(world: &World, archive: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let dir = tempfile::tempdir_in(world.path(".")).unwrap();
    let unpacked = Command::new("tar").arg("-xf").arg(world.path(archive)).arg("-C").arg(dir.path()).status();
    assert!(unpacked.unwrap().success());
    let blobs = std::fs::read_dir(dir.path().join("blobs/sha256")).unwrap();
    let mut documents = blobs
        .filter_map(|blob| serde_json::from_slice::<Value>(&std::fs::read(blob.unwrap().path()).ok()?).ok());
    documents.find(wanted).unwrap()
}

#[test]
fn the_commit_gives_all_times() {
    if !has_git("the_commit_gives_all_times") {
        return;
    }
    let (before, after) = (checkout(false), checkout(true));
    let digest = digest_of(&before, &["--reproducible"]);
    assert!(digest.starts_with("sha256:"));
    assert_eq!(
        digest,
        digest_of(&after, &["--reproducible"]),
        "times before the commit count no more than others"
    );
    let config = blob(&after, "x.oci", |blob| blob.get("rootfs").is_some());
    assert_eq!(config["created"], "2023-11-14T22:13:20Z");
    // The controls: another time, the same one without the flag, none.
    assert_ne!(
        digest,
        digest_of(&before, &["--reproducible", "--build-arg", "SOURCE_DATE_EPOCH=1600000000"])
    );
    let epoch = format!("SOURCE_DATE_EPOCH={COMMITTED}");
    let flagless = ["--build-arg", epoch.as_str()];
    assert_ne!(digest_of(&before, &flagless), digest_of(&after, &flagless));

    // A change that has the size of what was there is sent, although all files have one time.
    before.write("ctx/sub/file", "CONTENT");
    let changed = digest_of(&before, &["--reproducible"]);
    assert_ne!(changed, digest);

    let nowhere = World::with_dockerfile("FROM scratch\nCOPY . /\n");
    std::fs::create_dir(nowhere.path("ctx/.git")).unwrap();
    let base = nowhere.path(".").ancestors().any(|dir| dir.join(".git/HEAD").exists());
    if !base {
        nowhere
            .build(&["--reproducible"])
            .ends_with(2)
            .says("no git repository")
            .says("SOURCE_DATE_EPOCH=1700000000");
    }
}

#[test]
fn a_repository_runs_nothing() {
    if !has_git("a_repository_runs_nothing") {
        return;
    }
    let world = checkout(true);
    let marker = world.path("marker");
    let script = world.write("evil", format!("#!/bin/sh\necho ran >> {}\n", marker.display()));
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let evil = script.display();
    let included = world.write("included", format!("[core]\n\tfsmonitor = {evil}\n"));
    let config =
        world.read("ctx/.git/config").replace("repositoryformatversion = 0", "repositoryformatversion = 1");
    let hostile = format!(
        "{config}\tfsmonitor = {evil}\n\tpager = {evil}\n\tsshCommand = {evil}\n\thooksPath = {hooks}\n\
         [log]\n\tshowSignature = true\n[gpg]\n\tprogram = {evil}\n[diff]\n\texternal = {evil}\n\
         [include]\n\tpath = {include}\n[extensions]\n\tpartialClone = origin\n\
         [remote \"origin\"]\n\turl = ssh://me:secret@localhost/r\n\tpromisor = true\n\tuploadpack = {evil}\n",
        hooks = world.path("").display(),
        include = included.display(),
    );
    world.write("ctx/.git/config", hostile);
    world.build(&["--reproducible", "-o", "type=oci,dest=x.oci,compression=gzip", "--provenance=true"]).ok();
    let statement = blob(&world, "x.oci", |blob| blob.get("predicateType").is_some());
    let vcs = &statement["predicate"]["runDetails"]["metadata"]["buildkit_metadata"]["vcs"];
    let source = vcs["source"].as_str().unwrap();
    assert!(source.ends_with("@localhost/r") && !source.contains("secret"), "{source}");
    assert_eq!(vcs["localdir:context"], ".");
    assert_eq!(vcs["revision"].as_str().unwrap().len(), 40);
    // A commit that is missing would be fetched, by the program that the repository names.
    world.write("ctx/.git/refs/heads/main", "b".repeat(40));
    world.build(&["--reproducible"]).ends_with(2).says("cannot read the commit");
    assert!(!marker.exists(), "{}", world.read("marker"));
    // The control: what the repository wants run, runs when git works in it.
    let dir = world.path("ctx");
    let _ = Command::new("git").env("HOME", &dir).arg("-C").arg(&dir).args(["status"]).output().unwrap();
    assert!(marker.exists());

    let quiet = world
        .command()
        .env("BUILDX_GIT_INFO", "false")
        .args(["build", "ctx", "--provenance=true"])
        .args(["-o", "type=oci,dest=x.oci"])
        .output()
        .unwrap();
    assert!(quiet.status.success());
    let statement = blob(&world, "x.oci", |blob| blob.get("predicateType").is_some());
    assert!(statement["predicate"]["runDetails"]["metadata"]["buildkit_metadata"]["vcs"].is_null());
}

#[test]
fn labels_tell_the_commit_where_that_is_wanted() {
    if !has_git("labels_tell_the_commit_where_that_is_wanted") {
        return;
    }
    let world = checkout(true);
    git(&world.path("ctx"), &["remote", "add", "origin", "https://me:secret@example.test/r.git"]);
    let mut labels = Vec::new();
    for mut command in [world.command(), world.buildx()] {
        command.env("BUILDX_GIT_LABELS", "1").args([
            "build",
            "ctx",
            "--provenance=false",
            "-o",
            "type=oci,dest=x.oci",
        ]);
        world.run(&mut command).ok();
        let config = blob(&world, "x.oci", |blob| blob.get("rootfs").is_some());
        let mut found = config["config"]["Labels"].clone();
        let url = found["org.opencontainers.image.source"].take();
        assert!(!url.as_str().unwrap().contains("secret"), "{url}");
        labels.push(found);
    }
    assert_eq!(labels[0], labels[1]);
    assert_eq!(labels[0]["com.docker.image.source.entrypoint"], "Dockerfile");
}
