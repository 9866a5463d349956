//! Hermetic builds from lock and store, with registries and web servers gone.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::Command;

use xtask::parts::{Auth, BaseImage, Registry, push_base_images};

use crate::ktl::{PARTS, Ran, World, is_root};

/// A world with private builders, which end with it.
pub struct Offline(World);

impl Offline {
    pub fn new() -> Offline {
        Offline(World::new())
    }

    pub fn world(&self) -> &World {
        &self.0
    }

    fn command(&self, machine: &str) -> Command {
        let mut command = self.0.command();
        let mut path = String::new();
        for tool in [xtask::tools::buildkitd(), xtask::tools::runc()] {
            path += &format!("{}:", tool.unwrap().parent().unwrap().display());
        }
        command
            .env("PATH", path + "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("KTL_STATE_DIR", self.0.path(machine));
        command.env_remove("KTL_BUILDER");
        command
    }

    pub fn build(&self, machine: &str, args: &[&str]) -> Ran {
        let mut command = self.command(machine);
        self.0.run(command.args(["build", "ctx", "--hermetic", "--progress=plain"]).args(args))
    }

    pub fn stage(&self, args: &[&str]) -> Ran {
        self.0.run(self.0.command().args(["stage", "ctx", "--allow-host=127.0.0.1"]).args(args))
    }
}

impl Drop for Offline {
    fn drop(&mut self) {
        for machine in ["one", "two"] {
            let _ = self.command(machine).args(["builder", "stop"]).output();
        }
    }
}

/// Answers one request with `body` and is gone.
fn serve_once(body: &'static str) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        drop(listener);
        let lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
        lines.take_while(|line| !line.is_empty()).for_each(drop);
        let length = body.len();
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
            .unwrap();
    });
    format!("http://{address}")
}

#[test]
fn the_same_dockerfile_builds_with_the_cable_out() {
    if !is_root("the_same_dockerfile_builds_with_the_cable_out") {
        return;
    }
    let offline = Offline::new();
    let world = offline.world();
    let registry = Registry::start(&world.path("registry"), Auth::None).unwrap();
    push_base_images(&PARTS.daemon, &registry, &[BaseImage::Busybox]).unwrap();
    world.write("multi/amd64", "amd64");
    world.write("multi/arm64", "arm64");
    world.write("multi/Dockerfile", "FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /arch\n");
    let multi = format!("{}/multi:1", registry.address());
    let both = "--platform=linux/amd64,linux/arm64";
    let mut push = world.command();
    push.args(["build", "multi", both, "--output"])
        .arg(format!("type=registry,name={multi},registry.insecure=true"));
    world.run(&mut push).ok();
    let busybox = BaseImage::Busybox.reference(&registry);
    let url = serve_once("of the web\n");
    let dockerfile = format!(
        "FROM --platform=$BUILDPLATFORM {busybox} AS tool\nRUN echo ran > /ran\nADD {url}/dir/file.txt?x=1 /got/\n\
         FROM {multi}\nCOPY --from=tool /ran /got/file.txt /\nCOPY --from={multi} /arch /again\n"
    );
    world.write("ctx/Dockerfile", &dockerfile);
    offline.stage(&[both]).ok().says(" is sha256:").says("wrote ");
    drop(registry);
    // The control: without the lock there is nothing to build from.
    let plain = world.build(&[both]);
    assert_ne!(plain.code, Some(0), "{}", plain.stderr);

    offline
        .build("one", &[both, "-o", "out"])
        .ok()
        .says("ktl.lock (sha256:")
        .says("2 images, 1 files and 0 repositories");
    for (dir, arch) in [("linux_amd64", "amd64"), ("linux_arm64", "arm64")] {
        for (file, text) in [("ran", "ran\n"), ("file.txt", "of the web\n"), ("arch", arch), ("again", arch)]
        {
            assert_eq!(world.read(&format!("out/{dir}/{file}")), text, "{dir}/{file}");
        }
    }

    // What is not locked or not there is told before the build, with the mend.
    world.write(
        "ctx/Dockerfile",
        format!("{dockerfile}COPY --from=other.invalid/x:1 /x /\nADD {url}/more /\n"),
    );
    offline
        .build("one", &[both])
        .ends_with(5)
        .says("does not hold what the Dockerfile names")
        .says("other.invalid/x:1: not locked")
        .says("/more: not locked")
        .says("ktl stage");
    let called_alike = dockerfile.replace(&busybox, "busybox").replace("AS tool", "AS busybox");
    world.write("ctx/Dockerfile", called_alike.replace("--from=tool", "--from=busybox"));
    let lock = world.read("ctx/ktl.lock");
    world.write("ctx/ktl.lock", lock.replace(&busybox, "docker.io/library/busybox:latest"));
    offline.build("one", &[both]).ends_with(5).says("a stage that is called busybox");
    world.write("ctx/Dockerfile", &dockerfile);
    world.write("ctx/ktl.lock", &lock);
    let largest = fs::read_dir(world.path("home/.cache/ktl/store/blobs/sha256"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .max_by_key(|path| fs::metadata(path).unwrap().len());
    fs::remove_file(largest.unwrap()).unwrap();
    offline.build("one", &[both]).ends_with(5).says("the store ").says(" lacks what ").says("ktl stage");
    offline.build("one", &["--store", "nowhere"]).ends_with(5).says("there is no store at ");
    offline.build("one", &["--lock", "nowhere"]).ends_with(2).says("there is no lock at ");
    world.build(&["--lock", "ctx/ktl.lock"]).ends_with(2).says("nothing without --hermetic");
}

#[test]
fn a_staged_build_is_the_same_everywhere() {
    if !is_root("a_staged_build_is_the_same_everywhere") {
        return;
    }
    let offline = Offline::new();
    let world = offline.world();
    let registry = Registry::start(&world.path("registry"), Auth::None).unwrap();
    push_base_images(&PARTS.daemon, &registry, &[BaseImage::Debian, BaseImage::Busybox]).unwrap();
    world.write(
        "ctx/Dockerfile",
        format!(
            "FROM {} AS build\nWORKDIR /src\nCOPY vendor vendor\nCOPY main.c .\n\
             RUN gcc -O1 -static -Ivendor -o app main.c vendor/greet.c && ./app > said\n\
             FROM {}\nCOPY --from=build /src/app /src/said /\n",
            BaseImage::Debian.reference(&registry),
            BaseImage::Busybox.reference(&registry)
        ),
    );
    world.write("ctx/vendor/greet.h", "const char *greet(void);\n");
    world.write(
        "ctx/vendor/greet.c",
        "#include \"greet.h\"\nconst char *greet(void) { return \"from vendored sources\"; }\n",
    );
    world.write(
        "ctx/main.c",
        "#include <stdio.h>\n#include \"greet.h\"\nint main(void) { puts(greet()); return 0; }\n",
    );
    offline.stage(&["--to", "store"]).ok();
    drop(registry);

    let built = |machine: &str, runtime: &str| {
        let out = format!("type=oci,dest={machine}.tar,rewrite-timestamp=true");
        let mut command = offline.command(machine);
        command.env("KTL_SANDBOX_RUNTIME", runtime).env("SOURCE_DATE_EPOCH", "1700000000");
        command.args([
            "build",
            "ctx",
            "--hermetic",
            "--store",
            "store",
            "--progress=plain",
            "--provenance=false",
        ]);
        command.args(["--builder", &format!("jail://{runtime}"), "--output", &out]);
        let ran = world.run(&mut command).ok();
        assert!(ran.stdout.starts_with("sha256:"), "{}", ran.stdout);
        ran.stdout
    };
    let first = built("one", "native");
    // Another state directory has nothing of the first's cache.
    assert_eq!(built("two", "nsjail"), first);
    let read = Command::new("tar").args(["-tf", "one.tar"]).current_dir(world.path(".")).output().unwrap();
    assert!(String::from_utf8_lossy(&read.stdout).contains("index.json"));
    // A control: another source, another digest.
    world
        .write("ctx/vendor/greet.c", "#include \"greet.h\"\nconst char *greet(void) { return \"other\"; }\n");
    assert_ne!(built("one", "native"), first);
}
