//! `ktl sandbox exec`: other programs in ktl's jail, made by either runtime.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::ktl::{NATIVE, Ran, World, is_root};

/// The nsjail of the parts, and ktl's own.
pub const WAYS: [&[&str]; 2] = [&[], NATIVE];

/// `ktl sandbox exec` in this world with its context.
pub fn exec(world: &World, way: &[&str], args: &[&str]) -> Command {
    let mut command = world.command();
    command.args(["sandbox", "exec", "--context", "ctx"]).args(way).args(args);
    command
}

fn run(world: &World, way: &[&str], args: &[&str]) -> Ran {
    world.run(&mut exec(world, way, &[&["-q", "--builder", "none"], args].concat()))
}

fn script(world: &World, name: &str, text: &str) -> String {
    let path = world.write(name, text);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

#[test]
fn the_end_is_the_programs_own() {
    let world = World::new();
    world.write("ctx/f", "from the context");
    script(&world, "ctx/tool", "#!/bin/sh\nread -r line < f\necho \"$line $1\"; exit 3\n");
    script(&world, "ctx/env-tool", "#!/usr/bin/env bash\necho \"${BASH_VERSION:+bash} $PWD $HOME\"\n");
    script(&world, "ctx/text", "no program");
    world.write("ctx/plain", "#!/bin/sh\n");
    for way in WAYS {
        for (args, code, out) in [
            (&["--", "true"][..], 0, ""),
            (&["--", "sh", "-c", "exit 4"], 4, ""),
            (&["--", "sh", "-c", "echo out; kill -TERM $$"], 143, "out\n"),
            (&["--", "ctx/tool", "arg"], 3, "from the context arg\n"),
            (&["--", "ctx/env-tool"], 0, "bash /workspace /bk-cache\n"),
            (&["--program", "cat", "--", "bash", "-c", "cat /workspace/f"], 0, "from the context"),
            (&["--env", "A=1", "--env", "A=2 3", "--", "sh", "-c", "echo $A"], 0, "2 3\n"),
            (&["--", "sh", "-c", "echo x > /workspace/new"], 2, ""),
            (&["--", "sh", "-c", "echo x > /bk-cache/mine && echo x > /tmp/mine"], 0, ""),
            (&["--", "sh", "-c", "read -r line < /bk-cache/mine; echo $line"], 0, "x\n"),
            (&["--", "not-on-path"], 127, ""),
            (&["--", "ctx/not-there"], 127, ""),
            (&["--", "ctx/text"], 126, ""),
            (&["--", "ctx/plain"], 126, ""),
            (&["--context", "none", "--", "true"], 2, ""),
            (&["--env", "NOT_SET", "--", "true"], 2, ""),
            (&["--sandbox-config", "none.cfg", "--", "true"], 4, ""),
            (&[], 2, ""),
        ] {
            let ran = run(&world, way, args);
            assert_eq!(ran.code, Some(code), "{way:?} {args:?}\n{}\n{}", ran.stdout, ran.stderr);
            assert_eq!(ran.stdout, out, "{way:?} {args:?}\n{}", ran.stderr);
        }
        let missing =
            exec(&world, way, &["--builder", "unix:///no/such.sock", "--", "true"]).output().unwrap();
        Ran::of(missing).ends_with(3);
    }
    assert!(!world.path("ctx/new").exists());
    assert_eq!(world.read("home/.cache/ktl/exec/mine"), "x\n");
}

#[test]
fn streams_are_the_callers() {
    let world = World::new();
    for way in WAYS {
        let mut child = exec(&world, way, &["-q", "--builder", "none", "--", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let bytes: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let mut stdin = child.stdin.take().unwrap();
        let sent = bytes.clone();
        let writer = std::thread::spawn(move || stdin.write_all(&sent));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap().unwrap();
        assert!(output.stdout == bytes, "{way:?}: {} bytes came back", output.stdout.len());
    }
}

#[test]
fn signals_reach_the_program() {
    let world = World::new();
    let handled = "trap 'echo caught; exit 9' TERM; trap '' INT; echo ready; while :; do :; done";
    let deaf = "trap '' TERM INT; echo ready; while :; do :; done";
    for way in WAYS {
        for (text, signals, code) in [
            ("echo ready; while :; do :; done", &[Signal::SIGTERM][..], 143),
            ("echo ready; while :; do :; done", &[Signal::SIGHUP], 129),
            (handled, &[Signal::SIGTERM], 9),
            (deaf, &[Signal::SIGTERM, Signal::SIGINT], 130),
        ] {
            let mut child = exec(&world, way, &["-q", "--builder", "none", "--", "bash", "-c", text])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            assert_eq!(lines.next().unwrap().unwrap(), "ready");
            for signal in signals {
                // One at a time: two that wait together may be told in any order.
                kill(Pid::from_raw(child.id().try_into().unwrap()), *signal).unwrap();
                let pid = child.id();
                let waits = || fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
                while waits()
                    .lines()
                    .any(|line| line.starts_with("ShdPnd:") && !line.ends_with("0000000000000000"))
                {
                    std::thread::yield_now();
                }
            }
            let status = child.wait().unwrap();
            assert_eq!(status.code(), Some(code), "{way:?} {text} {signals:?}");
        }
    }
}

#[test]
fn the_program_never_runs_where_the_jail_is_not_proven() {
    let world = World::new();
    let mark = world.path("ran").display().to_string();
    let shim = script(
        &world,
        "shim/nsjail",
        "#!/bin/sh\nwhile [ $# -gt 0 ] && [ \"$1\" != -- ]; do shift; done\nshift; shift\nexec KTL \"$@\"\n"
            .replace("KTL", env!("CARGO_BIN_EXE_ktl"))
            .as_str(),
    );
    let honest = script(
        &world,
        "shim2/nsjail",
        "#!/bin/sh\nwhile [ $# -gt 0 ] && [ \"$1\" != -- ]; do shift; done\nshift\nexec \"$@\"\n",
    );
    for nsjail in [shim, honest] {
        let args = ["--sandbox-bin", &nsjail, "--", "sh", "-c", &format!("echo x > {mark}")];
        run(&world, &[], &args).ends_with(4);
        assert!(!world.path("ran").exists());
    }
}

#[test]
fn nothing_of_the_host_is_there() {
    let world = World::new();
    world.write("home/.ssh/id", "a key");
    symlink("/etc/shadow", world.path("ctx/shadow")).unwrap();
    symlink(world.path("home/.ssh/id"), world.path("ctx/key")).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = tcp.local_addr().unwrap().port();
    let home = world.path("home").display().to_string();
    let text = format!(
        "for f in /etc/shadow /etc/passwd /workspace/shadow /workspace/key {home}/.ssh/id /run/docker.sock /var/run/docker.sock \
         /run/containerd/containerd.sock /ktl-cache /run/buildkit; do [ -e $f ] && echo seen $f; done; \
         (: </dev/tcp/127.0.0.1/{port}) 2>/dev/null && echo connected; [ -n \"$SECRET$KTL_SANDBOX_NONCE$SSH_AUTH_SOCK\" ] && echo leaked; \
         (: </proc/$PPID/fd/7) 2>/dev/null && echo the guests result; (: </proc/$PPID/environ) 2>/dev/null && echo the guests nonce; for fd in /proc/self/fd/*; do [ ${{fd##*/}} -gt 2 ] && [ -e $fd ] && echo open $fd; done; echo done"
    );
    for way in WAYS {
        let mut command = exec(&world, way, &["-q", "--builder", "none", "--", "bash", "-c", &text]);
        let ran = world.run(command.env("SECRET", "s").env("SSH_AUTH_SOCK", "/s")).ok();
        assert_eq!(ran.stdout, "done\n", "{way:?} {}", ran.stderr);
    }
}

#[test]
fn a_policy_counts_as_it_is_written() {
    let world = World::new();
    world.write(
        "net.cfg",
        "clone_newnet: false\nmount { dst: \"/tmp\" fstype: \"tmpfs\" rw: true }\nenvar: \"FROM_POLICY=1\"\nenvar: \"HOME=/tmp\"\n",
    );
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = tcp.local_addr().unwrap().port();
    let text = format!("(: </dev/tcp/127.0.0.1/{port}) && echo connected $FROM_POLICY $HOME");
    for way in WAYS {
        let ran = run(&world, way, &["--sandbox-config", "net.cfg", "--", "bash", "-c", &text]).ok();
        assert_eq!(ran.stdout, "connected 1 /tmp\n");
    }
}

#[test]
fn a_policy_may_name_the_program_and_show_its_files() {
    let world = World::new();
    let shown = ["/usr", "/bin", "/lib", "/lib64"]
        .map(|dir| format!("mount {{ src: \"{dir}\" dst: \"{dir}\" is_bind: true }}\n"));
    let program = "exec_bin { path: \"/bin/sh\" arg: \"-c\" arg: \"echo $0; ls / | grep -c usr; exit 6\" arg0: \"named\" }\n";
    world.write("own.cfg", format!("{}{program}", shown.concat()));
    for way in WAYS {
        let ran = run(&world, way, &["--sandbox-config", "own.cfg"]).ends_with(6);
        assert_eq!(ran.stdout, "named\n1\n");
        // Another program of the same policy: nothing of it needs binding, and PATH leads to the rest.
        let ran = run(&world, way, &["--sandbox-config", "own.cfg", "--", "bash", "-c", "ls -d /usr"]).ok();
        assert_eq!(ran.stdout, "/usr\n");
    }
}

#[test]
fn a_login_is_given_by_hand() {
    let world = World::new();
    let login = world.write("home/.docker/config.json", "{}");
    let bind = format!("{}:/login/config.json", login.display());
    for way in WAYS {
        let text = "read -r line < $DOCKER_CONFIG/config.json; echo $line";
        let args = ["--sandbox-bind", &bind, "--env", "DOCKER_CONFIG=/login", "--", "bash", "-c", text];
        assert_eq!(run(&world, way, &args).stdout, "{}\n");
    }
}

#[test]
fn daemons_sockets_are_not_bound() {
    let world = World::new();
    fs::create_dir(world.path("d")).unwrap();
    let _docker = UnixListener::bind(world.path("d/docker.sock")).unwrap();
    let _containerd = UnixListener::bind(world.path("d/containerd.sock")).unwrap();
    symlink(world.path("d/docker.sock"), world.path("link")).unwrap();
    for src in ["d/docker.sock", "d/containerd.sock", "d", "link"] {
        let bind = format!("{src}:/s");
        run(&world, NATIVE, &["--sandbox-bind", &bind, "--", "true"]).ends_with(5).says("--docker-socket");
    }
    run(&world, NATIVE, &["--containerd-socket", "ctx", "--", "true"]).ends_with(2);
    run(
        &world,
        NATIVE,
        &[
            "--containerd-socket",
            "d/containerd.sock",
            "--",
            "sh",
            "-c",
            "[ -S /run/containerd/containerd.sock ]",
        ],
    )
    .ok()
    .says("WARNING: containerd's socket is in the jail");
}

#[test]
fn a_killed_ktl_leaves_nothing() {
    let world = World::new();
    fs::create_dir(world.path("tmp")).unwrap();
    for way in WAYS {
        let mut child = exec(&world, way, &["-q", "--", "sh", "-c", "echo ready; read -r line"])
            .env("TMPDIR", world.path("tmp"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        assert_eq!(crate::ktl::names(&world.path("tmp")).len(), 1, "the door's directory");
        child.kill().unwrap();
        child.wait().unwrap();
        let patience = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while !crate::ktl::names(&world.path("tmp")).is_empty() {
            assert!(std::time::Instant::now() < patience, "the door's directory is still there");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        run(&world, way, &["--", "true"]).ok();
        assert!(crate::ktl::names(&world.path("tmp")).is_empty());
    }
}

#[test]
fn a_plain_user_can_do_it_too() {
    const UID: u32 = 64_322;
    if !is_root("a test that becomes a plain user") {
        return;
    }
    let base = tempfile::Builder::new().prefix("ktl-user-").tempdir_in("/var/tmp").unwrap();
    fs::set_permissions(base.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let dir = base.path();
    for name in ["home", "ctx"] {
        fs::create_dir(dir.join(name)).unwrap();
    }
    fs::write(dir.join("ctx/mine"), "mine").unwrap();
    fs::set_permissions(dir.join("ctx/mine"), fs::Permissions::from_mode(0o600)).unwrap();
    for name in ["home", "ctx", "ctx/mine"] {
        chown(dir.join(name), Some(UID), Some(UID)).unwrap();
    }
    fs::copy(env!("CARGO_BIN_EXE_ktl"), dir.join("ktl")).unwrap();
    let nsjail = xtask::tools::nsjail_for_all(dir).unwrap();
    for runtime in ["nsjail", "native"] {
        let mut command = Command::new(dir.join("ktl"));
        command
            .env_clear()
            .env("HOME", dir.join("home"))
            .env("PATH", "/usr/bin:/bin")
            .env("KTL_SANDBOX_RUNTIME", runtime);
        if runtime == "nsjail" {
            command.env("KTL_SANDBOX_BIN", &nsjail);
        }
        command
            .args(["sandbox", "exec", "--context", "ctx", "--builder", "none", "--", "bash", "-c"])
            .arg("read -r line < mine; echo $line > /bk-cache/out; [ -e /etc/passwd ] && echo seen; exit 5")
            .current_dir(dir)
            .uid(UID)
            .gid(UID);
        let ran = Ran::of(command.output().unwrap()).ends_with(5).says(&format!("jailed by {runtime}"));
        assert_eq!(ran.stdout, "");
        assert_eq!(fs::read_to_string(dir.join("home/.cache/ktl/exec/out")).unwrap(), "mine\n");
        fs::remove_file(dir.join("home/.cache/ktl/exec/out")).unwrap();
    }
}
