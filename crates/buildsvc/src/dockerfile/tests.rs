//! Dockerfiles and the images that BuildKit fetches for them.

use super::*;

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
