//! What a build is on a Docker Engine: its results belong into the Engine's own image store.
//!
//! Follows docker/buildx `build/opt.go` and `driver/docker`: an image without a destination goes through the exporter `moby`,
//! which is the Engine's own, and names are resolved to what the Engine has already unless `--pull` is given.

use std::collections::BTreeMap;

use buildsvc::build::Export;
use buildsvc::csv;
use buildsvc::output::Destination;

use super::{BuildPlan, GuestOutput, HostPlan, OutputBounds};
use crate::dial::ImageStore;
use crate::exit::Exit;
use crate::failure::Failure;

const EXPORTER: &str = "moby";

/// Turns a plan into one for an Engine with this image store.
pub fn settle(plan: &mut BuildPlan, host: &mut HostPlan, store: ImageStore) -> Result<(), Failure> {
    let build = &mut plan.build;
    build.frontend_attrs.entry("image-resolve-mode".to_owned()).or_insert_with(|| "local".to_owned());
    for (export, destination) in build.exports.iter_mut().zip(&mut host.destinations) {
        let stored = matches!(destination, Destination::None | Destination::Engine);
        let pushes = export.attrs.get("push").is_some_and(|value| csv::boolean(value) != Some(false));
        match export.kind.as_str() {
            "image" | "docker" if stored && !pushes => {
                export.kind = EXPORTER.to_owned();
                *destination = Destination::None;
            }
            "image" | "docker" | "oci" if store == ImageStore::Graph => {
                return Err(too_simple(&export.kind, pushes));
            }
            _ => {}
        }
    }
    if build.exports.is_empty() && build.question.is_none() && !host.cache_only {
        build.exports.push(Export { kind: EXPORTER.to_owned(), attrs: BTreeMap::new() });
        host.destinations.push(Destination::None);
        plan.outputs.push(GuestOutput::None);
        plan.output_bounds.push(OutputBounds { bytes: 0, calls: 0, image: false, devices: false });
        host.stays_in_cache = false;
    }
    if store == ImageStore::Graph {
        build.default_provenance = false;
    }
    Ok(())
}

fn too_simple(kind: &str, pushes: bool) -> Failure {
    let what = if pushes { "push an image".to_owned() } else { format!("write an image as {kind}") };
    let failure = Failure::new(
        Exit::Usage,
        format!("this Docker Engine keeps images in graph drivers, and its BuildKit cannot {what}"),
    );
    let failure = if pushes {
        failure.hint("Load it instead (--load, or nothing), then push it with `docker push`.")
    } else {
        failure.hint("Load it instead (--load, or nothing), then write it with `docker save`.")
    };
    failure.hint("Engines with the containerd image store can (daemon.json: features, containerd-snapshotter), and so can a buildkitd: --builder jail://")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::resolved;

    #[test]
    fn results_go_to_the_engines_store() {
        use Destination as D;
        for (args, store, want) in [
            (&["ctx"][..], ImageStore::Graph, Ok((&["moby"][..], &[D::None][..]))),
            (&["ctx", "-t", "a"], ImageStore::Graph, Ok((&["moby"], &[D::None]))),
            (&["ctx", "-t", "a", "--load"], ImageStore::Containerd, Ok((&["moby"], &[D::None]))),
            (&["ctx", "-o", "type=cacheonly"], ImageStore::Graph, Ok((&[], &[]))),
            (&["ctx", "--check"], ImageStore::Graph, Ok((&[], &[]))),
            (&["ctx", "-o", "type=tar,dest=-"], ImageStore::Graph, Ok((&["tar"], &[D::Stdout]))),
            (&["ctx", "-t", "r/a", "--push"], ImageStore::Containerd, Ok((&["image"], &[D::None]))),
            (&["ctx", "-t", "r/a", "--push"], ImageStore::Graph, Err("docker push")),
            (&["ctx", "-o", "type=image,name=r/a,push=1"], ImageStore::Graph, Err("docker push")),
            (&["ctx", "-o", "type=oci,dest=-"], ImageStore::Graph, Err("write an image as oci")),
        ] {
            let (mut plan, mut host) = resolved(args, &[]).unwrap();
            match (settle(&mut plan, &mut host, store), want) {
                (Ok(()), Ok((kinds, destinations))) => {
                    let found: Vec<&str> =
                        plan.build.exports.iter().map(|export| export.kind.as_str()).collect();
                    assert_eq!(
                        (found.as_slice(), host.destinations.as_slice()),
                        (kinds, destinations),
                        "{args:?}"
                    );
                    assert_eq!(plan.outputs.len(), kinds.len(), "{args:?}");
                }
                (Err(failure), Err(part)) => {
                    assert!(failure.to_string().contains(part), "{args:?}: {failure}")
                }
                (got, _) => panic!("{args:?}: {got:?}"),
            }
        }
    }

    #[test]
    fn names_are_those_the_engine_has_unless_pulled() {
        for (args, mode) in [(&["ctx"][..], "local"), (&["ctx", "--pull"], "pull")] {
            let (mut plan, mut host) = resolved(args, &[]).unwrap();
            settle(&mut plan, &mut host, ImageStore::Graph).unwrap();
            assert_eq!(plan.build.frontend_attrs["image-resolve-mode"], mode);
        }
    }
}
