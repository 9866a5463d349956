//! The recipes for CI systems: the systems' own schemas hold, and the shell in them does what the documentation says.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::ktl::{Ran, World, is_root, names};
use crate::private::Private;

/// A recipe, and the schema that its system has for it.
const RECIPES: [(&str, &str); 4] = [
    (".github/workflows/ci.yml", "github-workflows"),
    ("docs/ci/github.yml", "github-workflows"),
    ("action.yml", "github-actions"),
    ("docs/ci/gitlab-ci.yml", "gitlab-ci"),
];

fn text(recipe: &str) -> String {
    std::fs::read_to_string(xtask::workspace::root().join(recipe)).unwrap()
}

fn parsed(recipe: &str) -> Value {
    serde_yaml_ng::from_str(&text(recipe)).unwrap()
}

fn is_valid(schema: &Path, value: &Value) -> Result<(), String> {
    let mut schemas = boon::Schemas::new();
    let index =
        boon::Compiler::new().compile(schema.to_str().unwrap(), &mut schemas).map_err(|e| e.to_string())?;
    schemas.validate(value, index).map_err(|error| format!("{error:#}"))
}

#[test]
fn recipes_are_what_their_systems_read() {
    for (recipe, schema) in RECIPES {
        let schema = xtask::tools::schema(schema);
        let good = parsed(recipe);
        is_valid(&schema, &good).unwrap_or_else(|error| panic!("{recipe}: {error}"));
        let mut bad = good.clone();
        let last = bad.as_object().unwrap().keys().next_back().unwrap().clone();
        bad[&last] = Value::from(7);
        assert!(is_valid(&schema, &bad).is_err(), "{recipe}: a number passes for {last}");
    }
}

/// One step of the action, with its variables: expressions become what `given` has for them.
fn step(id: &str, given: &[(&str, &str)]) -> Command {
    let action = parsed("action.yml");
    let steps = action["runs"]["steps"].as_array().unwrap();
    let step = steps.iter().find(|step| step["id"] == id).unwrap_or_else(|| panic!("no step {id}"));
    assert_eq!(step["shell"], "bash");
    // As GitHub runs it.
    let mut shell = Command::new("bash");
    shell.args(["--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"].as_str().unwrap()]);
    for (name, value) in step["env"].as_object().into_iter().flatten() {
        let expression = value.as_str().unwrap();
        let input = expression.strip_prefix("${{ inputs.").unwrap();
        let input = input.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap();
        let (_, value) =
            given.iter().find(|(name, _)| *name == input).unwrap_or_else(|| panic!("no {input}"));
        shell.env(name, value);
    }
    shell
}

/// What GitHub's runner has around a job.
struct Job(World);

impl Job {
    fn new(dockerfile: &str) -> Job {
        let job = Job(World::with_dockerfile(dockerfile));
        job.0.write("temp/.keep", "");
        job
    }

    fn run(&self, mut step: Command) -> Ran {
        let added = std::fs::read_to_string(self.0.path("path")).unwrap_or_default();
        let like = self.0.command();
        for (name, value) in like.get_envs() {
            step.env(name, value.unwrap_or_default());
        }
        step.env("PATH", format!("{}:/usr/bin:/bin", added.trim()));
        step.env("RUNNER_TEMP", self.0.path("temp")).env("GITHUB_PATH", self.0.path("path"));
        step.env("GITHUB_OUTPUT", self.0.path("output"));
        self.0.run(step.current_dir(self.0.path("")).stdin(Stdio::null()))
    }
}

/// A version as it is published, for curl to fetch.
fn published(dir: &Path) -> (String, PathBuf) {
    let version = format!("v{}", env!("CARGO_PKG_VERSION"));
    let archive = xtask::dist::pack(Path::new(env!("CARGO_BIN_EXE_ktl")), &dir.join(&version)).unwrap();
    (format!("file://{}", dir.display()), archive)
}

#[test]
fn the_action_installs_looks_and_builds() {
    if Command::new("curl").arg("--version").output().is_err() {
        return eprintln!("skipped: curl is not on PATH, which runners of GitHub have");
    }
    let job = Job::new("FROM BUSYBOX\nARG WORD\nRUN test \"$WORD\" = 'two words'\n");
    let (releases, archive) = published(&job.0.path("releases"));
    let version = format!("v{}", env!("CARGO_PKG_VERSION"));
    let install = [("version", version.as_str()), ("releases", releases.as_str())];
    job.run(step("install", &install)).ok();
    let installed = job.0.read("path");
    let installed = names(Path::new(installed.trim()));
    assert_eq!(installed, ["LICENSE", "completions", "ktl", "licences", "man"]);
    job.run(step("doctor", &[])).ok();

    let good =
        [("context", "ctx"), ("args", "--tag=app:ci\n\n--build-arg=WORD=two words\n"), ("trust", "no")];
    job.run(step("build", &good)).ok();
    let output = job.0.read("output");
    assert!(output.starts_with("digest=sha256:"), "{output}");
    let bad = [("context", "ctx"), ("args", "--build-arg=WORD=other"), ("trust", "no")];
    job.run(step("build", &bad)).ends_with(1);
    let report: Value = serde_json::from_str(&job.0.read("temp/ktl-logs/report.json")).unwrap();
    assert_eq!(report["outcome"], "failed");
    assert!(job.0.read("temp/ktl-logs/sandbox.log").contains("sandbox"));
    // A trust is for private builders, and this job names another one.
    let apart = [("context", "ctx"), ("args", ""), ("trust", "fork")];
    job.run(step("build", &apart)).ends_with(5).says("--trust");

    let mut damaged = std::fs::read(&archive).unwrap();
    damaged.push(0);
    std::fs::write(&archive, damaged).unwrap();
    std::fs::remove_file(job.0.path("path")).unwrap();
    job.run(step("install", &install)).ends_with(1).says("did NOT match");
    assert!(!job.0.path("path").exists(), "what is not what was published is not installed");
}

/// The archive is the same for the same program, and everything in it is there.
#[test]
fn an_archive_is_packed_reproducibly() {
    let world = World::new();
    let (_, first) = published(&world.path("one"));
    let (_, second) = published(&world.path("two"));
    assert_eq!(std::fs::read(&first).unwrap(), std::fs::read(second).unwrap());
    let listed = world.run(Command::new("tar").arg("-tzf").arg(&first)).ok().stdout;
    for part in [
        "/ktl\n",
        "/LICENSE\n",
        "/completions/_ktl\n",
        "/man/man1/ktl-build.1\n",
        "/licences/LIST\n",
        "/licences/tonic-",
    ] {
        assert!(listed.contains(part), "{part:?} in {listed}");
    }
    let sums = Command::new("sha256sum")
        .args(["--check", "--strict", xtask::dist::SUMS])
        .current_dir(first.parent().unwrap())
        .output();
    assert!(sums.unwrap().status.success());
}

/// The shell that a recipe has for a job, as its system would run it.
fn shell(script: &str) -> Command {
    let mut shell = Command::new("bash");
    shell.args(["--noprofile", "--norc", "-eo", "pipefail", "-c", script]);
    shell
}

/// All in quotes of three behind `sh`, or in one behind it on the line.
fn of_jenkins(recipe: &str) -> String {
    let mut script = String::new();
    let mut inside = false;
    for line in recipe.lines().map(str::trim) {
        match line {
            "sh '''" => inside = true,
            "'''" => inside = false,
            line if inside => script += &format!("{line}\n"),
            line => {
                let one = line.strip_prefix("sh '").and_then(|rest| rest.strip_suffix('\''));
                script += &one.map(|line| format!("{line}\n")).unwrap_or_default();
            }
        }
    }
    script
}

#[test]
fn the_shell_of_other_systems_keeps_strangers_apart() {
    if !is_root("the_shell_of_other_systems_keeps_strangers_apart") {
        return;
    }
    let gitlab = parsed("docs/ci/gitlab-ci.yml");
    let lines =
        gitlab["container-image"]["script"].as_array().unwrap().iter().map(|line| line.as_str().unwrap());
    let gitlab = lines.collect::<Vec<_>>().join("\n");
    let jenkins = of_jenkins(&text("docs/ci/Jenkinsfile"));
    let private = Private::new("RUN test ! -e /fails\n");
    let world = private.world();
    let run = |script: &str, variables: &[(&str, &str)]| {
        let mut shell = shell(script);
        let like = private.command();
        for (name, value) in like.get_envs() {
            shell.env(name, value.unwrap_or_default());
        }
        let path = like.get_envs().find(|(name, _)| *name == "PATH").and_then(|(_, value)| value).unwrap();
        let ktl = Path::new(env!("CARGO_BIN_EXE_ktl")).parent().unwrap();
        shell.env("PATH", format!("{}:{}", ktl.display(), path.display())).env("KTL_BUILDER", "jail://");
        shell.env("CI_COMMIT_SHA", "1").env("BUILD_TAG", "1").envs(variables.iter().copied());
        world.run(shell.current_dir(world.path("ctx")).stdin(Stdio::null()))
    };
    for (script, stranger) in [
        (&gitlab, &[("CI_PROJECT_ID", "1"), ("CI_MERGE_REQUEST_SOURCE_PROJECT_ID", "2")][..]),
        (&jenkins, &[("CHANGE_FORK", "stranger/project")][..]),
    ] {
        run(script, &[("CI_PROJECT_ID", "1")]).ok().says("jail://default@own");
        run(script, stranger).ok().says("jail://default@fork");
        assert_eq!(names(&world.path("ctx/ktl-logs")), ["report.json", "sandbox.log"]);
        private.builder(&["stop"]);
    }
}
