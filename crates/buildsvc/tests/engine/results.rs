//! Builds that succeed, and what arrives of them.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use buildsvc::digest::Digest;
use tokio_util::sync::CancellationToken;

use crate::fixture::{BUSYBOX, Engine, Job, directory_output, export, file_output};

fn tar_names(archive: &std::path::Path) -> BTreeSet<String> {
    let listing = xtask::command::stdout_of(Command::new("tar").arg("-tf").arg(archive)).unwrap();
    listing.lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_build_fills_a_directory_a_tar_and_an_oci_archive() {
    let engine = Engine::shared();
    let dockerfile = format!(
        "{BUSYBOX}RUN echo one two three; mkdir -p /out/sub; cat /bin/busybox >/out/copy; ln -s copy /out/sub/link\n\
         FROM scratch\nCOPY --from=base /out /\nCOPY a/b.txt /\n"
    );
    let context = engine.context("results", &dockerfile, &[("a/b.txt", "bee"), ("not-asked-for", "x")]);
    let (dir, tar, oci) =
        (engine.scratch.join("results.out"), engine.scratch.join("r.tar"), engine.scratch.join("r.oci"));
    let job = Job::new(&context)
        .output(export("local", &[]), directory_output(&dir))
        .output(export("tar", &[]), file_output(&tar))
        .output(export("oci", &[("name", "docker.io/library/app:dev")]), file_output(&oci));
    let client = engine.client().await;
    let report = job.run(&client).await;

    let response = &report.result().exporter_response;
    response["containerimage.digest"].parse::<Digest>().unwrap();
    assert_eq!(response["image.name"], "docker.io/library/app:dev");
    assert_eq!(fs::read(dir.join("b.txt")).unwrap(), b"bee");
    assert_eq!(fs::read(dir.join("copy")).unwrap(), fs::read(context.join("busybox")).unwrap());
    assert_eq!(fs::read_link(dir.join("sub/link")).unwrap(), std::path::Path::new("copy"));
    assert!(tar_names(&tar).is_superset(&["b.txt", "copy", "sub/link"].map(str::to_owned).into()));
    assert!(tar_names(&oci).contains("index.json"));

    assert!(report.log().contains("one two three"));
    let vertexes: Vec<_> = report.events.iter().flat_map(|event| &event.vertexes).collect();
    let run = vertexes.iter().rfind(|vertex| vertex.name.contains("echo one two three")).unwrap();
    assert!(run.started.is_some() && run.completed.is_some() && run.error.is_empty());
    assert!(!vertexes.iter().any(|vertex| vertex.name.contains("not-asked-for")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_without_outputs_is_cached() {
    let engine = Engine::shared();
    let context = engine.context("cached", &format!("{BUSYBOX}RUN echo cached-or-not\n"), &[]);
    let client = engine.client().await;
    assert!(Job::new(&context).run(&client).await.log().contains("cached-or-not"));
    let again = Job::new(&context).run(&client).await;
    again.result();
    let vertexes = again.events.iter().flat_map(|event| &event.vertexes);
    assert!(vertexes.clone().any(|vertex| vertex.name.contains("cached-or-not") && vertex.cached));
    assert!(again.log().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn several_directories_are_fetched_at_once() {
    let engine = Engine::shared();
    let mut dockerfile = String::from("FROM scratch\n");
    let mut job = None;
    for i in 0..6 {
        dockerfile.push_str(&format!("COPY --from=extra{i} . /{i}/\n"));
    }
    let context = engine.context("many", &dockerfile, &[]);
    for i in 0..6 {
        let files: Vec<(String, String)> =
            (0..200).map(|n| (format!("d{}/f{n}", n % 7), format!("{i} {n} ").repeat(50 * n))).collect();
        let files: Vec<(&str, &str)> = files.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        let dir = engine.context(&format!("many{i}"), "", &files);
        let name = format!("extra{i}");
        let mut prepared = job
            .take()
            .unwrap_or_else(|| Job::new(&context))
            .attr(&format!("context:{name}"), &format!("local:{name}"));
        let local = buildsvc::context::LocalDir::open(&name, &dir).unwrap();
        prepared.session.locals.insert(name, local);
        job = Some(prepared);
    }
    let out = engine.scratch.join("many.out");
    let client = engine.client().await;
    let report = job.unwrap().output(export("local", &[]), directory_output(&out)).run(&client).await;
    report.result();
    for i in 0..6 {
        let files = (0..200).filter(|n| {
            fs::read_to_string(out.join(format!("{i}/d{}/f{n}", n % 7)))
                .is_ok_and(|text| text == format!("{i} {n} ").repeat(50 * n))
        });
        assert_eq!(files.count(), 200, "of directory {i}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_of_events_that_stands_still_loses_nothing() {
    let engine = Engine::shared();
    let dockerfile = format!(
        "{BUSYBOX}RUN i=0; while [ $i -lt 8000 ]; do echo line-$i-end; i=$((i+1)); done\n\
         FROM scratch\nCOPY --from=base /bin/busybox /copy\n"
    );
    let context = engine.context("still", &dockerfile, &[]);
    let out = engine.scratch.join("still.out");
    let client = engine.client().await;
    let job = Job::new(&context)
        .attr("no-cache", "")
        .attr("build-arg:BUILDKIT_DOCKERFILE_CHECK", "skip=all")
        .output(export("local", &[]), directory_output(&out));
    let (sender, mut events) = tokio::sync::mpsc::channel(1);
    let building = {
        let client = client.clone();
        tokio::spawn(async move {
            let cancel = CancellationToken::new();
            buildsvc::build::run(&client, &job.build, job.session, &job.patience, sender, cancel).await
        })
    };
    // The result is there although nobody has read one event.
    let arrived = async {
        while fs::metadata(out.join("copy")).map_or(0, |file| file.len())
            < fs::metadata(context.join("busybox")).unwrap().len()
        {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(crate::fixture::HANG, arrived).await.unwrap();
    let mut lines = Vec::new();
    while let Some(event) = events.recv().await {
        lines.extend(event.logs.into_iter().flat_map(|log| log.data));
    }
    building.await.unwrap().unwrap();
    // Fewer bytes than the daemon cuts a step's output at.
    let text = String::from_utf8(lines).unwrap();
    assert!(text.contains("line-0-end") && text.contains("line-7999-end"));
}

/// Each pattern is one header, and HTTP/2 libraries bound headers to 16 KiB unless told otherwise. One pattern that is
/// not ASCII has all of them escaped.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_ignore_file_is_heeded() {
    let engine = Engine::shared();
    let mut ignore: String =
        (0..5000).map(|n| format!("some/long/path/that/is/nowhere/number-{n}.txt\n")).collect();
    ignore.push_str("*.log\nüber + 1%\n!kept.log\n");
    let files =
        [(".dockerignore", ignore.as_str()), ("a.log", ""), ("kept.log", ""), ("über + 1%", ""), ("x+y", "")];
    let context = engine.context("ignored", "FROM scratch\nCOPY . /\n", &files);
    let out = engine.scratch.join("ignored.out");
    let job = Job::new(&context).output(export("local", &[]), directory_output(&out));
    job.run(&engine.client().await).await.result();
    let names: BTreeSet<String> =
        fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(
        names,
        [".dockerignore", "Dockerfile", "busybox", "kept.log", "x+y"].map(str::to_owned).into()
    );
}
