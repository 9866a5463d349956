//! Builds that fail, are cancelled, or lose their daemon.

use std::fs;
use std::path::Path;
use std::process::Command;

use buildsvc::error::BuildError;
use xtask::parts::Options;

use crate::fixture::{BUSYBOX, Engine, HANG, Job, directory_output, export, file_output, prints};

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_step_tells_its_exit_code_and_its_line() {
    let engine = Engine::shared();
    let dockerfile = format!("{BUSYBOX}RUN echo last words; exit 7\n");
    let context = engine.context("failing", &dockerfile, &[]);
    let out = engine.scratch.join("failing.out");
    let job = Job::new(&context).output(export("local", &[]), directory_output(&out));
    let report = job.run(&engine.client().await).await;
    let failure = report.failure();
    assert_eq!(failure.exit_code, Some(7));
    assert!(failure.message.contains("exit code: 7"), "{}", failure.message);
    let (source, ranges) = failure.sources.first().unwrap();
    assert_eq!((source.filename.as_str(), source.data.as_slice()), ("Dockerfile", dockerfile.as_bytes()));
    assert_eq!((ranges[0].start.line, ranges[0].end.line), (4, 4));
    assert!(report.log().contains("last words"));
    let vertexes = report.events.iter().flat_map(|event| &event.vertexes);
    assert!(vertexes.clone().any(|vertex| {
        Some(&vertex.digest) == failure.vertex.as_ref() && vertex.error.contains("exit code: 7")
    }));
}

/// Quoted in a trailer, which HTTP/2 libraries bound to 16 KiB unless told otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_dockerfile_is_quoted_whole() {
    let engine = Engine::shared();
    let dockerfile =
        format!("{}{BUSYBOX}RUN exit 3\n", "# a comment of some length, many times\n".repeat(20_000));
    let context = engine.context("long", &dockerfile, &[]);
    let report = Job::new(&context).run(&engine.client().await).await;
    let failure = report.failure();
    assert_eq!(failure.exit_code, Some(3));
    assert_eq!(failure.sources[0].0.data.len(), dockerfile.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_told_by_the_daemon() {
    let engine = Engine::shared();
    let client = engine.client().await;
    let context = engine.context("mistakes", "FROM scratch AS a\nCOPY nowhere /\n", &[]);
    let unknown_stage = Job::new(&context).attr("target", "zzz").run(&client).await;
    let message = &unknown_stage.failure().message;
    assert!(message.contains("zzz"), "{message}");
    let missing = Job::new(&context).run(&client).await;
    let message = &missing.failure().message;
    assert!(message.contains("nowhere"), "{message}");
    let unknown_exporter = Job::new(&context).output(export("zip", &[]), None).run(&client).await;
    let message = &unknown_exporter.failure().message;
    assert!(message.contains("zip"), "{message}");
    let mut stray = Job::new(&context);
    stray.session.locals.remove("dockerfile");
    let message = stray.run(&client).await.failure().message.clone();
    assert!(message.contains("no access allowed to dir"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_an_output_error() {
    let engine = Engine::shared();
    let context = engine.context("full", "FROM scratch\nCOPY busybox /\n", &[]);
    let job = Job::new(&context).output(export("tar", &[]), file_output(Path::new("/dev/full")));
    match job.run(&engine.client().await).await.end {
        Err(BuildError::Output { path, source, .. }) => {
            assert_eq!(path, "/dev/full");
            assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
        }
        other => panic!("{other:?}"),
    }
}

/// Whether any process of this machine has `argument` on its command line.
fn is_running(argument: &str) -> bool {
    fs::read_dir("/proc").unwrap().flatten().any(|process| {
        fs::read(process.path().join("cmdline"))
            .is_ok_and(|line| line.split(|&b| b == 0).any(|word| word == argument.as_bytes()))
    })
}

async fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(HANG, waiting).await.unwrap_or_else(|_| panic!("still waiting until {what}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_ends_the_step_on_the_daemon() {
    let engine = Engine::shared();
    let seconds = format!("86{:06}", std::process::id());
    let dockerfile = format!("{BUSYBOX}RUN echo ready; sleep {seconds}\n");
    let context = engine.context("cancelled", &dockerfile, &[]);
    let out = engine.scratch.join("cancelled.tar");
    let job = Job::new(&context).attr("no-cache", "").output(export("tar", &[]), file_output(&out));
    let cancel = job.cancel.clone();
    let running = || is_running(&seconds);
    let mut seen = false;
    let report = job
        .run_watched(&engine.client().await, |event| {
            if prints(event, "ready") {
                cancel.cancel();
                seen = true;
            }
        })
        .await;
    assert!(seen && matches!(report.end, Err(BuildError::Cancelled)), "{:?}", report.end);
    wait_until("the step is gone", || !running()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_build_does_not_begin() {
    let engine = Engine::shared();
    let context = engine.context("early", "FROM scratch\nCOPY busybox /\n", &[]);
    let job = Job::new(&context);
    job.cancel.cancel();
    assert!(matches!(job.run(&engine.client().await).await.end, Err(BuildError::Cancelled)));
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_the_build_ends_the_step_on_the_daemon() {
    let engine = Engine::shared();
    let seconds = format!("87{:06}", std::process::id());
    let context = engine.context("dropped", &format!("{BUSYBOX}RUN sleep {seconds}\n"), &[]);
    let client = engine.client().await;
    let job = Job::new(&context);
    let building = tokio::spawn(async move { job.run(&client).await.end });
    wait_until("the step runs", || is_running(&seconds)).await;
    building.abort();
    wait_until("the step is gone", || !is_running(&seconds)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_daemon_is_lost() {
    let engine = Engine::start("killed", &Options::default());
    let context = engine.context("killed", &format!("{BUSYBOX}RUN echo ready; sleep 1000\n"), &[]);
    let client = engine.client().await;
    let report = Job::new(&context)
        .run_watched(&client, |event| {
            if prints(event, "ready") {
                engine.daemon.kill().unwrap();
            }
        })
        .await;
    assert!(matches!(report.end, Err(BuildError::Lost { .. })), "{:?}", report.end);
    assert!(matches!(Job::new(&context).run(&client).await.end, Err(BuildError::Lost { .. })));
}

/// Told to stop, a daemon takes no more calls and waits for those under way.
#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_told_to_stop_finishes_the_build() {
    let engine = Engine::start("stopped", &Options::default());
    let dockerfile =
        format!("{BUSYBOX}RUN echo ready; sleep 2; echo done\nFROM scratch\nCOPY --from=base /bin/sh /\n");
    let context = engine.context("stopped", &dockerfile, &[]);
    let out = engine.scratch.join("stopped.out");
    let daemon = engine.daemon.pid().unwrap().to_string();
    let client = engine.client().await;
    let report = Job::new(&context)
        .output(export("local", &[]), directory_output(&out))
        .run_watched(&client, |event| {
            if prints(event, "ready") {
                xtask::command::run(Command::new("kill").args(["-TERM", &daemon])).unwrap();
            }
        })
        .await;
    report.result();
    assert!(report.log().contains("done") && out.join("sh").exists());
    let late = Job::new(&context).run(&client).await;
    assert!(matches!(late.end, Err(BuildError::Lost { .. })), "{:?}", late.end);
}
