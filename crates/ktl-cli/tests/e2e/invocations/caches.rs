//! Caches that are written and read.

use super::Effect::{Err, Has, Is, Json, Pushed};
use super::{Place, Typed, typed};

pub const ALL: &[(&str, &[Typed])] = &[("", ALL_OF_THEM)];

const ALL_OF_THEM: &[Typed] = &[
    typed(
        "docker buildx build --cache-to=type=local,dest=path/to/cache .",
        &[Json("path/to/cache/index.json", "/manifests/0/digest", "*")],
    ),
    typed(
        "docker buildx build --cache-from=type=local,src=path/to/cache -o s1 .",
        &[Has("s1/id", "-"), Err("importing cache manifest")],
    ),
    typed("docker buildx build --cache-to=REGISTRY/user/cached:cache .", &[Pushed("user/cached", "cache")]),
    typed(
        "docker buildx build --cache-from=REGISTRY/user/cached:cache .",
        &[Err("importing cache manifest from REGISTRY/user/cached:cache")],
    ),
    typed(
        "docker buildx build --cache-to=type=registry,ref=REGISTRY/user/cached:max,mode=max .",
        &[Pushed("user/cached", "max")],
    ),
    typed(
        "docker buildx build --cache-from=type=registry,ref=REGISTRY/user/cached:max .",
        &[Err("importing cache manifest from REGISTRY/user/cached:max")],
    ),
    typed(
        "docker buildx build --push -t REGISTRY/user/cached --cache-to=type=inline --cache-from REGISTRY/user/cached .",
        &[Pushed("user/cached", "latest")],
    ),
    typed(
        "docker buildx build --cache-from=REGISTRY/user/nowhere .",
        &[Err("importing cache manifest from REGISTRY/user/nowhere")],
    ),
    typed("docker buildx build --cache-to=type=gha --cache-from=type=gha -o s2 .", &[Is("s2/f", "f")]),
    typed(
        "docker buildx build -t REGISTRY/user/cached:arg --push --build-arg BUILDKIT_INLINE_CACHE=1 .",
        &[Pushed("user/cached", "arg")],
    ),
];

#[test]
fn caches() {
    let place = Place::new();
    place.write(
        "Dockerfile",
        "FROM BUSYBOX AS b\nRUN : typed && cat /proc/sys/kernel/random/uuid > /id\nFROM scratch\nCOPY --from=b /id /\nCOPY f /\n",
    );
    place.write("f", "f");
    place.check("", ALL_OF_THEM);
}
