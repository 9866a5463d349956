//! The reader of Dockerfiles that decides where logins go, beside the frontend that really fetches the images.

use std::collections::{BTreeMap, BTreeSet};

use buildsvc::dockerfile::{Arguments, references};

use crate::ktl::{PARTS, World};

/// Images of this name are pushed before; `R` in a Dockerfile is the registry.
const IMAGES: [&str; 6] = ["a", "b", "c", "d", "team/e", "f-linux"];

/// Every stage is needed for the last one, so that the frontend looks at all of them. `A=R/b` and `Q=d` are given.
const DOCKERFILES: &[&str] = &[
    "FROM R/a",
    "FROM --platform=$BUILDPLATFORM R/a AS x\nFROM x",
    "ARG A=R/a\nFROM $A",
    "ARG A\nFROM ${A:-R/a}",
    "ARG U\nFROM ${U:-R/c}",
    "ARG U=R\nARG V=${U}/c:latest\nFROM \"$V\"",
    "ARG P=team\nFROM R/${P}/e",
    "ARG V=c.1.2\nFROM R/${V%%.*}",
    "ARG V=x/c\nFROM R/${V#*/}",
    "FROM R/f-${TARGETOS}",
    "FROM R/a AS R-a\nFROM R/b AS two\nCOPY --from=R-a /bin/busybox /x\nCOPY --from=0 /bin/busybox /y",
    "FROM R/a\nCOPY --from=R/d /bin/busybox /x",
    "FROM R/a\nRUN --mount=type=bind,from=R/c,target=/c true",
    "FROM R/a\nRUN <<E\necho FROM R/d\nE\nCOPY <<E /x\nFROM R/d\nE",
    "# a note\nFROM \\\n# FROM R/d\n  R/a \\\n  AS x\nFROM x",
    "# escape=`\nFROM R/a `\n AS x\nRUN echo `\nFROM R/d\nFROM x",
    "ARG Q=c\nFROM R/$Q\nARG Q=b",
    "FROM scratch\nCOPY --from=R/team/e /bin/busybox /x",
];

#[test]
fn images_are_those_that_the_frontend_looks_at() {
    let registry = PARTS.registry.address();
    let pushing = World::with_dockerfile("FROM BUSYBOX\n");
    let tags: Vec<String> = IMAGES.iter().map(|name| format!("{registry}/{name}")).collect();
    let tags: Vec<&str> = tags.iter().flat_map(|tag| ["-t", tag]).collect();
    pushing.build(&[&tags[..], &["--push"]].concat()).ok();
    let given = format!("A={registry}/b");
    let build_args = [("A", format!("{registry}/b")), ("Q", "d".to_owned())];
    let arguments = Arguments {
        build_args: build_args
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect::<BTreeMap<_, _>>(),
        ..Arguments::default()
    };
    for text in DOCKERFILES {
        let text = text.replace("R/", &format!("{registry}/")).replace("U=R\n", &format!("U={registry}\n"));
        let world = World::new();
        world.write("ctx/Dockerfile", &text);
        let ran = world.build(&["--build-arg", &given, "--build-arg", "Q=d", "--progress", "plain"]).ok();
        let looked_at: BTreeSet<String> = ran
            .stderr
            .lines()
            .filter_map(|line| Some(line.split_once("load metadata for ")?.1.trim().to_owned()))
            .collect();
        let read: BTreeSet<String> = references(&text, &arguments).iter().map(ToString::to_string).collect();
        assert!(!looked_at.is_empty(), "{text}\n{}", ran.stderr);
        assert_eq!(read, looked_at, "{text}");
    }
}
