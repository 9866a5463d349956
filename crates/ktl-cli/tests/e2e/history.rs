//! `ktl history`, compared with what docker buildx says of the same daemon.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::ktl::{Ran, World};

fn history(world: &World, args: &[&str]) -> Ran {
    world.run(world.command().arg("history").args(args))
}

fn buildx(world: &World, args: &[&str]) -> String {
    let output = world.buildx().arg("history").args(args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

/// Builds, and returns the name of the record and what was printed.
fn build(world: &World, args: &[&str], code: i32) -> (String, Ran) {
    let mut command = world.command();
    command.args(["build", "ctx", "--progress=plain", "--report", "report.json"]).args(args);
    let ran = world.run(&mut command).ends_with(code);
    let report = json(&world.read("report.json"));
    (report["reference"].as_str().unwrap().to_owned(), ran)
}

fn listed(world: &World, filters: &[&str]) -> Vec<Value> {
    let ran = history(world, &[&["ls", "--format", "json"], filters].concat()).ok();
    ran.stdout.lines().map(json).collect()
}

/// The lines of a progress that tell of steps; clocks differ.
fn steps(progress: &str) -> Vec<String> {
    let mut lines: Vec<String> = progress
        .lines()
        .filter(|line| line.starts_with('#') && (line.contains("RUN") || line.contains(" marker-")))
        .map(|line| {
            line.split(' ').skip(1).filter(|word| word.parse::<f64>().is_err()).collect::<Vec<_>>().join(" ")
        })
        .collect();
    lines.sort();
    lines.dedup();
    lines
}

/// Takes the excerpt out, and gives its place and the lines that are meant.
fn marked(inspected: &mut Value) -> Vec<String> {
    let sources = inspected.get_mut("Error").and_then(Value::as_object_mut).and_then(|e| e.remove("Sources"));
    let sources = sources.map(|text| STANDARD.decode(text.as_str().unwrap()).unwrap()).unwrap_or_default();
    let text = String::from_utf8(sources).unwrap();
    let meant = |line: &&str| line.starts_with("Dockerfile:") || line.contains(">>>");
    text.lines().filter(meant).map(str::to_owned).collect()
}

#[test]
fn past_builds_are_listed_shown_and_removed() {
    let world = World::with_dockerfile(
        "FROM BUSYBOX AS good\nARG SALT\nRUN echo marker-$SALT $((40+2))\n\
         FROM good AS bad\nRUN echo marker-last-words; exit 3\n",
    );
    let salt = world.path(".").display().to_string();
    let salt = format!("SALT={}", salt.rsplit('/').nth(1).unwrap_or(&salt));
    let args = ["--build-arg", &salt, "--label", "a=b", "--target"];
    let (good, progress) = build(
        &world,
        &[&args[..], &["good", "--metadata-file", "m.json", "-o", "type=oci,dest=x.oci"]].concat(),
        0,
    );
    let (bad, failure) = build(&world, &[&args[..], &["bad"]].concat(), 1);
    failure.says("marker-last-words");

    // The list, ours and buildx's, with the filters that both have.
    for (reference, status) in [(&good, "completed"), (&bad, "error")] {
        let by_ref = format!("ref={reference}");
        let ours = listed(&world, &["--filter", &by_ref]);
        assert_eq!(ours.len(), 1, "{ours:?}");
        let theirs = json(buildx(&world, &["ls", "--format", "json", "--filter", &by_ref]).trim());
        for (key, value) in theirs.as_object().unwrap() {
            if key != "ref" {
                assert_eq!(&ours[0][key], value, "{key} of {theirs}");
            }
        }
        assert_eq!(
            ours[0].as_object().unwrap().len(),
            theirs.as_object().unwrap().len(),
            "{ours:?} {theirs}"
        );
        let with = format!("status={status}");
        let without = format!("status!={status}");
        assert_eq!(listed(&world, &["--filter", &by_ref, "--filter", &with]), ours);
        assert!(listed(&world, &["--filter", &by_ref, "--filter", &without]).is_empty());
    }
    let metadata = json(&world.read("m.json"));
    assert_eq!(metadata["buildx.build.ref"], listed(&world, &["--filter", &format!("ref={good}")])[0]["ref"]);
    let table = history(&world, &["ls"]).ok().stdout;
    assert!(table.starts_with("BUILD ID ") && table.contains(&good) && table.contains(&bad), "{table}");
    let document = json(&history(&world, &["ls", "--json", "--filter", &format!("ref={bad}")]).ok().stdout);
    assert_eq!(document[0]["records"].as_array().map(Vec::len), Some(1), "{document}");
    history(&world, &["ls", "--filter", "odd=1"]).ends_with(2).says("no filter");

    // What is told of one.
    for reference in [&good, &bad] {
        let mut ours = json(&history(&world, &["inspect", reference, "--json"]).ok().stdout);
        let mut theirs = json(&buildx(&world, &["inspect", reference, "--format", "json"]));
        // Go's call stack; and the order within one platform and kind is free.
        if let Some(error) = theirs.get_mut("Error").and_then(Value::as_object_mut) {
            assert!(error.remove("Stack").is_some());
        }
        // An excerpt of ours leaves out an empty line at the end of the file.
        let (our_marked, their_marked) = (marked(&mut ours), marked(&mut theirs));
        assert_eq!(our_marked, their_marked);
        assert_eq!(our_marked.len(), if *reference == bad { 2 } else { 0 }, "{our_marked:?}");
        for object in [&mut ours, &mut theirs] {
            for list in ["Attachments", "Materials"] {
                if let Some(list) = object.get_mut(list).and_then(Value::as_array_mut) {
                    list.sort_by_key(ToString::to_string);
                }
            }
        }
        assert_eq!(ours, theirs);
    }
    let shown = history(&world, &["inspect", &format!("ktl/ktl/{bad}")]).ok().stdout;
    for part in ["Target:", "bad", "> marker-last-words", "exit 3", "failed", "LABELS", "Print the log:"] {
        assert!(shown.contains(part), "no {part} in\n{shown}");
    }

    // The log is that of the build.
    let logs = history(&world, &["logs", &good]).ok();
    assert_eq!(logs.stdout, "");
    assert_eq!(steps(&logs.stderr), steps(&progress.stderr));
    assert!(
        steps(&logs.stderr).iter().any(|line| line.contains("marker-") && !line.contains("RUN")),
        "{logs:?}"
    );
    history(&world, &["logs", &bad]).ok().says("marker-last-words").says("exit code: 3");
    let raw = history(&world, &["logs", &good, "--progress", "rawjson"]).ok().stderr;
    assert!(raw.lines().map(json).any(|line| line["logs"].is_array()), "{raw}");

    // What is removed is gone, and nothing else.
    history(&world, &["rm", "^1"]).ends_with(2).says("only a REF");
    history(&world, &["rm", &good, "nosuchbuild"]).ends_with(1).says("no record of `nosuchbuild`");
    history(&world, &["inspect", &good]).ends_with(2).says("no record of");
    history(&world, &["logs", &good]).ends_with(2).says("no record of");
    assert!(listed(&world, &["--filter", &format!("ref={good}")]).is_empty());
    assert_eq!(listed(&world, &["--filter", &format!("ref={bad}")]).len(), 1);
}
