//! The user's things that a build may use: secrets, agents, registry logins. They stay outside the jail.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use xtask::parts::{Auth, BaseImage, Buildkitd, Options, Registry, ScratchDir, push_base_images};

use crate::ktl::{NATIVE, PARTS, Ran, World};

#[test]
fn secrets_from_files_and_variables() {
    let world = World::with_dockerfile(
        "FROM BUSYBOX AS b\nRUN --mount=type=secret,id=f --mount=type=secret,id=e --mount=type=secret,id=none \
         test -e /run/secrets/none || cat /run/secrets/f /run/secrets/e | md5sum > /sum\nFROM scratch\nCOPY --from=b /sum /\n",
    );
    let file = world.write("secret.txt", "of-a-file ");
    let spec = format!("id=f,src={}", file.display());
    for extra in [None, Some("--sandbox=off")] {
        let mut command = world.command();
        command.env("TOKEN", "of-the-environment").args([
            "build",
            "ctx",
            "--no-cache",
            "--secret",
            &spec,
            "--secret",
            "id=e,env=TOKEN",
        ]);
        let ran = world.run(command.args(["-o", "out", "-v"]).args(extra)).ok();
        let ran = ran.says_not("of-a-file").says_not("of-the-environment");
        assert!(
            world.read("out/sum").starts_with("e58620ebbb7d393f6e9cdba54ac8fb6f"),
            "{} {}",
            world.read("out/sum"),
            ran.stderr
        );
    }
}

#[test]
fn a_required_secret_that_was_not_given() {
    let world = World::with_dockerfile(
        "FROM BUSYBOX\nRUN --mount=type=secret,id=missing,required=true cat /run/secrets/missing\n",
    );
    world.build(&[]).ends_with(1).says("missing");
}

#[test]
fn an_agent_signs_for_a_step_and_shows_no_key() {
    let world = World::with_dockerfile(
        "FROM BUSYBOX AS b\nRUN --mount=type=ssh test -S \"$SSH_AUTH_SOCK\" && echo \"$SSH_AUTH_SOCK\" > /got\nFROM scratch\nCOPY --from=b /got /\n",
    );
    let key = world.path("id");
    let made =
        Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).output().unwrap();
    assert!(made.status.success());
    let spec = format!("default={}", key.display());
    world.build(&["--ssh", &spec, "-o", "out"]).ok();
    assert!(world.read("out/got").contains("/run/buildkit/ssh_agent"), "{}", world.read("out/got"));
    World::with_dockerfile("FROM BUSYBOX\nRUN --mount=type=ssh,required=true true\n")
        .build(&[])
        .ends_with(1)
        .says("ssh");
}

/// A login in docker's config, with a password or by the token of an authority, works jailed; without one the message says
/// where logins are looked for.
#[test]
fn registry_logins() {
    for auth in [
        Auth::Htpasswd { user: "u".into(), password: "p w".into() },
        Auth::Token { user: "u".into(), password: "p w".into() },
    ] {
        let by_token = matches!(auth, Auth::Token { .. });
        let scratch = ScratchDir::new("auth").unwrap();
        let registry = Registry::start(&scratch.join("registry"), auth).unwrap();
        let options = Options { plain_http: vec![registry.address().to_owned()], ..Options::default() };
        let daemon = Buildkitd::start(&scratch.join("daemon"), &options).unwrap();
        push_base_images(&daemon, &registry, &[BaseImage::Busybox]).unwrap();
        let world = World::new();
        world
            .write("ctx/Dockerfile", format!("FROM {}\nRUN true\n", BaseImage::Busybox.reference(&registry)));
        let name = format!("{}/private:1", registry.address());
        let run = |config: Option<&Path>, extra: &[&str]| {
            let mut command = world.command();
            command
                .env("KTL_BUILDER", daemon.address())
                .args(["build", "ctx", "-t", &name, "--push"])
                .args(extra);
            if let Some(dir) = config {
                command.env("DOCKER_CONFIG", dir);
            }
            world.run(&mut command)
        };
        run(None, &[]).ends_with(1).says("config.json");
        let config = registry.docker_config();
        let dir = if config.is_dir() { config } else { config.parent().unwrap() };
        let ran = run(Some(dir), &["-v"]).ok().says_not("p w");
        // With a token authority the builder gets tokens and never the password.
        let broker = ran.stderr.lines().find(|line| line.starts_with("[broker] asked:")).unwrap_or_default();
        assert_eq!(broker.contains("token "), by_token, "{broker}");
        assert_eq!(broker.contains("credentials "), !by_token, "{broker}");
        let ran = run(Some(dir), &["--sandbox=off", "--no-cache"]).ok();
        // Nothing of that is worth a word to anybody.
        ran.says_not("refused").says_not("[guard]");
    }
}

#[test]
fn a_credential_helper_is_asked() {
    let scratch = ScratchDir::new("helper").unwrap();
    let auth = Auth::Htpasswd { user: "u".into(), password: "secret".into() };
    let registry = Registry::start(&scratch.join("registry"), auth).unwrap();
    let options = Options { plain_http: vec![registry.address().to_owned()], ..Options::default() };
    let daemon = Buildkitd::start(&scratch.join("daemon"), &options).unwrap();
    let world = World::with_dockerfile("FROM scratch\nCOPY x /\n");
    world.write("ctx/x", "x");
    let helper = world.write("bin/docker-credential-test", "#!/bin/sh\nread host\necho \"$host\" >> \"$HOME/asked\"\necho '{\"Username\":\"u\",\"Secret\":\"secret\"}'\n");
    fs::set_permissions(helper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    world.write(
        "home/.docker/config.json",
        format!("{{\"credHelpers\":{{\"{}\":\"test\"}}}}", registry.address()),
    );
    let name = format!("{}/private:1", registry.address());
    let mut command = world.command();
    let path = format!("{}:/usr/bin:/bin", world.path("bin").display());
    command
        .env("PATH", path)
        .env("KTL_BUILDER", daemon.address())
        .args(["build", "ctx", "-t", &name, "--push"]);
    world.run(command.stdout(Stdio::null())).ok();
    assert!(world.read("home/asked").contains(registry.address()));
}

/// A registry with tokens, a daemon, and a world whose user is logged in there.
struct Private {
    _scratch: ScratchDir,
    registry: Registry,
    daemon: Buildkitd,
    world: World,
}

impl Private {
    fn new(name: &str) -> Private {
        let scratch = ScratchDir::new(name).unwrap();
        let auth = Auth::Token { user: "u".into(), password: "p w".into() };
        let registry = Registry::start(&scratch.join("registry"), auth).unwrap();
        let options = Options { plain_http: vec![registry.address().to_owned()], ..Options::default() };
        let daemon = Buildkitd::start(&scratch.join("daemon"), &options).unwrap();
        push_base_images(&daemon, &registry, &[BaseImage::Busybox]).unwrap();
        Private { _scratch: scratch, registry, daemon, world: World::new() }
    }

    fn logins(&self) -> PathBuf {
        let config = self.registry.docker_config();
        if config.is_file() { config.to_owned() } else { config.join("config.json") }
    }

    fn build(&self, config: Option<&Path>, extra: &[&str]) -> Ran {
        let mut command = self.world.command();
        command.env("KTL_BUILDER", self.daemon.address()).args(["build", "ctx", "-v"]).args(extra);
        if let Some(file) = config {
            command.env("DOCKER_CONFIG", file.parent().unwrap());
        }
        self.world.run(&mut command)
    }
}

/// A private base image that the Dockerfile names by an argument is pulled, and nothing but it.
#[test]
fn a_login_is_for_what_the_build_names() {
    let private = Private::new("names");
    let (address, image) = (private.registry.address(), BaseImage::Busybox.reference(&private.registry));
    let repository = image.strip_prefix(&format!("{address}/")).unwrap();
    let repository = repository.split([':', '@']).next().unwrap();
    private
        .world
        .write("ctx/Dockerfile", "ARG BASE\nARG IMAGE=${BASE:-nothing.invalid/x}\nFROM $IMAGE\nRUN true\n");
    let base = format!("BASE={image}");
    let before = private.registry.token_requests().len();
    let target = format!("{address}/mine/app:1");
    let ran = private.build(Some(&private.logins()), &["--build-arg", &base, "-t", &target, "--push"]).ok();
    ran.says(&format!("[broker] registries of this build: {address}"))
        .says(&format!("[broker] gave a token for {address} from http://"))
        .says("repository:mine/app:pull,push")
        .says_not("p w");
    let asked = private.registry.token_requests().split_off(before);
    assert!(asked.iter().any(|request| request.granted), "{asked:?}");
    let allowed = [
        format!("repository:{repository}:pull"),
        "repository:mine/app:pull,push".to_owned(),
        "repository:mine/app:pull".to_owned(),
    ];
    for scope in asked.iter().filter(|request| request.granted).flat_map(|request| request.scopes.split(' '))
    {
        assert!(allowed.iter().any(|allowed| allowed == scope), "{scope} {asked:?}");
    }
}

/// A frontend may pull what it likes. What the build does not name is pulled without the user's login, and that is said.
#[test]
fn what_the_build_does_not_name_gets_no_login() {
    let private = Private::new("unnamed");
    let address = private.registry.address();
    let image = BaseImage::Busybox.reference(&private.registry);
    // The reader of names does not know what stands in this expression, the frontend does.
    let swapped = image.replacen("127.0.0.1", "127.0.0.X", 1);
    private
        .world
        .write("ctx/Dockerfile", format!("ARG A={swapped}\nARG IMAGE=${{A/X/1}}\nFROM $IMAGE\nRUN true\n"));
    let before = private.registry.token_requests().len();
    let ran = private.build(Some(&private.logins()), &["--no-cache"]).ends_with(1);
    ran.says(&format!("[broker] refused registry login: {address}"))
        .says(&format!("--allow-registry {address} sends your login"));
    let asked = private.registry.token_requests().split_off(before);
    assert!(asked.iter().all(|request| request.user.is_empty()), "{asked:?}");
    // The control: by the user's word it works, jailed and not.
    for extra in [&[][..], &["--sandbox=off"]] {
        let args = [&["--no-cache", "--allow-registry", address][..], extra].concat();
        private.build(Some(&private.logins()), &args).ok().says_not("[broker] refused registry login");
    }
}

/// A `config.json` in the context is a file like any other; one that the user binds to docker's place there is used, and is
/// not seen in the jail.
#[test]
fn only_a_login_file_that_the_user_binds_is_used() {
    let private = Private::new("bound");
    let image = BaseImage::Busybox.reference(&private.registry);
    private.world.write("ctx/Dockerfile", format!("FROM {image}\nRUN true\n"));
    let logins = fs::read_to_string(private.logins()).unwrap();
    private.world.write("ctx/.docker/config.json", &logins);
    private.world.write("ctx/config.json", &logins);
    private.build(None, &["--no-cache"]).ends_with(1).says_not("registry logins come from");
    fs::remove_dir_all(private.world.path("ctx/.docker")).unwrap();
    let mine = private.world.write("mine.json", &logins);
    let bind = format!("{}:/workspace/.docker/config.json", mine.display());
    let probe = ["--sandbox-probe-path", "/workspace/.docker/config.json"];
    for runtime in [&[][..], NATIVE] {
        let args = [&["--no-cache", "--sandbox-bind", &bind][..], &probe, runtime].concat();
        let ran = private.build(None, &args).ok();
        let said = format!("[broker] registry logins come from {}", mine.display());
        let ran = ran.says(&said).says("/workspace/.docker/config.json: hidden").says_not("p w");
        // The second build shares the first one's token, by a challenge that takes the same login.
        assert!(ran.stderr.contains("gave a token for") || ran.stderr.contains("token challenge"), "{ran:?}");
    }
    assert!(!private.world.path("ctx/.docker").exists());
}

/// A step has logins signed; a signature under a file is refused, and so is one login more than was allowed.
#[test]
fn an_agent_logs_in_and_signs_nothing_else() {
    let scratch = ScratchDir::new("agent").unwrap();
    let key = scratch.join("id");
    let made =
        Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).output().unwrap();
    assert!(made.status.success());
    let public = fs::read(key.with_extension("pub")).unwrap();
    let blob = {
        use base64::Engine;
        let text = String::from_utf8(public).unwrap();
        base64::engine::general_purpose::STANDARD.decode(text.split(' ').nth(1).unwrap()).unwrap()
    };
    let string = |bytes: &[u8]| [&(bytes.len() as u32).to_be_bytes()[..], bytes].concat();
    let sign = |data: &[u8]| {
        let body = [&[13][..], &string(&blob), &string(data), &[0; 4]].concat();
        string(&body)
    };
    let login = [
        &string(&[7; 32])[..],
        &[50],
        &string(b"git"),
        &string(b"ssh-connection"),
        &string(b"publickey"),
        &[1],
        &string(b"ssh-ed25519"),
        &string(&blob),
    ]
    .concat();
    let sshsig =
        [&b"SSHSIG"[..], &string(b"git"), &string(b""), &string(b"sha512"), &string(&[0; 64])].concat();
    push_base_images(&PARTS.daemon, &PARTS.registry, &[BaseImage::Debian]).unwrap();
    let world = World::new();
    world.write(
        "ctx/Dockerfile",
        format!(
            "FROM {} AS b\nCOPY *.bin ask.pl /\nRUN --mount=type=ssh perl /ask.pl login sshsig login login > /got\n\
             FROM scratch\nCOPY --from=b /got /\n",
            BaseImage::Debian.reference(&PARTS.registry)
        ),
    );
    world.write(
        "ctx/ask.pl",
        r#"use IO::Socket::UNIX;
my $agent = IO::Socket::UNIX->new(Peer => $ENV{SSH_AUTH_SOCK}) or die "no agent: $!";
for my $name (@ARGV) {
    open(my $file, "<:raw", "/$name.bin") or die;
    local $/;
    print $agent scalar(<$file>);
    $agent->flush;
    read($agent, my $length, 4) == 4 or die "the stream ended";
    read($agent, my $answer, unpack("N", $length));
    print ord($answer), "\n";
}
"#,
    );
    world.write("ctx/login.bin", sign(&login));
    world.write("ctx/sshsig.bin", sign(&sshsig));
    let spec = format!("default={}", key.display());
    let ran =
        world.build(&["--ssh", &spec, "--ssh-max-signatures", "2", "-o", "out", "-v", "--no-cache"]).ok();
    assert_eq!(world.read("out/got").split_whitespace().collect::<Vec<_>>(), ["14", "5", "14", "5"]);
    ran.says("[broker] signed as git with SHA256:")
        .says("[broker] refused ssh agent: a signature under a file or a text (SSHSIG)")
        .says("[broker] refused ssh agent: more than 2 signatures; --ssh-max-signatures allows more");
}
