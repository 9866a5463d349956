//! Contexts of every kind come to the same through ktl, jailed or not, as through docker buildx.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::ktl::{NATIVE, PARTS, World, names};

/// Files of a directory over HTTP, for as long as this process lives.
pub fn serve(dir: &Path) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let dir = dir.to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let dir = dir.clone();
            std::thread::spawn(move || answer(&dir, stream));
        }
    });
    address
}

fn answer(dir: &Path, mut stream: TcpStream) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines().map_while(Result::ok);
    let request = lines.next()?;
    lines.find(String::is_empty)?;
    let name = request.split(' ').nth(1)?.split('?').next()?.trim_start_matches('/').to_owned();
    let body = fs::read(dir.join(name));
    let status = if body.is_ok() { "200 OK" } else { "404 Not Found" };
    let body = body.unwrap_or_default();
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())
        .ok()?;
    if request.starts_with("GET") { stream.write_all(&body).ok() } else { Some(()) }
}

/// A `git daemon` over the repositories in a directory.
pub struct GitDaemon {
    child: Child,
    pub address: String,
}

impl GitDaemon {
    pub fn start(dir: &Path) -> GitDaemon {
        let port = xtask::parts::free_port().unwrap();
        let child = Command::new("git")
            .args(["daemon", "--export-all", "--listen=127.0.0.1", &format!("--port={port}")])
            .arg(format!("--base-path={}", dir.display()))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let daemon = GitDaemon { child, address: format!("git://127.0.0.1:{port}") };
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::yield_now();
        }
        daemon
    }
}

impl Drop for GitDaemon {
    fn drop(&mut self) {
        // It hands its work to a process of the same group; asked to end, it ends both.
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

pub fn git(dir: &Path, args: &[&str]) {
    let done = Command::new("git")
        .args(["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"])
        .args(args)
        .current_dir(dir)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .envs(["GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"].map(|name| (name, "1700000000 +0000")))
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// Builds with `args` in all ways and gives the files that came out, which are the same for all.
#[track_caller]
fn built(world: &World, args: &[&str], stdin: Option<&str>) -> Vec<(String, String)> {
    let ours = |extra: &[&str]| {
        let mut command = world.command();
        command.arg("build").args(extra);
        command
    };
    let mut buildx = world.buildx();
    buildx.args(["build", "--provenance=false"]);
    let mut all = Vec::new();
    for (name, mut command) in [
        ("buildx", buildx),
        ("jailed", ours(&[])),
        ("off", ours(&["--sandbox=off"])),
        ("native", ours(NATIVE)),
    ] {
        let out = world.path(format!("out-{name}"));
        let _ = fs::remove_dir_all(&out);
        command.args(args).arg("-o").arg(&out);
        if let Some(stdin) = stdin {
            command.stdin(File::open(world.path(stdin)).unwrap());
        }
        world.run(&mut command).ok();
        let read = |file: String| (fs::read_to_string(out.join(&file)).unwrap(), file);
        let files: Vec<_> = names(&out).into_iter().map(read).map(|(text, file)| (file, text)).collect();
        all.push(files);
    }
    for other in &all[1..] {
        assert_eq!(*other, all[0]);
    }
    assert_eq!(
        names(&world.path("home/.cache/ktl")).iter().filter(|name| name.starts_with(".ktl-")).count(),
        0
    );
    all.swap_remove(0)
}

fn files(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

const COPY: &str = "FROM scratch\nCOPY file /copied\n";

fn tar(world: &World, flags: &str, archive: &str) {
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(world.path("ctx")).arg(flags).arg(world.path(archive)).arg(".");
    assert!(tar.status().unwrap().success());
}

#[test]
fn named_contexts() {
    let world = World::with_dockerfile(
        "FROM replaced AS a\nRUN echo ran > /ran\nFROM kept AS b\nRUN cat /marker > /seen\nFROM scratch\nCOPY --from=a /ran /\n\
         COPY --from=b /seen /\nCOPY --from=dir /sub/f /dir\nCOPY --from=dockerfile /g /\nCOPY --from=page /context /page\n",
    );
    world.write("other/sub/f", "of a directory");
    world.write("other/g", "of another name");
    world.write("web/page", "of the web");
    world.write("image/Dockerfile", format!("FROM {}\nRUN echo of a layout > /marker\n", PARTS.busybox));
    let mut image = world.command();
    world.run(image.args(["build", "image", "-t", "layout:v1", "-o", "type=oci,dest=layout.tar"])).ok();
    fs::create_dir(world.path("layout")).unwrap();
    let unpacked =
        Command::new("tar").args(["-xf", "layout.tar", "-C", "layout"]).current_dir(world.path(".")).status();
    assert!(unpacked.unwrap().success());
    let replaced = format!("replaced=docker-image://{}", PARTS.busybox);
    let page = format!("page={}/page", serve(&world.path("web")));
    let mut args = vec!["ctx"];
    for context in [&replaced, "kept:latest=oci-layout://layout:v1", "dir=other", "dockerfile=other", &page] {
        args.extend(["--build-context", context]);
    }
    let want = [
        ("dir", "of a directory"),
        ("g", "of another name"),
        ("page", "of the web"),
        ("ran", "ran\n"),
        ("seen", "of a layout\n"),
    ];
    assert_eq!(built(&world, &args, None), files(&want));
}

#[test]
fn named_contexts_that_are_not_there() {
    let world = World::with_dockerfile("FROM scratch\nCOPY --from=x / /\n");
    for (context, says) in [
        ("x=nowhere", "does not exist"),
        ("x=ctx/Dockerfile", "is no directory"),
        ("x=oci-layout://ctx", "index.json"),
        ("X=ctx", "lower case"),
        ("x", "NAME=VALUE"),
    ] {
        world.build(&["--build-context", context]).ends_with(2).says(says);
    }
}

#[test]
fn repositories() {
    let world = World::new();
    let repo = world.path("repos/r.git");
    fs::create_dir_all(repo.join("sub")).unwrap();
    git(&repo, &["init", "-q"]);
    for (dir, text) in [(repo.clone(), "at the top"), (repo.join("sub"), "below")] {
        fs::write(dir.join("Dockerfile"), COPY).unwrap();
        fs::write(dir.join("file"), text).unwrap();
    }
    git(&repo, &["add", "."]);
    git(&repo, &["commit", "-qm", "first"]);
    git(&repo, &["tag", "v1"]);
    fs::write(repo.join("file"), "later").unwrap();
    fs::write(repo.join("Other"), "FROM scratch\nCOPY file /other\n").unwrap();
    git(&repo, &["add", "."]);
    git(&repo, &["commit", "-qm", "second"]);
    let daemon = GitDaemon::start(&world.path("repos"));
    world.write("mine/Dockerfile", "FROM scratch\nCOPY file /mine\n");
    world.write("piped", "FROM scratch\nCOPY file /piped\n");
    let url = |rest: &str| format!("{}/r.git{rest}", daemon.address);
    let mine = world.path("mine/Dockerfile");
    for (context, extra, stdin, want) in [
        ("#main", &[][..], None, ("copied", "later")),
        ("#v1", &[], None, ("copied", "at the top")),
        ("#v1:sub", &[], None, ("copied", "below")),
        ("?ref=v1&subdir=sub", &[], None, ("copied", "below")),
        ("#main", &["-f", "Other"], None, ("other", "later")),
        ("#main", &["-f", mine.to_str().unwrap()], None, ("mine", "later")),
        ("#main", &["-f", "-"], Some("piped"), ("piped", "later")),
    ] {
        let context = url(context);
        let args: Vec<&str> = [context.as_str()].iter().chain(extra).copied().collect();
        assert_eq!(built(&world, &args, stdin), files(&[want]), "{args:?}");
    }
    world.write("ctx/Dockerfile", "FROM scratch\nCOPY --from=repo file /f\n");
    let named = format!("repo={}", url("?ref=v1"));
    assert_eq!(built(&world, &["ctx", "--build-context", &named], None), files(&[("f", "at the top")]));
}

#[test]
fn archives_from_the_web_and_from_standard_input() {
    let world = World::with_dockerfile(COPY);
    world.write("ctx/file", "in a tar");
    world.write("ctx/Other", "FROM scratch\nCOPY file /other\n");
    tar(&world, "-cf", "c.tar");
    tar(&world, "-czf", "c.tgz");
    let base = serve(&world.path("."));
    let copied = files(&[("copied", "in a tar")]);
    for archive in ["c.tar", "c.tgz"] {
        assert_eq!(built(&world, &[&format!("{base}/{archive}")], None), copied, "{archive}");
        assert_eq!(built(&world, &["-"], Some(archive)), copied, "{archive}");
    }
    assert_eq!(built(&world, &["-", "-f", "Other"], Some("c.tar")), files(&[("other", "in a tar")]));
    // Through a pipe, of which nothing can be read twice.
    let mut cat = Command::new("cat").arg(world.path("c.tar")).stdout(Stdio::piped()).spawn().unwrap();
    let mut command = world.command();
    command.args(["build", "-", "-o", "piped"]).stdin(cat.stdout.take().unwrap());
    world.run(&mut command).ok();
    assert_eq!(world.read("piped/copied"), "in a tar");
    cat.wait().unwrap();
}

#[test]
fn dockerfiles_from_standard_input() {
    let world = World::with_dockerfile("FROM nothing\n");
    world.write("ctx/file", "of the context");
    world.write(
        "alone",
        format!("FROM {} AS b\nRUN echo made > /made\nFROM scratch\nCOPY --from=b /made /\n", PARTS.busybox),
    );
    world.write("piped", COPY);
    world.write("empty", "");
    assert_eq!(built(&world, &["-"], Some("alone")), files(&[("made", "made\n")]));
    assert_eq!(built(&world, &["ctx", "-f", "-"], Some("piped")), files(&[("copied", "of the context")]));
    for (args, stdin, says) in [
        (&["-", "-f", "-"][..], "piped", "both"),
        (&["-", "-f", "x"], "piped", "names another one"),
        (&["-"], "empty", "nothing came"),
    ] {
        let mut command = world.command();
        command.arg("build").args(args).stdin(File::open(world.path(stdin)).unwrap());
        world.run(&mut command).ends_with(2).says(says);
    }
    for (rule, code) in [("--hermetic", 5), ("--egress=h.example", 5), ("--verify-reproducible", 2)] {
        world.build(&[rule, "-f", "http://127.0.0.1/Dockerfile"]).ends_with(code).says("http://127.0.0.1/");
    }
}
