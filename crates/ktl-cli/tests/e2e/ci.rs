//! What a CI system is told: groups, annotations and a summary of ktl's own, whatever a build prints.

use std::process::Command;

use crate::ktl::{Ran, World};

const ORDERS: &str =
    "FROM BUSYBOX\nRUN echo '::error::mine'; echo '##[error]mine'; echo '</pre><b>mine' >&2; exit 7\n";

fn on_github(world: &World, args: &[&str]) -> Command {
    let mut command = world.command();
    command.args(["build", "ctx"]).args(args);
    command.env("GITHUB_ACTIONS", "true").env("GITHUB_WORKSPACE", world.path(""));
    command.env("GITHUB_STEP_SUMMARY", world.path("summary"));
    command
}

fn orders(ran: &Ran) -> Vec<&str> {
    ran.stderr.lines().chain(ran.stdout.lines()).filter(|line| line.trim_start().starts_with("::")).collect()
}

#[test]
fn a_failure_has_its_place_and_a_step_gives_no_orders() {
    let world = World::with_dockerfile(ORDERS);
    let ran = world.run(&mut on_github(&world, &[])).ends_with(1).says("Dockerfile:2");
    let orders = orders(&ran);
    assert_eq!(orders[..2], ["::group::ktl build", "::endgroup::"], "{orders:?}");
    assert!(orders[2].starts_with("::error file=ctx/Dockerfile,line=2,title=ktl build::"), "{orders:?}");
    assert_eq!(orders.len(), 3, "{orders:?}");
    assert!(!ran.stderr.contains("##[error]"));
    let (group, after) = ran.stderr.split_once("\n::endgroup::\n").unwrap();
    assert!(group.contains("::error::mine") && after.contains("ERROR: "), "{}", ran.stderr);
    let summary = world.read("summary");
    assert!(summary.starts_with("### ktl build: failed (exit code 1)\n"), "{summary}");
    assert!(summary.contains("<pre>") && summary.contains("exit code"), "{summary}");
}

#[test]
fn a_build_that_went_well_is_summed_up_below_what_was_there() {
    let world = World::with_dockerfile("from BUSYBOX\nRUN echo fine\n");
    world.write("summary", "before\n");
    let ran = world.run(&mut on_github(&world, &["-t", "app:ci"])).ok();
    let orders = orders(&ran);
    assert!(
        orders.iter().any(|order| order.starts_with("::warning file=ctx/Dockerfile,line=1,")),
        "{orders:?}"
    );
    let summary = world.read("summary");
    assert!(summary.starts_with("before\n### ktl build: built\n"), "{summary}");
    let digest = ran.stdout.trim().replace(':', "&#58;");
    assert!(summary.contains(&digest) && summary.contains("from the cache"), "{summary}");
}

#[test]
fn what_ends_before_the_builder_is_told_too() {
    let world = World::with_dockerfile("FROM scratch\n");
    let ran = world.run(&mut on_github(&world, &["--builder", "unix:///nowhere.sock"])).ends_with(3);
    let orders = orders(&ran);
    assert!(matches!(orders[..], [order] if order.starts_with("::error title=ktl build::")), "{orders:?}");
    assert!(world.read("summary").contains("exit code 3"));
}

#[test]
fn nobody_else_is_told() {
    let world = World::with_dockerfile(ORDERS);
    let ran = world.run(&mut on_github(&world, &["--ci", "off"])).ends_with(1);
    assert!(orders(&ran).is_empty() && !world.path("summary").exists(), "{}", ran.stderr);
    assert!(orders(&world.build(&[]).ends_with(1)).is_empty());
    let ran = world.run(&mut on_github(&world, &["--progress", "rawjson"])).ends_with(1);
    assert!(orders(&ran).is_empty(), "{}", ran.stderr);
    let unwritable = world.run(on_github(&world, &[]).env("GITHUB_STEP_SUMMARY", "/proc/nothing"));
    unwritable.ends_with(1).says("WARNING: no job summary");
}
