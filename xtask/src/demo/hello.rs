//! The demo of a first build: in a jail, from a multi-stage Dockerfile, and what the jail hides meanwhile.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result};

use crate::parts::{self, Auth, BaseImage, Buildkitd, Options, Registry, ScratchDir};
use crate::{tools, workspace};

/// What `demos/hello` prints, after the compiler's version.
const GREETING: &str = "sent by a client that could see nothing else";

/// Runs the demo; `false` when a claim did not hold.
pub fn run(ktl: PathBuf) -> Result<bool> {
    eprintln!("demo: starting a registry and a buildkitd, pushing the base image");
    let scratch = ScratchDir::new("demo")?;
    let registry = Registry::start(&scratch.join("registry"), Auth::None)?;
    let options = Options { plain_http: vec![registry.address().to_owned()], ..Options::default() };
    let daemon = Buildkitd::start(&scratch.join("daemon"), &options)?;
    parts::push_base_images(&daemon, &registry, &[BaseImage::Debian])?;

    let demo = Demo::new(ktl, &scratch, &daemon, &registry)?;
    let mut claims = Claims::default();
    demo.build_and_run(&mut claims)?;
    demo.probe(&mut claims)?;
    demo.leftovers(&mut claims);
    Ok(claims.close())
}

struct Demo<'a> {
    ktl: PathBuf,
    scratch: &'a ScratchDir,
    home: PathBuf,
    daemon: &'a Buildkitd,
    base: String,
}

impl<'a> Demo<'a> {
    /// Makes a home directory with a private key that nobody needs: it exists on every machine, so that "hidden" says
    /// something.
    fn new(
        ktl: PathBuf,
        scratch: &'a ScratchDir,
        daemon: &'a Buildkitd,
        registry: &Registry,
    ) -> Result<Demo<'a>> {
        let home = scratch.dir("home")?;
        let key = scratch.dir("home/.ssh")?.join("id_demo");
        fs::write(&key, "not a real key\n").with_context(|| format!("write {}", key.display()))?;
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
        Ok(Demo { ktl, scratch, home, daemon, base: BaseImage::Debian.reference(registry) })
    }

    /// `ktl build demos/hello --build-arg BASE=… …`, to be run in the checkout; shown as a person would type it.
    fn ktl_build(&self, arguments: &[String]) -> Result<Command> {
        let mut shown: Vec<String> =
            ["ktl", "build", "demos/hello", "--build-arg"].map(String::from).to_vec();
        shown.push(format!("BASE={}", self.base));
        shown.extend_from_slice(arguments);
        eprintln!("\n$ {}", shown.join(" "));
        let mut build = Command::new(&self.ktl);
        build
            .args(&shown[1..])
            .current_dir(workspace::root())
            .env("HOME", &self.home)
            .env("KTL_BUILDER", self.daemon.address())
            .env("KTL_SANDBOX_BIN", tools::nsjail()?)
            .env_remove("XDG_CACHE_HOME")
            .env_remove("KTL_CACHE_DIR")
            .env_remove("DOCKER_CONFIG")
            .stdin(Stdio::null());
        Ok(build)
    }

    /// Runs ktl to its end, says how it ended and what it printed.
    fn ktl_output(&self, arguments: &[String]) -> Result<(ExitStatus, String)> {
        let output =
            self.ktl_build(arguments)?.output().with_context(|| format!("start {}", self.ktl.display()))?;
        Ok((output.status, String::from_utf8_lossy(&output.stderr).into_owned()))
    }

    fn build_and_run(&self, claims: &mut Claims) -> Result<()> {
        let out = self.scratch.join("out");
        let mut build = self.ktl_build(&["--sandbox".into(), "-o".into(), out.display().to_string()])?;
        // stdout is for the demo's own result; of a local output ktl says nothing there.
        let built =
            build.stdout(Stdio::null()).status().with_context(|| format!("start {}", self.ktl.display()))?;
        claims.check("ktl builds a multi-stage Dockerfile from inside a jail", built.success(), || {
            format!("ktl ended with {built}")
        });
        let names = list(&out);
        claims.check("the output holds the final stage and nothing else", names == ["hello"], || {
            format!("it holds {names:?}")
        });
        let program = out.join("hello");
        eprintln!("\n$ {}", program.display());
        let said =
            Command::new(&program).output().map(|ran| String::from_utf8_lossy(&ran.stdout).into_owned());
        eprint!("{}", said.as_deref().unwrap_or_default());
        claims.check(
            "the program that the build compiled runs on this host",
            said.as_ref().is_ok_and(|said| said.trim_end().ends_with(GREETING)),
            || format!("it said {said:?}"),
        );
        Ok(())
    }

    fn probe(&self, claims: &mut Claims) -> Result<()> {
        let key = self.home.join(".ssh/id_demo");
        let secrets: [(PathBuf, &str); 5] = [
            ("/etc/shadow".into(), "the password hashes"),
            (self.home.join(".ssh"), "your ssh keys"),
            (key.clone(), "a private key in there"),
            (self.daemon.socket().to_owned(), "the builder's own socket"),
            (workspace::root().join("Cargo.toml"), "your other files beside the context"),
        ];
        let mut arguments = vec!["--sandbox".to_owned()];
        for (path, _) in &secrets {
            arguments.extend(["--sandbox-probe-path".into(), path.display().to_string()]);
        }
        let (status, said) = self.ktl_output(&arguments)?;
        eprint!("{said}");
        claims
            .check("the probed build goes through", status.success(), || format!("ktl ended with {status}"));
        for (path, what) in &secrets {
            let hidden = path.exists()
                && said.lines().any(|line| line == format!("[probe] {}: hidden", path.display()));
            claims.check(
                &format!("{} exists here and is hidden in the jail: {what}", path.display()),
                hidden,
                || {
                    let exists = if path.exists() { "it exists here" } else { "it does not exist here" };
                    format!("{exists}, and the jail says: {}", probe_line(&said, path))
                },
            );
        }

        // The counter-check: a probe that cannot say VISIBLE would prove nothing.
        let path = key.display();
        let (_, said) = self.ktl_output(&[
            "--sandbox".into(),
            "--sandbox-bind".into(),
            format!("{path}:{path}:ro"),
            "--sandbox-probe-path".into(),
            path.to_string(),
        ])?;
        let line = probe_line(&said, &key);
        eprintln!("{line}");
        claims.check(
            "the same probe says VISIBLE once the jail is opened for that file",
            line.contains(": VISIBLE ("),
            || format!("the jail says: {line}"),
        );

        let mut believed = self.ktl_build(&["--sandbox-probe-path".into(), path.to_string()])?;
        eprintln!("  with KTL_SANDBOX_ACTIVE=1 in its environment");
        let output = believed.env("KTL_SANDBOX_ACTIVE", "1").output().context("start ktl")?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        eprint!("{said}");
        let refused = output.status.code() == Some(4);
        let jailed = output.status.success() && probe_line(&said, &key).ends_with(": hidden");
        claims.check("a variable that claims to be the jail is not believed", refused || jailed, || {
            format!("ktl ended with {}, and says: {}", output.status, probe_line(&said, &key))
        });

        eprintln!("\nThe one-liner that proves it, with any context and any buildkitd:\n");
        eprintln!(
            "    ktl build . --sandbox --sandbox-probe-path /etc/shadow --sandbox-probe-path ~/.ssh 2>&1 | grep '^\\[probe\\]'"
        );
        Ok(())
    }

    /// Looks for processes of the programs that this demo started, and for mounts below its directory.
    fn leftovers(&self, claims: &mut Claims) {
        eprintln!();
        let mut left = Vec::new();
        let staged = file_id(&self.home.join(".cache/ktl/sandbox-bin/ktl"));
        let shared = [file_id(&self.ktl), tools::nsjail().ok().and_then(|nsjail| file_id(&nsjail))];
        for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
            // The link's text is of no use for a program in another root; what it leads to is the file itself.
            let Some(exe) = file_id(&process.path().join("exe")) else { continue };
            if Some(exe) == staged
                || (shared.contains(&Some(exe)) && is_ours(&process.path(), self.scratch.path()))
            {
                left.push(format!("process {}", process.file_name().display()));
            }
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let below = self.scratch.path().display().to_string();
        left.extend(mounts.lines().filter(|line| line.contains(&below)).map(|line| format!("mount {line}")));
        let names = list(self.scratch.path());
        let own = ["daemon", "home", "out", "registry"];
        left.extend(
            names.iter().filter(|name| !own.contains(&name.as_str())).map(|name| format!("file {name}")),
        );
        claims.check(
            "nothing is left: no process, no mount, no file beside the output",
            left.is_empty(),
            || left.join(", "),
        );
    }
}

/// Device and inode of the file that a path leads to.
fn file_id(path: &Path) -> Option<(u64, u64)> {
    path.metadata().ok().map(|meta| (meta.dev(), meta.ino()))
}

/// Whether a process was started by this demo: its environment, or its arguments, name the scratch directory.
fn is_ours(process: &Path, scratch: &Path) -> bool {
    let needle = scratch.as_os_str().as_encoded_bytes();
    ["environ", "cmdline"].into_iter().any(|file| {
        fs::read(process.join(file))
            .is_ok_and(|bytes| bytes.windows(needle.len()).any(|window| window == needle))
    })
}

fn probe_line(said: &str, path: &Path) -> String {
    let start = format!("[probe] {}: ", path.display());
    said.lines().find(|line| line.starts_with(&start)).unwrap_or("nothing").to_owned()
}

fn list(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().display().to_string())
        .collect();
    names.sort();
    names
}

/// What was claimed, and whether it held.
#[derive(Debug, Default)]
struct Claims {
    lines: Vec<String>,
    failed: usize,
}

impl Claims {
    fn check(&mut self, claim: &str, holds: bool, found: impl FnOnce() -> String) {
        let line = if holds { format!("PASS  {claim}") } else { format!("FAIL  {claim}\n      {}", found()) };
        eprintln!("{line}");
        self.failed += usize::from(!holds);
        self.lines.push(line);
    }

    /// Prints the list once more, on stdout, where the result of a program belongs.
    fn close(self) -> bool {
        eprintln!();
        for line in &self.lines {
            println!("{line}");
        }
        println!("demo: {} of {} claims hold", self.lines.len() - self.failed, self.lines.len());
        self.failed == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_that_does_not_hold_fails_the_demo() {
        let mut claims = Claims::default();
        claims.check("holds", true, String::new);
        assert_eq!(claims.failed, 0);
        claims.check("does not", false, || "found that".into());
        assert_eq!(claims.lines, ["PASS  holds", "FAIL  does not\n      found that"]);
        assert!(!claims.close());
    }

    #[test]
    fn the_probe_line_of_a_path_is_found() {
        let said = "[probe] /a/b: hidden\n[probe] /a: VISIBLE (file, readable)\n";
        assert_eq!(probe_line(said, Path::new("/a")), "[probe] /a: VISIBLE (file, readable)");
        assert_eq!(probe_line(said, Path::new("/c")), "nothing");
    }
}
