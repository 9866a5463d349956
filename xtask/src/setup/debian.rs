//! What comes from the machine's Debian (or Ubuntu) packages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;

use anyhow::{Context, Result, bail};

use super::{is_there, report, stage};
use crate::{command, tools, workspace};

/// What the machine must have: a program (or, with a slash, a file) and the package that brings it.
///
/// Looked up by program, so that a runc that came with another container engine is used as it is.
const WANTED: &[(&str, &str)] = &[
    ("runc", "runc"),
    ("crun", "crun"),
    ("mmdebstrap", "mmdebstrap"),
    ("bwrap", "bubblewrap"),
    ("newuidmap", "uidmap"),
    ("ssh-agent", "openssh-client"),
    ("openssl", "openssl"),
    // Its library is what dockerd links.
    ("dmsetup", "dmsetup"),
    ("getfattr", "attr"),
    ("perl", "perl-base"),
    ("python3", "python3"),
    // What Debian 12's sshd links besides the base system.
    ("/usr/lib/*/libwrap.so.0", "libwrap0"),
    ("/usr/share/keyrings/debian-archive-keyring.gpg", "debian-archive-keyring"),
    ("/etc/ssl/certs/ca-certificates.crt", "ca-certificates"),
];

/// Installs the packages whose programs are missing, all in one go.
pub fn packages() -> Result<()> {
    let missing: Vec<&str> =
        WANTED.iter().filter(|(wanted, _)| !present(wanted)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        let names: Vec<&str> =
            WANTED.iter().map(|(wanted, _)| *wanted).filter(|name| !name.starts_with('/')).collect();
        report("system programs", &format!("{}: there", names.join(", ")));
        return Ok(());
    }
    install_packages(&missing)?;
    let still: Vec<&str> =
        WANTED.iter().map(|(wanted, _)| *wanted).filter(|wanted| !present(wanted)).collect();
    if !still.is_empty() {
        bail!("apt-get installed {} but {} is still not found", missing.join(" "), still.join(", "));
    }
    Ok(())
}

/// Installs packages by name; never removes one to make room.
pub fn install_packages(packages: &[&str]) -> Result<()> {
    report("system programs", &format!("apt-get install {}", packages.join(" ")));
    update();
    let mut install = command::as_root("env");
    install.args([
        "DEBIAN_FRONTEND=noninteractive",
        "apt-get",
        "install",
        "--yes",
        "--no-remove",
        "--no-install-recommends",
    ]);
    install.args(packages);
    command::run(&mut install)
}

/// Gets a program out of a package without installing the package: the registry would start a service, and
/// busybox-static would replace busybox.
pub fn unpacked(program: &str, found: Result<PathBuf>, package: &str, member: &str) -> Result<()> {
    let dir = workspace::tools_dir().join("debian").join(package);
    let pinned = dir.join(member);
    if is_there(program, found, &pinned) {
        return Ok(());
    }
    report(program, &format!("unpack Debian package {package} below .tools"));
    update();
    stage::install(&dir, |dir| {
        let downloads = dir.with_extension("deb");
        fs::create_dir(&downloads).with_context(|| format!("create {}", downloads.display()))?;
        command::run(
            // apt's own download user cannot write here; the package's hash is checked all the same.
            Command::new("apt-get").current_dir(&downloads).args([
                "-o",
                "APT::Sandbox::User=",
                "download",
                package,
            ]),
        )?;
        let deb = fs::read_dir(&downloads)?
            .next()
            .with_context(|| format!("apt-get brought no {package}"))??
            .path();
        command::run(Command::new("dpkg-deb").arg("--extract").arg(&deb).arg(dir))
    })?;
    stage::link(program, &pinned)
}

/// A `*` stands for the directory of the machine's architecture.
fn present(wanted: &str) -> bool {
    if let Some((dir, rest)) = wanted.split_once("/*/") {
        let dirs = fs::read_dir(dir).into_iter().flatten().flatten();
        return dirs.map(|entry| entry.path().join(rest)).any(|path| path.exists());
    }
    if wanted.starts_with('/') { Path::new(wanted).exists() } else { tools::on_path(wanted).is_some() }
}

/// Refreshes apt's lists, once per run. A repository that cannot be reached is no reason to stop: what is needed
/// may be in another one, and apt-get says so when it is not.
fn update() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if let Err(error) = command::run(command::as_root("apt-get").arg("update")) {
            eprintln!("setup: apt-get update failed, going on with the lists at hand: {error:#}");
        }
    });
}
