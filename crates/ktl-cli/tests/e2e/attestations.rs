//! What is attested of a build, and told of it in a metadata file, is what docker buildx has of the same build.

use std::process::Command;

use serde_json::Value;

use crate::ktl::{PARTS, World};

/// All blobs of an OCI archive that are JSON.
fn documents(world: &World, archive: &str) -> Vec<Value> {
    let dir = tempfile::tempdir_in(world.path(".")).unwrap();
    let unpacked = Command::new("tar").arg("-xf").arg(world.path(archive)).arg("-C").arg(dir.path()).status();
    assert!(unpacked.unwrap().success());
    let blobs = std::fs::read_dir(dir.path().join("blobs/sha256")).unwrap();
    blobs.filter_map(|blob| serde_json::from_slice(&std::fs::read(blob.unwrap().path()).ok()?).ok()).collect()
}

/// What differs from build to build is made one: numbers, times.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(object) => object.iter().map(|(key, value)| (key.clone(), shape(value))).collect(),
        Value::Array(values) => values.iter().map(shape).collect(),
        Value::String(text) if text.starts_with("20") && text.ends_with('Z') => "a time".into(),
        other => other.clone(),
    }
}

fn statements(world: &World, archive: &str) -> Vec<(String, Value)> {
    let mut statements: Vec<_> = documents(world, archive)
        .into_iter()
        .filter(|document| document.get("predicateType").is_some())
        .map(|document| {
            (document["predicateType"].as_str().unwrap().to_owned(), document["predicate"].clone())
        })
        .collect();
    statements.sort_by(|a, b| a.0.cmp(&b.0));
    statements
}

fn world() -> World {
    let world = World::with_dockerfile("FROM BUSYBOX\nARG A=1\nCOPY file /\n");
    world.write("ctx/file", "x");
    world
}

/// The same image through both clients, as `ktl.oci` and `buildx.oci`.
fn both(world: &World, args: &[&str], env: &[(&str, &str)]) {
    for (name, mut command) in [("ktl", world.command()), ("buildx", world.buildx())] {
        command.args(["build", "ctx", "--build-arg", "A=2", "--platform=linux/amd64"]).args(args);
        command.args(["-o", &format!("type=oci,dest={name}.oci"), "-o", "type=image"]);
        command.args(["--metadata-file", &format!("{name}.json")]);
        command.args(["--iidfile", &format!("{name}.iid")]);
        world.run(command.envs(env.iter().copied())).ok();
    }
}

#[test]
fn provenance_of_images() {
    let world = world();
    for (args, env, count) in [
        // The default is for images that are kept or pushed alone.
        (&[][..], &[][..], 0),
        (&["--provenance=true"], &[], 1),
        (&["--provenance=mode=max"], &[], 1),
        (&["--attest", "type=provenance,mode=min,version=v0.2"], &[], 1),
        (&["--provenance=false"], &[], 0),
        (&[], &[("BUILDX_NO_DEFAULT_ATTESTATIONS", "true")], 0),
    ] {
        both(&world, args, env);
        let (ours, theirs) = (statements(&world, "ktl.oci"), statements(&world, "buildx.oci"));
        let kinds = |statements: &[(String, Value)]| -> Vec<String> {
            statements.iter().map(|(kind, _)| kind.clone()).collect()
        };
        assert_eq!(kinds(&ours), kinds(&theirs), "{args:?}");
        assert_eq!(ours.len(), count, "{args:?} {env:?}");
        let image = |name: &str| -> Value { serde_json::from_str(&world.read(name)).unwrap() };
        let (ours_of, theirs_of) = (image("ktl.json"), image("buildx.json"));
        for key in ["containerimage.descriptor", "containerimage.config.digest"] {
            let kind = |image: &Value| image[key].get("mediaType").cloned();
            assert_eq!(kind(&ours_of), kind(&theirs_of), "{args:?} {env:?} {key}");
            assert_eq!(ours_of[key].is_null(), theirs_of[key].is_null(), "{args:?} {env:?} {key}");
        }
        let id = |image: &Value| {
            image.get("containerimage.config.digest").unwrap_or(&image["containerimage.digest"]).clone()
        };
        assert_eq!(
            (id(&ours_of), id(&theirs_of)),
            (world.read("ktl.iid").into(), world.read("buildx.iid").into())
        );
        for ((kind, ours), (_, theirs)) in ours.iter().zip(&theirs) {
            let (of, materials) = if kind.ends_with("v1") {
                ("buildDefinition", "resolvedDependencies")
            } else {
                ("invocation", "materials")
            };
            let list = |predicate: &Value| match of {
                "buildDefinition" => predicate[of][materials].clone(),
                _ => predicate[materials].clone(),
            };
            assert_eq!(list(ours), list(theirs), "{kind}");
            assert!(list(ours).to_string().contains("busybox"), "{}", list(ours));
            let keys =
                |predicate: &Value| predicate[of].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
            assert_eq!(keys(ours), keys(theirs));
        }
    }
}

#[test]
fn metadata_files_have_the_keys_of_buildx() {
    let world = world();
    world.write("ctx/Dockerfile", format!("from {}\nARG A=1\nCOPY file /\nMAINTAINER me\n", PARTS.busybox));
    for env in [
        &[][..],
        &[("BUILDX_METADATA_PROVENANCE", "max"), ("BUILDX_METADATA_WARNINGS", "1")],
        &[("BUILDX_METADATA_PROVENANCE", "disabled")],
    ] {
        both(&world, &[], env);
        let read = |name: &str| -> Value { serde_json::from_str(&world.read(name)).unwrap() };
        let (ours, theirs) = (read("ktl.json"), read("buildx.json"));
        let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&ours), keys(&theirs), "{env:?}");
        // The step that the Dockerfile was loaded by is another one for each client, and the daemon tells the warnings in
        // another order each time.
        let warnings = |metadata: &Value| {
            let mut warnings = metadata["buildx.build.warnings"].clone();
            if let Some(list) = warnings.as_array_mut() {
                list.iter_mut().for_each(|warning| warning["vertex"] = Value::Null);
                list.sort_by_key(|warning| warning["short"].to_string());
            }
            warnings
        };
        assert_eq!(warnings(&ours), warnings(&theirs), "{env:?}");
        assert_eq!(ours["buildx.build.warnings"].is_array(), env.len() == 2);
        let provenance = |value: &Value| shape(&value["buildx.build.provenance"]);
        let (mut ours, mut theirs) = (provenance(&ours), provenance(&theirs));
        assert_eq!(ours.is_object(), env.first().is_none_or(|(_, value)| *value != "disabled"));
        for side in [&mut ours, &mut theirs] {
            // What the clients name differently: the build, and how the request came.
            if let Some(invocation) = side.get_mut("invocation") {
                invocation["parameters"] = Value::Null;
            }
            if let Some(metadata) = side.get_mut("metadata") {
                metadata["buildInvocationID"] = Value::Null;
                // Measured, found in the client's directory, or as far as the daemon was when it wrote it.
                metadata["https://mobyproject.org/buildkit@v1#metadata"] = Value::Null;
            }
            if let Some(config) = side.get_mut("buildConfig") {
                *config = Value::Null;
            }
        }
        assert_eq!(ours, theirs, "{env:?}");
    }
}

#[test]
fn an_image_has_provenance_unasked() {
    let world = world();
    for (args, index) in [(&[][..], true), (&["--provenance=false"], false)] {
        for (name, mut command) in [("ktl", world.command()), ("buildx", world.buildx())] {
            command.args(["build", "ctx", "-o", "type=image", "--metadata-file", "m.json"]).args(args);
            world.run(&mut command).ok();
            let metadata: Value = serde_json::from_str(&world.read("m.json")).unwrap();
            let kind = metadata["containerimage.descriptor"]["mediaType"].as_str().unwrap().to_owned();
            assert_eq!(kind.contains("index"), index, "{name}: {kind}");
        }
    }
}

#[test]
fn attestations_that_cannot_be() {
    let world = world();
    world.build(&["-o", "type=docker,dest=x.tar", "-t", "a", "--sbom=true"]).ends_with(2).says("docker load");
    world.build(&["--provenance=max"]).ends_with(2).says("KEY=VALUE");
    world.build(&["-o", "type=docker,dest=x.tar", "-t", "a"]).ok();
}
