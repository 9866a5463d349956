//! Running other programs so that a failure tells what ran, how it ended and what it last said: the difference
//! between a set-up that a newcomer can mend and a bare "exit status: 1".

use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// How much of a failed program's stderr goes into the error.
const LAST_LINES: usize = 15;

/// Runs to the end without showing anything; the error carries the last lines of stderr.
pub fn run(command: &mut Command) -> Result<()> {
    output_of(command).map(drop)
}

/// Runs to the end and returns stdout as text.
///
/// stderr goes to the terminal, so that a compiler's diagnostics and progress are seen as they come.
pub fn stdout_of(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("start {}", line(command)))?;
    if !output.status.success() {
        bail!("{} ended with {}", line(command), output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs to the end, both streams kept; an exit status other than 0 is an error.
pub fn output_of(command: &mut Command) -> Result<Output> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("start {}", line(command)))?;
    if !output.status.success() {
        let mut said = String::from_utf8_lossy(&output.stderr).into_owned();
        if said.trim().is_empty() {
            said = String::from_utf8_lossy(&output.stdout).into_owned();
        }
        bail!("{} ended with {}:\n{}", line(command), output.status, last_lines(&said, LAST_LINES));
    }
    Ok(output)
}

/// The last `count` lines of a program's output, indented for an error text.
pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(count);
    lines[from..].iter().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

/// A command for the system itself: as it is for root, through sudo for everybody else.
pub fn as_root(program: impl AsRef<std::ffi::OsStr>) -> Command {
    if nix::unistd::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg("--").arg(program);
    command
}

/// The command as a person would type it (arguments with blanks in quotes).
pub fn line(command: &Command) -> String {
    let quote = |text: &std::ffi::OsStr| {
        let text = text.to_string_lossy();
        if text.is_empty() || text.contains(|c: char| c.is_whitespace() || "'\"$&;|<>*".contains(c)) {
            format!("'{}'", text.replace('\'', r"'\''"))
        } else {
            text.into_owned()
        }
    };
    std::iter::once(command.get_program()).chain(command.get_args()).map(quote).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_command_status_and_last_words() {
        let error = run(Command::new("sh").args(["-c", "seq 1 40 >&2; exit 7"])).expect_err("exit status 7");
        let text = format!("{error:#}");
        assert!(text.starts_with("sh -c 'seq 1 40 >&2; exit 7' ended with exit status: 7"), "{text}");
        assert!(text.ends_with("    26\n    27\n    28\n    29\n    30\n    31\n    32\n    33\n    34\n    35\n    36\n    37\n    38\n    39\n    40"), "{text}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = run(&mut Command::new("no-such-program-here")).expect_err("does not exist");
        assert!(format!("{error:#}").starts_with("start no-such-program-here: No such file"), "{error:#}");
    }

    #[test]
    fn a_command_line_can_be_pasted() {
        assert_eq!(line(Command::new("ktl").args(["a b", "c", "it's"])), r"ktl 'a b' c 'it'\''s'");
    }
}
