//! Exit codes: part of ktl's contract, the same for every command.

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All was done.
    Ok,
    /// The builder tried and the build failed, or its result could not be written.
    BuildFailed,
    /// A check found something, or an expectation does not hold.
    Unmet,
    /// The command line, a file it names, or the environment makes no sense.
    Usage,
    /// No builder answered, or the connection to it was lost.
    Builder,
    /// The jail could not be made, or could not be proven.
    Sandbox,
    /// The build asks for something that cannot be enforced or is not allowed.
    Policy,
    /// A bug in ktl.
    Internal,
    /// Ended by this signal.
    Signal(u8),
    /// What the guest said of itself, in these same codes.
    Guest(u8),
}

pub const HELP: &str = "Exit codes: 0 ok, 1 build failed or a check not met, 2 usage, 3 builder unreachable or lost, 4 sandbox, \
                        5 policy, 70 internal error, 128+N ended by signal N";

impl Exit {
    pub const fn code(self) -> u8 {
        match self {
            Exit::Ok => 0,
            Exit::BuildFailed | Exit::Unmet => 1,
            Exit::Usage => 2,
            Exit::Builder => 3,
            Exit::Sandbox => 4,
            Exit::Policy => 5,
            Exit::Internal => 70,
            Exit::Signal(signal) => 128u8.saturating_add(signal),
            Exit::Guest(code) => code,
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}
