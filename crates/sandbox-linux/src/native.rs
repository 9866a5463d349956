//! Runtime 2: ktl's own. The same policies with the same meaning, without the nsjail program.
//!
//! The parent half ([`spawn`]) settles everything into one value (`setup::Setup`) and clones a child straight
//! into its namespaces. The child (`child`) goes through its steps in the order of `stage::Stage`, each of them
//! fatal and named, on memory that the parent prepared; it becomes the jail's init (`init`) and forks the program.
//! What fails is told in one fixed-size record on a pipe (`stage`), so no exit code is ever ambiguous.
//!
//! The mount tree (`mnt`, `tree`) is made of detached mounts that are moved to places found inside the new root only; no
//! path of the host is ever created. Where nsjail goes on after a failure, this runtime stops.
//!
//! Needs Linux 5.12 (mount_setattr(2)). Semantics: google/nsjail's config.proto and contain.cc.

mod caps;
mod cgroup;
mod child;
mod cpu;
mod init;
mod keyring;
mod landlock;
mod mnt;
mod net;
mod rlimit;
mod setup;
mod spawn;
mod stage;
mod tree;
mod user;
mod watch;

use std::io;
use std::os::fd::RawFd;

pub use spawn::spawn;

use crate::proto::NsJailConfig;
use crate::seccomp;
use crate::sys::PreparedFilter;
use stage::Stage;

/// Why the native runtime cannot start a jail.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NativeError {
    /// The policy has a field that only nsjail implements.
    #[error("{field}: the native runtime has no {what}; take the field out of the policy, or use nsjail")]
    Unsupported { field: &'static str, what: &'static str },
    /// The policy's system call filter is not understood.
    #[error("seccomp_string: {0}")]
    Filter(#[from] seccomp::KafelError),
    /// A value of the policy that cannot be handed to the kernel.
    #[error("{field}: {reason}")]
    Value { field: String, reason: &'static str },
    /// A descriptor of the command that the jail does not promise, or cannot be numbered so.
    #[error("descriptor {number}: {reason}")]
    Descriptor { number: RawFd, reason: &'static str },
    /// The jail's first process could not be started; `hint` says what to change on this host.
    #[error("{stage}")]
    Start {
        stage: String,
        #[source]
        source: io::Error,
        hint: Vec<String>,
    },
}

/// Refuses what would otherwise be ignored.
fn refuse(config: &NsJailConfig) -> Result<(), NativeError> {
    for (asked, field, what) in [
        (!config.macvlan_iface().is_empty(), "macvlan_iface", "network devices"),
        (!config.iface_own.is_empty(), "iface_own", "network devices"),
        (config.user_net.is_some(), "user_net", "network stack in user space"),
        (!config.traffic_rule.is_empty(), "traffic_rule", "routing rules"),
        (config.seccomp_unotify(), "seccomp_unotify", "recording of system calls"),
        (config.use_core_scheduling(), "use_core_scheduling", "core scheduling"),
        (
            config.disable_tsc() && !cfg!(target_arch = "x86_64"),
            "disable_tsc",
            "such switch on this processor",
        ),
    ] {
        if asked {
            return Err(NativeError::Unsupported { field, what });
        }
    }
    Ok(())
}

/// The policy's system call filter, ready to be put on; `None` for a policy without one.
fn filter(config: &NsJailConfig) -> Result<Option<PreparedFilter>, NativeError> {
    if config.seccomp_string.is_empty() {
        return Ok(None);
    }
    let program = seccomp::compile(&config.seccomp_string.join("\n"), seccomp::Arch::native())?;
    PreparedFilter::new(&program, config.seccomp_log()).map(Some).map_err(|source| NativeError::Start {
        stage: Stage::Filter.name().to_owned(),
        source,
        hint: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Policy;

    #[test]
    fn refuses_by_name_what_it_would_ignore() {
        for text in [
            "macvlan_iface: \"eth0\"",
            "iface_own: \"x\"",
            "user_net {}",
            "traffic_rule { action: DROP }",
            "use_core_scheduling: true",
        ] {
            let config = Policy::parse("p", text.as_bytes()).unwrap().into_config();
            let error = refuse(&config).unwrap_err().to_string();
            assert!(text.starts_with(error.split(':').next().unwrap()), "{text}: {error}");
        }
        let plain = Policy::parse("p", b"clone_newnet: false iface_no_lo: true").unwrap();
        refuse(&plain.into_config()).unwrap();
    }
}
