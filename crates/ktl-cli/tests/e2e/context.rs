//! Contexts as they are found in the wild: odd names, odd files, many files, files that nobody may read.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::process::Command;

use crate::ktl::{PARTS, World, is_root};

const COPY_ALL: &str = "FROM scratch\nCOPY . /\n";

/// What buildctl makes of the same context.
fn buildctl_builds(world: &World) -> bool {
    let output = PARTS
        .daemon
        .buildctl()
        .unwrap()
        .args(["build", "--frontend", "dockerfile.v0", "--local", "context=ctx", "--local", "dockerfile=ctx"])
        .args(["--output", "type=local,dest=theirs"])
        .current_dir(world.path("."))
        .output()
        .unwrap();
    output.status.success()
}

#[test]
fn odd_files() {
    let world = World::with_dockerfile(COPY_ALL);
    let ctx = world.path("ctx");
    world.write("ctx/one", "one");
    world.write("ctx/empty", "");
    world.write(&format!("ctx/{}", "n".repeat(255)), "255");
    world.write("ctx/ü ☃\u{301} %41+&=/x y", "unicode");
    world.write("ctx/a\nb", "newline");
    world.write("ctx/a-b/x", "");
    world.write("ctx/a/b", "");
    world.write("ctx/a.b", "");
    fs::hard_link(ctx.join("one"), ctx.join("two")).unwrap();
    symlink("/etc/shadow", ctx.join("absolute")).unwrap();
    symlink("../../../../etc/shadow", ctx.join("climbing")).unwrap();
    symlink("gone", ctx.join("dangling")).unwrap();
    symlink(".", ctx.join("loop")).unwrap();
    drop(std::os::unix::net::UnixListener::bind(ctx.join("socket")).unwrap());
    nix::unistd::mkfifo(&ctx.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _ = Command::new("setfattr").args(["-n", "user.k", "-v", "v"]).arg(ctx.join("one")).status();

    assert!(buildctl_builds(&world), "the context is fair");
    world.build(&["-o", "out"]).ok();
    let names = |dir: &str| crate::ktl::names(&world.path(dir));
    assert_eq!(names("out"), names("theirs"));
    assert_eq!(fs::read_link(world.path("out/absolute")).unwrap().as_os_str(), "/etc/shadow");
    assert_eq!(world.read("out/a\nb"), "newline");
    assert_eq!(fs::metadata(world.path("out/socket")).unwrap().len(), 0);
}

#[test]
fn names_that_are_not_utf8_end_as_with_buildctl() {
    let world = World::with_dockerfile(COPY_ALL);
    fs::write(world.path("ctx").join(OsStr::from_bytes(b"bad-\xff-name")), "x").unwrap();
    let theirs = buildctl_builds(&world);
    let ran = world.build(&["-o", "out"]);
    if theirs {
        ran.ok();
        assert!(world.path("out").join(OsStr::from_bytes(b"bad-\xff-name")).exists());
    } else {
        ran.ends_with(1).says("bad-");
    }
}

#[test]
fn files_of_others_are_built_for_root_though_the_guest_is_nobody() {
    if !is_root("a context of many owners") {
        return;
    }
    let world = World::with_dockerfile(COPY_ALL);
    for (name, uid, mode) in
        [("roots", 0, 0o600), ("somebodys", 1234, 0o600), ("dir/inner", 4321, 0o400), ("open", 77, 0o644)]
    {
        let path = world.write(&format!("ctx/{name}"), name);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        chown(&path, Some(uid), Some(uid)).unwrap();
    }
    fs::set_permissions(world.path("ctx/dir"), fs::Permissions::from_mode(0o700)).unwrap();
    chown(world.path("ctx/dir"), Some(4321), Some(4321)).unwrap();
    fs::set_permissions(world.path("ctx"), fs::Permissions::from_mode(0o700)).unwrap();
    for native in [false, true] {
        let args = ["-v", "-o", "out"];
        let ran = if native { world.build_native(&args) } else { world.build(&args) };
        ran.ok().says("[broker] asked: file ");
        for name in ["roots", "somebodys", "dir/inner", "open"] {
            assert_eq!(world.read(&format!("out/{name}")), name);
        }
        fs::remove_dir_all(world.path("out")).unwrap();
    }
}

#[test]
fn a_context_on_a_file_system_without_id_mapping() {
    if !is_root("a mount of its own") {
        return;
    }
    let world = World::new();
    for dir in ["lower", "upper", "work", "merged"] {
        fs::create_dir(world.path(dir)).unwrap();
    }
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        world.path("lower").display(),
        world.path("upper").display(),
        world.path("work").display()
    );
    let mounted = Command::new("mount")
        .args(["-t", "overlay", "overlay", "-o", &options])
        .arg(world.path("merged"))
        .status()
        .unwrap();
    if !mounted.success() {
        eprintln!("skipped: no overlay file system here");
        return;
    }
    let run = || {
        world.write("merged/ctx/Dockerfile", COPY_ALL);
        let secret = world.write("merged/ctx/private", "private");
        fs::set_permissions(secret, fs::Permissions::from_mode(0o600)).unwrap();
        chown(world.path("merged/ctx/private"), Some(1234), Some(1234)).unwrap();
        let mut command = world.command();
        command.args(["build", "merged/ctx", "-o", "merged/out"]);
        world.run(&mut command)
    };
    let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
    let read = fs::read_to_string(world.path("merged/out/private"));
    let owner = fs::metadata(world.path("merged/out")).map(|meta| std::os::unix::fs::MetadataExt::uid(&meta));
    assert!(Command::new("umount").arg(world.path("merged")).status().unwrap().success());
    ran.unwrap().ok();
    assert_eq!(read.unwrap(), "private");
    assert_eq!(owner.unwrap(), 0);
}

#[test]
fn fifty_thousand_files_and_a_sparse_giant_stay_out_of_memory() {
    let world = World::with_dockerfile("FROM scratch\nCOPY d0 /d0\nCOPY giant /giant\n");
    for dir in 0..250 {
        let dir = world.path(format!("ctx/d{dir}"));
        fs::create_dir(&dir).unwrap();
        for file in 0..200 {
            fs::write(dir.join(format!("file-{file}")), [0; 16]).unwrap();
        }
    }
    fs::write(world.path("ctx/.dockerignore"), "nothing\n").unwrap();
    fs::File::create(world.path("ctx/giant")).unwrap().set_len(3 << 30).unwrap();
    // The whole tree is walked: no COPY narrows it.
    world.write("ctx/Dockerfile", "FROM scratch\nCOPY . /\n");
    for extra in [None, Some("--sandbox=off")] {
        let mut command = Command::new("/usr/bin/env");
        let ktl = world.command();
        command
            .env_clear()
            .envs(ktl.get_envs().filter_map(|(key, value)| Some((key, value?))))
            .current_dir(world.path("."));
        command.args([env!("CARGO_BIN_EXE_ktl"), "build", "ctx", "--progress", "plain"]).args(extra);
        let mut child = command.spawn().unwrap();
        let peak = peak_rss(&mut child);
        assert!(child.wait().unwrap().success());
        assert!(peak < 64 << 10, "peak RSS {peak} KiB with {extra:?}");
    }
}

/// The largest high-water mark, in KiB, of a process and its descendants while it runs.
fn peak_rss(child: &mut std::process::Child) -> u64 {
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let mut family = vec![child.id()];
        while let Some(pid) = family.pop() {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let mark = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
            peak = peak.max(mark.trim().trim_end_matches(" kB").trim().parse().unwrap_or(0));
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            family.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    peak
}

#[test]
fn files_that_change_or_vanish_while_they_are_read() {
    let world = World::with_dockerfile("FROM scratch\nCOPY . /\n");
    for file in 0..400 {
        world.write(&format!("ctx/d{}/file-{file}", file % 10), vec![1; 20_000]);
    }
    let ctx = world.path("ctx");
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stopped = stop.clone();
    let churn = std::thread::spawn(move || {
        let mut round = 0u32;
        while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
            round = round.wrapping_add(7);
            let path = ctx.join(format!("d{}/file-{}", round % 10, round % 400));
            match round % 4 {
                0 => drop(fs::remove_file(&path)),
                1 => drop(fs::write(&path, vec![2; 5_000 + (round % 9) as usize * 4_000])),
                2 => {
                    let _ = fs::remove_file(&path);
                    let _ = symlink("/etc/shadow", &path);
                }
                _ => {
                    let _ = fs::remove_file(&path);
                    let _ = nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU);
                }
            }
        }
    });
    let runs: Vec<_> = (0..6).map(|_| world.build(&["-o", "out"])).collect();
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    churn.join().unwrap();
    let shadow = fs::read("/etc/shadow").unwrap_or_default();
    for ran in runs {
        assert!(matches!(ran.code, Some(0 | 1)), "{:?}: {}", ran.code, ran.stderr);
        assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
    }
    if !shadow.is_empty() && world.path("out").exists() {
        for entry in walk(&world.path("out")) {
            assert_ne!(fs::read(&entry).unwrap_or_default(), shadow, "{}", entry.display());
        }
    }
}

fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let kind = fs::symlink_metadata(&path).unwrap().file_type();
        if kind.is_dir() {
            files.extend(walk(&path))
        } else if kind.is_file() {
            files.push(path)
        }
    }
    files
}
