//! The guest's role: prove the jail, start threads as a runtime would, and report on descriptor 10.

use std::io::Write as _;
use std::path::Path;

use sandbox_linux::{Promises, probe, read_sealed_memfd, take_fd, verify};

use crate::rig::{PROMISES, REPORT};

/// Does nothing in an ordinary test run; inside a jail (or a shim) it is the whole program.
#[test]
fn role() {
    match crate::rig::role() {
        Some(role) if role == "guest" => {}
        Some(role) if role == "view" => {
            crate::view::tell();
            leave(0);
        }
        Some(role) => match role.to_str().and_then(|role| role.strip_prefix("connect ")) {
            Some(name) => {
                crate::escapes::connect(name);
                leave(0);
            }
            None => return,
        },
        None => return,
    }
    let report = std::fs::File::from(take_fd(REPORT).unwrap());
    let promises = take_fd(PROMISES).unwrap();
    let promises: Promises = serde_json::from_slice(&read_sealed_memfd(&promises, 1 << 20).unwrap()).unwrap();
    let code = match verify(&promises) {
        Ok(proof) => {
            let threads: Vec<_> = (0..4).map(|n| std::thread::spawn(move || n)).collect();
            let sum: i32 = threads.into_iter().map(|t| t.join().unwrap()).sum();
            let hidden: Vec<String> =
                HOST_PATHS.iter().map(|path| format!("{path} {}", probe(Path::new(path)))).collect();
            let processes = std::fs::read_dir("/proc")
                .unwrap()
                .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<u32>().ok())
                .count();
            writeln!(&report, "proof: {proof}\nthreads {sum}\nprocesses {processes}\n{}", hidden.join("\n"))
                .unwrap();
            0
        }
        Err(error) => {
            writeln!(&report, "broken: {error}").unwrap();
            4
        }
    };
    drop(report);
    leave(code);
}

/// Host paths that no guest may see.
pub const HOST_PATHS: &[&str] = &[
    "/etc/shadow",
    "/etc/passwd",
    "/etc/ssh",
    "/etc/hostname",
    "/etc/machine-id",
    "/root",
    "/home",
    "/root/.ssh",
    "/root/.docker/config.json",
    "/var/run/docker.sock",
    "/run/docker.sock",
    "/run/buildkit/buildkitd.sock",
    "/run/user",
    "/var/log",
    "/usr/bin/env",
    "/bin/sh",
    "/lib",
    "/boot",
    "/dev/kvm",
    "/dev/mem",
    "/dev/vda",
    "/dev/net/tun",
    "/sys/kernel",
    "/proc/1/root/etc/shadow",
];

#[expect(clippy::exit, reason = "the harness would turn the code into its own")]
fn leave(code: i32) -> ! {
    std::process::exit(code)
}
