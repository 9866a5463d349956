//! Repositories of `ADD`, staged and built with the server gone: the same files as a builder with a network fetches by itself.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use crate::inputs::{GitDaemon, git};
use crate::ktl::{World, is_root};
use crate::offline::Offline;

/// When everything is committed.
const TIME: u64 = 1_700_000_000;

/// Of each name in an archive: kind, mode, owner and group, where a link leads, and what is in it.
type Entries = BTreeMap<String, (u8, u32, u64, u64, String, Vec<u8>)>;

/// And the time of `all/file`, which is not compared.
fn entries(archive: &Path) -> (Entries, u64) {
    let mut found = Entries::new();
    let mut time = 0;
    let mut archive = tar::Archive::new(fs::File::open(archive).unwrap());
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let link = entry.link_name_bytes().map(|link| String::from_utf8_lossy(&link).into_owned());
        let header = entry.header();
        if name == "all/file" {
            time = header.mtime().unwrap();
        }
        let (uid, gid) = (header.uid().unwrap(), header.gid().unwrap());
        let kind = header.entry_type().as_byte();
        found.insert(name, (kind, header.mode().unwrap(), uid, gid, link.unwrap_or_default(), content));
    }
    (found, time)
}

/// A repository with all kinds of files, a past, a branch and both kinds of tags.
fn repository(world: &World) -> String {
    let repo = world.path("repos/r.git");
    fs::create_dir_all(repo.join("sub/deep")).unwrap();
    git(&repo, &["init", "-q"]);
    let write = |name: &str, text: &str| fs::write(repo.join(name), text).unwrap();
    write("file", "first\n");
    git(&repo, &["add", "."]);
    git(&repo, &["commit", "-qm", "first"]);
    git(&repo, &["tag", "light"]);
    write("file", "second\n");
    write("program", "#!/bin/sh\n");
    write("unusual näme \u{1f980}", "x\n");
    write(".gitattributes", "crlf text eol=crlf\nident ident\nfiltered filter=none\nleft export-ignore\n");
    write("crlf", "a\nb\n");
    write("ident", "$Id$\n");
    write("filtered", "as it is\n");
    write("left", "not left out\n");
    write("sub/below", "below\n");
    write("sub/deep/file", &"long ".repeat(5_000));
    write(&format!("sub/{}", "n".repeat(150)), "long name\n");
    fs::set_permissions(repo.join("program"), fs::Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(repo.join("sub/below"), fs::Permissions::from_mode(0o600)).unwrap();
    for (target, name) in
        [("file", "link"), ("../outside/./x//y", "sub/odd"), (&"t/".repeat(100)[..], "sub/far")]
    {
        symlink(target, repo.join(name)).unwrap();
    }
    git(&repo, &["add", "."]);
    git(&repo, &["commit", "-qm", "second"]);
    git(&repo, &["tag", "-am", "annotated", "v1"]);
    write("file", "third\n");
    git(&repo, &["commit", "-qam", "third"]);
    fs::read_to_string(repo.join(".git/refs/heads/main")).unwrap().trim().to_owned()
}

#[test]
fn repositories_are_the_same_with_the_server_gone() {
    if !is_root("repositories_are_the_same_with_the_server_gone") {
        return;
    }
    let offline = Offline::new();
    let world = offline.world();
    let head = repository(world);
    let server = GitDaemon::start(&world.path("repos"));
    let url = format!("{}/r.git", server.address);
    world.write(
        "ctx/Dockerfile",
        format!(
            "FROM scratch\nADD {url} /all/\nADD {url}#light /light\nADD {url}#v1 /v1\nADD {url}#main:sub /sub/\n\
             ADD --checksum={head} {url}#{head}:/sub/deep /deep/\nADD {url}?tag=v1&subdir=sub /query\n\
             FROM scratch\nCOPY --from=0 / /\nCOPY --from=named /sub/below /named\n"
        ),
    );
    let named = format!("named={url}#v1");
    let plain = ["--build-context", &named, "-o", "type=tar,dest=plain.tar"];
    world.build(&plain).ok();
    offline.stage(&["--build-context", &named]).ok().says(&format!("r.git is at {head}: ., "));
    // Another machine, with nothing but the lock, gets the same.
    let lock = world.read("ctx/ktl.lock");
    offline.stage(&["--build-context", &named, "--to", "other"]).ok().says("is as it was");
    let blobs = |store: &str| crate::ktl::names(&world.path(store).join("blobs/sha256"));
    assert_eq!(blobs("other"), blobs("home/.cache/ktl/store"));
    drop(server);
    // The control: by itself the builder does not get them any more.
    let gone = world.build(&["--build-context", &named, "--no-cache"]);
    assert_ne!(gone.code, Some(0), "{}", gone.stderr);

    let args = ["--build-context", &named, "-o", "type=tar,dest=staged.tar"];
    offline.build("one", &args).ok().says("6 repositories").says("[hermetic] held: materials: ");
    let ((plain, _), (staged, time)) =
        (entries(&world.path("plain.tar")), entries(&world.path("staged.tar")));
    assert_eq!(staged.keys().collect::<Vec<_>>(), plain.keys().collect::<Vec<_>>());
    for (name, entry) in &plain {
        assert_eq!(staged[name], *entry, "{name}");
    }
    assert!(plain["all/program"].1 & 0o111 != 0 && plain["v1/crlf"].5 == b"a\r\nb\r\n");
    assert_eq!(plain["light/file"].5, b"first\n");
    // The commit's, so that the image of the files is the same wherever it is made.
    assert_eq!(time, TIME);

    // A lock from before files were kept, and what it takes to mend it.
    let without = lock.lines().filter(|line| !line.starts_with("\"sub\"")).collect::<Vec<_>>().join("\n");
    world.write("ctx/ktl.lock", without);
    offline.build("one", &args).ends_with(5).says("its files are not locked (sub)").says("ktl stage");
}

#[test]
fn what_cannot_be_kept_is_told() {
    let world = World::new();
    let repo = world.path("repos/r.git");
    let head = repository(&world);
    git(&repo, &["update-index", "--add", "--cacheinfo", &format!("160000,{head},module")]);
    git(&repo, &["commit", "-qm", "with a submodule"]);
    let server = GitDaemon::start(&world.path("repos"));
    // A context whose own configuration would have git run a program.
    git(&world.path("ctx"), &["init", "-q"]);
    let ran = world.path("ran");
    for key in ["core.fsmonitor", "core.sshCommand", "core.gitProxy"] {
        git(&world.path("ctx"), &["config", key, &format!("touch {}; false", ran.display())]);
    }
    let stage = |steps: &str| {
        world.write("ctx/Dockerfile", format!("FROM scratch\n{steps}\n"));
        world.run(
            world.command().args(["stage", ".", "--allow-host=127.0.0.1"]).current_dir(world.path("ctx")),
        )
    };
    let url = format!("{}/r.git", server.address);
    for (step, code, says) in [
        (format!("ADD {url} /x"), 1, "it has a submodule (\"module\"), and those are not fetched"),
        (format!("ADD {url}?submodules=false /x"), 0, ". without submodules"),
        (format!("ADD {url}#{head} /x"), 0, &head),
        (format!("ADD --keep-git-dir {url}#v1 /x"), 1, "its .git is to be kept"),
        (format!("ADD --keep-git-dir=true {url}#v1:sub /x"), 0, ": sub, "),
        (format!("ADD {url}#v1:none /x"), 1, "it has no directory \"none\""),
        (format!("ADD {url}#v1:link /x"), 1, "it has no directory \"link\""),
        (format!("ADD {url}#none /x"), 1, "has no branch or tag \"none\""),
        (format!("ADD {url}#{} /x", "0".repeat(40)), 1, "does not give its commit 0000"),
        (format!("ADD --checksum={} {url}#v1 /x", "1".repeat(40)), 1, "the Dockerfile says 1111"),
    ] {
        stage(&step).ends_with(code).says(says);
    }
    assert!(!ran.exists(), "git read the configuration of the context");
}
