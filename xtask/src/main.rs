//! `cargo xtask`: the repository's own commands. Parses and dispatches; the work is in the library.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use xtask::{attack, bench, demo, dist, setup, test};

const HELP: &str = "\
The commands of this repository

Usage: cargo xtask <COMMAND>

Commands:
  demo    Show and check what ktl promises, claim by claim; exit 1 when one does not hold. `demo` alone builds demos/hello
          in a jail, runs it, and checks what the jail hides; `demo sandbox` and `demo docker-vs-ktl` run the scripts below
          demos/; `demo --all` runs every one
  test    Formatting, lints and all tests, as CI runs them; ends with the counts
  bench   Measure ktl beside buildctl and buildx on one daemon
  attack  Show ktl, buildctl and buildx to a hostile daemon, case by case; exit 1 when ktl is not safe
  hostile CASE --listen unix:PATH
          Be that daemon for one case, until interrupted; prints what it came by. Without CASE, list the cases
  dist    Pack what is published: the static program, completions, manual pages, licences, and a checksum, in target/dist
  fuzz    A million damaged messages for each of what reads what others wrote: no panic, no wait, no growth; some minutes
  setup   Install what the others need; they call it themselves

setup uses what is on PATH when it is new enough, and puts the rest below .tools. It installs Debian packages as root
or through sudo; nothing else changes the machine.

Options of attack:
  --json                 Print JSON instead of a table
  --clients A,B          Only these: ktl, ktl-unjailed, ktl-nsjail, buildctl, buildx
  --cases A,B            Only these, or these groups: files, files/unknown-names…; `hostile` lists them

Options of fuzz:
  --messages N           So many instead of a million, to each
  --targets A,B          Only those with one of these in their names

Options of bench:
  --jail                 Starts of jails instead: the native runtime beside nsjail and bwrap; --quick takes 200 runs
                         instead of 1000
  --private              A private builder instead, beside a plain daemon that runs already; --quick takes 5 runs instead
                         of 15
  --json                 Print JSON instead of a table
  --quick                Small inputs, few runs: does it work, not how fast is it
  --clients A,B          Only these: buildctl, ktl, ktl-unjailed, buildx
  --cases A,B            Only these: version, small-noop, many-cold, many-noop, many-one-changed, big-file,
                         local-output, log-lines
";

/// What was asked for.
enum Action {
    Help,
    Setup,
    Dist,
    Fuzz { messages: u64, targets: Vec<String> },
    Demo(Vec<demo::Demo>),
    Test,
    Bench(bench::Request),
    BenchJail(bench::jail::Request),
    BenchPrivate(bench::private::Request),
    Attack(attack::Request),
    Hostile(Vec<String>),
    Measure(Vec<String>),
    Spin,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let action = match parse(&arguments) {
        Ok(action) => action,
        Err(error) => {
            eprintln!("xtask: {error}; see `cargo xtask --help`");
            return ExitCode::from(2);
        }
    };
    match run(action) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(action: Action) -> Result<u8> {
    match action {
        Action::Help => print!("{HELP}"),
        Action::Setup => setup::run()?,
        Action::Dist => dist::run()?,
        Action::Fuzz { messages, targets } => return test::fuzz(messages, &targets),
        Action::Demo(demos) => return demo::run(&demos).map(|held| u8::from(!held)),
        Action::Test => return test::run(),
        Action::Bench(request) => bench::run(&request)?,
        Action::BenchJail(request) => bench::jail::run(request)?,
        Action::BenchPrivate(request) => bench::private::run(request)?,
        Action::Attack(request) => return attack::run(&request).map(|safe| u8::from(!safe)),
        Action::Hostile(arguments) => attack::listen(&arguments)?,
        Action::Measure(arguments) => bench::measure(&arguments)?,
        Action::Spin => bench::jail::spin()?,
    }
    Ok(0)
}

fn parse(arguments: &[String]) -> Result<Action> {
    let Some((command, rest)) = arguments.split_first() else { return Ok(Action::Help) };
    if command == bench::MEASURE {
        return Ok(Action::Measure(rest.to_vec()));
    }
    if command == bench::jail::SPIN {
        return Ok(Action::Spin);
    }
    if arguments.iter().any(|argument| ["--help", "-h"].contains(&argument.as_str())) {
        return Ok(Action::Help);
    }
    let action = match command.as_str() {
        "help" => Action::Help,
        "setup" => Action::Setup,
        "dist" => Action::Dist,
        "fuzz" => return fuzz_request(rest),
        "demo" => return demo::parse(rest).map(Action::Demo),
        "test" => Action::Test,
        "bench" if rest.iter().any(|option| option == "--jail") => {
            return jail_request(rest).map(Action::BenchJail);
        }
        "bench" if rest.iter().any(|option| option == "--private") => {
            return private_request(rest).map(Action::BenchPrivate);
        }
        "bench" => return bench_request(rest).map(Action::Bench),
        "attack" => return attack_request(rest).map(Action::Attack),
        "hostile" => return Ok(Action::Hostile(rest.to_vec())),
        other => bail!("no command `{other}`"),
    };
    match rest.first() {
        Some(option) => bail!("{command} knows no option `{option}`"),
        None => Ok(action),
    }
}

fn fuzz_request(rest: &[String]) -> Result<Action> {
    let (mut messages, mut targets) = (1_000_000, Vec::new());
    let mut rest = rest.iter();
    while let Some(option) = rest.next() {
        let value = rest.next().with_context(|| format!("{option} needs a value"))?;
        match option.as_str() {
            "--messages" => messages = value.parse().with_context(|| format!("--messages {value}"))?,
            "--targets" => targets = value.split(',').map(str::to_owned).collect(),
            other => bail!("fuzz knows no option `{other}`"),
        }
    }
    Ok(Action::Fuzz { messages, targets })
}

fn attack_request(rest: &[String]) -> Result<attack::Request> {
    let request = bench_request(rest)?;
    if request.quick {
        bail!("attack knows no option `--quick`");
    }
    Ok(attack::Request { json: request.json, clients: request.clients, cases: request.cases })
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

fn jail_request(rest: &[String]) -> Result<bench::jail::Request> {
    let mut request = bench::jail::Request::default();
    for option in rest {
        match option.as_str() {
            "--jail" => {}
            "--json" => request.json = true,
            "--quick" => request.quick = true,
            other => bail!("bench --jail knows no option `{other}`"),
        }
    }
    Ok(request)
}

fn private_request(rest: &[String]) -> Result<bench::private::Request> {
    let mut request = bench::private::Request::default();
    for option in rest {
        match option.as_str() {
            "--private" => {}
            "--json" => request.json = true,
            "--quick" => request.quick = true,
            other => bail!("bench --private knows no option `{other}`"),
        }
    }
    Ok(request)
}
