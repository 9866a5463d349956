//! Whatever arrives on the host side and at the screen: damaged messages of builders, registries, files of other programs.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use buildsvc::event::{
    Event, LogStream, Position, ProgressGroup, SourceInfo, SourceRange, Vertex, VertexLog, VertexStatus,
    VertexWarning,
};
use xtask::fuzz::{self, Messages, Target};

use crate::builder::{self, Address};
use crate::display::{Display, Mode, Outcome, Output, Size};
use crate::env::Env;
use crate::login::ConfigFile;
use crate::{broker, dial, egress};

const OWN: &[Target] = &[
    ("builder addresses", builder_addresses),
    ("builder files", builder_files),
    ("engine answers", engine_answers),
    ("login files", login_files),
    ("step logs", step_logs),
    ("screens", screens),
];

#[test]
fn damaged_messages_are_survived() {
    let targets: Vec<Target> = broker::fuzz_tests::TARGETS.iter().chain(OWN).copied().collect();
    fuzz::run("fuzz_tests::damaged_messages_are_survived", &targets);
}

/// What is understood is printed so that it is understood the same.
fn builder_addresses(messages: &mut Messages) {
    let good = [
        "unix:///run/buildkit/buildkitd.sock",
        "tcp://[::1]:1234",
        "ssh://me@host:2222/run/user/1000/buildkit.sock",
        "docker-container://buildx_buildkit_a0?context=default",
        "podman-container://a",
        "kube-pod://pod?namespace=n&container=c",
        "nerdctl-container://a?address=%2Frun&namespace=n",
        "docker://",
        "private://ci",
    ];
    while let Some(text) = messages.text(&good) {
        if let Ok(address) = Address::parse(&text) {
            let shown = address.to_string();
            assert_eq!(Address::parse(&shown).ok().as_ref(), Some(&address), "{text:?} as {shown:?}");
        }
    }
}

/// Files of docker and buildx that say where builders are.
fn builder_files(messages: &mut Messages) {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::create_dir(path("instances")).unwrap();
    let text = dir.path().to_str().unwrap();
    let env = Env::of(&[("DOCKER_CONFIG", text), ("BUILDX_CONFIG", text)]);
    let good = [
        r#"{"Name":"b","Driver":"docker-container","Nodes":[{"Name":"b0","Endpoint":"unix:///s","Platforms":null,"DriverOpts":{"a":"b"},"Flags":[]}],"Dynamic":false}"#,
        r#"{"Driver":"remote","Nodes":[{"Name":"b0","Endpoint":"tcp://h:1","DriverOpts":{"cacert":"/ca","cert":"/c","key":"/k","servername":"s"}}]}"#,
        r#"{"currentContext":"a","credsStore":"x","auths":{}}"#,
    ];
    while let Some(file) = messages.next(&good) {
        std::fs::write(path("instances/b"), &file).unwrap();
        std::fs::write(path("config.json"), &file).unwrap();
        let _ = (builder::named_by_buildx("b", &env), builder::of_docker(&env));
    }
}

/// What a Docker Engine says before its connection is BuildKit's.
fn engine_answers(messages: &mut Messages) {
    let good = [
        "HTTP/1.1 200 OK\r\nApi-Version: 1.55\r\nContent-Length: 2\r\n\r\nOK",
        "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        r#"{"DriverStatus":[["driver-type","io.containerd.snapshotter.v1"],["a"]],"ID":"x"}"#,
    ];
    while let Some(answer) = messages.next(&good) {
        dial::read_engine_answer(&answer);
    }
}

/// Docker's configuration as `ktl login` changes it.
fn login_files(messages: &mut Messages) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    let good = [
        r#"{"auths":{"r.example":{"auth":"dTpw"},"https://r.example/v1/":{}},"credsStore":"x","a":[1.5,-2,null,true,"é"]}"#,
        "{}",
        r#"{"auths":null,"detachKeys":"ctrl-e"}"#,
    ];
    while let Some(text) = messages.next(&good) {
        std::fs::write(&path, &text).unwrap();
        if let Ok(mut file) = ConfigFile::open(&path)
            && file.put("r.example", None).is_ok()
        {
            let _ = file.remove("r.example");
        }
    }
}

/// A step's log, at whose end a daemon tells what the step fetched.
fn step_logs(messages: &mut Messages) {
    let good =
        ["proxy network requests:\n- GET https://a.example/x -> 200\n- CONNECT b:443\n", "a line\nanother"];
    let mut reported = egress::Reported::default();
    while let Some(log) = messages.next(&good) {
        if messages.roll(50) == 0 {
            reported = egress::Reported::default();
        }
        reported.read(&log);
        let _ = reported.requests();
    }
}

/// Takes what a display writes, and looks for orders to a terminal.
struct Inert;

impl Write for Inert {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = std::str::from_utf8(bytes).expect("a display writes UTF-8");
        if let Some(sign) = text.chars().find(|sign| sign.is_control() && !['\n', '\t'].contains(sign)) {
            panic!("{sign:?} in {text:?}");
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Progress in every style, with damaged texts everywhere.
fn screens(messages: &mut Messages) {
    let good = [
        "[1/2] RUN make \u{1b}[31mred\u{1b}[0m \u{202e}txet\u{202c}",
        "sha256:abc",
        "extracting \u{9b}2J \r\n over and over\t.",
        "::error::x\n##[group]y",
        "\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467} e\u{301}\u{ad}\u{e0001}",
    ];
    while messages.more() {
        for mode in [Mode::Plain, Mode::Tty, Mode::RawJson, Mode::Quiet] {
            let size = Size { columns: messages.roll(120) as u16, rows: messages.roll(30) as u16 };
            // The one style that gives orders of its own.
            let writer: Box<dyn Write + Send> =
                if mode == Mode::Tty { Box::new(io::sink()) } else { Box::new(Inert) };
            let out = Output {
                writer,
                terminal: mode == Mode::Tty,
                size: Box::new(move || Some(size)),
                colour: false,
            };
            let mut display = Display::new(mode, out);
            for _ in 0..50 {
                let Some(event) = event(messages, &good) else { break };
                display.event(event);
            }
            display.note("a note");
            let summary = display.finish(Outcome::Failed);
            for failed in summary.failed {
                Inert.write_all(failed.block().as_bytes()).unwrap();
            }
        }
    }
}

fn event(messages: &mut Messages, good: &[&str]) -> Option<Event> {
    let data = messages.next(good)?;
    let text = String::from_utf8_lossy(&data).into_owned();
    let mut time = || {
        let seconds = [0, 1, 1_700_000_000, 8_000_000_000_000][messages.roll(4)];
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap()
    };
    let (one, other) = (time(), time());
    let vertex = ["a", "b", "c", text.as_str()][messages.roll(4)].to_owned();
    let some = messages.roll(2) == 0;
    let mut event = Event::default();
    match messages.roll(6) {
        0 | 1 => event.vertexes.push(Vertex {
            digest: vertex,
            inputs: vec![text.clone()],
            name: text.clone(),
            cached: some,
            started: some.then_some(one),
            completed: (messages.roll(2) == 0).then_some(other),
            error: if messages.roll(3) == 0 { text.clone() } else { String::new() },
            progress_group: (messages.roll(4) == 0).then(|| ProgressGroup {
                id: "g".into(),
                name: text,
                weak: some,
            }),
        }),
        2 => event.statuses.push(VertexStatus {
            id: text.clone(),
            vertex,
            name: text,
            current: [0, -1, i64::MAX, 7][messages.roll(4)],
            total: [0, i64::MIN, 9, 7][messages.roll(4)],
            timestamp: one,
            started: some.then_some(other),
            completed: some.then_some(one),
        }),
        3 => event.warnings.push(VertexWarning {
            vertex,
            level: 1,
            short: data.clone(),
            detail: vec![data.clone()],
            url: text.clone(),
            source: some.then(|| SourceInfo { filename: text, data, language: String::new() }),
            ranges: vec![SourceRange {
                start: Position { line: i32::MIN, character: 0 },
                end: Position { line: i32::MAX, character: -1 },
            }],
        }),
        _ => event.logs.push(VertexLog {
            vertex,
            stream: if some { LogStream::Stderr } else { LogStream::Stdout },
            data,
            timestamp: one,
        }),
    }
    Some(event)
}
