//! Results that are equal wherever they are built, and what provenance tells of where they come from.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::ktl::{PARTS, World};

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

#[test]
fn provenance_tells_the_rules() {
    let world = World::with_dockerfile("FROM BUSYBOX\nRUN true\n");
    let facts = |args: &[&str]| {
        world.build(&[&["-o", "type=oci,dest=x.oci", "--metadata-file", "m.json"], args].concat()).ok();
        let statement = blob(&world, "x.oci", |blob| blob.get("predicateType").is_some());
        let args = statement["predicate"]["buildDefinition"]["externalParameters"]["request"]["args"].clone();
        let told: Value = serde_json::from_str(&world.read("m.json")).unwrap();
        let told = &told["buildx.build.provenance"]["invocation"]["parameters"]["args"];
        let facts = |args: &Value| -> Vec<(String, Value)> {
            let args = args.as_object().unwrap().iter().filter(|(key, _)| key.starts_with("ktl."));
            args.map(|(key, value)| (key.clone(), value.clone())).collect()
        };
        assert_eq!(facts(&args), facts(told), "attached and told alike");
        args
    };
    let min = facts(&["--provenance=mode=min"]);
    assert_eq!(min["ktl.runtime"], "nsjail");
    assert_eq!(min["ktl.policy"], "linux-strict.cfg");
    assert_eq!(min["ktl.network"], "default");
    let max =
        facts(&["--provenance=mode=max", "--sandbox-runtime=native", "--network=none", "--build-arg=A=b"]);
    assert_eq!((&max["ktl.runtime"], &max["ktl.network"]), (&"native".into(), &"none".into()));
    assert_eq!(min["ktl.policy.digest"], max["ktl.policy.digest"], "both runtimes keep to one policy");
    let policy = include_str!("../../../../sandbox/linux-strict.cfg");
    world.write("mine.cfg", format!("# mine\n{policy}"));
    let same = facts(&["--provenance=true", "--sandbox-config=mine.cfg"]);
    assert_eq!(same["ktl.policy.digest"], min["ktl.policy.digest"], "comments are no rules");
    world.write("mine.cfg", policy.replace("time_limit: 0", "time_limit: 1234"));
    let other = facts(&["--provenance=true", "--sandbox-config=mine.cfg"]);
    assert_ne!(other["ktl.policy.digest"], min["ktl.policy.digest"]);
    assert_eq!(facts(&["--provenance=true", "--sandbox=off"])["ktl.runtime"], "off");
}

#[test]
fn a_second_build_shows_what_differs() {
    let world = World::with_dockerfile("FROM BUSYBOX\nCOPY file /file\nRUN echo same > /g\n");
    world.write("ctx/file", "x");
    let verify = |args: &[&str]| {
        let mut command = world.command();
        command.env("SOURCE_DATE_EPOCH", "1700000000").args(["build", "ctx", "--verify-reproducible"]);
        world.run(command.args(args))
    };
    let equal =
        verify(&[]).ok().says("second build, without a cache, on the same builder").says("equal: linux/");
    let digest = equal.stdout.trim().to_owned();
    assert!(digest.starts_with("sha256:") && digest.len() == 71, "{digest}");
    let made =
        verify(&["-o", "type=oci,dest=x.oci", "-o", "type=local,dest=out", "--metadata-file", "m.json"]).ok();
    assert_eq!(made.stdout.trim(), digest, "what is written is what was compared");
    assert_eq!(world.read("out/g"), "same\n");

    std::fs::remove_file(world.path("x.oci")).unwrap();
    // Not the clock: builds within a second would be equal.
    let random = "RUN cat /proc/sys/kernel/random/uuid > /f";
    world.write(
        "ctx/Dockerfile",
        format!("FROM {}\nCOPY file /file\n{random}\nRUN echo > /later\n", PARTS.busybox),
    );
    let differs = verify(&["-o", "type=oci,dest=x.oci", "-o", "type=local,dest=other"]).ends_with(1);
    let differs =
        differs.says("layer 3 of 4 (RUN /bin/sh -c cat /proc/sys/kernel/random/uuid > /f): /f: content");
    drop(differs.says("first build:  at byte").says("No output was written."));
    assert!(!world.path("x.oci").exists() && !world.path("other").exists());
    let zstd = verify(&["-o", "type=oci,dest=x.oci,compression=zstd,force-compression=true"]).ends_with(1);
    drop(zstd.says("layer 3 of 4").says("compression=gzip"));

    world.write("ctx/Dockerfile", format!("FROM {}\nRUN false\n", PARTS.busybox));
    verify(&[]).ends_with(1).says("RUN false").says_not("second build");
    verify(&["-f", "-"]).ends_with(2).says("standard input");
    assert!(crate::ktl::names(&world.path("home/.cache/ktl")).iter().all(|name| !name.contains("verify")));
}

#[test]
fn fresh_private_builders_make_equal_digests() {
    if !crate::ktl::is_root("fresh_private_builders_make_equal_digests")
        || !has_git("fresh_private_builders_make_equal_digests")
    {
        return;
    }
    let build = |later: bool, args: &[&str]| {
        let world = World::with_dockerfile(
            "FROM scratch\nCOPY busybox /bin/busybox\nRUN [\"/bin/busybox\", \"touch\", \"/made\"]\nCOPY Dockerfile /\n",
        );
        std::fs::copy(xtask::tools::busybox().unwrap(), world.path("ctx/busybox")).unwrap();
        commit(&world);
        let changed = Duration::from_secs(if later { COMMITTED + 1000 } else { COMMITTED - 100_000 });
        let file = std::fs::File::open(world.path("ctx/Dockerfile")).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + changed).unwrap();
        let mut command = world.command();
        let mut path = String::new();
        for tool in [xtask::tools::buildkitd(), xtask::tools::runc()] {
            path += &format!("{}:", tool.unwrap().parent().unwrap().display());
        }
        command.env("PATH", path + "/usr/sbin:/usr/bin:/sbin:/bin").env("KTL_STATE_DIR", world.path("s"));
        command
            .args(["build", "ctx", "--builder", "jail://?ephemeral", "-o", "type=oci,dest=x.oci"])
            .args(args);
        let ran = world.run(&mut command).ok();
        (ran.stdout.trim().to_owned(), ran.stderr)
    };
    let (one, _) = build(false, &["--reproducible"]);
    let (other, said) = build(true, &["--verify-reproducible", "--sandbox-runtime=native"]);
    assert_eq!(one, other);
    assert!(said.contains("on a private builder of its own"), "{said}");
}
