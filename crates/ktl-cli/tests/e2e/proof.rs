//! What a build says of its own isolation: claims, and the report that holds them.

use serde_json::Value;

use crate::ktl::World;

fn report(world: &World) -> Value {
    serde_json::from_str(&world.read("report.json")).unwrap()
}

#[test]
fn a_report_is_written_however_a_build_ends() {
    let world = World::with_dockerfile("FROM BUSYBOX\nRUN true\n");
    let ended = |args: &[&str], code: i32, outcome: &str, reason: &str| {
        let mut all = args.to_vec();
        all.extend(["--report", "report.json"]);
        world.build(&all).ends_with(code);
        let report = report(&world);
        assert_eq!((&report["version"], &report["outcome"]), (&1.into(), &outcome.into()), "{report}");
        assert_eq!(report["exit"], code, "{report}");
        match reason {
            "" => assert!(report["reason"].is_null(), "{report}"),
            reason => assert!(report["reason"].as_str().unwrap().contains(reason), "{report}"),
        }
        report
    };
    let built = ended(&["-t", "x"], 0, "built", "");
    assert!(built["result"]["containerimage.digest"].as_str().unwrap().starts_with("sha256:"), "{built}");
    assert_eq!(
        (&built["hermetic"], &built["claims"][0]["state"]),
        (&"off".into(), &"held".into()),
        "{built}"
    );
    assert_eq!(built["claims"][0]["about"], "the client's jail");
    assert_eq!(built["builder"], crate::ktl::PARTS.daemon.address());

    let failed = ended(&["--target", "nowhere"], 1, "failed", "nowhere");
    assert_eq!(failed["claims"][0]["state"], "held", "{failed}");
    assert!(failed["result"].as_object().unwrap().is_empty(), "{failed}");
    let nobody = ended(&["--builder", "unix:///nowhere"], 3, "failed", "cannot reach the builder");
    assert!(nobody["builder"].is_null() && nobody["claims"].as_array().unwrap().is_empty(), "{nobody}");
    ended(&["--hermetic", "--allow", "network.host"], 5, "refused", "contradict");

    let without = ended(&["--sandbox=off"], 0, "built", "");
    let about_the_client = |claim: &Value| claim["about"] == "the client's jail";
    assert!(!without["claims"].as_array().unwrap().iter().any(about_the_client), "{without}");
}

#[test]
fn a_report_that_cannot_be_written_is_told_before_the_build() {
    let world = World::with_dockerfile("FROM BUSYBOX\n");
    world.write("file", "");
    for (path, why) in [("file/report", "file"), ("ctx", "is a directory")] {
        let ran = world.build(&["--report", path]).ends_with(2).says(why);
        ran.says_not("load build definition");
    }
}

#[test]
fn a_hermetic_build_tells_its_claims() {
    let world = World::with_dockerfile("FROM PINNED\nRUN true\n");
    world
        .build(&["--hermetic=best-effort"])
        .ok()
        .says("[hermetic] unproven: ")
        .says("[hermetic] held: the client's jail: own namespaces:")
        .says("[hermetic] held: network mode of RUN: none");
    world.build(&[]).ok().says_not("[hermetic]");
    world.build(&["--hermetic=best-effort", "-q"]).ok().says_not("[hermetic] held");
    world.build(&["--hermetic=best-effort", "--report", "report.json"]).ok();
    let report = report(&world);
    assert_eq!(report["hermetic"], "best-effort");
    let states: Vec<_> = report["claims"].as_array().unwrap().iter().map(|claim| &claim["state"]).collect();
    assert!(states.contains(&&"unproven".into()) && states.contains(&&"held".into()), "{report}");
}

fn claims(report: &Value) -> Vec<(String, String)> {
    let text = |claim: &Value, field: &str| claim[field].as_str().unwrap().to_owned();
    let claims = report["claims"].as_array().unwrap().iter();
    claims
        .map(|claim| (text(claim, "about"), text(claim, "state")))
        .filter(|(about, _)| about.starts_with("RUN"))
        .collect()
}

#[test]
fn a_step_is_looked_at_from_inside() {
    let world = World::with_dockerfile("FROM PINNED\nRUN true\n");
    // Steps of this daemon share the host's network; which shows that the look sees what there is.
    let ran = world.build(&["--report", "report.json"]).ok();
    ran.says_not("look from inside");
    let open = claims(&report(&world));
    for about in ["RUN: network interfaces", "RUN: loopback of the host", "RUN: abstract socket of the host"]
    {
        assert!(open.contains(&(about.to_owned(), "broken".to_owned())), "{open:?}");
    }
    assert!(open.contains(&("RUN: socket file of the host".to_owned(), "held".to_owned())), "{open:?}");

    for runtime in [&[][..], crate::ktl::NATIVE] {
        let mut args = vec!["--hermetic=best-effort", "--report", "report.json"];
        args.extend(runtime);
        world.build(&args).ok();
        let shut = claims(&report(&world));
        assert_eq!(shut.len(), open.len(), "{shut:?}");
        assert!(shut.iter().all(|(_, state)| state == "held"), "{shut:?}");
    }
}

#[test]
fn materials_are_compared_with_the_lock() {
    let world = World::with_dockerfile("FROM BUSYBOX\nRUN true\n");
    let materials = || {
        world.build(&["--report", "report.json", "-t", "x"]).ok();
        let report = report(&world);
        let claims = report["claims"].as_array().unwrap();
        let claim = claims.iter().find(|claim| claim["about"] == "materials").unwrap().clone();
        (claim["state"].as_str().unwrap().to_owned(), report["materials"].clone())
    };
    let (state, found) = materials();
    assert_eq!((state.as_str(), found.as_array().map(Vec::len)), ("unproven", Some(1)), "{found}");
    let digest = found[0]["digests"]["sha256"].as_str().unwrap();
    let lock = |digest: &str| {
        format!(
            "version = 1\n\n[[image]]\nreference = \"{}\"\ndigest = \"sha256:{digest}\"\nplatforms = {{ \"linux/amd64\" = \"sha256:{digest}\" }}\n",
            crate::ktl::PARTS.busybox
        )
    };
    world.write("ctx/ktl.lock", lock(digest));
    assert_eq!(materials().0, "held");
    world.write("ctx/ktl.lock", lock(&"0".repeat(64)));
    assert_eq!(materials().0, "broken");
}
