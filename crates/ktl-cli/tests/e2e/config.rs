//! Flags that nobody typed: variables, and the files `ktl.toml`.

use crate::ktl::World;

#[test]
fn what_nobody_typed_is_told() {
    let world = World::with_dockerfile("FROM scratch\nCOPY Dockerfile /\n");
    world.write(
        "home/.config/ktl/ktl.toml",
        "[build]\nbuild-arg = ['A=hidden-value']\noutput = ['type=oci,dest=image.tar']\n",
    );
    let run = |variables: &[(&str, &str)], args: &[&str]| {
        world.run(world.command().envs(variables.iter().copied()).args(["build", "ctx"]).args(args))
    };
    let ran = run(&[("KTL_NO_CACHE", "1")], &["-v", "--report", "report"]).ok();
    let ran = ran.says("[config] --no-cache (KTL_NO_CACHE)").says("ktl.toml:2)");
    ran.says_not("hidden-value");
    assert!(world.path("image.tar").exists());
    let report: serde_json::Value = serde_json::from_str(&world.read("report")).unwrap();
    let flags: Vec<&str> = report["settings"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|setting| setting["flag"].as_str())
        .collect();
    assert_eq!(flags, ["--no-cache", "--build-arg", "--output"]);
    run(&[], &[]).ok().says_not("[config]");

    run(&[("KTL_SANDBOX", "off")], &[]).ends_with(2).says("KTL_SANDBOX: --sandbox has to be typed");
    run(&[("KTL_SECRET", "id=x,src=/etc/shadow")], &[])
        .ends_with(2)
        .says("KTL_SECRET: --secret has to be typed");
    run(&[("KTL_PULL", "yes")], &[]).ends_with(2).says("\"yes\" is none of true, false, 1 and 0");
}

#[test]
fn a_repository_asks_for_a_hermetic_build() {
    let world = World::with_dockerfile("FROM scratch\nCOPY Dockerfile /\n");
    world.build(&[]).ok();
    world.write("ctx/ktl.toml", "[sandbox]\nhermetic = true\n");
    let refused = world.build(&[]).ends_with(5).says("--hermetic: the builder at ");
    refused.says("Not typed, but set: --hermetic required (ctx/ktl.toml:2)");
    world.build(&["--hermetic=best-effort"]).ok().says("[hermetic] ");
    world.build(&["--sandbox=off"]).ends_with(2).says("--hermetic means nothing with --sandbox=off");
    // Under a jail that ktl makes itself it is the same, and so is the second reading of --verify-reproducible.
    world.build_native(&["--hermetic=best-effort"]).ok();
    let mut twice = world.command();
    let ran = world.run(twice.args(["build", "ctx", "--verify-reproducible"]).env("SOURCE_DATE_EPOCH", "1"));
    ran.ends_with(5).says("ctx/ktl.toml:2");

    world.write("ctx/ktl.toml", "[builder]\naddress = 'tcp://elsewhere.example:1'\n");
    world.build(&[]).ends_with(5).says("ctx/ktl.toml:2: --builder is not for a repository to set");
    std::fs::remove_file(world.path("ctx/ktl.toml")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", world.path("ctx/ktl.toml")).unwrap();
    world.build(&[]).ends_with(2).says("is a link").says_not("root");
}
