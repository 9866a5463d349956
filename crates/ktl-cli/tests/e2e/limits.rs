//! Limits of a private builder, and that RUN steps have them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::ktl::{Ran, is_root};
use crate::private::{BUSYBOX, Private};

/// A control group of the test's own, in which its ktl runs: what the builder makes of groups is in there.
struct Parent(Vec<PathBuf>);

impl Parent {
    fn new(name: &str) -> Option<Parent> {
        if !is_root(name) {
            return None;
        }
        let mut parent = Parent(Vec::new());
        for controller in ["memory", "pids", "cpu"] {
            let path = Path::new("/sys/fs/cgroup")
                .join(controller)
                .join(format!("ktl-{name}-{}", std::process::id()));
            if fs::create_dir(&path).is_err() || !path.join("tasks").exists() {
                eprintln!("skipped: no {controller} hierarchy of version 1 in which groups can be made");
                return None;
            }
            parent.0.push(path);
        }
        Some(parent)
    }

    fn build(&self, private: &Private, runtime: &str, args: &[&str]) -> Ran {
        let mut ktl = private.command();
        ktl.env("KTL_SANDBOX_RUNTIME", runtime);
        ktl.args(["build", "ctx", "--progress=plain", "--hermetic"]).args(args);
        let mut script: String =
            self.0.iter().map(|path| format!("echo $$ >{}/tasks && ", path.display())).collect();
        script += "exec \"$@\"";
        let mut inside = Command::new("/bin/sh");
        inside.args(["-c", &script, "sh"]).arg(ktl.get_program()).args(ktl.get_args()).env_clear();
        inside.envs(ktl.get_envs().filter_map(|(name, value)| Some((name, value?))));
        inside.current_dir(private.world().path(""));
        private.world().run(&mut inside)
    }

    /// The groups of jails, by controller.
    fn jails(&self) -> Vec<PathBuf> {
        let entries = self.0.iter().flat_map(|path| fs::read_dir(path).unwrap().flatten());
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = fs::remove_dir(path);
        }
    }
}

/// As many processes as there may be.
const BOMB: &str = "RUN n=0; while [ $n -lt 1500 ]; do sleep 30 & n=$((n+1)); done; echo bomb of $n\n";
/// More memory than a little, in one program.
const HOG: &str = "RUN dd if=/dev/zero of=/dev/null bs=600M count=1 && echo hog was $((1+1))\n";

#[test]
fn a_step_has_the_limits_of_its_builder() {
    let Some(parent) = Parent::new("limits") else { return };
    for runtime in ["native", "nsjail"] {
        let private = Private::new("");
        let run = |steps: &str, args: &[&str]| {
            private.world().write("ctx/Dockerfile", format!("{BUSYBOX}{steps}"));
            let builder = format!("jail://{runtime}");
            parent.build(&private, runtime, &[&["--builder", &builder], args].concat())
        };
        let limits = ["--builder-memory", "400m", "--builder-pids", "600", "--builder-cpus", "1.5"];
        run("RUN echo up\n", &limits).ok().says("started");
        let jails = parent.jails();
        assert_eq!(jails.len(), 3, "{jails:?}");
        let read = |file: &str| {
            let found = jails.iter().find(|jail| jail.join(file).exists()).unwrap();
            fs::read_to_string(found.join(file)).unwrap().trim().parse::<u64>().unwrap()
        };
        assert_eq!(read("memory.limit_in_bytes"), 400 << 20);
        assert_eq!(read("cpu.cfs_quota_us") / 1000, read("cpu.cfs_period_us") * 3 / 2 / 1000);
        assert!((600..=601).contains(&read("pids.max")));

        run(BOMB, &[]).ends_with(1).says_not("bomb of 1500");
        run(HOG, &[]).ends_with(1).says_not("hog was 2");
        // Both are gone, and the daemon is the same one.
        run("RUN echo still there\n", &limits).ok().says_not("started").says("still there");
        assert!(read("pids.current") < 300, "{}", read("pids.current"));

        // The controls: in a builder that may more, the same steps come through.
        let more = ["--builder-memory", "2g", "--builder-pids", "0", "--builder-cpus", "1.5"];
        run(HOG, &more).ok().says("started").says("hog was 2");
        run(BOMB, &[]).ok().says("bomb of 1500");
        private.builder(&["rm", runtime]).ok();
        assert_eq!(parent.jails(), Vec::<PathBuf>::new());
    }
}

#[test]
fn limits_that_cannot_be_kept_are_refused() {
    let private = Private::bare("FROM scratch\n");
    let build = |args: &[&str]| private.build(&[&["--builder", "jail://"], args].concat());
    // The world's own builder is a plain daemon.
    private.build(&["--builder-memory", "1g"]).ends_with(5).says("which ktl cannot set").says("jail://");
    build(&["--builder-memory", "1m"]).ends_with(2).says("buildkitd needs");
    build(&["--builder-cpus", "none"]).ends_with(2).says("no number of processors");
    let mut command = private.command();
    command.env("KTL_BUILDER_PIDS", "few").args(["build", "ctx", "--builder", "jail://"]);
    private.world().run(&mut command).ends_with(2).says("KTL_BUILDER_PIDS");

    let config = private.world().write("home/.config/ktl/trust/fork.cfg", "keep_caps: true");
    build(&["--trust", "fork"]).ends_with(5).says("trust/fork.cfg").says("cgroup_pids_max");
    fs::write(&config, "clone_newnet: true").unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
    if is_root("limits_that_cannot_be_kept_are_refused") {
        // The host's network would be the other choice.
        let private = Private::new("RUN echo made\n");
        private.world().write("home/.config/ktl/trust/fork.cfg", "clone_newnet: true");
        let ran = private.build(&["--builder", "jail://", "--trust", "fork"]).ok();
        ran.says("started jail://default@fork (network none)");
    }
}
