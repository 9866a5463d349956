//! What stands behind `--hermetic` beside the request itself: see docs/hermetic.md.

use buildsvc::csv;

use crate::claims::{Claim, State};
use crate::plan::{self, BuildPlan};

/// Links and what is not known of them when the builder is no private one, and a person has taken it nevertheless.
const UNPROVEN: &[(&str, &str)] = &[
    ("the builder", "which version it is, and that it keeps to the request, is its own word"),
    (
        "the builder's own network",
        "it has one, and what it fetches or tells through it cannot be seen from here",
    ),
    (
        "the host",
        "files, sockets and devices that its containers show; devices that its configuration allows to everybody need no \
         entitlement",
    ),
    ("the cache", "what other builds left there, cache mounts included, was made under their rules"),
];

/// What of `plan` is not proven then.
pub fn unproven(plan: &BuildPlan) -> Vec<Claim> {
    let claim = |about: &str, why: String| Claim::new(about, State::Unproven, why);
    let mut claims: Vec<Claim> =
        UNPROVEN.iter().map(|(about, why)| claim(about, (*why).to_owned())).collect();
    let build = &plan.build;
    if let Some(frontend) = build.frontend_attrs.get("source") {
        let why = format!(
            "{frontend} says which network RUN gets, and has one of its own; the sources are kept from it all the same"
        );
        claims.push(claim("the frontend", why));
    }
    if build.frontend_attrs.keys().any(|key| plan::is_sbom(key)) {
        let why = "the image that lists the packages is run with the builder's network, and no policy is asked for it";
        claims.push(claim("the sbom generator", why.to_owned()));
    }
    let pushes = build.exports.iter().filter_map(|export| export.attrs.get("push"));
    if pushes.map(|value| csv::boolean(value)).any(|push| push != Some(false)) {
        let why = "the builder sends the result over its network when it is built";
        claims.push(claim("the push", why.to_owned()));
    }
    claims
}
