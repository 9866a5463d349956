//! One jail as one command, for measuring: `start RUNTIME POLICY PROGRAM [ARGUMENT…]` starts a program in a jail made
//! of a policy file, waits for it, and ends as it ended. The library with nothing around it, as `cargo xtask bench
//! --jail` compares it with other programs that start jails.
//!
//! RUNTIME is `native`, or the path of an nsjail program. With `--times N` in front it starts N jails one after the
//! other and prints what each took, in nanoseconds, one to a line.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use sandbox_linux::{Caller, Command, Jail, Nsjail, OnSignal, Outcome, Overrides, Policy, Runtime};

type Failure = Box<dyn std::error::Error>;

struct Start {
    runtime: Runtime,
    policy: PathBuf,
    program: PathBuf,
    args: Vec<OsString>,
}

impl Start {
    fn parse(mut words: impl Iterator<Item = OsString>) -> Result<Start, Failure> {
        let mut next =
            || words.next().ok_or("usage: start [--times N] native|NSJAIL POLICY PROGRAM [ARGUMENT…]");
        let runtime = match next()? {
            native if native == "native" => Runtime::Native,
            nsjail => Runtime::Nsjail(Nsjail::find(Some(Path::new(&nsjail)), None)?),
        };
        Ok(Start { runtime, policy: next()?.into(), program: next()?.into(), args: words.collect() })
    }

    /// Reading the policy and looking at the host belong to a start: whoever types a command pays for them.
    fn once(&self) -> Result<i32, Failure> {
        let policy = Policy::parse(&self.policy.display().to_string(), &std::fs::read(&self.policy)?)?;
        let jail = Jail::new(policy, Overrides::default(), &Caller::current()?)?;
        let command = Command { program: self.program.clone(), args: self.args.clone(), fds: Vec::new() };
        let running = self.runtime.spawn(&jail, command)?;
        match running.supervise(&mut |_| OnSignal::Kill, &mut |_| ()) {
            Outcome::Exited(code) => Ok(code),
            Outcome::Signaled(signal) => Ok(128 + signal),
            Outcome::JailFailed { stage, detail, .. } => Err(format!("{stage}: {detail}").into()),
        }
    }
}

fn run() -> Result<u8, Failure> {
    let mut words = std::env::args_os().skip(1).peekable();
    if words.next_if(|word| word == "--times").is_none() {
        return Ok(u8::try_from(Start::parse(words)?.once()?)?);
    }
    let times: u32 =
        words.next().and_then(|word| word.to_str()?.parse().ok()).ok_or("--times needs a number")?;
    let start = Start::parse(words)?;
    for _ in 0..times {
        let began = Instant::now();
        let code = start.once()?;
        let took = began.elapsed();
        if code != 0 {
            return Err(format!("the program ended with {code}").into());
        }
        println!("{}", took.as_nanos());
    }
    Ok(0)
}

fn main() -> ExitCode {
    match run() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("start: {error}");
            ExitCode::FAILURE
        }
    }
}
