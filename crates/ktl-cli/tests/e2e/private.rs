//! Private builders: a buildkitd that ktl runs in a jail of its own.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use xtask::parts::{ScratchDir, User};

use crate::ktl::{PARTS, Ran, World, is_root};
use crate::parallel::{family, processes};

/// A busybox of the context's own: a private builder pulls no base image here.
pub const BUSYBOX: &str =
    "FROM scratch\nCOPY busybox /bin/busybox\nRUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\n";

/// A world whose private builders end with it.
pub struct Private(pub World);

impl Private {
    /// With these steps after those that make a busybox.
    pub fn new(steps: &str) -> Private {
        let private = Private::bare(&format!("{BUSYBOX}{steps}"));
        std::fs::copy(xtask::tools::busybox().unwrap(), private.0.path("ctx/busybox")).unwrap();
        private
    }

    pub fn bare(dockerfile: &str) -> Private {
        Private(World::with_dockerfile(dockerfile))
    }

    pub fn world(&self) -> &World {
        &self.0
    }

    pub fn command(&self) -> Command {
        let mut command = self.0.command();
        let mut path = String::new();
        for tool in [xtask::tools::buildkitd(), xtask::tools::runc()] {
            path += &format!("{}:", tool.unwrap().parent().unwrap().display());
        }
        command.env("PATH", path + "/usr/sbin:/usr/bin:/sbin:/bin").env("KTL_STATE_DIR", self.0.path("s"));
        command
    }

    pub fn build(&self, args: &[&str]) -> Ran {
        let mut command = self.command();
        self.0.run(command.args(["build", "ctx", "--progress=plain"]).args(args))
    }

    pub fn builder(&self, args: &[&str]) -> Ran {
        let mut command = self.command();
        self.0.run(command.arg("builder").args(args))
    }

    /// Process ids of the supervisors that run.
    pub fn supervisors(&self) -> Vec<i32> {
        let listed: serde_json::Value =
            serde_json::from_str(&self.builder(&["ls", "--json"]).ok().stdout).unwrap();
        let pids = listed.as_array().unwrap().iter().filter_map(|builder| builder["running"]["pid"].as_i64());
        pids.map(|pid| i32::try_from(pid).unwrap()).collect()
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        let _ = self.command().args(["builder", "stop"]).output();
    }
}

pub fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < until, "still waiting until {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn every_daemon_has_ids_of_its_own() {
    if !is_root("every_daemon_has_ids_of_its_own") {
        return;
    }
    let private = Private::new("RUN touch /x && chown 33:65535 /x && echo owner $(stat -c %u:%g /x)\n");
    for runtime in ["native", "nsjail"] {
        let name = format!("jail://{runtime}");
        let mut command = private.command();
        command.env("KTL_SANDBOX_RUNTIME", runtime);
        command.args(["build", "ctx", "--progress=plain", "--hermetic", "--builder", &name]);
        private.0.run(&mut command).ok().says("owner 33:65535");
    }
    // What it keeps belongs to ids that own nothing else, and another daemon's are others.
    let owner = |name: &str| {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(private.0.path(format!("s/daemons/{name}/none/state"))).unwrap().uid()
    };
    assert!(owner("native") >= 0x7100_0000 && owner("native") != owner("nsjail"));
}

#[test]
fn one_daemon_serves_all_and_names_share_nothing() {
    if !is_root("one_daemon_serves_all_and_names_share_nothing") {
        return;
    }
    let private = Private::new("RUN echo made\n");
    std::thread::scope(|scope| {
        for _ in 0..5 {
            scope.spawn(|| private.build(&["--builder", "jail://", "--hermetic"]).ok());
        }
    });
    assert_eq!(private.supervisors().len(), 1);
    let claimed = private.build(&["--builder", "jail://default", "--hermetic"]).ok().says("CACHED");
    for claim in ["the builder's jail: process ", "the builder's network: process ", "materials: "] {
        let line = format!("[hermetic] held: {claim}");
        assert!(claimed.stderr.contains(&line), "no {line:?} in:\n{}", claimed.stderr);
    }
    private.build(&["--builder", "jail://other", "--hermetic"]).ok().says_not("CACHED");
    private.build(&["--builder", "jail://default"]).ok().says_not("CACHED");
    assert_eq!(private.supervisors().len(), 3, "two names, and one of them with two networks");

    private.builder(&["logs", "other"]).ok();
    private.builder(&["stop", "other"]).ok().says("stopped jail://other");
    assert_eq!(private.supervisors().len(), 2);
    // What was stopped keeps its cache.
    private.build(&["--builder", "jail://other", "--hermetic"]).ok().says("CACHED");
    private.builder(&["rm", "other"]).ok().says("removed jail://other");
    assert!(!private.0.path("s/daemons/other").exists());
    private.builder(&["rm", "other"]).ends_with(2).says("no private builder");
    private.builder(&["stop"]).ok();
    assert!(private.supervisors().is_empty());
    let listed = private.builder(&["ls"]).ok().stdout;
    assert!(listed.contains("default") && listed.contains("stopped"), "{listed}");
}

#[test]
fn a_trust_has_a_daemon_of_its_own() {
    if !is_root("a_trust_has_a_daemon_of_its_own") {
        return;
    }
    // Stands for whatever an untrusted build can leave in a cache that builds share.
    let private = Private::new(
        "ARG N\nRUN --mount=type=cache,target=/c sed 's/^/found: /' /c/left 2>/dev/null; echo poison >/c/left\n",
    );
    let build = |args: &[&str]| {
        // The step is another one each time, or it would not run.
        let number = format!("N={}", args.join(" "));
        private.build(&[&["--hermetic", "--build-arg", &number], args].concat())
    };
    build(&["--builder", "jail://", "--trust", "fork"])
        .ok()
        .says("started jail://default@fork (network none)");
    // The control: what one leaves, another of the same trust finds.
    build(&["--builder", "jail://default@fork"]).ok().says("found: poison");
    build(&["--builder", "jail://"])
        .ok()
        .says("started jail://default (network none)")
        .says_not("found: poison");
    let mut command = private.command();
    command.env("KTL_TRUST", "vendor").env_remove("KTL_BUILDER");
    let ran = private.0.run(command.args(["build", "ctx", "--hermetic", "--progress=plain"])).ok();
    ran.says("started jail://default@vendor").says_not("found: poison");

    // The world's own builder is a plain daemon.
    build(&["--trust", "fork"]).ends_with(5).says("cannot be kept for one trust").says("jail://");
    build(&["--builder", "jail://a@b", "--trust", "c"]).ends_with(2).says("of the trust `b`");
    build(&["--builder", "jail://", "--trust", "../x"]).ends_with(2).says("no name for a trust");
    private.builder(&["rm", "default@fork"]).ok().says("removed jail://default@fork");
    let listed = private.builder(&["ls"]).ok().stdout;
    assert!(listed.contains("default@vendor") && !listed.contains("default@fork"), "{listed}");
}

#[test]
fn crun_does_as_well_unless_it_is_too_old() {
    let Some(crun) = xtask::tools::on_path("crun") else { return eprintln!("skipped: there is no crun") };
    if !is_root("crun_does_as_well_unless_it_is_too_old") {
        return;
    }
    let private = Private::new("RUN echo made by crun\n");
    let bin = private.0.path("bin");
    std::fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(&crun, bin.join("crun")).unwrap();
    std::os::unix::fs::symlink(xtask::tools::buildkitd().unwrap(), bin.join("buildkitd")).unwrap();
    let mut command = private.command();
    command.env("PATH", &bin).args([
        "build",
        "ctx",
        "--progress=plain",
        "--builder",
        "jail://",
        "--hermetic",
    ]);
    let ran = private.0.run(&mut command);
    let help = Command::new(&crun).args(["run", "--help"]).output().unwrap();
    if String::from_utf8_lossy(&help.stdout).contains("--keep") {
        ran.ok().says("made by crun");
    } else {
        ran.ends_with(3).says("crun").says("too old for BuildKit").says("1.15");
    }
}

#[test]
fn what_was_killed_is_repaired_and_what_is_idle_stops() {
    if !is_root("what_was_killed_is_repaired_and_what_is_idle_stops") {
        return;
    }
    let private = Private::new("RUN echo made\n");
    let builder = ["--builder", "jail://k", "--hermetic", "--idle-timeout", "1s"];
    private.build(&builder).ok();
    let [supervisor] = private.supervisors()[..] else { panic!("{:?}", private.supervisors()) };
    let kill =
        |pid| nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    kill(supervisor).unwrap();
    // Its jail goes with it, and the next build finds neither in its way.
    let socket = private.0.path("s/daemons/k/none/run/buildkitd.sock");
    wait_until("nobody listens", || std::os::unix::net::UnixStream::connect(&socket).is_err());
    private.build(&builder).ok().says("started").says("CACHED");
    wait_until("it has stopped by itself", || private.supervisors().is_empty());
    let log = private.builder(&["logs", "k"]).ok().stdout;
    assert!(log.contains("nobody has used it for 1 s"), "{log}");
}

#[test]
fn one_whose_directory_is_gone_ends_by_itself() {
    if !is_root("one_whose_directory_is_gone_ends_by_itself") {
        return;
    }
    let private = Private::new("RUN echo made\n");
    private.build(&["--builder", "jail://gone", "--hermetic", "--idle-timeout", "1s"]).ok();
    let [supervisor] = private.supervisors()[..] else { panic!("{:?}", private.supervisors()) };
    let family = family(supervisor);
    assert!(family.iter().any(|process| process.name == "buildkitd"), "{family:?}");
    // Nobody can find it any more, to use it or to stop it.
    std::fs::remove_dir_all(private.0.path("s/daemons/gone")).unwrap();
    wait_until("it has ended, with its daemon", || {
        let left = processes();
        !family.iter().any(|process| left.contains(process))
    });
}

#[test]
fn it_is_taken_where_there_is_no_other() {
    let system = Path::new("/run/buildkit/buildkitd.sock");
    if !is_root("it_is_taken_where_there_is_no_other") || system.exists() {
        return eprintln!("skipped: needs root, and no buildkitd of the system's");
    }
    let private = Private::new("RUN echo made\n");
    let mut command = private.command();
    command.env_remove("KTL_BUILDER").args(["build", "ctx", "-v"]);
    private
        .0
        .run(&mut command)
        .ok()
        .says("started jail://default (network host)")
        .says("there being no other");
    // A name that was given is meant.
    let mut command = private.command();
    command.env("KTL_BUILDER", "unix:///nowhere.sock").args(["build", "ctx"]);
    private.0.run(&mut command).ends_with(3).says("/nowhere.sock").says_not("jail://");
}

#[test]
fn an_ephemeral_one_leaves_nothing() {
    if !is_root("an_ephemeral_one_leaves_nothing") {
        return;
    }
    let private = Private::new("RUN echo made\n");
    for _ in 0..2 {
        let ran = private.build(&["--builder", "jail://?ephemeral", "--hermetic", "-o", "out"]).ok();
        ran.says("started jail://once-").says_not("CACHED");
    }
    let daemons = private.0.path("s/daemons");
    wait_until("they are gone", || crate::ktl::names(&daemons).is_empty());
    private.build(&["--builder", "jail://x?ephemeral"]).ends_with(2).says("no name for a private builder");
}

#[test]
fn what_cannot_start_says_why() {
    let private = Private::new("");
    private.build(&["--builder", "jail://NO"]).ends_with(2).says("no name for a private builder");
    let mut command = private.command();
    command.env("PATH", "/nowhere");
    private
        .0
        .run(command.args(["build", "ctx", "--builder", "jail://"]))
        .ends_with(3)
        .says("needs buildkitd")
        .says("--buildkitd-bin");
    let not_one = private.0.write("false", "#!/bin/sh\necho 'not a daemon' >&2\nexit 7\n");
    std::fs::set_permissions(&not_one, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let ran = private.build(&["--builder", "jail://", "--buildkitd-bin", "false"]);
    ran.ends_with(3).says("did not start").says("not a daemon");
    let mut log = String::new();
    std::fs::File::open(private.0.path("s/daemons/default/host/log"))
        .unwrap()
        .read_to_string(&mut log)
        .unwrap();
    assert!(log.contains("not a daemon"), "{log}");
    assert!(PARTS.daemon.pid().is_some(), "the shared daemon is another one");
}

/// A plain user with a context, and all that a private builder needs where he may run it.
pub struct PlainUser {
    user: User,
    nsjail: PathBuf,
    _scratch: ScratchDir,
}

impl PlainUser {
    /// `None`, with the reason said, where there can be none.
    pub fn new(dockerfile: &str) -> Option<PlainUser> {
        if !is_root("a test that becomes a plain user") || !Path::new("/usr/bin/newuidmap").exists() {
            eprintln!("skipped: needs root and newuidmap");
            return None;
        }
        let scratch = ScratchDir::new("mine").unwrap();
        let user = User::create(&scratch).unwrap();
        let dir = user.home().join("w");
        std::fs::create_dir_all(dir.join("ctx")).unwrap();
        std::fs::write(dir.join("ctx/Dockerfile"), dockerfile).unwrap();
        std::fs::copy(xtask::tools::busybox().unwrap(), dir.join("ctx/busybox")).unwrap();
        // The checkout that the tests run from need not be a place where he may go.
        let bin = dir.join("bin");
        std::fs::create_dir(&bin).unwrap();
        std::fs::copy(env!("CARGO_BIN_EXE_ktl"), bin.join("ktl")).unwrap();
        std::fs::copy(xtask::tools::buildkitd().unwrap(), bin.join("buildkitd")).unwrap();
        let nsjail = xtask::tools::nsjail_for_all(&dir).unwrap();
        let user = PlainUser { user, nsjail, _scratch: scratch };
        user.owns_all();
        Some(user)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.user.home().join("w").join(name)
    }

    /// Gives him whatever a test has put there.
    pub fn owns_all(&self) {
        let owner = format!("{}:{}", self.user.uid(), self.user.gid());
        assert!(Command::new("chown").args(["-R", &owner]).arg(self.path("")).status().unwrap().success());
    }

    pub fn run(&self, runtime: &str, args: &[&str]) -> Ran {
        let bin = self.path("bin");
        let mut ktl = self.user.command(bin.join("ktl"));
        ktl.env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", bin.display()))
            .env("KTL_STATE_DIR", self.path(runtime))
            .env("KTL_SANDBOX_RUNTIME", runtime)
            .current_dir(self.path(""));
        if runtime == "nsjail" {
            ktl.env("KTL_SANDBOX_BIN", &self.nsjail);
        }
        Ran::of(ktl.args(args).output().unwrap())
    }
}

#[test]
fn a_plain_user_has_one_too() {
    let steps = "RUN touch /x && chown 33:44 /x && echo owner $(stat -c %u:%g /x)\n";
    let Some(user) = PlainUser::new(&format!("{BUSYBOX}{steps}")) else { return };
    for runtime in ["native", "nsjail"] {
        let build = ["build", "ctx", "--progress=plain", "--hermetic", "--builder", "jail://"];
        user.run(runtime, &build).ok().says("started jail://default").says("owner 33:44");
        user.run(runtime, &build).ok().says_not("started").says("CACHED");
        // Most of what it keeps is nobody's who could remove it by himself.
        user.run(runtime, &["builder", "rm", "default"]).ok().says("removed");
        assert!(!user.path(runtime).join("daemons/default").exists());
    }
}
