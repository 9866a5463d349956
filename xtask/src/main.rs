//! `cargo xtask`: the repository's own commands. Parses and dispatches; the work is in the library.

use std::process::ExitCode;

use anyhow::{Result, bail};
use xtask::{bench, demo, setup, test};

const HELP: &str = "\
The commands of this repository

Usage: cargo xtask <COMMAND>

Commands:
  demo    Build demos/hello with ktl in a jail, run it, and check what the jail hides. Exit 1 when a claim fails
  test    Formatting, lints and all tests, as CI runs them; ends with the counts
  bench   Measure ktl beside buildctl and buildx on one daemon
  setup   Install what the others need; they call it themselves

setup uses what is on PATH when it is new enough, and puts the rest below .tools. It installs Debian packages as root
or through sudo; nothing else changes the machine.

Options of bench:
  --json                 Print JSON instead of a table
  --quick                Small inputs, few runs: does it work, not how fast is it
  --clients A,B          Only these: buildctl, ktl, ktl-unjailed, buildx
  --cases A,B            Only these: version, small-noop, many-cold, many-noop, many-one-changed, big-file,
                         local-output, log-lines
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<ExitCode> {
    let (command, rest) = match arguments {
        [] => ("--help", arguments),
        [command, rest @ ..] => (command.as_str(), rest),
    };
    if rest.iter().any(|argument| argument == "--help" || argument == "-h") && command != bench::MEASURE {
        print!("{HELP}");
        return Ok(ExitCode::SUCCESS);
    }
    match command {
        "setup" => no_options(rest).and_then(|()| setup::run()).map(|()| ExitCode::SUCCESS),
        "demo" => no_options(rest).and_then(|()| demo::run()).map(|held| ExitCode::from(u8::from(!held))),
        "test" => no_options(rest).and_then(|()| test::run()).map(ExitCode::from),
        "bench" => bench::run(&bench_request(rest)?).map(|()| ExitCode::SUCCESS),
        bench::MEASURE => bench::measure(rest).map(|()| ExitCode::SUCCESS),
        "--help" | "-h" | "help" => {
            print!("{HELP}");
            Ok(ExitCode::SUCCESS)
        }
        other => {
            eprintln!("xtask: no command `{other}`\n");
            eprint!("{HELP}");
            Ok(ExitCode::from(2))
        }
    }
}

fn no_options(rest: &[String]) -> Result<()> {
    match rest.first() {
        Some(option) => bail!("this command knows no option `{option}`"),
        None => Ok(()),
    }
}

fn bench_request(rest: &[String]) -> Result<bench::Request> {
    let mut request = bench::Request::default();
    let mut rest = rest.iter();
    while let Some(option) = rest.next() {
        let mut list = || match rest.next() {
            Some(value) => Ok(value.split(',').map(str::to_owned).collect()),
            None => bail!("{option} needs a list of names"),
        };
        match option.as_str() {
            "--json" => request.json = true,
            "--quick" => request.quick = true,
            "--clients" => request.clients = list()?,
            "--cases" => request.cases = list()?,
            other => bail!("bench knows no option `{other}`"),
        }
    }
    Ok(request)
}
