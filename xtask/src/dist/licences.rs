//! The licences of all crates that are linked into ktl, which whoever passes the program on has to pass on with it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{command, workspace};

const PACKAGE: &str = "ktl-cli";
/// How files that hold licences and notices begin their names.
const BEGINNINGS: [&str; 5] = ["LICENSE", "LICENCE", "COPYING", "NOTICE", "UNLICENSE"];

/// One crate.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Crate {
    name: String,
    version: String,
    /// An SPDX expression, or a file of its own.
    licence: String,
    dir: PathBuf,
}

/// Writes the list and the texts into `dir`. A crate that names no licence is an error.
pub fn gather(dir: &Path) -> Result<()> {
    let cargo = workspace::variable("CARGO").unwrap_or_else(|| "cargo".into());
    let mut metadata = Command::new(cargo);
    metadata.current_dir(workspace::root()).args(["metadata", "--format-version=1", "--locked"]);
    metadata.args(["--filter-platform", env!("TARGET")]);
    let metadata: Value =
        serde_json::from_slice(&command::output_of(&mut metadata)?.stdout).context("read cargo metadata")?;
    let mut list = String::from(
        "Crates that are linked into ktl, with their licences; the texts lie beside this list.\n\n",
    );
    for found in linked(&metadata)? {
        list.push_str(&format!("{} {}: {}\n", found.name, found.version, found.licence));
        let texts = dir.join(format!("{}-{}", found.name, found.version));
        for file in fs::read_dir(&found.dir).with_context(|| format!("list {}", found.dir.display()))? {
            let file = file?;
            let name = file.file_name().to_string_lossy().to_ascii_uppercase();
            if BEGINNINGS.iter().any(|beginning| name.starts_with(beginning)) && file.file_type()?.is_file() {
                fs::create_dir_all(&texts).with_context(|| format!("create {}", texts.display()))?;
                fs::copy(file.path(), texts.join(file.file_name()))
                    .with_context(|| format!("copy {}", file.path().display()))?;
            }
        }
    }
    fs::write(dir.join("LIST"), list).context("write the list of licences")
}

/// All that ktl needs when it runs: normal dependencies, theirs, and so on; without the crates of this repository.
fn linked(metadata: &Value) -> Result<BTreeSet<Crate>> {
    let items = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let packages: BTreeMap<String, Value> =
        items(&metadata["packages"]).into_iter().map(|package| (text(&package["id"]), package)).collect();
    let nodes: BTreeMap<String, Value> =
        items(&metadata["resolve"]["nodes"]).into_iter().map(|node| (text(&node["id"]), node)).collect();
    let root = packages.values().find(|package| package["name"] == PACKAGE).context("no package ktl-cli")?;
    let mut open = vec![text(&root["id"])];
    let mut seen = BTreeSet::new();
    let mut found = BTreeSet::new();
    while let Some(id) = open.pop() {
        if !seen.insert(id.clone()) {
            continue;
        }
        let node = nodes.get(&id).with_context(|| format!("{id} is not resolved"))?;
        for dependency in items(&node["deps"]) {
            if items(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"].is_null()) {
                open.push(text(&dependency["pkg"]));
            }
        }
        let package = packages.get(&id).with_context(|| format!("{id} is no package"))?;
        if package["source"].is_null() {
            continue;
        }
        let (name, version) = (text(&package["name"]), text(&package["version"]));
        let licence = match (package["license"].as_str(), package["license_file"].as_str()) {
            (Some(expression), _) => expression.to_owned(),
            (None, Some(file)) => format!("see {file}"),
            (None, None) => bail!("{name} {version} names no licence"),
        };
        let manifest = PathBuf::from(text(&package["manifest_path"]));
        let dir = manifest.parent().context("a manifest has a directory")?.to_owned();
        found.insert(Crate { name, version, licence, dir });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn metadata(licence: Value) -> Value {
        let package = |id: &str, source: Value, licence: Value| {
            json!({"id": id, "name": if id == "own" { PACKAGE } else { id }, "version": "1.0", "source": source,
                   "license": licence, "license_file": null, "manifest_path": format!("/r/{id}/Cargo.toml")})
        };
        let needs = |pkg: &str, kind: Value| json!({"pkg": pkg, "dep_kinds": [{"kind": kind}]});
        json!({
            "packages": [
                package("own", json!(null), json!("Apache-2.0")),
                package("linked", json!("registry"), licence),
                package("tests-only", json!("registry"), json!("MIT")),
            ],
            "resolve": {"nodes": [
                {"id": "own", "deps": [needs("linked", json!(null)), needs("tests-only", json!("dev"))]},
                {"id": "linked", "deps": []},
                {"id": "tests-only", "deps": []},
            ]},
        })
    }

    #[test]
    fn what_is_linked_is_listed() {
        let found = linked(&metadata(json!("MIT OR Apache-2.0"))).unwrap();
        let expected = Crate {
            name: "linked".into(),
            version: "1.0".into(),
            licence: "MIT OR Apache-2.0".into(),
            dir: "/r/linked".into(),
        };
        assert_eq!(found, BTreeSet::from([expected]));
    }

    #[test]
    fn a_crate_without_a_licence_is_an_error() {
        let error = linked(&metadata(json!(null))).unwrap_err();
        assert_eq!(error.to_string(), "linked 1.0 names no licence");
    }
}
