//! What RUN steps run with, and which of them run again.

use super::Effect::{Err, Has, Is, Without};
use super::{Place, Typed, seen, typed};

pub const ALL: &[(&str, &[Typed])] =
    &[("", WITH), ("secrets", SECRETS), ("secrets", AGENTS), ("again", AGAIN)];

const WITH: &[Typed] = &[
    seen(
        "docker buildx build --add-host my_hostname=8.8.8.8 --add-host my_hostname_v6=2001:4860:4860::8888 .",
        "-o s1",
        &[Has("s1/hosts", "8.8.8.8\tmy_hostname"), Has("s1/hosts", "2001:4860:4860::8888\tmy_hostname_v6")],
    ),
    seen(
        "docker buildx build --add-host host.docker.internal=host-gateway .",
        "-o s2",
        &[Has("s2/hosts", "10.9.8.7\thost.docker.internal")],
    ),
    seen(
        "docker buildx build --add-host my-hostname:10.180.0.1 --add-host my-hostname_v6=[2001:4860:4860::8888] .",
        "-o s3",
        &[
            Has("s3/hosts", "10.180.0.1\tmy-hostname"),
            Has("s3/hosts", "2001:4860:4860::8888\tmy-hostname_v6"),
        ],
    ),
    seen(
        "docker buildx build --build-arg HTTP_PROXY=http://10.20.30.2:1234 --build-arg FTP_PROXY=http://40.50.60.5:4567 .",
        "-o s4 --no-cache",
        &[Is("s4/proxies", "http://10.20.30.2:1234 http://40.50.60.5:4567\n")],
    ),
    seen(
        "export HTTP_PROXY=http://10.20.30.2:1234; docker buildx build --build-arg HTTP_PROXY .",
        "-o s5 --no-cache",
        &[Is("s5/proxies", "http://10.20.30.2:1234 \n")],
    ),
    seen("docker buildx build --network=none .", "-o s6 --no-cache", &[Is("s6/net", "lo\n")]),
    seen(
        "docker buildx build --allow network.host --network=host .",
        "-o s7 --no-cache",
        &[Has("s7/net", "lo")],
    ),
    seen(
        "docker buildx build --ulimit nofile=1024:1024 .",
        "-o s8 --no-cache",
        &[Is("s8/files", "1024\n1024\n")],
    ),
    seen("docker buildx build --ulimit nofile=1000 .", "-o s9 --no-cache", &[Is("s9/files", "1000\n1000\n")]),
    seen("docker buildx build --shm-size 5m .", "-o s10 --no-cache", &[Has("s10/shm", "size=5120k")]),
    seen(
        "docker buildx build --resource memory=2g --resource cpu-quota=50000 --resource cpu-period=100000 --resource cpuset-cpus=0 .",
        "-o s11 --no-cache",
        &[Is("s11/cpus", "0\n")],
    ),
    seen(
        "docker buildx build --cgroup-parent /e2e-typed .",
        "-o s12 --no-cache",
        &[Has("s12/cgroup", "/e2e-typed")],
    ),
    seen("docker buildx build --memory 1g --cpuset-cpus 0 .", "-o s13 --no-cache", &[Is("s13/cpus", "0\n")]),
    seen(
        "docker buildx build --security-opt seccomp=unconfined .",
        "-o s14 --no-cache",
        &[Err("RUN --security=insecure")],
    ),
];

const SECRETS: &[Typed] = &[
    seen(
        "docker buildx build --secret id=aws,src=$HOME/.aws/credentials .",
        "-o s1",
        &[Is("s1/aws", "of a file")],
    ),
    seen(
        "docker buildx build --secret type=file,id=aws,source=$HOME/.aws/credentials .",
        "-o s2 --no-cache",
        &[Is("s2/aws", "of a file")],
    ),
    seen(
        "SECRET_TOKEN=token docker buildx build --secret id=SECRET_TOKEN .",
        "-o s3 --no-cache",
        &[Is("s3/token", "token")],
    ),
    seen(
        "API_KEY=token docker buildx build --secret id=SECRET_TOKEN,env=API_KEY .",
        "-o s4 --no-cache",
        &[Is("s4/token", "token")],
    ),
    seen(
        "API_KEY=token docker buildx build --secret type=env,id=SECRET_TOKEN,src=API_KEY .",
        "-o s5 --no-cache",
        &[Is("s5/token", "token")],
    ),
];

/// With an agent, as `$SSH_AUTH_SOCK`.
const AGENTS: &[Typed] = &[
    seen(
        "docker buildx build --ssh default=$SSH_AUTH_SOCK .",
        "-o s6 --no-cache",
        &[Is("s6/agent", "socket\n")],
    ),
    seen("docker buildx build --ssh default .", "-o s7 --no-cache", &[Is("s7/agent", "socket\n")]),
];

/// What a step says is seen when it runs, and not when it is taken from the cache.
const AGAIN: &[Typed] = &[
    typed(
        "docker buildx build --progress=plain --no-cache-filter install .",
        &[Err("ran-2-install"), Without("ran-2-test")],
    ),
    typed(
        "docker buildx build --progress=plain --no-cache-filter install,release .",
        &[Err("ran-2-install"), Without("ran-2-test")],
    ),
    typed("docker buildx build --progress=plain --no-cache .", &[Err("ran-2-install"), Err("ran-2-test")]),
    typed(
        "docker buildx build --progress=plain --pull --no-cache=false .",
        &[Without("ran-2-install"), Without("ran-2-test")],
    ),
];

#[test]
fn steps_run_with_what_was_said() {
    let place = Place::new();
    place.write(
        "Dockerfile",
        "FROM BUSYBOX AS b\nRUN mkdir /o && cp /etc/hosts /o/hosts && echo \"$HTTP_PROXY $FTP_PROXY\" > /o/proxies && ls /sys/class/net > /o/net \
         && { ulimit -n; ulimit -Hn; } > /o/files && grep ' /dev/shm ' /proc/mounts > /o/shm \
         && sed -n 's/Cpus_allowed_list:.//p' /proc/self/status > /o/cpus && cp /proc/self/cgroup /o/cgroup\n\
         FROM scratch\nCOPY --from=b /o /\n",
    );
    place.check("", WITH);
}

#[test]
fn secrets_and_agents() {
    let mut place = Place::new();
    place.world.write("home/.aws/credentials", "of a file");
    place.write(
        "secrets/Dockerfile",
        "FROM BUSYBOX AS b\nRUN --mount=type=secret,id=aws --mount=type=secret,id=SECRET_TOKEN --mount=type=ssh mkdir /o \
         && for s in aws SECRET_TOKEN; do [ ! -e /run/secrets/$s ] || cp /run/secrets/$s /o/; done; mv /o/SECRET_TOKEN /o/token; \
         [ ! -S \"$SSH_AUTH_SOCK\" ] || echo socket > /o/agent\nFROM scratch\nCOPY --from=b /o /\n",
    );
    place.check("secrets", SECRETS);
    let Some(agent) = xtask::tools::on_path("ssh-agent") else {
        eprintln!("skipped: no ssh-agent on PATH");
        return;
    };
    // It ends with the shell that it starts.
    place.around = Some(agent);
    place.check("secrets", AGENTS);
}

#[test]
fn stages_run_again_when_asked() {
    let place = Place::new();
    place.write(
        "again/Dockerfile",
        "FROM BUSYBOX AS install\nRUN echo ran-$((1+1))-install && touch /install\n\
         FROM BUSYBOX AS test\nRUN echo ran-$((1+1))-test && touch /test\nFROM scratch AS release\n\
         COPY --from=install /install /\nCOPY --from=test /test /\n",
    );
    place.run("again", "docker buildx build .").ok();
    place.check("again", AGAIN);
}
