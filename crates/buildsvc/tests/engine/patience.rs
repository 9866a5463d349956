//! Daemons that hang, and builds that take too long.

use std::process::Command;
use std::time::Duration;

use buildsvc::error::BuildError;
use xtask::parts::Options;

use crate::fixture::{BUSYBOX, Engine, Job, prints};

/// More than the five seconds between two of a daemon's questions whether the session is alive.
const SILENCE: Duration = Duration::from_secs(8);

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_daemon_is_lost() {
    let engine = Engine::start("frozen", &Options::default());
    let context = engine.context("frozen", &format!("{BUSYBOX}RUN echo ready; sleep 1000\n"), &[]);
    let daemon = engine.daemon.pid().unwrap().to_string();
    let client = engine.client().await;
    let signal = |name: &str| xtask::command::run(Command::new("kill").args([name, &daemon])).unwrap();
    let mut job = Job::new(&context);
    job.patience.silence = Duration::from_secs(3);
    let report = job
        .run_watched(&client, |event| {
            if prints(event, "ready") {
                signal("-STOP");
            }
        })
        .await;
    signal("-CONT");
    match report.end {
        Err(BuildError::Lost { detail, .. }) => assert!(detail.contains("nothing came"), "{detail}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_step_is_no_silence() {
    let engine = Engine::shared();
    let context = engine.context("quiet", &format!("{BUSYBOX}RUN sleep {}\n", SILENCE.as_secs() * 2), &[]);
    let mut job = Job::new(&context).attr("no-cache", "");
    job.patience.silence = SILENCE;
    job.run(&engine.client().await).await.result();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_ends_with_its_time() {
    let engine = Engine::shared();
    let context = engine.context("overdue", &format!("{BUSYBOX}RUN echo ready; sleep 1000\n"), &[]);
    let mut job = Job::new(&context).attr("no-cache", "");
    job.patience.whole = Some(Duration::from_secs(5));
    let report = job.run(&engine.client().await).await;
    assert!(matches!(report.end, Err(BuildError::TimedOut(_))), "{:?}", report.end);
    assert!(report.log().contains("ready"), "{}", report.log());
}
