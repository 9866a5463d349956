//! `ktl stage` and `ktl lock`: what a Dockerfile names, fetched and written down.

use std::fs;

use buildsvc::lock::Lock;
use xtask::parts::{Auth, BaseImage, Registry, push_base_images};

use crate::ktl::{PARTS, World};

/// The parts of these tests.
const LOCAL: &str = "--allow-host=127.0.0.1";

fn lock(world: &World) -> Lock {
    Lock::read(world.read("ctx/ktl.lock").as_bytes()).unwrap()
}

fn blobs(world: &World, store: &str) -> Vec<String> {
    crate::ktl::names(&world.path(store).join("blobs/sha256"))
}

#[test]
fn names_are_fetched_and_locked() {
    let world = World::with_dockerfile(
        "ARG BASE=BUSYBOX\nFROM $BASE AS a\nFROM scratch\nCOPY --from=BUSYBOX /bin/busybox /\nCOPY --from=a /x /\n",
    );
    let stage =
        |args: &[&str]| world.run(world.command().args(["stage", "ctx", LOCAL, "--to", "store"]).args(args));
    let check = |args: &[&str]| world.run(world.command().args(["lock", "ctx", LOCAL, "--check"]).args(args));
    check(&[]).ends_with(1).says("there is no lock").says("ktl stage");

    stage(&[]).ok().says("blobs, ").says("wrote ");
    let first = lock(&world);
    let image = first.image(&PARTS.busybox.parse().unwrap()).unwrap();
    assert_eq!((first.images().len(), image.platforms.len()), (1, 1));
    check(&[]).ok().says("fits");
    check(&["--upstream"]).ok();
    let stored = blobs(&world, "store");
    assert!(stored.contains(&image.digest.hex().to_owned()));
    // The digests are those that the registry has: another tool finds the image under its name.
    let index = world.read("store/index.json");
    assert!(index.contains(&PARTS.busybox) && index.contains(image.digest.hex()), "{index}");

    // Again, there is nothing to do; with an empty store, the same comes.
    stage(&[]).ok().says(" 0B fetched").says("is as it was");
    fs::rename(world.path("store"), world.path("old")).unwrap();
    stage(&["--quiet"]).ok().says_not("[stage]");
    assert_eq!(blobs(&world, "store"), stored);

    // A blob that was cut short is fetched anew; one that arrived in part is gone on with.
    let largest = stored
        .iter()
        .map(|name| world.path("store/blobs/sha256").join(name))
        .max_by_key(|path| fs::metadata(path).unwrap().len())
        .unwrap();
    let whole = fs::read(&largest).unwrap();
    let name = largest.file_name().unwrap().to_str().unwrap();
    fs::remove_file(&largest).unwrap();
    fs::write(world.path(format!("store/ingest/sha256-{name}")), &whole[..whole.len() - 7]).unwrap();
    stage(&[]).ok().says(" 7B fetched");
    assert!(fs::read(&largest).unwrap() == whole);
    // What arrived in part and was something else is not believed.
    fs::remove_file(&largest).unwrap();
    fs::write(world.path(format!("store/ingest/sha256-{name}")), vec![0; whole.len()]).unwrap();
    stage(&[]).ends_with(1).says("and not sha256:");
    stage(&[]).ok();
    assert!(fs::read(&largest).unwrap() == whole);
}

#[test]
fn a_lock_that_does_not_fit_is_told() {
    let world = World::with_dockerfile("FROM BUSYBOX\n");
    let stage = |args: &[&str]| world.run(world.command().args(["stage", "ctx", LOCAL]).args(args));
    let check = |args: &[&str]| world.run(world.command().args(["lock", "ctx", LOCAL, "--check"]).args(args));
    stage(&[]).ok();
    assert!(world.path("home/.cache/ktl/store/oci-layout").exists());
    let shown = world.run(world.command().args(["lock", "ctx"])).ok().stdout;
    assert!(shown.starts_with(&format!("image  {}  sha256:", PARTS.busybox)), "{shown}");

    // Offline: what is missing and what is too much.
    let text = world.read("ctx/Dockerfile");
    world.write("ctx/Dockerfile", "# syntax=r.invalid/frontend:1\nFROM r.invalid/other:1\n");
    let stale = check(&[]).ends_with(1).says("does not fit");
    assert_eq!(
        stale.stdout,
        format!(
            "{}: locked, and nothing names it\nr.invalid/frontend:1: not locked\nr.invalid/other:1: not locked\n",
            PARTS.busybox
        )
    );
    world.write("ctx/Dockerfile", &text);
    check(&[]).ok();
    check(&["--platform", "linux/arm64,linux/amd64"]).ok();
    // What cannot be known is refused, not left out.
    world.write("ctx/Dockerfile", format!("{text}ADD https://h.invalid/$X /\n"));
    stage(&[]).ends_with(2).says("cannot be known").says("ADD https://h.invalid/$X").says("--build-arg");
    world.write("ctx/Dockerfile", &text);

    // A tag that moved is seen when that is asked for, and stays locked until it is taken.
    let mut file = world.read("ctx/ktl.lock");
    let digest = lock(&world).images().next().unwrap().digest.clone();
    let pinned = world.write("pinned/Dockerfile", format!("FROM {}@{digest}\n", PARTS.busybox));
    world.run(world.command().args(["stage", "pinned", LOCAL])).ok();
    assert!(fs::read_to_string(pinned.with_file_name("ktl.lock")).unwrap().contains(&format!("@{digest}\"")));
    let other = "0".repeat(64);
    file = file.replace(digest.hex(), &other);
    world.write("ctx/ktl.lock", &file);
    check(&[]).ok();
    let moved = check(&["--upstream"]).ends_with(1);
    assert!(
        moved.stdout.contains(&format!("locked as sha256:{other}, and {digest} now")),
        "{}",
        moved.stdout
    );
    stage(&[]).ends_with(1).says("is not there (404)").says("--update");
    stage(&["--update"]).ok();
    assert_eq!(lock(&world).images().next().unwrap().digest, digest);

    world.write("ctx/ktl.lock", "version = 1\n[[image]]\nreference = \"A\"\n");
    check(&[]).ends_with(2).says("ktl.lock: line 3: ");
    let remote = world.run(world.command().args(["stage", "https://h.invalid/r.git"]));
    remote.ends_with(2).says("only a Dockerfile that is a file of this machine");
}

#[test]
fn the_users_login_is_used_where_the_registry_asks_for_it() {
    let world = World::new();
    for (name, auth) in [
        ("basic", Auth::Htpasswd { user: "ada".into(), password: "pa ss:wörd".into() }),
        ("token", Auth::Token { user: "ada".into(), password: "s3cret&=+".into() }),
    ] {
        let registry = Registry::start(&world.path(name), auth).unwrap();
        let daemon =
            xtask::parts::Options { plain_http: vec![registry.address().to_owned()], ..Default::default() };
        let daemon = xtask::parts::Buildkitd::start(&world.path(format!("{name}-d")), &daemon).unwrap();
        push_base_images(&daemon, &registry, &[BaseImage::Busybox]).unwrap();
        world.write("ctx/Dockerfile", format!("FROM {}\n", BaseImage::Busybox.reference(&registry)));
        let stage = |config: &std::path::Path| {
            let mut command = world.command();
            world.run(command.args(["stage", "ctx", LOCAL, "--to", name]).env("DOCKER_CONFIG", config))
        };
        stage(&world.path("home")).ends_with(1).says("docker login");
        stage(registry.docker_config()).ok();
        for request in registry.token_requests().iter().filter(|request| request.granted) {
            assert!(request.scopes.contains("busybox:pull"), "{request:?}");
        }
    }
}

#[test]
fn a_dockerfile_leads_to_public_addresses_alone() {
    let world = World::new();
    world.write("web/file", "inside\n");
    let web = crate::inputs::serve(&world.path("web"));
    let port = web.rsplit_once(':').unwrap().1;
    let stage = |steps: &str, args: &[&str]| {
        world.write("ctx/Dockerfile", format!("FROM scratch\n{steps}\n"));
        world.run(world.command().args(["stage", "ctx"]).args(args))
    };
    for (step, place) in [
        (format!("ADD {web}/file /"), format!("127.0.0.1:{port}")),
        (format!("ADD http://localhost:{port}/file /"), format!("localhost:{port}")),
        ("ADD http://169.254.169.254/latest /".to_owned(), "169.254.169.254:80".to_owned()),
        ("ADD http://[::ffff:10.0.0.1]/x /".to_owned(), "10.0.0.1:80".to_owned()),
        (format!("ADD git://127.0.0.1:{port}/r.git /"), format!("127.0.0.1:{port}")),
        (format!("ADD {web}/r.git /"), format!("127.0.0.1:{port}")),
        (format!("COPY --from={} /x /", PARTS.busybox), PARTS.busybox.split('/').next().unwrap().to_owned()),
    ] {
        let says = format!("--allow-host {place} allows this one");
        stage(&step, &[]).ends_with(5).says("no --allow-host names it").says(&says);
    }
    let add = format!("ADD {web}/file /");
    stage(&add, &["--allow-host", "127.0.0.1:1"]).ends_with(5);
    stage(&add, &["--allow-host", "http://x"]).ends_with(2).says("HOST[:PORT]");
    stage(&add, &["--allow-host", &format!("127.0.0.1:{port}")]).ok();
    // Where a server sends on to counts as well.
    let elsewhere = crate::inputs::serve(&world.path("web"));
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let first = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        use std::io::{BufRead, BufReader, Write};
        for stream in listener.incoming().map_while(Result::ok) {
            let lines = BufReader::new(&stream).lines().map_while(Result::ok);
            lines.take_while(|line| !line.is_empty()).for_each(drop);
            let head = "HTTP/1.1 302 Found\r\nContent-Length: 0\r\nConnection: close\r\nLocation: ";
            let _ = write!(&stream, "{head}{elsewhere}/file\r\n\r\n");
        }
    });
    let add = format!("ADD http://{first}/on /");
    stage(&add, &["--allow-host", &first.to_string()]).ends_with(5).says("is loopback, and no --allow-host");
    stage(&add, &["--allow-host", "127.0.0.1"]).ok();
}
