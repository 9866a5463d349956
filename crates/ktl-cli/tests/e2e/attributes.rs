//! Flags that the builder acts on do through ktl what they do through docker buildx.

use std::process::Command;

use crate::ktl::{PARTS, World};

/// Runs the same build through ktl, jailed, and through buildx, each into a directory of its name.
fn both(world: &World, args: &[&str]) {
    world.run(world.command().args(["build", "ctx", "-o", "ktl"]).args(args)).ok();
    // buildx asks no remote builder for the address of its host.
    let theirs = args.iter().map(|arg| arg.replace("host-gateway", "10.9.8.7"));
    world.run(world.buildx().args(["build", "ctx", "-o", "buildx"]).args(theirs)).ok();
}

#[test]
fn steps_run_with_what_was_asked_for() {
    let world = World::with_dockerfile(
        "FROM BUSYBOX AS b\nRUN { cat /etc/hosts; ulimit -n; ulimit -Hn; grep ' /dev/shm ' /proc/mounts; \
         grep Cpus_allowed_list /proc/self/status; sed s,/[^/]*$,, /proc/self/cgroup; } > /seen\nFROM scratch\nCOPY --from=b /seen /\n",
    );
    let args = [
        "--no-cache",
        "--add-host=here.example:10.1.2.3,six.example=[fe80::7]",
        "--add-host=gateway.example=host-gateway",
        "--ulimit=nofile=345:678",
        "--shm-size=3m",
        "--resource=cpuset-cpus=0",
        "--cgroup-parent=/ktl-e2e",
    ];
    both(&world, &args);
    let seen = world.read("ktl/seen");
    assert_eq!(seen, world.read("buildx/seen"));
    for part in [
        "10.1.2.3\there.example",
        "fe80::7\tsix.example",
        "10.9.8.7\tgateway.example",
        "\n345\n678\n",
        "size=3072k",
        "Cpus_allowed_list:\t0\n",
        "/ktl-e2e",
    ] {
        assert!(seen.contains(part), "no {part:?} in:\n{seen}");
    }
}

#[test]
fn networks_of_steps() {
    let world = World::with_dockerfile(
        "FROM BUSYBOX AS b\nRUN ls /sys/class/net > /seen\nFROM scratch\nCOPY --from=b /seen /\n",
    );
    for mode in ["none", "host", "default"] {
        both(&world, &["--no-cache", "--network", mode]);
        assert_eq!(world.read("ktl/seen"), world.read("buildx/seen"), "{mode}");
        assert_eq!(world.read("ktl/seen") == "lo\n", mode == "none");
    }
}

#[test]
fn entitlements() {
    let world = World::with_dockerfile("FROM BUSYBOX\nRUN --network=host true\n");
    world.build(&[]).ends_with(1).says("--allow network.host");
    world.build(&["--allow", "network.host"]).ok();
    world
        .build(&["--allow", "security.insecure"])
        .ends_with(5)
        .says("buildkitd --allow-insecure-entitlement");
    world.build(&["--hermetic", "--allow", "network.host"]).ends_with(5).says("contradict");
}

#[test]
fn a_stage_without_cache() {
    let world = World::with_dockerfile(
        "FROM BUSYBOX AS kept\nRUN cat /proc/sys/kernel/random/uuid > /kept\nFROM BUSYBOX AS again\nRUN cat /proc/sys/kernel/random/uuid > /again\n\
         FROM scratch\nCOPY --from=kept /kept /\nCOPY --from=again /again /\n",
    );
    world.build(&["-o", "first"]).ok();
    world.build(&["-o", "second", "--no-cache-filter", "again"]).ok();
    assert_eq!(world.read("first/kept"), world.read("second/kept"));
    assert_ne!(world.read("first/again"), world.read("second/again"));
}

/// A file in an OCI archive.
fn member(world: &World, archive: &str, name: &str) -> serde_json::Value {
    let tar = Command::new("tar").arg("-xOf").arg(world.path(archive)).arg(name).output().unwrap();
    serde_json::from_slice(&tar.stdout).unwrap_or_else(|error| panic!("{archive} {name}: {error}"))
}

#[test]
fn annotations_and_labels() {
    let world = World::with_dockerfile("FROM BUSYBOX\nCOPY file /\n");
    world.write("ctx/file", "x");
    let args = [
        "--annotation=plain=1",
        "--annotation=manifest[linux/amd64],manifest-descriptor:placed=2",
        "--annotation=index:on-index=3",
        "--label=colour=blue",
        "--build-arg=BUILDKIT_MULTI_PLATFORM=1",
        "--platform=linux/amd64",
        "--provenance=false",
    ];
    let epoch = ("SOURCE_DATE_EPOCH", "1700000000");
    let output = |name: &str| format!("type=oci,dest={name},rewrite-timestamp=true");
    world
        .run(
            world.command().args(["build", "ctx", "-o", &output("ktl.tar")]).args(args).env(epoch.0, epoch.1),
        )
        .ok();
    world
        .run(
            world
                .buildx()
                .args(["build", "ctx", "-o", &output("buildx.tar")])
                .args(args)
                .env(epoch.0, epoch.1),
        )
        .ok();
    let index = member(&world, "ktl.tar", "index.json");
    assert_eq!(index, member(&world, "buildx.tar", "index.json"));
    let blob = |descriptor: &serde_json::Value| {
        member(&world, "ktl.tar", &descriptor["digest"].as_str().unwrap().replace("sha256:", "blobs/sha256/"))
    };
    let list = blob(&index["manifests"][0]);
    assert_eq!(list["annotations"]["on-index"], "3");
    let descriptor = &list["manifests"][0];
    assert_eq!(descriptor["annotations"]["placed"], "2");
    let manifest = blob(descriptor);
    assert_eq!(
        (&manifest["annotations"]["plain"], &manifest["annotations"]["placed"]),
        (&"1".into(), &"2".into())
    );
    assert_eq!(blob(&manifest["config"])["config"]["Labels"]["colour"], "blue");
}

#[test]
fn a_source_policy_is_kept() {
    let world = World::with_dockerfile("FROM BUSYBOX\nRUN true\n");
    let rule = |action: &str, identifier: &str| {
        format!(
            r#"{{"action": "{action}", "selector": {{"identifier": "{identifier}", "match_type": "WILDCARD"}}}}"#
        )
    };
    world.write("deny.json", format!(r#"{{"rules": [{}]}}"#, rule("DENY", "docker-image://*")));
    world.write(
        "allow.json",
        format!(
            r#"{{"rules": [{}, {}]}}"#,
            rule("DENY", "*"),
            [rule("ALLOW", "local://*"), rule("ALLOW", &format!("docker-image://{}*", PARTS.busybox))]
                .join(", ")
        ),
    );
    world.build(&["--source-policy-file", "deny.json"]).ends_with(5).says("source policy");
    world.build(&["--source-policy-file", "allow.json"]).ok();
    let mut theirs = world.buildx();
    theirs.env("EXPERIMENTAL_BUILDKIT_SOURCE_POLICY", "deny.json").args(["build", "ctx"]);
    world.run(&mut theirs).ends_with(1).says("policy");
    let mut ours = world.command();
    ours.env("EXPERIMENTAL_BUILDKIT_SOURCE_POLICY", "deny.json").args(["build", "ctx"]);
    world.run(&mut ours).ends_with(5).says("policy");
}
