//! Dockerfiles and the images that BuildKit fetches for them.

use super::*;
use crate::remote::GitSource;

fn found(text: &str, build_args: &[(&str, &str)], platforms: &[&str]) -> Vec<String> {
    let arguments = Arguments {
        build_args: build_args.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
        platforms: Platform::list(platforms).unwrap(),
        target: None,
    };
    references(text, &arguments).iter().map(ToString::to_string).collect()
}

/// A Dockerfile, build arguments, images.
type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [&'a str]);

#[test]
fn images_that_a_build_names() {
    let table: &[Row<'_>] = &[
        ("FROM busybox", &[], &["docker.io/library/busybox:latest"]),
        ("FROM scratch\nCOPY a /", &[], &[]),
        ("FROM --platform=$BUILDPLATFORM r.example/a:1 AS x", &[], &["r.example/a:1"]),
        ("FROM a AS b\nFROM b\nFROM B", &[], &["docker.io/library/a:latest"]),
        ("FROM a AS a\nFROM a", &[], &["docker.io/library/a:latest"]),
        // Arguments: the default, what was given, what was given and not declared, an earlier one in a later one.
        ("ARG I=r.example/a\nFROM $I", &[], &["r.example/a:latest"]),
        ("ARG I=r.example/a\nFROM ${I}:2", &[("I", "s.example/b")], &["s.example/b:2"]),
        ("FROM r.example/${I:-a}", &[("I", "b")], &["r.example/a:latest"]),
        ("ARG R=r.example\nARG I=$R/a:1\nFROM $I", &[], &["r.example/a:1"]),
        ("ARG R\nARG I=$R/a:1\nFROM $I", &[("R", "s.example")], &["s.example/a:1"]),
        ("ARG R\nFROM ${R:-r.example}/a", &[], &["r.example/a:latest"]),
        ("ARG R=r.example I=a\nFROM $R/$I", &[], &["r.example/a:latest"]),
        ("ARG I=\"r.example/a\"\nFROM \"$I\"", &[], &["r.example/a:latest"]),
        // What cannot be known names nothing, and what is not set is empty.
        ("ARG I=${X/a/b}\nFROM $I", &[], &[]),
        ("FROM $X/a", &[], &[]),
        ("ARG I\nFROM r.example/a:${I}", &[], &[]),
        // A stage's argument is not seen by the next FROM.
        ("FROM scratch\nARG I=r.example/a\nFROM $I", &[], &[]),
        // Other instructions with images.
        ("FROM scratch\nCOPY --from=r.example/a:1 /x /", &[], &["r.example/a:1"]),
        ("FROM scratch\nCOPY --chown=1 --from=r.example/a /x /", &[], &["r.example/a:latest"]),
        ("FROM scratch AS b\nFROM scratch\nCOPY --from=b x /\nCOPY --from=0 x /", &[], &[]),
        ("ARG I=a\nFROM scratch\nARG I\nCOPY --from=$I x /", &[], &[]),
        ("FROM scratch\nRUN cp --from=r.example/a x", &[], &[]),
        (
            "FROM scratch\nRUN --mount=type=bind,from=r.example/a:1,target=/a --mount=type=cache,target=/c x",
            &[],
            &["r.example/a:1"],
        ),
        // Nor is a variable of a stage replaced here.
        ("ARG T=r.example/t\nFROM scratch\nARG T\nRUN --mount=from=$T,target=/t true", &[], &[]),
        ("FROM scratch\nENV T=r.example/t\nRUN --mount=from=${T},target=/t x", &[], &[]),
        ("FROM scratch AS s\nFROM scratch\nRUN --mount=from=s,target=/t true", &[], &[]),
        ("# syntax=r.example/frontend:1\nFROM scratch", &[], &["r.example/frontend:1"]),
        // What only looks like one.
        ("FROM scratch\nRUN <<E\nFROM evil.example/a\nE\n", &[], &[]),
        ("FROM scratch\nCOPY <<E /d\nFROM evil.example/a\nE\n", &[], &[]),
        ("# FROM evil.example/a\nFROM scratch\nRUN echo \\\nFROM evil.example/a", &[], &[]),
        ("FROM scratch\nLABEL x=\"FROM evil.example/a\"", &[], &[]),
        ("FROM scratch\nONBUILD COPY --from=evil.example/a x /", &[], &[]),
        ("FROM Not/Valid", &[], &[]),
    ];
    for (text, build_args, expected) in table {
        assert_eq!(found(text, build_args, &[]), *expected, "{text}");
    }
}

#[test]
fn platforms_that_were_named_are_the_only_ones() {
    let text = "FROM r.example/$TARGETARCH/a";
    assert_eq!(found(text, &[], &["linux/arm64"]), ["r.example/arm64/a:latest"]);
    assert_eq!(
        found(text, &[], &["linux/arm64", "linux/amd64"]),
        ["r.example/arm64/a:latest", "r.example/amd64/a:latest"]
    );
    assert_eq!(found(text, &[("TARGETARCH", "x")], &["linux/arm64"]), ["r.example/x/a:latest"]);
    assert!(found(text, &[], &[]).contains(&"r.example/amd64/a:latest".to_owned()));
    // The builder's is never known.
    let text = "FROM r.example/$BUILDARCH/a";
    assert!(found(text, &[], &["linux/arm64"]).contains(&"r.example/amd64/a:latest".to_owned()));
}

fn all(text: &str, build_args: &[(&str, &str)], platforms: &[&str], replaced: &[&str]) -> Sources {
    let arguments = Arguments {
        build_args: build_args.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
        platforms: Platform::list(platforms).unwrap(),
        target: None,
    };
    let replaced = replaced.iter().map(|name| (*name).to_owned()).collect();
    sources(text, &arguments, &"linux/amd64".parse().unwrap(), replaced).unwrap()
}

#[test]
fn images_and_the_platforms_that_they_are_wanted_for() {
    let text = "# syntax=r.example/f:1\nFROM --platform=$BUILDPLATFORM go AS build\nCOPY --from=tool:1 /x /\nFROM base\nCOPY --from=build /y /\n";
    let found = all(text, &[], &["linux/arm64", "linux/s390x"], &["base"]);
    let images: Vec<String> = found
        .images
        .iter()
        .map(|(image, platforms)| {
            let platforms: Vec<String> = platforms.iter().map(Platform::to_string).collect();
            format!("{} {}", image.familiar(), platforms.join(","))
        })
        .collect();
    assert_eq!(images, ["go:latest linux/amd64", "tool:1 linux/arm64,linux/s390x"]);
    assert_eq!(found.frontend.unwrap().familiar(), "r.example/f:1");
    assert!(found.stages.contains("build") && found.unknown.is_empty());
    let other = all(text, &[("BUILDKIT_SYNTAX", "r.example/g:2 x=y")], &[], &[]);
    assert_eq!(other.frontend.unwrap().familiar(), "r.example/g:2");
    assert_eq!(other.images.len(), 3);
}

/// A Dockerfile, build arguments; URLs, repositories, what cannot be known.
type Added<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [&'a str], &'a [&'a str], &'a [&'a str]);

#[test]
fn what_add_fetches() {
    let table: &[Added<'_>] = &[
        ("FROM scratch\nADD https://h/a /", &[], &["https://h/a"], &[], &[]),
        (
            "FROM scratch\nADD --chown=1 https://h/a b http://h/c /d/",
            &[],
            &["https://h/a", "http://h/c"],
            &[],
            &[],
        ),
        ("FROM scratch\nADD [\"https://h/a\", \"/x y\"]", &[], &["https://h/a"], &[], &[]),
        ("FROM scratch\nADD https://h/r.git#v1:sub /", &[], &[], &["git://h/r.git#v1:sub"], &[]),
        ("FROM scratch\nADD git@h:r.git /", &[], &[], &["git://h/r.git"], &[]),
        ("FROM scratch\nCOPY https://h/a /\nADD a.tar $X/", &[], &[], &[], &[]),
        // Variables of the stage, of a stage below, and of outside.
        (
            "ARG V=1\nFROM scratch AS a\nARG V\nENV W=$V.2 X=$W\nFROM a\nADD https://h/$W$X /",
            &[("V", "3")],
            &["https://h/3.2"],
            &[],
            &[],
        ),
        ("ARG V=1\nFROM scratch\nADD https://h/a$V /", &[], &["https://h/a"], &[], &[]),
        ("FROM scratch\nENV V 1 2\nADD https://h/$V /", &[], &["https://h/1 2"], &[], &[]),
        // A base image may have set it, or set it otherwise.
        ("FROM base\nADD https://h/$V /", &[], &[], &[], &["ADD https://h/$V"]),
        ("FROM base\nARG V=1\nADD https://h/$V /", &[], &["https://h/1"], &[], &[]),
        (
            "FROM $B\nFROM scratch\nADD --checksum=$C https://h/a /",
            &[],
            &[],
            &[],
            &["ADD https://h/a: digest \"\" has no algorithm, such as sha256:"],
        ),
        ("FROM base\nADD --checksum=$C https://h/a /", &[], &[], &[], &["ADD --checksum=$C https://h/a"]),
        (
            "FROM scratch\nADD --checksum=md5:1 https://h/a /",
            &[],
            &[],
            &[],
            &["ADD https://h/a: digest algorithm \"md5\" is not sha256, sha384 or sha512"],
        ),
    ];
    for (text, build_args, urls, gits, unknown) in table {
        let found = all(text, build_args, &[], &[]);
        assert_eq!(found.urls.iter().map(|url| url.url.as_str()).collect::<Vec<_>>(), *urls, "{text}");
        assert_eq!(found.gits.iter().map(GitSource::identifier).collect::<Vec<_>>(), *gits, "{text}");
        assert_eq!(found.unknown, *unknown, "{text}");
    }
    assert_eq!(all("FROM base\nADD $JAR a.tar /", &[], &[], &[]).unsure, ["ADD $JAR"]);
    let sum = format!("sha256:{}", "a".repeat(64));
    let found = all(&format!("FROM scratch\nADD --checksum={sum} https://h/a /"), &[], &[], &[]);
    assert_eq!(found.urls[0].checksum.as_ref().unwrap().to_string(), sum);
    let found = all("FROM scratch\nADD --checksum=abc https://h/a.git /", &[], &[], &[]);
    assert_eq!(found.gits[0].checksum.as_deref(), Some("abc"));
}

#[test]
fn a_text_without_end_names_nothing() {
    assert!(found(&"FROM a\n".repeat(TEXT_LIMIT / 7 + 1), &[], &[]).is_empty());
    let many: String = (0..5000).map(|index| format!("FROM r.example/a{index}\n")).collect();
    assert_eq!(found(&many, &[], &[]).len(), REFERENCES_LIMIT);
}

proptest::proptest! {
    /// Whatever a context holds as its Dockerfile, reading it ends.
    #[test]
    fn any_text_is_read(lines in proptest::collection::vec(
        "(FROM|ARG|COPY --from=|RUN --mount=from=|RUN <<|# escape=`|# syntax=)? ?[a-zA-Z${}:=\"'\\\\`<#%*/.\\- -]{0,40}", 0..20,
    )) {
        found(&lines.join("\n"), &[("A", "${A}")], &[]);
    }
}
