//! Where results go, what is said of them, and how a build looks while it runs.

use super::Effect::{Err, Gone, Has, Is, Json, Manifests, NoOut, Oci, Out, Pushed, Silent};
use super::Part::{Config, Index, Layout, Manifest};
use super::{Place, Typed, seen, typed};

pub const ALL: &[(&str, &[Typed])] =
    &[("", PLACES), ("", TOLD), ("", PLATFORMS), ("", ATTESTED), ("", SHOWN)];

const PLACES: &[Typed] = &[
    typed("docker buildx build -o . .", &[Is("copied", "f")]),
    typed("docker buildx build -o outdir .", &[Is("outdir/copied", "f")]),
    typed("docker buildx build -o - . > out.tar", &[Has("out.tar", "copied")]),
    typed("docker buildx build --output=type=tar,dest=out2.tar .", &[Has("out2.tar", "copied")]),
    typed(
        "docker buildx build -t mine:1 -o type=docker,dest=- . > myimage.tar",
        &[Has("myimage.tar", "mine:1")],
    ),
    typed(
        "docker buildx build -t REGISTRY/tonistiigi/foo -o type=registry .",
        &[Pushed("tonistiigi/foo", "latest")],
    ),
    typed(
        "docker buildx build --push=true --load=false -t REGISTRY/user/app .",
        &[Pushed("user/app", "latest")],
    ),
    typed(
        "docker buildx build --output type=image,name=REGISTRY/user/app:2,push=true .",
        &[Pushed("user/app", "2")],
    ),
    typed(
        "docker buildx build --output type=oci,dest=a.tar --output type=local,dest=b .",
        &[Is("b/copied", "f"), Oci("a.tar", Config, "/os", "linux")],
    ),
    typed("docker buildx build -o type=local,dest=d,mode=delete .", &[Is("d/copied", "f")]),
    typed(
        "mkdir -p ../e && echo x > ../e/stale && docker buildx build --allow=buildx.local.delete -o type=local,dest=../e,mode=delete .",
        &[Gone("../e/stale"), Is("../e/copied", "f")],
    ),
    typed("docker buildx build -o type=cacheonly .", &[NoOut]),
];

const TOLD: &[Typed] = &[
    typed("docker buildx build -t docker/apache:2.0 .", &[Out("sha256:")]),
    seen(
        "docker buildx build -t docker/fedora-jboss:latest -t docker/fedora-jboss:v2.1 .",
        "-o type=oci,dest=s1.oci",
        &[
            Oci(
                "s1.oci",
                Layout,
                "/manifests/0/annotations/io.containerd.image.name",
                "docker.io/docker/fedora-jboss:latest",
            ),
            Oci(
                "s1.oci",
                Layout,
                "/manifests/1/annotations/io.containerd.image.name",
                "docker.io/docker/fedora-jboss:v2.1",
            ),
        ],
    ),
    typed("docker buildx build --iidfile iid .", &[Has("iid", "sha256:")]),
    typed(
        "docker buildx build --metadata-file metadata.json -o type=oci,dest=s2.oci .",
        &[
            Json("metadata.json", "/buildx.build.provenance", "*"),
            Json("metadata.json", "/containerimage.descriptor/digest", "*"),
            Json("metadata.json", "/containerimage.config.digest", "*"),
        ],
    ),
    typed(
        "BUILDX_METADATA_PROVENANCE=disabled BUILDX_METADATA_WARNINGS=1 docker buildx build -f shouting --metadata-file m2.json .",
        &[
            Json("m2.json", "/buildx.build.provenance", "null"),
            Json("m2.json", "/buildx.build.warnings/0/level", "1"),
        ],
    ),
    seen(
        "docker buildx build --label com.example.a=b --label alone .",
        "-o type=oci,dest=s3.oci",
        &[
            Oci("s3.oci", Config, "/config/Labels/com.example.a", "b"),
            Oci("s3.oci", Config, "/config/Labels/alone", ""),
        ],
    ),
    seen(
        "docker buildx build --annotation \"foo=bar\" .",
        "-o type=oci,dest=s4.oci",
        &[Oci("s4.oci", Manifest, "/annotations/foo", "bar")],
    ),
    seen(
        "docker buildx build --provenance=true --annotation \"index:foo=bar\" .",
        "-o type=oci,dest=s5.oci",
        &[
            Oci("s5.oci", Index, "/annotations/foo", "bar"),
            Oci("s5.oci", Manifest, "/annotations/foo", "null"),
        ],
    ),
    seen(
        "docker buildx build --provenance=true --annotation \"index,manifest,manifest-descriptor:foo=bar\" .",
        "-o type=oci,dest=s6.oci",
        &[
            Oci("s6.oci", Index, "/annotations/foo", "bar"),
            Oci("s6.oci", Index, "/manifests/0/annotations/foo", "bar"),
            Oci("s6.oci", Manifest, "/annotations/foo", "bar"),
        ],
    ),
    seen(
        "docker buildx build --annotation \"manifest[linux/amd64]:foo=bar\" --platform linux/amd64,linux/arm64 .",
        "-o type=oci,dest=s7.oci",
        &[Oci("s7.oci", Manifest, "/annotations/foo", "bar")],
    ),
    seen(
        "SOURCE_DATE_EPOCH=1700000000 docker buildx build .",
        "-o type=oci,dest=s8.oci,rewrite-timestamp=true",
        &[Oci("s8.oci", Config, "/created", "2023-11-14T22:13:20Z")],
    ),
];

const PLATFORMS: &[Typed] = &[
    seen(
        "docker buildx build --platform=linux/arm64 .",
        "-o type=oci,dest=s1.oci",
        &[Oci("s1.oci", Config, "/architecture", "arm64")],
    ),
    seen(
        "docker buildx build --platform=linux/amd64,linux/arm64,linux/arm/v7 .",
        "-o type=oci,dest=s2.oci",
        &[Manifests("s2.oci", 6), Oci("s2.oci", Index, "/manifests/2/platform/variant", "v7")],
    ),
    seen(
        "docker buildx build --platform linux/amd64 --platform linux/arm64 .",
        "-o s3",
        &[Is("s3/linux_amd64/copied", "f"), Is("s3/linux_arm64/copied", "f")],
    ),
    seen(
        "docker buildx build --platform=darwin .",
        "-o type=oci,dest=s4.oci",
        &[Oci("s4.oci", Config, "/os", "darwin")],
    ),
    seen(
        "docker buildx build --platform=local .",
        "-o type=oci,dest=s5.oci",
        &[Oci("s5.oci", Config, "/os", "linux")],
    ),
    seen(
        "DOCKER_DEFAULT_PLATFORM=linux/s390x docker buildx build .",
        "-o type=oci,dest=s6.oci",
        &[Oci("s6.oci", Config, "/architecture", "s390x")],
    ),
    seen(
        "docker buildx build --build-arg BUILDKIT_MULTI_PLATFORM=1 .",
        "-o type=oci,dest=s7.oci",
        &[Manifests("s7.oci", 2)],
    ),
];

const ATTESTED: &[Typed] = &[
    seen("docker buildx build --provenance=mode=max .", "-o type=oci,dest=s1.oci", &[Manifests("s1.oci", 2)]),
    seen(
        "docker buildx build --attest=type=provenance,mode=min .",
        "-o type=oci,dest=s2.oci",
        &[Manifests("s2.oci", 2)],
    ),
    seen(
        "docker buildx build --provenance=false .",
        "-o type=oci,dest=s3.oci",
        &[Oci("s3.oci", Index, "/layers", "*")],
    ),
    typed(
        "BUILDX_NO_DEFAULT_ATTESTATIONS=1 docker buildx build -o type=image --metadata-file m.json .",
        &[Json(
            "m.json",
            "/containerimage.descriptor/mediaType",
            "application/vnd.oci.image.manifest.v1+json",
        )],
    ),
    seen(
        "docker buildx build --sbom=generator=REGISTRY/user/generator .",
        "-o type=oci,dest=s4.oci",
        &[Manifests("s4.oci", 2), Has("s4.oci", "https://spdx.dev/Document")],
    ),
    seen(
        "docker buildx build --attest type=sbom,generator=REGISTRY/user/generator .",
        "-o type=oci,dest=s5.oci",
        &[Manifests("s5.oci", 2), Has("s5.oci", "https://spdx.dev/Document")],
    ),
    seen(
        "docker buildx build --sbom=false .",
        "-o type=oci,dest=s6.oci",
        &[Oci("s6.oci", Index, "/layers", "*")],
    ),
];

const SHOWN: &[Typed] = &[
    typed("docker buildx build --progress=plain .", &[Err("#1 ["), Err("DONE")]),
    typed("BUILDKIT_PROGRESS=plain docker buildx build --progress auto .", &[Err("#1 [")]),
    typed("docker buildx build --progress=rawjson .", &[Err("{\"vertexes\":[")]),
    typed("docker buildx build --progress=quiet .", &[Silent, Out("sha256:")]),
    typed("docker buildx build -q .", &[Silent, Out("sha256:")]),
    typed("docker buildx build -qt app:1 .", &[Silent, Out("sha256:")]),
    typed("docker buildx build --progress=none -t app:1 .", &[Silent, NoOut]),
    typed("docker buildx build --progress tty --no-cache .", &[Err("copied")]),
    typed("docker buildx build --rm --compress --force-rm=true .", &[Err("--rm has no effect")]),
];

fn place() -> Place {
    let place = Place::new();
    place.write("Dockerfile", "FROM scratch\nCOPY f /copied\n");
    place.write("shouting", "from scratch\nCOPY f /copied\n");
    place.write("f", "f");
    place
}

#[test]
fn results_go_where_they_should() {
    place().check("", PLACES);
}

#[test]
fn results_are_named_and_told_of() {
    place().check("", TOLD);
}

#[test]
fn platforms() {
    place().check("", PLATFORMS);
}

#[test]
fn attestations() {
    let place = place();
    place.write(
        "generator/Dockerfile",
        "FROM BUSYBOX\nCMD [\"/bin/sh\", \"-c\", \"printf '{\\\"_type\\\": \\\"https://in-toto.io/Statement/v0.1\\\", \\\"predicateType\\\": \
         \\\"https://spdx.dev/Document\\\", \\\"predicate\\\": {}}' > $BUILDKIT_SCAN_DESTINATION/x.spdx.json\"]\n",
    );
    place.run("", "docker buildx build generator -t REGISTRY/user/generator --push").ok();
    place.check("", ATTESTED);
}

#[test]
fn progress() {
    place().check("", SHOWN);
}
