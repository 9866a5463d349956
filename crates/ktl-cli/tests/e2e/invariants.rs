//! ARCHITECTURE.md's invariants, as far as a machine can check them.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn sources(dir: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root()).unwrap_or(&path).display().to_string();
            found.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
}

fn sources_of(dirs: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    dirs.iter().for_each(|dir| sources(&root().join(dir), &mut found));
    assert!(found.len() > 5);
    found
}

#[test]
fn libraries_know_neither_each_other_nor_the_command_line() {
    for (library, other) in [("buildsvc", "sandbox-linux"), ("sandbox-linux", "buildsvc")] {
        let manifest = fs::read_to_string(root().join("crates").join(library).join("Cargo.toml")).unwrap();
        let dependencies = manifest.split("[dev-dependencies]").next().unwrap();
        for banned in [other, "clap", "indicatif"] {
            assert!(!dependencies.contains(banned), "{library} depends on {banned}");
        }
    }
}

#[test]
fn libraries_do_not_print_exit_or_read_the_environment() {
    for (name, text) in sources_of(&["crates/buildsvc/src", "crates/sandbox-linux/src"]) {
        if name.ends_with("tests.rs") {
            continue;
        }
        let code = text.split("#[cfg(test)]").next().unwrap();
        for banned in
            ["println!", "eprintln!", "print!(", "process::exit", "env::var", "env::vars", "env::home_dir"]
        {
            assert!(!code.contains(banned), "{name} has {banned}");
        }
    }
}

#[test]
fn unsafe_stands_in_one_file() {
    let keyword = concat!("uns", "afe");
    for (name, text) in sources_of(&["crates", "xtask"]) {
        let blocks = text.contains(&format!("{keyword} {{")) || text.contains(&format!("{keyword} fn"));
        assert!(
            !blocks || name.contains("sandbox-linux/src/sys.rs") || name.contains("sandbox-linux/src/sys/"),
            "{name}"
        );
    }
}

#[test]
fn texts_name_no_machine() {
    let mut files = sources_of(&["crates", "xtask"]);
    for name in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"] {
        files.push((name.to_owned(), fs::read_to_string(root().join(name)).unwrap()));
    }
    let banned = [concat!("arti", "factory"), concat!("/work", "/main")];
    for (name, text) in files {
        for word in banned {
            assert!(!text.contains(word), "{name} names {word}");
        }
    }
}
