//! Contexts, Dockerfiles, named contexts, and questions about them.

use std::fs;
use std::process::Command;

use super::Effect::{Ends, Err, Has, Is, Out, Silent};
use super::{Place, Typed, seen, typed};
use crate::inputs::{GitDaemon, git, serve};

pub const ALL: &[(&str, &[Typed])] = &[("", PLAIN), ("named", NAMED), ("asked", ASKED)];

const PLAIN: &[Typed] = &[
    typed("docker buildx build .", &[Err("stays in the builder's cache")]),
    typed("docker buildx b .", &[Err("stays in the builder's cache")]),
    typed("docker buildx --debug build .", &[Err("named by KTL_BUILDER")]),
    seen("docker buildx build -f path/to/Dockerfile .", "-o s1", &[Is("s1/other", "of the context")]),
    seen("docker buildx build --file=path/to/Dockerfile .", "-o s2", &[Is("s2/other", "of the context")]),
    seen("docker buildx build -f WEB/path/to/Dockerfile .", "-o s3", &[Is("s3/other", "of the context")]),
    seen("docker buildx build -f WEB/path/to/Dockerfile GIT/r.git", "-o s4", &[Is("s4/other", "of git")]),
    typed("cat path/to/Dockerfile | docker buildx build -f - . -o s5", &[Is("s5/other", "of the context")]),
    typed("docker buildx build -o s6 - < alone.Dockerfile", &[Has("s6/etc/passwd", "root")]),
    typed("docker buildx build -o s7 - < context.tar.gz", &[Is("s7/copied", "of the context")]),
    typed(
        "docker buildx build -f path/to/Dockerfile -o s8 - < context.tar.gz",
        &[Is("s8/other", "of the context")],
    ),
    seen("docker buildx build WEB/context.tar.gz", "-o s9", &[Is("s9/copied", "of the context")]),
    seen("docker buildx build GIT/r.git", "-o s10", &[Is("s10/copied", "of git")]),
    seen("docker buildx build GIT/r.git#v1:sub", "-o s11", &[Is("s11/copied", "below")]),
    seen(
        "docker buildx build --target build-env -f stages .",
        "-o s12",
        &[Is("s12/first", "of the context")],
    ),
];

const NAMED: &[Typed] = &[
    seen(
        "docker buildx build --build-context project=path/to/project/source .",
        "-o s1",
        &[Is("s1/file", "of a project")],
    ),
    seen("docker buildx build --build-context project=GIT/r.git .", "-o s2", &[Is("s2/file", "of git")]),
    seen(
        "docker buildx build --build-context alpine=docker-image://BUSYBOX -f image .",
        "-o s3",
        &[Is("s3/marker", "made\n")],
    ),
    seen(
        "docker buildx build --build-context foo=oci-layout://path/to/local/layout:latest -f layout .",
        "-o s4",
        &[Is("s4/file", "of a layout")],
    ),
    seen(
        "docker buildx build --build-context foo=oci-layout://path/to/local/layout@$(cat digest) -f layout .",
        "-o s5",
        &[Is("s5/file", "of a layout")],
    ),
    seen(
        "docker buildx build --build-context project=WEB/file -f page .",
        "-o s6",
        &[Is("s6/page", "of the context")],
    ),
];

const ASKED: &[Typed] = &[
    typed("docker buildx build -q --call=subrequests.describe .", &[Out("outline"), Out("targets"), Silent]),
    typed(
        "docker buildx build -q --call=outline .",
        &[Out("GO_VERSION"), Out("sets the Go version"), Silent],
    ),
    typed(
        "docker buildx build -q --call=outline,format=json --build-arg GO_VERSION=1.23 .",
        &[Out("\"1.23\"")],
    ),
    typed("docker buildx build -q --call=targets .", &[Out("base-builder"), Out("release (default)")]),
    typed("docker buildx build --call=targets,format=json .", &[Out("\"targets\"")]),
    typed("docker buildx build --call=check .", &[Out("JSONArgsRecommended"), Ends(1)]),
    typed("docker buildx build -q --check .", &[Out("Check complete, 1 warning has been found!"), Ends(1)]),
    typed("docker buildx build --check --target base-builder .", &[Out("no warnings found")]),
    typed("docker buildx build --check=false --call=build .", &[Err("stays in the builder's cache")]),
    typed("docker buildx build -q --check GIT/r.git", &[Out("no warnings found")]),
];

/// A place with a repository and a web server.
fn place() -> (Place, GitDaemon) {
    let mut place = Place::new();
    let copy = "FROM scratch\nCOPY file /copied\n";
    let repo = place.world.path("repos/r.git");
    fs::create_dir_all(repo.join("sub")).unwrap();
    git(&repo, &["init", "-q"]);
    for (dir, text) in [(repo.clone(), "of git"), (repo.join("sub"), "below")] {
        fs::write(dir.join("Dockerfile"), copy).unwrap();
        fs::write(dir.join("file"), text).unwrap();
    }
    git(&repo, &["add", "."]);
    git(&repo, &["commit", "-qm", "first"]);
    git(&repo, &["tag", "v1"]);
    let daemon = GitDaemon::start(&place.world.path("repos"));
    place.names.push(("GIT", daemon.address.clone()));
    place.names.push(("WEB", serve(&place.world.path("ctx"))));
    for (name, text) in [
        ("Dockerfile", copy),
        ("file", "of the context"),
        ("path/to/Dockerfile", "FROM scratch\nCOPY file /other\n"),
        (
            "alone.Dockerfile",
            "FROM BUSYBOX AS b\nRUN mkdir -p /o/etc && echo root > /o/etc/passwd\nFROM scratch\nCOPY --from=b /o /\n",
        ),
        (
            "stages",
            "FROM scratch AS build-env\nCOPY file /first\nFROM scratch AS production-env\nCOPY file /second\n",
        ),
        ("named/Dockerfile", "FROM scratch\nCOPY --from=project file /\n"),
        ("named/path/to/project/source/file", "of a project"),
        ("named/image", "FROM alpine AS a\nRUN echo made > /marker\nFROM scratch\nCOPY --from=a /marker /\n"),
        ("named/layout", "FROM foo\n"),
        ("named/page", "FROM scratch\nCOPY --from=project /context /page\n"),
        (
            "asked/Dockerfile",
            "# GO_VERSION sets the Go version for the build\nARG GO_VERSION=1.22\n# base-builder is the base stage\n\
             FROM BUSYBOX AS base-builder\nARG GO_VERSION\nRUN echo $GO_VERSION\nFROM base-builder AS release\nCMD echo hi\n",
        ),
    ] {
        place.write(name, text);
    }
    let shell = |line: &str| drop(place.run("", line).ok());
    shell("tar -czf context.tar.gz Dockerfile file path");
    (place, daemon)
}

#[test]
fn contexts_and_dockerfiles() {
    let (place, _git) = place();
    place.check("", PLAIN);
}

#[test]
fn named_contexts() {
    let (place, _git) = place();
    place.write("of-layout/Dockerfile", "FROM scratch\nCOPY file /\n");
    place.write("of-layout/file", "of a layout");
    place.run("", "docker buildx build of-layout -t layout:latest --metadata-file m.json -o type=oci,dest=layout.tar").ok();
    let meta: serde_json::Value = serde_json::from_str(&place.world.read("ctx/m.json")).unwrap();
    place.write("named/digest", meta["containerimage.digest"].as_str().unwrap());
    let layout = place.world.path("ctx/named/path/to/local/layout");
    fs::create_dir_all(&layout).unwrap();
    let unpacked =
        Command::new("tar").arg("-xf").arg(place.world.path("ctx/layout.tar")).arg("-C").arg(layout).status();
    assert!(unpacked.unwrap().success());
    place.check("named", NAMED);
}

#[test]
fn questions() {
    let (place, _git) = place();
    place.check("asked", ASKED);
}
