//! Jails on Linux, described by nsjail policies: for a build client, or ([`Tenant`]) for any program.
//!
//! A [`Policy`] is read from text; [`Jail::new`] settles it with ktl's own binds, environment and descriptors and
//! with the facts about the [`Caller`]; a [`Runtime`] starts it and [`Running`] waits for it. Inside, [`verify`]
//! compares what the kernel says with the jail's [`Promises`]: whatever started the guest, it goes on only if it
//! really is where it should be.
//!
//! The crate knows nothing of builds. It does not print, read the environment, or exit.

mod caller;
mod checkup;
mod command;
mod diff;
mod elf;
mod explain;
mod fds;
mod fields;
#[cfg(test)]
mod fuzz_tests;
mod host;
mod jail;
mod limits;
mod lines;
mod lint;
mod log;
mod mountinfo;
pub mod native;
mod nsjail;
mod policy;
mod probe;
mod promises;
mod proof;
mod proto;
mod runtime;
pub mod seccomp;
mod supervise;
mod sys;
mod workdir;

pub use caller::{Caller, Extent, NAMESPACES};
pub use checkup::{cgroup_version, id_maps_work, idmapped_mounts_work, landlock_version, namespace_works};
pub use command::Command;
pub use diff::{Difference, diff};
pub use elf::{elf_interpreter, is_static_elf};
pub use explain::{Explained, explain};
pub use fds::{read_sealed_memfd, sealed_memfd};
pub use host::HostFacts;
pub use jail::{Bind, Correction, ExecBin, HostIds, Jail, JailError, Overrides, Tenant};
pub use limits::limit_names;
pub use lint::{Finding, Severity, lint};
pub use log::{Level, LogLine};
pub use native::NativeError;
pub use nsjail::{Nsjail, NsjailError};
pub use policy::{Builtin, MAX_POLICY_BYTES, Policy, PolicyError};
pub use probe::{Answer, Probe, Verdict, Visibility, ask, probe};
pub use promises::{PromisedMount, Promises};
pub use proof::{Proof, ProofError, verify, ways_out};
pub use runtime::{Runtime, RuntimeError};
pub use supervise::{OnSignal, Outcome, Running};
pub use sys::{PreparedFilter, close_name_service_trap, install_filter, take_fd};
