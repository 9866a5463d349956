//! What docker buildx's documentation says can be typed, typed at ktl: the lines are as there but for the program's name, the
//! hosts in them, and an output where a line has none and its effect is to be seen.
//!
//! Facts are `docs/reference/buildx_build.md` of docker/buildx, and `README.md`, `docs/attestations` and `docs/annotations.md` of
//! moby/buildkit.

mod caches;
mod inputs;
mod results;
mod steps;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::ktl::{PARTS, Ran, World};

/// One line of a shell.
struct Typed {
    line: &'static str,
    /// Appended to the line for a second run, whose effect is looked at; empty where the line has an effect of its own.
    and: &'static str,
    effects: &'static [Effect],
}

const fn typed(line: &'static str, effects: &'static [Effect]) -> Typed {
    Typed { line, and: "", effects }
}

const fn seen(line: &'static str, and: &'static str, effects: &'static [Effect]) -> Typed {
    Typed { line, and, effects }
}

/// What a line leaves. Paths are relative to where it was typed; texts may hold the names that [`Place`] replaces.
enum Effect {
    /// A file of this content.
    Is(&'static str, &'static str),
    /// A file with this in it.
    Has(&'static str, &'static str),
    /// No such file.
    Gone(&'static str),
    /// In a JSON file, at this pointer, this text; of `*` any.
    Json(&'static str, &'static str, &'static str),
    /// In an OCI archive, in the index, the manifest or the config of its first image, the same.
    Oci(&'static str, Part, &'static str, &'static str),
    /// How many manifests the image index of an OCI archive holds.
    Manifests(&'static str, usize),
    Out(&'static str),
    Err(&'static str),
    /// Not on standard error.
    Without(&'static str),
    /// Nothing on standard error.
    Silent,
    /// Nothing on standard output.
    NoOut,
    Pushed(&'static str, &'static str),
    /// The code that it ends with, where that is not 0.
    Ends(i32),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// The list of the layout.
    Layout,
    /// The image's index, where it has one.
    Index,
    Manifest,
    Config,
}

/// Where lines are typed, and what their names stand for.
struct Place {
    world: World,
    names: Vec<(&'static str, String)>,
    /// A program that starts the shell.
    around: Option<PathBuf>,
}

impl Place {
    fn new() -> Place {
        let names =
            vec![("REGISTRY", PARTS.registry.address().to_owned()), ("BUSYBOX", PARTS.busybox.clone())];
        Place { world: World::new(), names, around: None }
    }

    fn write(&self, name: &str, text: &str) {
        self.world.write(format!("ctx/{name}").as_str(), self.named(text));
    }

    fn named(&self, text: &str) -> String {
        self.names.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value))
    }

    /// Runs a line in the directory `at` of the place.
    fn run(&self, at: &str, line: &str) -> Ran {
        let line = self.named(line).replace("docker buildx", "\"$KTL\"");
        let command = self.world.command();
        let ktl = command.get_program().to_owned();
        let mut shell = match &self.around {
            Some(program) => Command::new(program),
            None => Command::new("env"),
        };
        shell.env_clear().envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
        shell.env("KTL", ktl).args(["sh", "-euc"]).arg(line).current_dir(self.world.path("ctx").join(at));
        self.world.run(shell.stdin(Stdio::null()))
    }

    fn check(&self, at: &str, all: &[Typed]) {
        for typed in all {
            let code = typed.effects.iter().find_map(|effect| match effect {
                Effect::Ends(code) => Some(*code),
                _ => None,
            });
            let mut ran = self.run(at, typed.line);
            if !typed.and.is_empty() {
                ran = self.run(at, &format!("{} {}", typed.line, typed.and));
            }
            let line = typed.line;
            assert_eq!(ran.code, Some(code.unwrap_or(0)), "{line}\n{}\n{}", ran.stdout, ran.stderr);
            typed.effects.iter().for_each(|effect| self.effect(at, line, effect, &ran));
        }
    }

    fn effect(&self, at: &str, line: &str, effect: &Effect, ran: &Ran) {
        let path = |name: &str| self.world.path("ctx").join(at).join(name);
        let read = |name: &str| {
            fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{line}: {name}: {error}"))
        };
        let at_pointer = |json: &Value, pointer: &str, want: &str| {
            let found = json.pointer(pointer).cloned().unwrap_or_default();
            let text = found.as_str().map_or_else(|| found.to_string(), str::to_owned);
            let equal = text == self.named(want) || (want == "*" && !found.is_null());
            assert!(equal, "{line}: {pointer} is {text} in {json:#}");
        };
        match effect {
            Effect::Is(name, text) => assert_eq!(read(name), self.named(text), "{line}: {name}"),
            Effect::Has(name, part) => {
                let text = String::from_utf8_lossy(&fs::read(path(name)).unwrap()).into_owned();
                assert!(text.contains(&self.named(part)), "{line}: no {part} in {name}: {text}");
            }
            Effect::Gone(name) => assert!(!path(name).exists(), "{line}: {name}"),
            Effect::Json(name, pointer, want) => {
                at_pointer(&serde_json::from_str(&read(name)).unwrap(), pointer, want);
            }
            Effect::Oci(name, part, pointer, want) => {
                at_pointer(&document(&path(name), *part), pointer, want);
            }
            Effect::Manifests(name, count) => {
                let index = document(&path(name), Part::Index);
                assert_eq!(index["manifests"].as_array().map(Vec::len), Some(*count), "{line}: {index:#}");
            }
            Effect::Out(part) => assert!(ran.stdout.contains(part), "{line}: {}", ran.stdout),
            Effect::Err(part) => assert!(ran.stderr.contains(&self.named(part)), "{line}: {}", ran.stderr),
            Effect::Without(part) => assert!(!ran.stderr.contains(part), "{line}: {}", ran.stderr),
            Effect::Silent => assert_eq!(ran.stderr, "", "{line}"),
            Effect::NoOut => assert_eq!(ran.stdout, "", "{line}"),
            Effect::Pushed(name, tag) => {
                assert!(PARTS.registry.digest(name, tag).unwrap().starts_with("sha256:"), "{line}");
            }
            Effect::Ends(_) => {}
        }
    }
}

fn document(archive: &Path, part: Part) -> Value {
    let member = |name: &str| -> Value {
        let tar = Command::new("tar").arg("-xOf").arg(archive).arg(name).output().unwrap();
        serde_json::from_slice(&tar.stdout).unwrap_or_else(|error| panic!("{name}: {error}"))
    };
    let blob = |descriptor: &Value| {
        member(&format!("blobs/{}", descriptor["digest"].as_str().unwrap().replace(':', "/")))
    };
    let layout = member("index.json");
    if part == Part::Layout {
        return layout;
    }
    let mut document = blob(&layout["manifests"][0]);
    if part == Part::Index {
        return document;
    }
    while document["manifests"].is_array() {
        document = blob(&document["manifests"][0]);
    }
    match part {
        Part::Config => blob(&document["config"]),
        _ => document,
    }
}

#[test]
fn there_are_as_many_as_promised() {
    let all = [inputs::ALL, results::ALL, steps::ALL, caches::ALL].concat();
    let lines: BTreeSet<&str> = all.iter().flat_map(|(_, rows)| rows.iter().map(|row| row.line)).collect();
    assert!(lines.len() >= 60, "{}", lines.len());
    let without = all.iter().flat_map(|(_, rows)| *rows).find(|row| row.effects.is_empty());
    assert!(without.is_none(), "{}", without.map_or("", |row| row.line));
}
