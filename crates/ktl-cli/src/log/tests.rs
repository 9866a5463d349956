use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use serde_json::Value;

use super::*;

const UI: Ui = Ui { verbose: false, quiet: true };

fn plan(file: Option<&Path>, json: bool) -> LogPlan {
    LogPlan { stream: false, file: file.map(Path::to_owned), json }
}

fn kept(cache: &Path) -> Vec<PathBuf> {
    fs::read_dir(cache.join("logs")).into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn times_have_milliseconds() {
    for (millis, want) in [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_795_512_712_007, "2026-11-24T09:31:52.007Z"),
        (951_782_400_999, "2000-02-29T00:00:00.999Z"),
    ] {
        assert_eq!(utc(UNIX_EPOCH + Duration::from_millis(millis)), want);
    }
    assert_eq!(file_stamp(UNIX_EPOCH), "19700101T000000.000Z");
}

#[test]
fn what_is_kept() {
    for (exit, refused, ended, keep) in [
        (Exit::Ok, true, Some(0), false),
        (Exit::BuildFailed, false, Some(0), false),
        (Exit::Guest(1), true, Some(1), true),
        (Exit::Usage, false, None, false),
        (Exit::Builder, false, None, false),
        (Exit::Sandbox, false, None, true),
        (Exit::Guest(4), false, Some(4), true),
        (Exit::Policy, false, Some(5), false),
        (Exit::Internal, false, None, true),
        (Exit::Guest(101), false, Some(101), true),
        // The code of a program that the guest ran.
        (Exit::Guest(101), false, Some(0), false),
        (Exit::Guest(101), true, Some(0), true),
        (Exit::Signal(2), true, None, false),
    ] {
        assert_eq!(is_worth_keeping(exit, refused, ended), keep, "{exit:?} {refused} {ended:?}");
    }
}

#[test]
fn a_refusal_that_is_usual_is_no_alarm() {
    for (record, harm) in [
        (serde_json::json!({ "refused": 0, "refusals": [] }), false),
        (serde_json::json!({ "refused": 3 }), true),
        (serde_json::json!({ "refused": 1, "refusals": [{ "reason": "x" }] }), true),
        (serde_json::json!({ "refused": 1, "refusals": [{ "usual": true }] }), false),
        (serde_json::json!({ "refused": 2, "refusals": [{ "usual": true }, { "usual": false }] }), true),
        (serde_json::json!("nonsense"), false),
    ] {
        assert_eq!(tells_of_harm(&record), harm, "{record}");
    }
}

#[test]
fn every_line_of_the_file_stands_alone() {
    let dir = tempfile::tempdir().unwrap();
    for json in [true, false] {
        let file = dir.path().join(format!("log-{json}"));
        for _ in 0..2 {
            let log = Log::open(&plan(Some(&file), json), "build", dir.path(), &UI).unwrap();
            log.say(&Event::Jail { level: "info", text: "two\nlines \x1b[31m" });
            log.broker(&serde_json::json!({ "refused": 0 }));
            log.close(Ok(Exit::Ok)).unwrap();
        }
        let text = fs::read_to_string(&file).unwrap();
        assert_eq!(text.lines().count(), 8, "appended, one line each: {text}");
        assert!(!text.contains('\x1b'), "{text}");
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o027, 0);
        for line in text.lines() {
            if json {
                let line: Value = serde_json::from_str(line).unwrap();
                assert!(line["event"].is_string() && line["time"].as_str().unwrap().ends_with('Z'), "{line}");
            } else {
                assert_eq!(line.find("Z "), Some("2026-11-24T09:31:52.007".len()), "{line}");
            }
        }
    }
    assert!(kept(dir.path()).is_empty());
}

#[test]
fn a_file_that_cannot_be_opened_is_told_before_anything_starts() {
    let dir = tempfile::tempdir().unwrap();
    let error = Log::open(&plan(Some(dir.path()), true), "build", dir.path(), &UI).unwrap_err();
    assert_eq!(error.exit, Exit::Usage);
    assert!(error.title.contains("--sandbox-log-file"), "{}", error.title);
}

#[test]
fn a_failure_of_the_jail_names_its_log() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(&plan(None, false), "build", dir.path(), &UI).unwrap();
    log.say(&Event::Killed { signal: 31 });
    let failure = log.close(Err(Failure::sandbox("x").hint("y"))).unwrap_err();
    let files = kept(dir.path());
    let [file] = files.as_slice() else { panic!("{files:?}") };
    assert!(failure.hints[1].contains(&file.display().to_string()), "{:?}", failure.hints);
    let text = fs::read_to_string(file).unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!((&last["event"], &last["exit"], &last["error"]), (&"outcome".into(), &4.into(), &"x".into()));

    // With a file of the user's there is one log, not two.
    let own = dir.path().join("own");
    let log = Log::open(&plan(Some(&own), false), "build", dir.path(), &UI).unwrap();
    let failure = log.close(Err(Failure::sandbox("x"))).unwrap_err();
    assert!(failure.hints[0].contains(&own.display().to_string()), "{:?}", failure.hints);
    assert_eq!(kept(dir.path()).len(), 1);

    // Where it cannot be kept, the failure stays what it was.
    let log = Log::open(&plan(None, false), "build", &own, &UI).unwrap();
    let failure = log.close(Err(Failure::sandbox("x"))).unwrap_err();
    assert_eq!((failure.exit, failure.title.as_str()), (Exit::Sandbox, "x"));
    assert!(failure.hints[0].contains("could not be kept"), "{:?}", failure.hints);

    // A run without a jail has none.
    Log::off(&UI).close(Err(Failure::sandbox("x"))).unwrap_err();
    assert_eq!(kept(dir.path()).len(), 1);
}
