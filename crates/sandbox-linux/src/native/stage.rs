//! The child's steps in their order, and the record by which it tells how it got on.
//!
//! A record has one size and is written by one write(2) of less than `PIPE_BUF` bytes, so the parent never sees half
//! of one, and the child needs no memory to make it.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;

/// Every step of the set-up, in the order in which they are taken. The first three are the parent's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Namespaces,
    IdMaps,
    ControlGroups,
    Supervision,
    Session,
    Hostname,
    Network,
    Ids,
    Nesting,
    MountTree,
    Root,
    WorkingDirectory,
    NewPrivileges,
    Keyring,
    Time,
    Capabilities,
    Priority,
    Program,
    Descriptors,
    Limits,
    Personality,
    Counter,
    Signals,
    Processors,
    Landlock,
    Filter,
    Exec,
}

impl Stage {
    const ALL: [Stage; 27] = [
        Stage::Namespaces,
        Stage::IdMaps,
        Stage::ControlGroups,
        Stage::Supervision,
        Stage::Session,
        Stage::Hostname,
        Stage::Network,
        Stage::Ids,
        Stage::Nesting,
        Stage::MountTree,
        Stage::Root,
        Stage::WorkingDirectory,
        Stage::NewPrivileges,
        Stage::Keyring,
        Stage::Time,
        Stage::Capabilities,
        Stage::Priority,
        Stage::Program,
        Stage::Descriptors,
        Stage::Limits,
        Stage::Personality,
        Stage::Counter,
        Stage::Signals,
        Stage::Processors,
        Stage::Landlock,
        Stage::Filter,
        Stage::Exec,
    ];

    /// What people read; the same words as for nsjail's failures where it has the step.
    pub(super) fn name(self) -> &'static str {
        match self {
            Stage::Namespaces => "namespaces",
            Stage::IdMaps | Stage::Ids => "user namespace",
            Stage::ControlGroups => "control groups",
            Stage::Supervision => "supervision",
            Stage::Session => "session",
            Stage::Hostname => "host name",
            Stage::Network => "network",
            Stage::MountTree | Stage::Root => "mount tree",
            Stage::WorkingDirectory => "working directory",
            Stage::NewPrivileges | Stage::Capabilities => "privileges",
            Stage::Keyring => "session keyring",
            Stage::Time => "time namespace",
            Stage::Personality => "personality",
            Stage::Counter => "time-stamp counter",
            Stage::Processors => "processors",
            Stage::Priority => "priority",
            Stage::Program => "processes",
            Stage::Descriptors => "descriptors",
            Stage::Limits => "resource limits",
            Stage::Signals => "signals",
            Stage::Nesting => "nested namespaces",
            Stage::Landlock => "landlock",
            Stage::Filter => "system call filter",
            Stage::Exec => "start of the program",
        }
    }

    /// The call that the step is about, for the log line of a failure.
    pub(super) fn call(self) -> &'static str {
        match self {
            Stage::Namespaces => "clone",
            Stage::IdMaps => "uid_map",
            Stage::ControlGroups => "cgroup",
            Stage::Supervision => "prctl(PR_SET_PDEATHSIG)",
            Stage::Session => "setsid",
            Stage::Hostname => "sethostname",
            Stage::Network => "ioctl(lo)",
            Stage::Ids => "setresuid",
            Stage::MountTree => "mount",
            Stage::Root => "pivot_root",
            Stage::WorkingDirectory => "chdir",
            Stage::NewPrivileges => "prctl(PR_SET_NO_NEW_PRIVS)",
            Stage::Keyring => "keyctl",
            Stage::Capabilities => "capset",
            Stage::Time => "unshare(CLONE_NEWTIME)",
            Stage::Personality => "personality",
            Stage::Counter => "prctl(PR_SET_TSC)",
            Stage::Processors => "sched_setaffinity",
            Stage::Priority => "setpriority",
            Stage::Program => "fork",
            Stage::Descriptors => "dup2",
            Stage::Limits => "setrlimit",
            Stage::Signals => "sigaction",
            Stage::Nesting => "write",
            Stage::Landlock => "landlock_restrict_self",
            Stage::Filter => "seccomp",
            Stage::Exec => "execve",
        }
    }
}

/// A step that could not be taken, and what it was taken on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Failure<'a> {
    pub stage: Stage,
    pub errno: Errno,
    pub detail: &'a [u8],
}

impl Stage {
    /// For `map_err`, without anything to add.
    pub(super) fn failed<'a>(self) -> impl Fn(Errno) -> Failure<'a> {
        self.failed_on(b"")
    }

    pub(super) fn failed_on<'a>(self, detail: &'a [u8]) -> impl Fn(Errno) -> Failure<'a> {
        move |errno| Failure { stage: self, errno, detail }
    }
}

/// Bytes of a record.
pub(super) const RECORD: usize = 256;
const DETAIL: usize = RECORD - 16;
const FAILED: u32 = 1;
const STARTING: u32 = 2;
const EXITED: u32 = 3;
const SIGNALED: u32 = 4;

/// What the parent reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    Failed {
        stage: Stage,
        errno: i32,
        detail: Vec<u8>,
    },
    /// Set-up is over; the filter and the program come next.
    Starting,
    Exited(i32),
    Signaled(i32),
}

pub(super) fn tell_failure(status: BorrowedFd<'_>, failure: Failure<'_>) {
    let stage = Stage::ALL.iter().position(|stage| *stage == failure.stage).unwrap_or_default();
    tell(status, FAILED, stage as u32, failure.errno.raw_os_error(), failure.detail);
}

pub(super) fn tell_start(status: BorrowedFd<'_>) {
    tell(status, STARTING, 0, 0, b"");
}

pub(super) fn tell_exit(status: BorrowedFd<'_>, code: i32) {
    tell(status, EXITED, 0, code, b"");
}

pub(super) fn tell_signal(status: BorrowedFd<'_>, signal: i32) {
    tell(status, SIGNALED, 0, signal, b"");
}

fn tell(status: BorrowedFd<'_>, kind: u32, stage: u32, number: i32, detail: &[u8]) {
    let mut record = [0_u8; RECORD];
    let detail = &detail[..detail.len().min(DETAIL)];
    let length = detail.len() as u32;
    let words = [kind, stage, number as u32, length];
    for (place, word) in record.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    for (place, byte) in record[16..].iter_mut().zip(detail) {
        *place = *byte;
    }
    // Without a reader nobody wants to know.
    let _ = rustix::io::write(status, &record);
}

/// Reads one record.
pub(super) fn parse(bytes: &[u8; RECORD]) -> io::Result<Record> {
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "status record");
    let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let number = word(8) as i32;
    Ok(match word(0) {
        FAILED => {
            let stage = *Stage::ALL.get(word(4) as usize).ok_or_else(bad)?;
            let detail = bytes.get(16..16 + word(12) as usize).ok_or_else(bad)?.to_vec();
            Record::Failed { stage, errno: number, detail }
        }
        STARTING => Record::Starting,
        EXITED => Record::Exited(number),
        SIGNALED => Record::Signaled(number),
        _ => return Err(bad()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd as _;

    fn told(tell: impl Fn(BorrowedFd<'_>)) -> Record {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        tell(writer.as_fd());
        drop(writer);
        let mut bytes = [0; RECORD];
        assert_eq!(rustix::io::read(&reader, &mut bytes).unwrap(), RECORD);
        parse(&bytes).unwrap()
    }

    #[test]
    fn records_come_back() {
        assert_eq!(told(tell_start), Record::Starting);
        assert_eq!(told(|fd| tell_exit(fd, 255)), Record::Exited(255));
        assert_eq!(told(|fd| tell_signal(fd, 9)), Record::Signaled(9));
        for stage in Stage::ALL {
            let long = [b'x'; 1000];
            let failure = stage.failed_on(&long)(Errno::NOSPC);
            let Record::Failed { stage: got, errno, detail } = told(|fd| tell_failure(fd, failure)) else {
                panic!("{stage:?}");
            };
            assert_eq!((got, errno, detail.len()), (stage, libc::ENOSPC, DETAIL));
            assert!(!got.name().is_empty() && !got.call().is_empty());
        }
    }

    #[test]
    fn the_list_has_the_order_of_the_steps() {
        for (index, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(stage as usize, index);
        }
    }

    #[test]
    fn foreign_bytes_are_refused() {
        assert!(parse(&[0xff; RECORD]).is_err());
        let mut long = [0; RECORD];
        (long[0], long[12], long[13]) = (1, 0xff, 0xff);
        assert!(parse(&long).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_record_is_answered(
            words in proptest::collection::vec(proptest::prelude::any::<u32>(), 4),
            small in proptest::collection::vec(0..300_u32, 4),
            rest in proptest::collection::vec(proptest::prelude::any::<u8>(), RECORD - 16),
        ) {
            for head in [words, small] {
                let mut bytes = [0; RECORD];
                bytes[..16].copy_from_slice(&head.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>());
                bytes[16..].copy_from_slice(&rest);
                if let Ok(Record::Failed { detail, .. }) = parse(&bytes) {
                    proptest::prop_assert!(detail.len() <= DETAIL);
                }
            }
        }
    }
}
