//! The root file systems behind the base images of tests and demo. No public image registry is needed: Debian comes
//! from Debian's packages, the small one from a static busybox. [`crate::parts::BaseImages`] turns them into images.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{needed, report, stage};
use crate::{command, tools, workspace};

/// Debian 12 with a C compiler, for builds whose RUN steps do real work.
pub fn debian() -> Result<()> {
    let arguments = ["--variant=minbase", "--include=gcc,libc6-dev", "bookworm"];
    if is_current("debian", &arguments.join(" ")) {
        return Ok(());
    }
    report("image debian", &format!("mmdebstrap {} (a minute)", arguments.join(" ")));
    let place = workspace::images_dir().join("debian.tar");
    stage::install(&place, |tar| {
        command::run(command::as_root(needed("mmdebstrap")?).args(arguments).arg(tar))
    })?;
    record("debian", &arguments.join(" "))
}

/// A busybox with its applets as links, `/etc/passwd`, and the directories that shells expect.
pub fn busybox() -> Result<()> {
    let recipe = "busybox, layout 1";
    if is_current("busybox", recipe) {
        return Ok(());
    }
    report("image busybox", "pack");
    let place = workspace::images_dir().join("busybox.tar");
    stage::install(&place, |tar| {
        let root = tar.with_extension("root");
        lay_out(&root)?;
        command::run(
            Command::new("tar")
                .args(["--create", "--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mtime=@0"])
                .arg("--file")
                .arg(tar)
                .arg("--directory")
                .arg(&root)
                .arg("."),
        )
    })?;
    record("busybox", recipe)
}

fn lay_out(root: &Path) -> Result<()> {
    let busybox = tools::busybox()?;
    for dir in ["bin", "etc", "tmp", "root", "dev", "proc", "sys"] {
        fs::create_dir_all(root.join(dir)).with_context(|| format!("create {dir} in {}", root.display()))?;
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
    )?;
    fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
    fs::copy(&busybox, root.join("bin/busybox")).with_context(|| format!("copy {}", busybox.display()))?;
    fs::set_permissions(root.join("bin/busybox"), fs::Permissions::from_mode(0o755))?;
    let applets = command::output_of(Command::new(&busybox).arg("--list"))?.stdout;
    let applets = String::from_utf8_lossy(&applets);
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        if applet.is_empty() || applet.contains('/') {
            bail!("busybox lists an applet named {applet:?}");
        }
        symlink("busybox", root.join("bin").join(applet)).with_context(|| format!("link applet {applet}"))?;
    }
    Ok(())
}

/// Whether the tar was made by this recipe; a changed recipe makes it anew.
pub(super) fn is_current(image: &str, recipe: &str) -> bool {
    let dir = workspace::images_dir();
    let current = dir.join(format!("{image}.tar")).exists()
        && fs::read_to_string(dir.join(format!("{image}.recipe"))).is_ok_and(|made| made == recipe);
    if current {
        report(&format!("image {image}"), &format!(".tools/images/{image}.tar"));
    }
    current
}

pub(super) fn record(image: &str, recipe: &str) -> Result<()> {
    let path = workspace::images_dir().join(format!("{image}.recipe"));
    fs::write(&path, recipe).with_context(|| format!("write {}", path.display()))
}
