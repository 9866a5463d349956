//! The displays as a whole: recorded builds and hostile daemons in, text out.
//!
//! `testdata/replay.jsonl` and `replay.plain.txt` are one and the same finished build as `buildctl debug logs` of
//! BuildKit 0.32.2 shows it with `--progress rawjson` and `--progress plain`; `live.jsonl` is the same Dockerfile built
//! with `buildctl build --progress rawjson`.

mod hostile;
mod recorded;
mod screen;

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use buildsvc::event::{Event, LogStream, ProgressGroup, Vertex, VertexLog, VertexStatus, VertexWarning};

use super::*;
use screen::Screen;

/// A writer that remembers each write.
#[derive(Debug, Clone, Default)]
struct Writes(Arc<Mutex<Vec<Vec<u8>>>>);

impl Writes {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().concat()).unwrap()
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

impl Write for Writes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().push(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn display(mode: Mode, columns: u16, rows: u16, colour: bool) -> (Display, Writes) {
    let writes = Writes::default();
    let size = Box::new(move || Some(Size { columns, rows }));
    let out = Output { writer: Box::new(writes.clone()), terminal: mode == Mode::Tty, size, colour };
    (Display::new(mode, out), writes)
}

fn at(ms: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000) + Duration::from_millis(ms)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn vertex(digest: &str, started: Option<u64>, completed: Option<u64>) -> Vertex {
    Vertex {
        digest: digest.to_owned(),
        name: format!("step {digest}"),
        started: started.map(at),
        completed: completed.map(at),
        ..Vertex::default()
    }
}

fn vertexes(vertexes: Vec<Vertex>) -> Event {
    Event { vertexes, ..Event::default() }
}

fn log(digest: &str, time: u64, data: &[u8]) -> Event {
    let log = VertexLog {
        vertex: digest.to_owned(),
        stream: LogStream::Stdout,
        data: data.to_vec(),
        timestamp: at(time),
    };
    Event { logs: vec![log], ..Event::default() }
}

fn status(digest: &str, id: &str, current: i64, time: u64, completed: Option<u64>) -> Event {
    let status = VertexStatus {
        id: id.to_owned(),
        vertex: digest.to_owned(),
        name: String::new(),
        current,
        total: 1000,
        timestamp: at(time),
        started: Some(at(0)),
        completed: completed.map(at),
    };
    Event { statuses: vec![status], ..Event::default() }
}

/// Shows events, each at its time in milliseconds, and the end.
fn shown(mode: Mode, events: &[(u64, Event)], outcome: Outcome) -> (String, Summary) {
    let (mut display, writes) = display(mode, 60, 12, false);
    let mut last = 0;
    for (time, event) in events {
        display.event_at(event, ms(*time));
        last = *time;
    }
    let summary = display.finish_at(outcome, ms(last));
    (writes.text(), summary)
}

#[test]
fn plain_is_what_buildctl_shows() {
    let events = recorded::events(include_str!("testdata/replay.jsonl")).into_iter().map(|e| (0, e));
    let (text, _) = shown(Mode::Plain, &events.collect::<Vec<_>>(), Outcome::Failed);
    let theirs = include_str!("testdata/replay.plain.txt");
    let (steps, block) = text.split_once("------\n").unwrap();
    let (their_steps, _) = theirs.split_once("------\n").unwrap();
    // The only difference: colours of a program's output do not go to a log.
    assert!(their_steps.contains("\u{1b}[31mred\u{1b}[0m"));
    assert_eq!(steps, their_steps.replace("\u{1b}[31m", "").replace("\u{1b}[0m", ""));
    insta::assert_snapshot!(block, @r#"
     > [two 1/1] RUN sleep 0.1; for i in 1 2 3 4 5 6 7 8 9 10 11 12; do echo "line $i"; done; printf 'no newline'; exit 3:
    0.172 line 4
    0.172 line 5
    0.172 line 6
    0.172 line 7
    0.172 line 8
    0.172 line 9
    0.172 line 10
    0.172 line 11
    0.172 line 12
    0.172 no newline
    ------
    "#);
}

#[test]
fn rawjson_is_what_buildctl_shows() {
    for recording in [include_str!("testdata/replay.jsonl"), include_str!("testdata/live.jsonl")] {
        let (mut display, writes) = display(Mode::RawJson, 80, 24, false);
        for event in recorded::events(recording) {
            display.event_at(&event, ms(0));
        }
        display.finish_at(Outcome::Failed, ms(0));
        let objects = |text: &str| -> Vec<serde_json::Value> {
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        };
        let mut theirs = objects(recording);
        // The graph that led to the source: nothing that an event keeps.
        for warning in theirs.iter_mut().filter_map(|o| o.get_mut("warnings")?.as_array_mut()).flatten() {
            warning["sourceInfo"].as_object_mut().unwrap().remove("definition");
        }
        for (ours, theirs) in objects(&writes.text()).iter().zip(theirs) {
            assert_eq!(*ours, theirs);
        }
        assert_eq!(writes.count(), recording.lines().count());
    }
}

#[test]
fn live_build_on_a_terminal() {
    let (mut display, writes) = display(Mode::Tty, 76, 16, false);
    let mut screen = Screen::default();
    let mut seen = 0;
    let mut update = |screen: &mut Screen| {
        let text = writes.text();
        screen.write(&text[seen..]);
        seen = text.len();
    };
    let events = recorded::events(include_str!("testdata/live.jsonl"));
    let middle = events.len() * 4 / 5;
    for (n, event) in events.iter().enumerate() {
        display.event_at(event, ms(200 + n as u64 * 20));
        if n == middle {
            display.tick_at(ms(1200));
            update(&mut screen);
            insta::assert_snapshot!(screen.text(), @r#"
            [+] Building 1.2s (4/9)
             => [internal] load build definition from Dockerfile                   0.0s
             => => transferring dockerfile: 445B                                   0.0s
             => => WARN: FromAsCasing: 'AS' and 'from' keywords' casing do not match (…
             => => WARN: ConsistentInstructionCasing: Command 'from' should match the …
             => => WARN: JSONArgsRecommended: JSON arguments recommended for CMD to pr…
             => [internal] load .dockerignore                                      0.0s
             => => transferring context: 2B                                        0.0s
             => [internal] load build context                                      0.0s
             => => transferring context: 30B                                       0.0s
             => [base 1/2] COPY busybox /bin/sh                                    0.0s
             => [base 2/2] RUN echo hello; echo err >&2; sleep 0.2; printf 'par';… 1.0s
             => => # hello
             => => # err
             => => # par
            "#);
        }
    }
    display.note_at("[sandbox] a line of our own", ms(1300));
    let summary = display.finish_at(Outcome::Failed, ms(1400));
    update(&mut screen);
    insta::assert_snapshot!(screen.text(), @r#"
    [sandbox] a line of our own
    [+] Building 1.4s (7/9) FAILED
     => [internal] load build definition from Dockerfile                   0.0s
     => => transferring dockerfile: 445B                                   0.0s
     => => WARN: FromAsCasing: 'AS' and 'from' keywords' casing do not match (…
     => => WARN: ConsistentInstructionCasing: Command 'from' should match the …
     => => WARN: JSONArgsRecommended: JSON arguments recommended for CMD to pr…
     => [internal] load .dockerignore                                      0.0s
     => => transferring context: 2B                                        0.0s
     => [internal] load build context                                      0.0s
     => => transferring context: 30B                                       0.0s
     => [base 1/2] COPY busybox /bin/sh                                    0.0s
     => [base 2/2] RUN echo hello; echo err >&2; sleep 0.2; printf 'par';… 0.4s
     => ERROR [two 1/1] RUN sleep 0.1; for i in 1 2 3 4 5 6 7 8 9 10 11 1… 0.2s
     => CANCELED [one 1/1] RUN printf '\033[31mred\033[0m\n'; sleep 0.2; … 0.2s
    ------
     > [two 1/1] RUN sleep 0.1; for i in 1 2 3 4 5 6 7 8 9 10 11 12; do echo "line $i"; done; printf 'no newline'; exit 3:
    0.178 line 4
    0.178 line 5
    0.178 line 6
    0.178 line 7
    0.178 line 8
    0.178 line 9
    0.178 line 10
    0.178 line 11
    0.178 line 12
    0.178 no newline
    ------
    "#);
    assert_eq!(summary.warnings.len(), 3);
    assert_eq!(summary.failed.len(), 1);
}

#[test]
fn plain_blocks_and_turns() {
    let failed =
        |digest, error: &str| Vertex { error: error.to_owned(), ..vertex(digest, Some(0), Some(9000)) };
    let cached = Vertex { cached: true, ..vertex("c", Some(1), Some(1)) };
    let warning =
        VertexWarning { vertex: "a".into(), short: b"Rule: bad".to_vec(), ..VertexWarning::default() };
    let events = [
        (
            0,
            vertexes(vec![
                vertex("a", Some(0), None),
                vertex("b", Some(0), None),
                vertex("waiting", None, None),
            ]),
        ),
        (200, log("a", 123, b"from a\nhalf")),
        (400, log("b", 200, b"from b\n")),
        (500, status("a", "sha256:aa", 100, 500, None)),
        (700, status("a", "sha256:aa", 110, 700, None)),
        (900, status("a", "sha256:aa", 200, 900, None)),
        (1100, status("a", "sha256:aa", 1000, 1000, Some(1000))),
        (1300, Event { warnings: vec![warning], ..Event::default() }),
        (1500, log("a", 1400, b" and half\r\n::error::no\n")),
        (1600, vertexes(vec![cached])),
        (9000, log("b", 8000, b"x\xffy\x1b[2J\n")),
        (20_000, log("a", 12_345, b"late")),
        (20_200, vertexes(vec![failed("a", "exit code: 1\nmore"), failed("b", "x: context canceled")])),
    ];
    let (text, summary) = shown(Mode::Plain, &events, Outcome::Failed);
    insta::assert_snapshot!(text, @r#"
    #1 step a
    #1 0.123 from a
    #1 sha256:aa 100B / 1.00kB 0.5s
    #1 sha256:aa 200B / 1.00kB 0.9s
    #1 sha256:aa 1.00kB / 1.00kB 1.0s done
    #1 WARN: Rule: bad
    #1 0.123 half and half
    #1 1.400 ::error::no
    #1 ...

    #2 step c
    #2 CACHED

    #3 step b
    #3 0.200 from b
    #3 8.000 x�y␛[2J
    #3 ...

    #1 step a
    #1 12.35 late
    #1 ERROR: exit code: 1
    #1 more

    #3 step b
    #3 CANCELED
    ------
     > step a:
    0.123 from a
    0.123 half and half
    1.400 ::error::no
    12.35 late
    ------
    "#);
    assert_eq!(summary.counts, Counts { total: 4, completed: 3, cached: 1, refused: 0 });
}

#[test]
fn progress_groups_are_one_step() {
    let member = |digest: &str, weak, started: Option<u64>, completed, cached, error: &str| Vertex {
        cached,
        error: error.to_owned(),
        progress_group: Some(ProgressGroup { id: "group".into(), name: "the group".into(), weak }),
        ..vertex(digest, started, completed)
    };
    let weak_only = [(0, vertexes(vec![member("w", true, Some(0), Some(10), false, "")]))];
    let (text, summary) = shown(Mode::Plain, &weak_only, Outcome::Done);
    assert_eq!((text.as_str(), summary.counts.total), ("", 0));

    let two = [
        (0, vertexes(vec![member("w", true, Some(0), Some(1000), false, "")])),
        (200, vertexes(vec![member("s", false, Some(500), None, false, "")])),
        (400, log("s", 600, b"hello\n")),
        (600, vertexes(vec![member("s", false, Some(500), Some(2000), false, "")])),
    ];
    let (text, summary) = shown(Mode::Plain, &two, Outcome::Done);
    insta::assert_snapshot!(text, @r#"
    #1 the group
    #1 0.600 hello
    #1 DONE 2.0s
    "#);
    assert_eq!(summary.counts, Counts { total: 1, completed: 1, ..Counts::default() });

    let cached = [(
        0,
        vertexes(vec![
            member("x", false, Some(0), Some(0), true, ""),
            member("y", false, Some(0), Some(0), true, ""),
        ]),
    )];
    let (text, _) = shown(Mode::Plain, &cached, Outcome::Done);
    assert_eq!(text, "#1 the group\n#1 CACHED\n");

    let failed = [(
        0,
        vertexes(vec![
            member("x", true, Some(0), Some(5), false, "first"),
            member("y", true, Some(0), Some(5), false, "second"),
        ]),
    )];
    let (text, _) = shown(Mode::Plain, &failed, Outcome::Failed);
    assert_eq!(text, "#1 the group\n#1 ERROR: first\n------\n > the group:\n------\n");
}

#[test]
fn a_step_that_runs_twice() {
    let events = [
        (0, vertexes(vec![vertex("a", Some(0), None)])),
        (200, vertexes(vec![vertex("a", Some(0), Some(1000))])),
        (400, vertexes(vec![vertex("a", Some(3000), Some(5500))])),
        (600, vertexes(vec![vertex("a", None, None)])),
    ];
    let (text, _) = shown(Mode::Plain, &events, Outcome::Done);
    assert_eq!(text, "#1 step a\n#1 DONE 1.0s\n\n#1 step a\n#1 DONE 3.5s\n");
}

#[test]
fn rows_are_divided() {
    let (mut display, writes) = display(Mode::Tty, 40, 10, false);
    let mut steps: Vec<Vertex> = (0..20).map(|n| vertex(&format!("old{n}"), Some(n), Some(n + 1))).collect();
    steps.extend(
        (0..3).map(|n| vertex(&format!("run{n} with a name that is too long for it"), Some(50 + n), None)),
    );
    display.event_at(&vertexes(steps), ms(100));
    assert_eq!(writes.text(), "", "nothing in the first quarter of a second");
    display.event_at(
        &log("run2 with a name that is too long for it", 60, b"one\n\ntwo\nthree\r\n50%\r60%"),
        ms(120),
    );
    display.tick_at(ms(300));
    let mut screen = Screen::default();
    screen.write(&writes.text());
    insta::assert_snapshot!(screen.text(), @r#"
    [+] Building 0.3s (20/23)
     => step old19                     0.0s
     => step run0 with a name that is… 0.1s
     => step run1 with a name that is… 0.1s
     => step run2 with a name that is… 0.1s
     => => # one
     => => # two
     => => # three
     => => # 60%
    "#);

    let before = writes.count();
    display.tick_at(ms(310));
    display.tick_at(ms(350));
    assert_eq!(writes.count(), before, "no more than 15 frames a second");
    let many = (0..30).map(|n| vertex(&format!("more{n}"), Some(100 + n), None));
    display.event_at(&vertexes(many.collect()), ms(400));
    let mut screen = Screen::default();
    screen.write(&writes.text());
    insta::assert_snapshot!(screen.text(), @r#"
    [+] Building 0.4s (20/53)
     => step run0 with a name that is… 0.2s
     => step run1 with a name that is… 0.2s
     => step run2 with a name that is… 0.2s
     => step more0                     0.2s
     => step more1                     0.2s
     => step more2                     0.2s
     => step more3                     0.2s
     => … and 26 more running
    "#);
}

#[test]
fn a_terminal_that_becomes_narrower() {
    let columns = Arc::new(Mutex::new(60));
    let writes = Writes::default();
    let size = {
        let columns = columns.clone();
        Box::new(move || Some(Size { columns: *columns.lock().unwrap(), rows: 20 }))
    };
    let out = Output { writer: Box::new(writes.clone()), terminal: true, size, colour: true };
    let mut display = Display::new(Mode::Auto, out);
    display.event_at(&vertexes(vec![vertex("a", Some(0), None)]), ms(300));
    *columns.lock().unwrap() = 20;
    let before = writes.text().len();
    display.tick_at(ms(400));
    // The row of 59 columns has become three lines; the header of 23 has become two.
    assert!(writes.text()[before..].starts_with("\u{1b}[?25l\u{1b}[5A\r"), "{:?}", &writes.text()[before..]);
}

#[test]
fn colours_on_a_terminal() {
    let (mut display, writes) = display(Mode::Tty, 40, 10, true);
    let failed = Vertex { error: "no".into(), ..vertex("f", Some(0), Some(0)) };
    display.event_at(&vertexes(vec![vertex("a", Some(0), None), failed]), ms(300));
    display.event_at(&log("a", 10, b"\x1b[32mgreen \x1b[2J\n"), ms(400));
    display.finish_at(Outcome::Failed, ms(500));
    let text = writes.text();
    assert!(text.contains("\u{1b}[2m => => # \u{1b}[32mgreen ␛[2J\u{1b}[0m\u{1b}[0m"), "{text:?}");
    assert!(text.contains("\u{1b}[31m => ERROR step f"), "{text:?}");
}

#[test]
fn quiet_only_remembers() {
    let failed = Vertex { error: "exit code: 1".into(), ..vertex("f", Some(0), Some(50)) };
    let events = [
        (0, vertexes(vec![vertex("f", Some(0), None)])),
        (300, log("f", 20, b"why\n")),
        (600, vertexes(vec![failed])),
    ];
    let (text, summary) = shown(Mode::Quiet, &events, Outcome::Failed);
    assert_eq!(text, "");
    assert_eq!(summary.failed[0].log, ["0.020 why"]);
    assert!(!summary.logs_shown);
}

#[test]
fn modes_by_name() {
    for mode in [Mode::Auto, Mode::Plain, Mode::Tty, Mode::Quiet, Mode::RawJson] {
        assert_eq!(mode.to_string().parse(), Ok(mode));
    }
    assert_eq!("fancy".parse::<Mode>(), Err(UnknownMode));
}
