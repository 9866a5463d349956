//! The first words with a daemon, and with peers that are none.

use buildsvc::client::{Client, DaemonInfo};
use buildsvc::error::BuildError;
use buildsvc::platform::Platform;
use buildsvc::version::{Version, supports_forced_network};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::fixture::{ANSWER, BUSYBOX, Engine, Job};

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_introduces_itself() {
    let engine = Engine::shared();
    let client = engine.client().await;
    let info = client.info(ANSWER).await.unwrap();
    assert!(info.parsed().unwrap() >= Version::new(0, 13, 0), "{info:?}");
    let workers = client.workers(ANSWER).await.unwrap();
    assert!(workers[0].platforms.contains(&Platform::local()), "{workers:?}");
    assert_eq!(workers[0].version, info.version);
    supports_forced_network(&info, &workers).unwrap();
    supports_forced_network(&DaemonInfo::default(), &[]).unwrap_err();
}

/// The daemon's workers share the host's network here, so the proof is a step that sees no interface but loopback.
#[tokio::test(flavor = "multi_thread")]
async fn a_build_without_network_has_none() {
    let engine = Engine::shared();
    let client = engine.client().await;
    let steps =
        "RUN --network=default ls /sys/class/net | tr '\\n' ' ' >/seen; echo \"interfaces: $(cat /seen).\"\n";
    let dockerfile = format!("# syntax=127.0.0.1:1/not/there\n{BUSYBOX}{steps}");
    let context = engine.context("hermetic", &dockerfile, &[]);
    let mut job = Job::new(&context);
    job.build.without_network();
    let report = job.run(&client).await;
    report.result();
    assert!(report.log().contains("interfaces: lo ."), "{}", report.log());

    let context = engine.context("host-network", &format!("{BUSYBOX}RUN --network=host true\n"), &[]);
    let mut job = Job::new(&context);
    job.build.entitlements.push("network.host".to_owned());
    job.build.without_network();
    let message = job.run(&client).await.failure().message.clone();
    assert!(message.contains("network.host"), "{message}");
}

#[tokio::test]
async fn a_peer_that_says_nothing_is_lost() {
    let (ours, _theirs) = tokio::io::duplex(1 << 16);
    let client = Client::over(ours).await.unwrap();
    let end = client.info(std::time::Duration::from_millis(50)).await;
    assert!(matches!(end, Err(BuildError::Lost { .. })), "{end:?}");
}

#[tokio::test]
async fn a_peer_that_hangs_up_is_lost() {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    drop(theirs);
    let end = async { Client::over(ours).await?.info(ANSWER).await };
    assert!(matches!(end.await, Err(BuildError::Lost { .. })));
}

#[tokio::test]
async fn a_peer_that_speaks_something_else_is_lost() {
    let (ours, mut theirs) = tokio::io::duplex(1 << 16);
    tokio::spawn(async move {
        let _ = theirs.read(&mut [0; 16]).await;
        let _ = theirs.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await;
        let _ = theirs.read(&mut [0; 1024]).await;
        std::future::pending::<()>().await;
    });
    let end = async { Client::over(ours).await?.info(ANSWER).await };
    let end = end.await;
    assert!(matches!(end, Err(BuildError::Lost { .. })), "{end:?}");
}
