//! Builders by the names that docker buildx keeps for them.
//!
//! Somebody who has made a builder with `docker buildx create` calls it by name ever after. Where it listens, and by which
//! certificates, is in buildx's own store; nothing is written there, and its choice of a current builder is buildx's own
//! business.
//!
//! Follows docker/buildx `store/{store,nodegroup,util}.go` for the store, `builder/builder.go` for docker contexts that stand
//! in for builders, `driver/remote/factory.go` and `driver/driver.go` for what a node means.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::address::Address;
use super::engine;
use crate::env::{self, Env};
use crate::failure::Failure;
use crate::tls::TlsFiles;

/// Before a node's name, in the name of its container.
const CONTAINER: &str = "buildx_buildkit_";

/// One builder's file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
struct Group {
    driver: String,
    nodes: Option<Vec<Node>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Node {
    name: String,
    endpoint: String,
    driver_opts: Option<BTreeMap<String, String>>,
}

/// Whether buildx takes `text` for a name.
pub fn is_name(text: &str) -> bool {
    text.len() <= 255
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

/// Where the builder `name` listens, and its certificates.
pub fn named(name: &str, env: &Env) -> Result<(Address, Option<TlsFiles>), Failure> {
    let dir = env.path(env::BUILDX_CONFIG).or_else(|| Some(env.docker_config_dir()?.join("buildx")));
    let file = dir.map(|dir| dir.join("instances").join(name.to_ascii_lowercase()));
    if is_name(name)
        && let Some(file) = &file
        && let Some(group) = engine::read::<Group>(file)?
    {
        return of_group(name, group, env).map_err(|failure| {
            failure.hint(format!("docker buildx keeps this builder in {}.", file.display()))
        });
    }
    if name == engine::DEFAULT_CONTEXT || (is_name(name) && engine::has_context(env, name)) {
        return Ok((Address::Context(name.to_owned()), None));
    }
    let looked = file.as_deref().and_then(Path::parent).map(|dir| format!(" in {}", dir.display()));
    Err(Failure::usage(format!(
        "`{name}` is no builder address, and docker buildx keeps no builder of that name{}",
        looked.unwrap_or_default()
    ))
    .hint("`docker buildx ls` and `docker context ls` list those that can be named.")
    .hint(format!("An address is {}.", super::address::FORMS)))
}

fn of_group(name: &str, group: Group, env: &Env) -> Result<(Address, Option<TlsFiles>), Failure> {
    let wrong = |why: String| Failure::usage(format!("docker buildx's builder `{name}`: {why}"));
    let nodes = group.nodes.unwrap_or_default();
    let [node] = nodes.as_slice() else {
        let hints = nodes.iter().map(|node| format!("{}: {} {}", node.name, group.driver, node.endpoint));
        return Err(wrong(format!("it has {} nodes, and a build goes to one", nodes.len()))
            .hints(hints)
            .hint("Name the one that is meant by its address, with --builder."));
    };
    match group.driver.as_str() {
        "remote" => {
            let address = Address::parse(&node.endpoint).map_err(&wrong)?;
            Ok((address, certificates(node).map_err(wrong)?))
        }
        "docker-container" => {
            let context = match node.endpoint.contains("://") {
                false => Some(node.endpoint.clone()),
                true => context_of(&node.endpoint, env).map_err(|why| {
                    wrong(why).hint(format!(
                        "`docker context create NAME --docker host={0}` gives that Engine a name; then name the builder \
                         docker-container://{CONTAINER}{1}?context=NAME, or set DOCKER_HOST={0}.",
                        node.endpoint, node.name
                    ))
                })?,
            };
            let query = context.filter(|context| !context.is_empty());
            let query = query.map(|context| format!("?context={context}")).unwrap_or_default();
            let text = format!("docker-container://{CONTAINER}{}{query}", node.name);
            Ok((Address::parse(&text).map_err(wrong)?, None))
        }
        "docker" if node.endpoint.starts_with("unix://") => match Address::parse(&node.endpoint).map_err(&wrong)? {
            Address::Unix(path) | Address::Engine(Some(path)) => Ok((Address::Engine(Some(path)), None)),
            other => Err(wrong(format!("an Engine is not at {other}"))),
        },
        "docker" if is_name(&node.endpoint) => Ok((Address::Context(node.endpoint.clone()), None)),
        "docker" => Err(wrong(format!("its Engine `{}` has no name and is no socket", node.endpoint)).hint(
            format!("Set DOCKER_HOST={} and name the builder docker://", node.endpoint),
        )),
        "kubernetes" => Err(wrong("ktl does not look for its pods".to_owned()).hint(
            "Name one of them: `kubectl get pods` lists them, --builder 'kube-pod://POD?namespace=NS' is one.",
        )),
        other => Err(wrong(format!("ktl knows no driver `{other}`"))),
    }
}

/// The docker context whose Engine listens at `endpoint`; `None` is the one that docker uses unasked.
fn context_of(endpoint: &str, env: &Env) -> Result<Option<String>, String> {
    let wanted = engine::parse(endpoint, None)?;
    if engine::of_docker(env).is_ok_and(|host| host == wanted) {
        return Ok(None);
    }
    match engine::of_context(env, engine::DEFAULT_CONTEXT).is_ok_and(|host| host == wanted) {
        true => Ok(Some(engine::DEFAULT_CONTEXT.to_owned())),
        false => Err(format!("its Engine at {endpoint} is not the one that docker uses")),
    }
}

/// The certificates of a remote builder, by the rules that buildx has for them.
fn certificates(node: &Node) -> Result<Option<TlsFiles>, String> {
    let (mut ca, mut cert, mut key, mut server_name) = (None, None, None, None);
    for (option, value) in node.driver_opts.iter().flatten() {
        let file = || {
            let path = PathBuf::from(value);
            if path.is_absolute() { Ok(Some(path)) } else { Err(format!("its {option} is no absolute path")) }
        };
        match option.as_str() {
            "cacert" => ca = file()?,
            "cert" => cert = file()?,
            "key" => key = file()?,
            "servername" => server_name = Some(value.clone()),
            // Where buildx puts a result that nobody asked for.
            "default-load" => {}
            other => return Err(format!("ktl knows no driver option `{other}` of a remote builder")),
        }
    }
    if (&ca, &cert, &key, &server_name) == (&None, &None, &None, &None) {
        return Ok(None);
    }
    let ca = ca.ok_or("it wants TLS and names no cacert")?;
    if cert.is_some() != key.is_some() {
        return Err("it needs cert and key together".to_owned());
    }
    Ok(Some(TlsFiles::new(ca, cert.zip(key), server_name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(file: &str, more: &[(&str, &str)]) -> Result<(Address, Option<TlsFiles>), Failure> {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().to_string_lossy().into_owned();
        std::fs::create_dir_all(dir.path().join("instances")).unwrap();
        std::fs::write(dir.path().join("instances/mine"), file).unwrap();
        let mut all = vec![("BUILDX_CONFIG", config.as_str())];
        all.extend(more);
        named("Mine", &Env::of(&all))
    }

    #[test]
    fn drivers_become_addresses() {
        let docker =
            r#"{"Name":"mine","Driver":"docker-container","Nodes":[{"Name":"mine0","Endpoint":"E"}]}"#;
        let engine = r#"{"Name":"mine","Driver":"docker","Nodes":[{"Name":"mine0","Endpoint":"E"}]}"#;
        let usual = "unix:///var/run/docker.sock";
        for (file, endpoint, env, expected) in [
            (r#"{"Driver":"remote","Nodes":[{"Endpoint":"E"}]}"#, "unix:///b", &[][..], "unix:///b"),
            (
                r#"{"Driver":"remote","Nodes":[{"Endpoint":"E","DriverOpts":null}]}"#,
                "tcp://b:1",
                &[],
                "tcp://b:1",
            ),
            (docker, "far", &[], "docker-container://buildx_buildkit_mine0?context=far"),
            (docker, usual, &[], "docker-container://buildx_buildkit_mine0"),
            (
                docker,
                "tcp://h:1",
                &[("DOCKER_HOST", "tcp://h:1")],
                "docker-container://buildx_buildkit_mine0",
            ),
            (engine, "far", &[], "docker://far"),
            (engine, usual, &[], "docker:///var/run/docker.sock"),
        ] {
            let (address, tls) = found(&file.replace("\"E\"", &format!("{endpoint:?}")), env).unwrap();
            assert_eq!((address.to_string().as_str(), tls), (expected, None), "{endpoint}");
        }
        let file = r#"{"Driver":"remote","Nodes":[{"Endpoint":"tcp://b:1","DriverOpts":{"cacert":"/ca","cert":"/c","key":"/k",
            "servername":"n","default-load":"true"}}]}"#;
        let identity = Some(("/c".into(), "/k".into()));
        let expected = TlsFiles::new("/ca".into(), identity, Some("n".into()));
        assert_eq!(found(file, &[]).unwrap().1, Some(expected));
    }

    #[test]
    fn what_cannot_be_used_says_what_to_do() {
        let remote = |options: &str| {
            format!(
                r#"{{"Driver":"remote","Nodes":[{{"Endpoint":"tcp://b:1","DriverOpts":{{{options}}}}}]}}"#
            )
        };
        for (file, parts) in [
            (
                r#"{"Driver":"kubernetes","Nodes":[{"Name":"a"}]}"#.to_owned(),
                ["kube-pod://POD", "instances/mine"],
            ),
            (r#"{"Driver":"cloud","Nodes":[{"Name":"a"}]}"#.to_owned(), ["`cloud`", "`Mine`"]),
            (r#"{"Driver":"remote","Nodes":[]}"#.to_owned(), ["0 nodes", "--builder"]),
            (
                r#"{"Driver":"remote","Nodes":[{"Name":"a","Endpoint":"tcp://a:1"},{"Name":"b"}]}"#
                    .to_owned(),
                ["2 nodes", "a: remote tcp://a:1"],
            ),
            (
                r#"{"Driver":"docker-container","Nodes":[{"Name":"a","Endpoint":"tcp://far:1"}]}"#.to_owned(),
                ["docker context create", "buildx_buildkit_a?context"],
            ),
            (
                r#"{"Driver":"docker-container","Nodes":[{"Name":"a?b","Endpoint":"c"}]}"#.to_owned(),
                ["knows no `b", "instances/mine"],
            ),
            (
                r#"{"Driver":"docker-container","Nodes":[{"Name":"a","Endpoint":"--host=x"}]}"#.to_owned(),
                ["cannot be its context", "instances/mine"],
            ),
            (remote(r#""cert":"/c","key":"/k""#), ["names no cacert", "`Mine`"]),
            (remote(r#""cacert":"ca""#), ["no absolute path", "`Mine`"]),
            (remote(r#""cacert":"/ca","key":"/k""#), ["together", "`Mine`"]),
            (remote(r#""cacert":"/ca","insecure":"true""#), ["`insecure`", "`Mine`"]),
            ("{".to_owned(), ["instances/mine", "EOF"]),
        ] {
            let failure = found(&file, &[]).unwrap_err();
            let text = failure.to_string();
            assert!(parts.iter().all(|part| text.contains(part)), "{file}: {text}");
        }
        let none = named("absent", &Env::of(&[("BUILDX_CONFIG", "/nowhere")])).unwrap_err().to_string();
        assert!(
            none.contains("`absent` is no builder address") && none.contains("/nowhere/instances"),
            "{none}"
        );
        for name in ["../mine", "", "1a", "a b"] {
            assert!(!is_name(name), "{name}");
        }
    }
}
