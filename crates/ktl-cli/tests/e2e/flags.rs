//! Every flag that ktl shares with docker buildx and buildctl, and where it is compared with them: here, by the bytes of the whole
//! image, which hold what steps saw, the config, labels and annotations; or in a test of its own.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::ktl::World;

enum Compared {
    /// Builds with these arguments give the same image.
    Image(&'static [&'static str]),
    /// In this test: a file and a function in it.
    In(&'static str, &'static str),
}
use Compared::{Image, In};

/// One line for each way to say a flag, under the flag's name.
const FLAGS: &[(&str, Compared)] = &[
    ("--add-host", Image(&["--add-host", "a.example:10.1.2.3,b.example=10.1.2.4", "--add-host=c=[fe80::7]"])),
    ("--allow", Image(&["--allow", "network.host", "--network", "host"])),
    ("--annotation", Image(&["--annotation", "a=b", "--annotation=manifest-descriptor:c=d"])),
    ("--attest", In("attestations", "provenance_of_images")),
    ("--build-arg", Image(&["--build-arg", "A=given"])),
    ("--build-arg", Image(&["--build-arg", "OF_ENV"])),
    ("--build-context", Image(&["--build-context", "extra=other"])),
    ("--builder", In("builders", "builders_of_buildx_are_found_by_name")),
    ("--cache-from", In("caches", "a_directory_written_and_read_by_both_clients")),
    ("--cache-to", In("caches", "a_directory_written_and_read_by_both_clients")),
    ("--call", In("calls", "answers_are_those_of_buildx")),
    ("--check", In("calls", "answers_are_those_of_buildx")),
    ("--cgroup-parent", In("attributes", "steps_run_with_what_was_asked_for")),
    ("--debug", In("invocations/inputs", "contexts_and_dockerfiles")),
    ("--file", Image(&["-f", "another.Dockerfile"])),
    ("--file", Image(&["--file=ctx/Dockerfile", "--target=extra"])),
    ("--iidfile", In("attestations", "provenance_of_images")),
    ("--label", Image(&["--label", "a=b=c", "--label", "alone"])),
    ("--load", In("results", "loaded_into_a_docker_engine")),
    ("--metadata-file", In("shapes", "metadata_files")),
    ("--network", Image(&["--network=none", "--no-cache"])),
    ("--no-cache", Image(&["--no-cache"])),
    ("--no-cache-filter", Image(&["--no-cache-filter", "first,second"])),
    ("--output", In("invocations/results", "results_go_where_they_should")),
    (
        "--platform",
        Image(&["--target=extra", "--platform", "linux/arm64,linux/amd64", "--platform=linux/arm/v7"]),
    ),
    ("--progress", In("shapes", "progress_in_json")),
    ("--provenance", In("attestations", "provenance_of_images")),
    ("--pull", Image(&["--pull"])),
    ("--push", In("invocations/results", "results_go_where_they_should")),
    ("--quiet", In("invocations/results", "progress")),
    ("--resource", In("attributes", "steps_run_with_what_was_asked_for")),
    ("--sbom", In("invocations/results", "attestations")),
    ("--secret", Image(&["--secret", "id=s,src=secret", "--no-cache"])),
    ("--secret", Image(&["--secret", "id=s,env=OF_ENV", "--no-cache"])),
    ("--secret", Image(&["--secret", "type=env,id=s,src=OF_ENV", "--no-cache"])),
    ("--shm-size", Image(&["--shm-size", "7m"])),
    ("--source-policy-file", In("attributes", "a_source_policy_is_kept")),
    ("--ssh", In("invocations/steps", "secrets_and_agents")),
    ("--tag", Image(&["-t", "r.example/a:1", "--tag=b"])),
    ("--target", Image(&["--target", "first"])),
    ("--ulimit", Image(&["--ulimit", "nofile=100:200", "--ulimit=core=0"])),
];

/// What a client of BuildKit is to have.
const WANTED: &str = "add-host allow annotation attest build-arg build-context builder cache-from cache-to call check cgroup-parent debug file \
    iidfile label load metadata-file network no-cache no-cache-filter output platform progress provenance pull push quiet resource \
    sbom secret shm-size source-policy-file ssh tag target ulimit";

fn world() -> World {
    let text = "FROM scratch AS extra\nCOPY f /f\nFROM BUSYBOX AS first\nARG A=none\nARG OF_ENV=none\n\
        RUN --mount=type=secret,id=s mkdir /o && { cat /etc/hosts; ulimit -n; ulimit -Hn; ulimit -c; grep ' /dev/shm ' /proc/mounts; \
        ls /sys/class/net; echo $A $OF_ENV; [ ! -e /run/secrets/s ] || cat /run/secrets/s; } > /o/seen\n\
        FROM scratch AS second\nCOPY --from=first /o /\nCOPY --from=extra / /extra/\n";
    let world = World::with_dockerfile(text);
    world.write("ctx/f", "f");
    world.write("secret", "of a file");
    world.write("other/g", "g");
    world.write("another.Dockerfile", "FROM scratch\nCOPY f /g\n");
    world
}

/// The list of an OCI archive: names, annotations, and the digest that all the rest hangs on.
fn layout(world: &World, archive: &str) -> Value {
    let tar = Command::new("tar").arg("-xOf").arg(world.path(archive)).arg("index.json").output().unwrap();
    serde_json::from_slice(&tar.stdout).unwrap_or_else(|error| panic!("{archive}: {error}"))
}

#[test]
fn images_are_those_of_buildx() {
    let world = world();
    let image = |mut command: Command, name: &str, args: &[&str]| {
        command.args(["build", "ctx", "--provenance=false"]).args(args);
        command.args(["-o", &format!("type=oci,dest={name},rewrite-timestamp=true")]);
        world.run(command.env("SOURCE_DATE_EPOCH", "1700000000").env("OF_ENV", "of the environment")).ok();
        layout(&world, name)
    };
    let plain = image(world.command(), "plain", &[]);
    for (flag, compared) in FLAGS {
        let Image(args) = compared else { continue };
        let ours = image(world.command(), "ktl", args);
        assert_eq!(ours, image(world.buildx(), "buildx", args), "{flag}: {args:?}");
        // What changes nothing in an image is not compared by it, but for what only decides whether a step runs again.
        let again = ["--no-cache", "--no-cache-filter", "--pull", "--allow"].contains(flag);
        assert!(again || ours != plain, "{flag}: {args:?}");
    }
}

#[test]
fn every_flag_is_compared() {
    let wanted: Vec<String> = WANTED.split_whitespace().map(|name| format!("--{name}")).collect();
    let mut named: Vec<&str> = FLAGS.iter().map(|(flag, _)| *flag).collect();
    named.dedup();
    assert_eq!(named.iter().filter(|flag| !wanted.iter().any(|name| name == *flag)).count(), 0);
    let missing: Vec<_> = wanted.iter().filter(|flag| !named.contains(&flag.as_str())).collect();
    assert!(missing.is_empty(), "{missing:?}");
    for (flag, compared) in FLAGS {
        let In(file, test) = compared else { continue };
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e").join(format!("{file}.rs"));
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.contains(&format!("#[test]\nfn {test}(")), "{flag}: no {test} in {file}");
    }
}
