//! `cargo xtask dist`: what is published of a version, as one archive with its checksum.
//!
//! The archive holds the static program, completions, manual pages, and the licences of everything that is linked in. It is
//! packed so that equal inputs give equal bytes. Its name, `ktl-VERSION-ARCH-OS.tar.gz`, is what `action.yml` fetches.

mod licences;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::workspace::{self, Profile};
use crate::{command, tools};

/// Names and checksums of what lies beside it, as sha256sum writes and checks them.
pub const SUMS: &str = "SHA256SUMS";
/// Starts that the printed time is the middle of.
const STARTS: usize = 101;

/// Builds ktl and packs it into `target/dist`, then prints where, how large, and how fast it starts.
pub fn run() -> Result<()> {
    let program = workspace::build_ktl(Profile::Dist)?;
    if !tools::is_static(&program) {
        bail!("{} is not static: it would not start in an empty root", program.display());
    }
    let archive = pack(&program, &workspace::target_dir().join("dist"))?;
    let size = |path: &Path| -> Result<f64> {
        let found = fs::metadata(path).with_context(|| format!("look at {}", path.display()))?;
        Ok(found.len() as f64 / f64::from(1 << 20))
    };
    println!("archive   {} ({:.1} MiB)", archive.display(), size(&archive)?);
    println!("program   {:.1} MiB, static", size(&program)?);
    println!("start-up  {:.2} ms (middle of {STARTS} times --version)", start_up(&program)?);
    Ok(())
}

/// Packs a program into `dir`, made when missing; what an earlier run left of the same version is replaced.
pub fn pack(program: &Path, dir: &Path) -> Result<PathBuf> {
    let version = command::output_of(Command::new(program).arg("--version"))?;
    let version = String::from_utf8_lossy(&version.stdout);
    let version = version.trim().strip_prefix("ktl ").context("ktl --version does not begin with ktl")?;
    let name = format!("ktl-{version}-{}-{}", std::env::consts::ARCH, std::env::consts::OS);
    let staging = dir.join(&name);
    if staging.exists() {
        fs::remove_dir_all(&staging).with_context(|| format!("remove {}", staging.display()))?;
    }
    for part in ["man/man1", "completions", "licences"] {
        let part = staging.join(part);
        fs::create_dir_all(&part).with_context(|| format!("create {}", part.display()))?;
    }
    let copy = |from: &Path, to: &str| {
        fs::copy(from, staging.join(to)).map(drop).with_context(|| format!("copy {}", from.display()))
    };
    copy(program, "ktl")?;
    copy(&workspace::root().join("LICENSE"), "LICENSE")?;
    command::run(Command::new(program).arg("man").arg(staging.join("man/man1")))?;
    for (shell, file) in [("bash", "ktl.bash"), ("zsh", "_ktl"), ("fish", "ktl.fish")] {
        let script = command::output_of(Command::new(program).args(["completion", shell]))?.stdout;
        let file = staging.join("completions").join(file);
        fs::write(&file, script).with_context(|| format!("write {}", file.display()))?;
    }
    licences::gather(&staging.join("licences"))?;

    let archive = format!("{name}.tar.gz");
    let packing = "tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX -cf - \"$1\" \
                   | gzip -n -9 > \"$1.tar.gz\" && sha256sum \"$1.tar.gz\" > \"$2\"";
    command::run(Command::new("sh").current_dir(dir).args(["-euc", packing, "sh", &name, SUMS]))?;
    fs::remove_dir_all(&staging).with_context(|| format!("remove {}", staging.display()))?;
    Ok(dir.join(archive))
}

/// In milliseconds.
fn start_up(program: &Path) -> Result<f64> {
    let mut times = Vec::with_capacity(STARTS);
    for _ in 0..STARTS {
        let began = Instant::now();
        command::run(Command::new(program).arg("--version"))?;
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_unstable_by(f64::total_cmp);
    Ok(times[STARTS / 2])
}
