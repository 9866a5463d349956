//! Caches that are written by one client and read by another, or by a daemon that has never built anything.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::mpsc;

use xtask::parts::{Buildkitd, Options, ScratchDir};

use crate::ktl::{NATIVE, PARTS, World, names};

/// Says by a random number whether its step ran again. `name` makes the step one that no other test builds.
fn world(name: &str) -> World {
    World::with_dockerfile(&format!(
        "FROM BUSYBOX AS b\nRUN : {name} && cat /proc/sys/kernel/random/uuid > /id\nFROM scratch\nCOPY --from=b /id /\n"
    ))
}

/// A daemon without any cache.
fn fresh(scratch: &ScratchDir) -> Buildkitd {
    let options = Options { plain_http: vec![PARTS.registry.address().to_owned()], ..Options::default() };
    Buildkitd::start(&scratch.join("d"), &options).unwrap()
}

/// The blobs of a cache that are no documents.
fn layers(world: &World, cache: &str) -> Vec<String> {
    let dir = world.path(cache).join("blobs/sha256");
    let is_layer = |name: &String| {
        serde_json::from_slice::<serde_json::Value>(&fs::read(dir.join(name)).unwrap()).is_err()
    };
    names(&dir).into_iter().filter(is_layer).collect()
}

#[test]
fn a_directory_written_and_read_by_both_clients() {
    let world = world("both");
    for (name, extra) in [("jailed", &[][..]), ("native", NATIVE), ("off", &["--sandbox=off"])] {
        let to = format!("type=local,dest=cache-{name},mode=max");
        world.build(&[&["--cache-to", &to, "-o", "first"], extra].concat()).ok();
        assert_eq!(
            names(&world.path(format!("cache-{name}"))),
            ["blobs", "index.json", "oci-layout"],
            "{name}"
        );
    }
    let mut buildx = world.buildx();
    world
        .run(buildx.args([
            "build",
            "ctx",
            "--cache-to",
            "type=local,dest=cache-buildx,mode=max",
            "-o",
            "theirs",
        ]))
        .ok();
    let id = world.read("first/id");
    assert_eq!(world.read("theirs/id"), id);
    assert_eq!(layers(&world, "cache-jailed"), layers(&world, "cache-buildx"));
    let image = |name: &str| {
        let index: serde_json::Value = serde_json::from_str(&world.read(name)).unwrap();
        let mut image = index["manifests"][0].clone();
        // The cache's own record has the times of the daemon's doings.
        assert!(image["digest"].take().is_string() && image["size"].take().is_number());
        (index.as_object().unwrap().keys().cloned().collect::<Vec<_>>(), image)
    };
    assert_eq!(image("cache-jailed/index.json"), image("cache-buildx/index.json"));

    let scratch = ScratchDir::new("cache").unwrap();
    let daemon = fresh(&scratch);
    let read = |from: &str, out: &str, extra: &[&str]| {
        let mut command = world.command();
        command.env("KTL_BUILDER", daemon.address()).args(["build", "ctx", "-o", out, "--cache-from"]);
        world.run(command.arg(format!("type=local,src={from}")).args(extra)).ok()
    };
    read("cache-buildx", "ours", &[]);
    assert_eq!(world.read("ours/id"), id, "ktl reads what buildx wrote");
    let mut prune = daemon.buildctl().unwrap();
    world.run(prune.args(["prune", "--all"])).ok();
    let mut buildctl = daemon.buildctl().unwrap();
    buildctl.args(["build", "--frontend=dockerfile.v0", "--local=context=ctx", "--local=dockerfile=ctx"]);
    buildctl.args(["--import-cache=type=local,src=cache-jailed", "--output=type=local,dest=ctl"]);
    world.run(buildctl.current_dir(world.path("."))).ok();
    assert_eq!(world.read("ctl/id"), id, "buildctl reads what ktl wrote");
    read("nowhere", "again", &[]).says("WARNING: --cache-from type=local,src=nowhere: skipped");
    assert_eq!(world.read("again/id"), id);
}

#[test]
fn a_second_cache_in_the_same_directory() {
    let world = world("second");
    let to = "type=local,dest=cache,mode=max";
    world.build(&["--cache-to", to]).ok();
    let first = names(&world.path("cache/blobs/sha256"));
    world.build(&["--cache-to", to, "--cache-from", "type=local,src=cache", "--no-cache"]).ok();
    let both = names(&world.path("cache/blobs/sha256"));
    assert!(first.iter().all(|name| both.contains(name)) && both.len() > first.len());
    world.build(&["--cache-to", "type=local,dest=cache,mode=max,reset=true", "--no-cache"]).ok();
    let last = names(&world.path("cache/blobs/sha256"));
    assert!(last.len() < both.len(), "{last:?} {both:?}");
    let failing = World::with_dockerfile("FROM BUSYBOX\nRUN false\n");
    failing.build(&["--cache-to", to]).ends_with(1);
    assert_eq!(failing.names(), ["ctx", "home"]);
}

#[test]
fn a_registry_and_the_image_itself() {
    let world = world("registry");
    let cache = format!("{}/cache:max", PARTS.registry.address());
    let image = format!("{}/cached:1", PARTS.registry.address());
    world.build(&["--cache-to", &format!("type=registry,ref={cache},mode=max"), "-o", "first"]).ok();
    world.build(&["--cache-to", "type=inline", "-t", &image, "--push"]).ok();
    let id = world.read("first/id");
    let scratch = ScratchDir::new("cache").unwrap();
    let daemon = fresh(&scratch);
    for (out, from) in [("registry", cache.as_str()), ("inline", image.as_str())] {
        let mut prune = daemon.buildctl().unwrap();
        world.run(prune.args(["prune", "--all"])).ok();
        let mut command = world.command();
        command.env("KTL_BUILDER", daemon.address()).args(["build", "ctx", "--cache-from", from, "-o", out]);
        world.run(&mut command).ok();
        assert_eq!(world.read(&format!("{out}/id")), id, "{from}");
    }
    fs::remove_dir_all(world.path("first")).unwrap();
    let nowhere = format!("{}/nowhere:1", PARTS.registry.address());
    world.build(&["--cache-from", &nowhere, "-o", "first"]).ok();
    assert_eq!(world.read("first/id"), id, "a cache that is not there is no failure");
}

#[test]
fn credentials_of_a_cache_reach_the_builder_alone() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (seen, requests) = mpsc::channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
            let _ =
                stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            let _ = seen.send(head.join("\n"));
        }
    });
    let world = world("credentials");
    let mut command = world.command();
    command.env("AWS_ACCESS_KEY_ID", "AKIDOFTHETEST").env("AWS_SECRET_ACCESS_KEY", "hush-hush");
    command.args(["build", "ctx", "-v", "--cache-from"]);
    command.arg(format!("type=s3,region=r,bucket=b,endpoint_url={endpoint},use_path_style=true"));
    world.run(&mut command).ok().says("secret 2").says_not("hush-hush").says_not("AKIDOFTHETEST");
    let request = requests.recv().unwrap();
    assert!(request.contains("Credential=AKIDOFTHETEST/"), "{request}");
}
