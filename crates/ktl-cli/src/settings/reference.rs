//! docs/reference.md, made of the code: the page is a snapshot of what the command line, the tables of settings, the exit codes and
//! the variables say of themselves. `INSTA_UPDATE=always cargo test -p ktl-cli reference` writes it.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use clap::{Arg, Command, CommandFactory as _};

use super::flag::Flag;
use super::reach::{Order, Reach};
use crate::cli::Cli;
use crate::env::Env;
use crate::exit;

const HEAD: &str = "# Reference

Made from the code; a test fails when it is stale. [configuration.md](configuration.md) says how what is typed, variables and files go together.

`ktl.toml`: *stricter* means that the user's file, the repository's and a variable may set it, to the stricter only; *typed* that nothing but the command
line may. Keys without a word are for the user's file.

";

struct Page<'a> {
    root: &'a Command,
    text: String,
}

fn page() -> String {
    let mut root = Cli::command();
    root.build();
    let mut page = Page { root: &root, text: HEAD.to_owned() };
    page.text.push_str("## Commands\n");
    page.command(&[], &root);
    page.exits();
    page.variables();
    page.text
}

/// A cell of a table, or a line.
fn flat(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

fn is_own(arg: &Arg) -> bool {
    !matches!(arg.get_id().as_str(), "help" | "version")
}

impl Page<'_> {
    fn command(&mut self, path: &[String], command: &Command) {
        if command.is_hide_set() || command.get_name() == "help" {
            return;
        }
        let name = ["ktl".to_owned()].into_iter().chain(path.iter().cloned()).collect::<Vec<_>>().join(" ");
        let about = command.get_about().map(|about| flat(&about.to_string())).unwrap_or_default();
        let _ = write!(self.text, "\n### {name}\n{about}\n\n");
        let positionals: Vec<String> = command.get_positionals().map(|arg| format!("`{arg}`")).collect();
        if !positionals.is_empty() {
            let _ = write!(self.text, "Takes {}.\n\n", positionals.join(" "));
        }
        let flags = Flag::of(path, self.root);
        let build = path == ["build"];
        let of_build = |flag: &&Flag| !build && !path.is_empty() && flag.key.is_some();
        let own: Vec<&Flag> = flags.iter().filter(|flag| !of_build(flag)).collect();
        let own: Vec<&Flag> =
            own.into_iter().filter(|flag| path.is_empty() || flag.long != "verbose").collect();
        if !own.is_empty() {
            self.text.push_str("| flag | variable | `ktl.toml` | |\n|---|---|---|---|\n");
            own.iter().for_each(|flag| self.flag(flag, command));
        }
        let shared: Vec<String> =
            flags.iter().filter(of_build).map(|flag| format!("`--{}`", flag.long)).collect();
        if !shared.is_empty() {
            let _ = write!(self.text, "\nAs for `ktl build`: {}.\n", shared.join(", "));
        }
        for inner in command.get_subcommands() {
            self.command(&[path, &[inner.get_name().to_owned()]].concat(), inner);
        }
    }

    fn flag(&mut self, flag: &Flag, command: &Command) {
        let Some(arg) = command.get_arguments().find(|arg| *arg.get_id() == flag.id) else { return };
        let help = arg.get_help().map(|help| flat(&help.to_string())).unwrap_or_default();
        let variable = match flag.reach {
            Reach::Typed(_) => "typed".to_owned(),
            _ => format!("`{}`", flag.variable),
        };
        let key = match (&flag.key, flag.reach) {
            (_, Reach::Typed(_)) => "typed".to_owned(),
            (None, _) => String::new(),
            (Some(key), Reach::Stricter(_)) => format!("`{key}`, stricter"),
            (Some(key), _) => format!("`{key}`"),
        };
        let why = match flag.reach {
            Reach::Typed(why) => format!(" *Typed: {why}.*"),
            Reach::Stricter(Order::Words(words)) => {
                format!(" *Set elsewhere, one of: {}.*", words.join(", "))
            }
            Reach::Stricter(Order::Fewer(most)) => format!(" *Set elsewhere, at most {most}.*"),
            _ => String::new(),
        };
        let _ = writeln!(self.text, "| `{}` | {variable} | {key} | {help}{why} |", flat(&arg.to_string()));
    }

    fn exits(&mut self) {
        self.text.push_str("\n## Exit codes\n| code | |\n|---|---|\n");
        let codes = exit::HELP.split_once(": ").map_or("", |(_, codes)| codes);
        for code in codes.split(", ") {
            let (number, what) = code.split_once(' ').unwrap_or((code, ""));
            let _ = writeln!(self.text, "| {number} | {what} |");
        }
    }

    fn variables(&mut self) {
        self.text.push_str(
            "\n## Other variables\nThose that stand for a flag are with it. An empty variable counts as unset.\n\n| variable | |\n|---|---|\n",
        );
        for (name, what) in constants(include_str!("../env.rs")) {
            let _ = writeln!(self.text, "| `{name}` | {} |", flat(&what));
        }
    }
}

/// The variables of env.rs with what is written above them.
fn constants(source: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut what = String::new();
    for line in source.lines() {
        if let Some(text) = line.strip_prefix("/// ") {
            let _ = write!(what, "{text} ");
        } else if let Some((name, _)) =
            line.strip_prefix("pub const ").and_then(|rest| rest.split_once(": &str = "))
        {
            let plain = what.replace("[`crate::guest`]", "the guest").replace(['[', ']'], "");
            found.push((name.to_owned(), plain));
            what.clear();
        } else {
            what.clear();
        }
    }
    found.sort();
    found
}

#[test]
fn the_reference_is_as_the_code_is() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference.md");
    let page = page();
    if Env::current().text("INSTA_UPDATE").as_deref() == Some("always") {
        fs::write(&file, &page).unwrap();
    }
    let written = fs::read_to_string(&file).unwrap();
    let differs = page.lines().zip(written.lines()).find(|(now, then)| now != then);
    assert!(
        page == written,
        "docs/reference.md is stale; INSTA_UPDATE=always cargo test -p ktl-cli reference writes it: {differs:#?}"
    );
}

/// Every command with its path, and its flags.
fn commands(path: &[String], root: &Command, found: &mut Vec<(Vec<String>, Vec<Flag>)>) {
    let command = path.iter().fold(root, |command, name| command.find_subcommand(name).unwrap());
    found.push((path.to_vec(), Flag::of(path, root)));
    let inner =
        command.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help");
    inner.for_each(|inner| commands(&[path, &[inner.get_name().to_owned()]].concat(), root, found));
}

#[test]
fn every_flag_has_a_variable_or_has_to_be_typed() {
    let mut root = Cli::command();
    root.build();
    let mut found = Vec::new();
    commands(&[], &root, &mut found);
    assert!(found.len() > 25);
    let page = page();
    let mut meanings = std::collections::BTreeMap::new();
    let others = constants(include_str!("../env.rs"));
    for (path, flags) in &found {
        let command = path.iter().fold(&root, |command, name| command.find_subcommand(name).unwrap());
        let longs: Vec<&str> =
            command.get_arguments().filter(|arg| is_own(arg)).filter_map(Arg::get_long).collect();
        assert_eq!(flags.iter().map(|flag| flag.long.as_str()).collect::<Vec<_>>(), longs, "{path:?}");
        for flag in flags {
            assert!(page.contains(&format!("`--{}", flag.long)), "{path:?} --{}", flag.long);
            match flag.reach {
                Reach::Typed(why) => assert!(page.contains(why), "--{}", flag.long),
                _ => assert!(page.contains(&format!("| `{}` |", flag.variable)), "{}", flag.variable),
            }
            // One variable is one flag, or the same one of several commands.
            let meaning = (flag.long.clone(), flag.key.is_some());
            let known = meanings.entry(flag.variable.clone()).or_insert_with(|| meaning.clone());
            assert!(
                *known == meaning || flag.variable == crate::env::KTL_STORE,
                "{} is two things",
                flag.variable
            );
            let taken =
                others.iter().any(|(name, _)| *name == flag.variable) && flag.reach != Reach::Elsewhere;
            assert!(!taken, "{} means something else", flag.variable);
        }
    }
    // One key is one flag.
    let build = &found.iter().find(|(path, _)| path == &["build"]).unwrap().1;
    let mut keys: Vec<String> =
        build.iter().filter_map(|flag| Some(flag.key.as_ref()?.to_string())).collect();
    assert_eq!(keys.len() + 2, build.len(), "all but --sandbox and --verbose have a key");
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len() + 2, build.len());
}
