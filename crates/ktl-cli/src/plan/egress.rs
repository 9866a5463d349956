//! Which servers the build may reach.

use std::io;
use std::path::Path;
use std::str;

use buildsvc::build::{Build, CacheEntry};
use buildsvc::egress::{Decision, Egress, Rule};

use super::Facts;
use crate::cli::BuildArgs;
use crate::exit::Exit;
use crate::failure::Failure;

/// Of a file with rules.
const FILE_LIMIT: u64 = 1 << 20;

/// The list, where the build has one.
pub fn resolve(args: &BuildArgs, facts: &Facts) -> Result<Option<Egress>, Failure> {
    let flags = &args.egress;
    if !flags.is_limited() {
        return match &flags.egress_record {
            Some(_) => {
                Err(Failure::usage("--egress-record means nothing without --egress or --egress-learn"))
            }
            None => Ok(None),
        };
    }
    if args.sandbox.hermetic.is_on() {
        return Err(Failure::usage("--hermetic means no network, and --egress means a little of it")
            .hint("Leave one of them out."));
    }
    Ok(Some(Egress::new(rules(&flags.egress, &facts.cwd, facts.read)?, flags.egress_learn.is_some())))
}

/// The rules of `--egress`, those of its files included.
pub fn rules(
    texts: &[String],
    cwd: &Path,
    read: fn(&Path, u64) -> io::Result<Vec<u8>>,
) -> Result<Vec<Rule>, Failure> {
    let mut rules = Vec::new();
    let parse = |text: &str, place: &str| {
        text.parse::<Rule>().map_err(|error| {
            Failure::usage(format!("{place}: {text:?}: {error}"))
                .hint("The form is [SCHEME://]HOST[:PORT][/PATH], such as pypi.org, http://deb.debian.org or *.example.org:8080.")
        })
    };
    for text in texts {
        let Some(file) = text.strip_prefix('@') else {
            rules.push(parse(text, "--egress")?);
            continue;
        };
        let unreadable = |why: String| Failure::usage(format!("--egress @{file}: {why}"));
        let bytes = read(&cwd.join(file), FILE_LIMIT).map_err(|error| unreadable(error.to_string()))?;
        let lines = str::from_utf8(&bytes).map_err(|error| unreadable(error.to_string()))?.lines();
        let lines = lines.zip(1..).map(|(line, number)| (line.trim(), number));
        for (line, number) in lines.filter(|(line, _)| !line.is_empty() && !line.starts_with('#')) {
            rules.push(parse(line, &format!("{file}:{number}"))?);
        }
    }
    Ok(rules)
}

/// Puts `build`, whose caches and exports are known, behind the list. What the daemon fetches and sends by itself is asked
/// about nowhere, so it is looked at here.
pub fn add(egress: &Egress, build: &mut Build) -> Result<(), Failure> {
    build.proxy_network = true;
    let forbidden = |what: String| Failure::new(Exit::Policy, format!("--egress: {what}"));
    if build.entitlements.iter().any(|entitlement| entitlement == "security.insecure") {
        return Err(forbidden("a step with security.insecure can leave the proxy behind".to_owned()));
    }
    let registry = |what: &str, reference: &str| match egress
        .decide(&format!("docker-image://{reference}"), &Default::default())
    {
        Decision::Denied { url, why } => Err(forbidden(format!("{what} {reference}: {url}: {why}"))),
        Decision::Allowed { .. } | Decision::Local => Ok(()),
    };
    for CacheEntry { kind, attrs, .. } in build.cache_imports.iter().chain(&build.cache_exports) {
        match kind.as_str() {
            "registry" => registry("the cache", attrs.get("ref").map_or("", String::as_str))?,
            "local" | "inline" => {}
            other => return Err(forbidden(format!("where a cache of type {other} lies cannot be checked"))),
        }
    }
    for export in &build.exports {
        let pushes = export.attrs.get("push").is_some_and(|push| push != "false");
        let names = export.attrs.get("name").map_or("", String::as_str);
        for name in names.split(',').filter(|name| pushes && !name.is_empty()) {
            registry("the push to", name)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use buildsvc::build::Export;

    fn egress() -> Egress {
        Egress::new(["registry.example".parse().unwrap()], false)
    }

    #[test]
    fn what_the_daemon_does_by_itself_is_looked_at_first() {
        let attrs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
        };
        let cache = |kind: &str, reference: &str| Build {
            cache_imports: vec![CacheEntry::new(kind, attrs(&[("ref", reference)]))],
            ..Build::default()
        };
        let push = |name: &str, push: &str| Build {
            exports: vec![Export {
                kind: "image".to_owned(),
                attrs: attrs(&[("name", name), ("push", push)]).into_iter().collect(),
            }],
            ..Build::default()
        };
        for mut build in [
            cache("registry", "registry.example/c:1"),
            cache("local", ""),
            push("registry.example/a:1,registry.example/b:1", "true"),
            push("other.example/a:1", "false"),
        ] {
            add(&egress(), &mut build).unwrap();
            assert!(build.proxy_network);
        }
        for mut build in [
            cache("registry", "other.example/c:1"),
            cache("registry", ""),
            cache("gha", ""),
            push("registry.example/a:1,app:1", "true"),
            Build { entitlements: vec!["security.insecure".to_owned()], ..Build::default() },
        ] {
            assert_eq!(add(&egress(), &mut build).unwrap_err().exit, Exit::Policy);
        }
    }
}
