//! How far anything but the command line may set a flag.
//!
//! ktl fails closed, and what a person did not type must not take protection away: a variable may come from a CI system, a
//! profile or a parent process, a repository's file from whoever sent the last change. So what gives a build more than it has by default has to be typed, and what protects can be set
//! to the stricter only. The tables here are the whole list; docs/reference.md prints them.

use std::time::Duration;

/// Of one flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Any value, by a variable or the user's file.
    Free,
    /// A variable that is read where it counts; see `READ_ELSEWHERE`.
    Elsewhere,
    /// By a variable, the user's file or the repository's. The strictest counts, and none is looser than what holds without.
    Stricter(Order),
    /// Nothing but the command line: that is what it does.
    Typed(&'static str),
}

/// What is stricter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Later words are. Others are looser than no word.
    Words(&'static [&'static str]),
    Shorter,
    /// Fewer, and no more than this.
    Fewer(u64),
    /// A list of servers is stricter than none.
    Servers,
}

impl Order {
    /// Whether a value that clap takes is no looser than what holds without one.
    pub fn takes(self, value: &str) -> bool {
        match self {
            Order::Shorter => humantime::parse_duration(value).is_ok_and(|time| time > Duration::ZERO),
            Order::Fewer(most) => value.parse().is_ok_and(|number: u64| number <= most),
            Order::Words(_) => self.rank(value).is_some(),
            Order::Servers => true,
        }
    }

    /// The higher, the stricter. Lists of servers have no such order.
    pub fn rank(self, value: &str) -> Option<u128> {
        match self {
            Order::Words(words) => words.iter().position(|word| *word == value).map(|at| at as u128),
            Order::Shorter => humantime::parse_duration(value).ok().map(|time| u128::MAX - time.as_nanos()),
            Order::Fewer(_) => value.parse().ok().map(|number: u64| u128::MAX - u128::from(number)),
            Order::Servers => None,
        }
    }
}

const STRICTER: [(&str, Order); 7] = [
    ("sandbox", Order::Words(&["on"])),
    ("hermetic", Order::Words(&["off", "best-effort", "required"])),
    ("context-guard", Order::Words(&["warn", "deny"])),
    ("network", Order::Words(&["default", "none"])),
    ("timeout", Order::Shorter),
    ("ssh-max-signatures", Order::Fewer(20)),
    ("egress", Order::Servers),
];

/// Flags of any command.
const TYPED: [(&str, &str); 11] = [
    ("allow", "it lets steps do more than they may"),
    ("allow-frontend", "it lets another program read a hermetic build's Dockerfile"),
    ("allow-host", "it lets a Dockerfile's names lead into this machine's own network"),
    ("allow-registry", "it has your login sent to a registry that the build does not name"),
    ("egress-learn", "it opens every public server"),
    ("output-force", "it lets the builder's files into your settings"),
    ("output-privileged", "it keeps set-user-id bits and devices of what the builder sends"),
    ("sandbox-bind", "it shows a path of this machine inside the jail"),
    ("sandbox-bind-home", "it shows your home directory inside the jail"),
    ("sandbox-config", "it replaces the policy of the jail"),
    ("secret", "it gives the build a secret"),
];

/// Flags of one command.
const TYPED_OF: [(&str, &str, &str); 13] = [
    ("", "ssh", "it gives the build the use of your keys"),
    ("stage", "update", "it changes what is pinned"),
    ("lock", "upstream", "it goes with --check, and asks registries"),
    ("login", "username", "a login is changed"),
    ("login", "password", "a login is changed"),
    ("login", "password-stdin", "a login is changed"),
    ("builder prune", "all", "it removes more"),
    ("builder prune", "force", "it leaves out the question"),
    ("history rm", "all", "it removes more"),
    ("sandbox exec", "env", "it shows a variable inside the jail"),
    ("sandbox exec", "cache-dir", "it lets the program write to a directory of this machine"),
    ("sandbox exec", "docker-socket", "it lets the program use a Docker Engine"),
    ("sandbox exec", "containerd-socket", "it gives the program control of this machine"),
];

impl Reach {
    /// Of the flag `long`, which is `command`'s own, or one of `ktl build`.
    pub fn of(command: &str, long: &str) -> Reach {
        let of_command = TYPED_OF.iter().find(|(own, flag, _)| *own == command && *flag == long);
        if let Some((_, _, why)) = of_command {
            return Reach::Typed(why);
        }
        if let Some((_, why)) = TYPED.iter().find(|(flag, _)| *flag == long) {
            return Reach::Typed(why);
        }
        let stricter = STRICTER.iter().find(|(flag, _)| command.is_empty() && *flag == long);
        stricter.map_or(Reach::Free, |(_, order)| Reach::Stricter(*order))
    }
}
