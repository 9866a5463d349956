//! Daemons that send too much, or in no order.

use proptest::prelude::*;

use super::*;

#[test]
fn many_lines_are_few_writes() {
    let (mut display, writes) = display(Mode::Plain, 80, 24, false);
    display.event_at(&vertexes(vec![vertex("a", Some(0), None)]), ms(0));
    let chunk: Vec<u8> = (0..1000).flat_map(|n| format!("line {n} of the chunk\n").into_bytes()).collect();
    for n in 0..100 {
        display.event_at(&log("a", n * 10, &chunk), ms(n * 10));
    }
    display.finish_at(Outcome::Done, ms(1000));
    assert_eq!(writes.text().lines().filter(|l| l.contains("of the chunk")).count(), 100_000);
    assert!(writes.count() <= 12, "{} writes", writes.count());
}

#[test]
fn a_flood_of_lines_is_not_kept() {
    let (mut display, writes) = display(Mode::Plain, 80, 24, false);
    let chunk = b"0123456789abcdef\n".repeat(20_000);
    display.event_at(&vertexes(vec![vertex("a", Some(0), None), vertex("b", Some(0), None)]), ms(0));
    for _ in 0..20 {
        display.event_at(&log("b", 0, &chunk), ms(1));
        assert!(display.graph.pending_bytes() < 8 * 1024 * 1024);
    }
    display.finish_at(Outcome::Done, ms(1));
    assert_eq!(writes.text().matches("0123456789abcdef").count(), 400_000);
}

#[test]
fn a_flood_of_steps() {
    for (mode, completes) in [(Mode::Quiet, true), (Mode::Quiet, false), (Mode::Plain, true)] {
        let (mut display, writes) = display(mode, 80, 24, false);
        let (rounds, size) = if mode == Mode::Plain { (20, 1000) } else { (20, 10_000) };
        for round in 0..rounds {
            let step = |n: u64| vertex(&format!("{round}/{n}"), Some(n), completes.then_some(n));
            display.event_at(&vertexes((0..size).map(step).collect()), ms(round));
        }
        let summary = display.finish_at(Outcome::Done, ms(1000));
        let counts = summary.counts;
        assert_eq!(counts.total + counts.refused, rounds * size, "{mode}");
        assert_eq!(counts.refused == 0, completes, "{mode}");
        assert!(display.graph.started().count() <= graph::STEPS_MAX);
        if mode == Mode::Plain {
            assert_eq!(writes.text().matches(" DONE ").count(), 20_000);
        }
    }
}

proptest! {
    /// Whatever order a daemon sends things in, nothing panics, no line of output is lost, and the counts add up.
    #[test]
    fn any_order_of_events(moves in prop::collection::vec((0u8..8, 0u8..5, 0u64..50), 0..60), columns in 1u16..100, rows in 0u16..30) {
        let (mut plain, writes) = display(Mode::Plain, columns, rows, false);
        let (mut tty, drawn) = display(Mode::Tty, columns, rows, false);
        let mut announced = std::collections::BTreeSet::new();
        let mut lines = 0;
        for (n, (kind, step, time)) in moves.iter().enumerate() {
            let digest = step.to_string();
            let group = (*step == 4).then(|| ProgressGroup { id: "g".into(), name: "group".into(), weak: false });
            let vertex = |started, completed| Vertex { progress_group: group.clone(), ..vertex(&digest, started, completed) };
            let event = match kind {
                0 => vertexes(vec![vertex(None, None)]),
                1 | 2 => vertexes(vec![vertex(Some(*time), None)]),
                3 => vertexes(vec![vertex(Some(*time), Some(time + 5))]),
                4 => vertexes(vec![Vertex { error: "bad\nworse".into(), ..vertex(Some(*time), Some(*time)) }]),
                5 => status(&digest, "layer", *time as i64, *time, None),
                _ => log(&digest, *time, b"say it\n"),
            };
            // A group shows its output from when it is shown itself, a step from when it is known.
            match kind {
                0 if group.is_none() => { announced.insert(*step); }
                1..=4 => { announced.insert(*step); }
                6.. if announced.contains(step) => lines += 1,
                _ => {}
            }
            let now = ms(n as u64 * 70);
            plain.event_at(&event, now);
            tty.event_at(&event, now);
        }
        let summary = plain.finish_at(Outcome::Done, ms(10_000));
        tty.finish_at(Outcome::Done, ms(10_000));
        let text = writes.text();
        let shown = text.lines().filter(|l| l.starts_with('#') && l.ends_with(" say it")).count();
        prop_assert_eq!(shown, lines, "{}", text);
        prop_assert!(summary.counts.completed <= summary.counts.total);
        let mut screen = Screen::default();
        screen.write(&drawn.text());
        let widest = screen.text().split("------").next().unwrap().lines().map(cells::width).max();
        prop_assert!(widest.unwrap_or_default() < usize::from(columns.max(2)));
    }
}

#[test]
fn a_hidden_group_keeps_no_output() {
    let (mut display, _) = display(Mode::Plain, 80, 24, false);
    let group = ProgressGroup { id: "g".into(), name: "group".into(), weak: true };
    let member = Vertex { progress_group: Some(group), ..vertex("m", Some(0), None) };
    display.event_at(&vertexes(vec![member]), ms(0));
    display.event_at(&log("m", 0, &b"0123456789abcdef\n".repeat(1000)), ms(1));
    assert_eq!((display.graph.pending_bytes(), display.graph.updated_count()), (0, 0));
}

#[test]
fn warnings_are_bounded() {
    let (mut display, _) = display(Mode::Quiet, 80, 24, false);
    let source = buildsvc::event::SourceInfo { data: vec![b'x'; 1 << 20], ..Default::default() };
    for short in 0..10 {
        let warning =
            VertexWarning { short: vec![short], source: Some(source.clone()), ..VertexWarning::default() };
        display.event_at(&Event { warnings: vec![warning], ..Event::default() }, ms(0));
    }
    let summary = display.finish_at(Outcome::Done, ms(0));
    assert_eq!((summary.warnings.len(), summary.warnings_dropped), (3, 7));
}
