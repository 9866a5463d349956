//! The calls by which a process contains itself: the native runtime's child uses them between clone and exec.
//!
//! All of them work on memory that was prepared before the clone and allocate nothing, because the clone may have
//! been made while another thread held the allocator's lock. Errors are bare numbers for the same reason.

use std::ffi::{CString, c_char};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use rustix::io::{Errno, Result};
use rustix::process::Pid;

/// keyctl(2).
const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
/// The kernel's numbers of signals, 1 to this one.
const LAST_SIGNAL: libc::c_int = 64;
/// What the child ends with when its code breaks; the status pipe says nothing then.
const BROKEN: libc::c_int = 255;

/// A process in new namespaces.
#[derive(Debug)]
pub(crate) struct Cloned {
    pub pid: Pid,
    /// Refers to the process even when its number has been given away.
    pub pidfd: OwnedFd,
}

/// Starts a process in the namespaces of `flags` (`CLONE_NEW…`); it runs `child` and ends with its result.
///
/// `child` must allocate nothing and take no lock.
pub(crate) fn clone_into(flags: libc::c_int, child: impl FnOnce() -> i32) -> Result<Cloned> {
    let mut pidfd: RawFd = -1;
    let pid = clone(flags | libc::CLONE_PIDFD, &raw mut pidfd, child)?;
    // SAFETY: CLONE_PIDFD made the kernel store a new descriptor there, which nobody else owns.
    Ok(Cloned { pid, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
}

/// Starts a process in the same namespaces, under the same rule for `child`.
pub(crate) fn fork(child: impl FnOnce() -> i32) -> Result<Pid> {
    clone(0, ptr::null_mut(), child)
}

/// clone(2) rather than clone3(2), which filters of containers refuse because they cannot see its flags.
fn clone(flags: libc::c_int, pidfd: *mut RawFd, child: impl FnOnce() -> i32) -> Result<Pid> {
    let flags = libc::c_long::from(flags | libc::SIGCHLD);
    let (stack, none) = (ptr::null_mut::<libc::c_void>(), ptr::null_mut::<libc::c_void>());
    // SAFETY: without CLONE_VM and a stack this is a fork: the child runs on a copy of this memory. The place for
    // the pidfd lives across the call.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, stack, pidfd, none, none) };
    if pid == 0 {
        let code = catch_unwind(AssertUnwindSafe(child)).unwrap_or(BROKEN);
        // SAFETY: ends the process without running anything of the parent's.
        unsafe { libc::_exit(code) }
    }
    check(pid)?;
    i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)
}

/// Closes a descriptor that this process got by the clone and that belongs to the parent's value.
pub(crate) fn close_copy(fd: BorrowedFd<'_>) {
    // SAFETY: closes a number; the owner of the value is in the parent and has its own descriptor.
    unsafe { libc::close(fd.as_raw_fd()) };
}

/// Closes everything but `keep`.
pub(crate) fn close_all_but(keep: BorrowedFd<'_>) -> Result<()> {
    let keep = keep.as_raw_fd();
    let range = |first: RawFd, last: u32| {
        // SAFETY: takes numbers only; this process uses no other descriptor any more.
        check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })
    };
    if keep > 0 {
        range(0, u32::try_from(keep - 1).map_err(|_| Errno::BADF)?)?;
    }
    range(keep + 1, u32::MAX)
}

/// Lets an exec close every descriptor but the standard streams.
pub(crate) fn close_on_exec() -> Result<()> {
    let flag = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: takes numbers only and closes nothing yet.
    check(unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, flag) })
}

/// Makes `number` a copy of `fd` that stays open across exec. `fd` must have another number.
pub(crate) fn place_fd(fd: BorrowedFd<'_>, number: RawFd) -> Result<()> {
    // SAFETY: takes numbers only; what `number` was before is not used any more.
    check(unsafe { libc::dup2(fd.as_raw_fd(), number) }.into())
}

/// Blocks every signal of this thread.
pub(crate) fn block_signals() -> Result<()> {
    let mut set = [u64::MAX];
    sigprocmask(libc::SIG_SETMASK, &mut set)
}

fn sigprocmask(how: libc::c_int, set: &mut [u64; 1]) -> Result<()> {
    let none = ptr::null_mut::<u64>();
    // SAFETY: the kernel's signal set is one 64-bit word; the C library's call would leave its own signals out.
    check(unsafe { libc::syscall(libc::SYS_rt_sigprocmask, how, set.as_ptr(), none, size_of::<u64>()) })
}

/// Signal dispositions and mask as a new program expects them: all default, and `mask`.
pub(crate) fn reset_signals(mask: &nix::sys::signal::SigSet) -> Result<()> {
    for signal in 1..=LAST_SIGNAL {
        // SAFETY: sets the default action; the two that cannot be set, and the C library's own, are refused.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let none = ptr::null_mut();
    // SAFETY: `mask` is a whole signal set and outlives the call.
    check(unsafe { libc::sigprocmask(libc::SIG_SETMASK, mask.as_ref(), none) }.into())
}

/// Waits for any signal, all of which are blocked; returns its number.
pub(crate) fn wait_signal() -> libc::c_int {
    let set = [u64::MAX];
    let none = ptr::null_mut::<libc::c_void>();
    loop {
        // SAFETY: one word of signal set; no information and no time limit are asked for.
        let got =
            unsafe { libc::syscall(libc::SYS_rt_sigtimedwait, set.as_ptr(), none, none, size_of::<u64>()) };
        if got > 0 {
            return libc::c_int::try_from(got).unwrap_or_default();
        }
    }
}

/// Sends a signal.
pub(crate) fn send_signal(pid: Pid, signal: libc::c_int) {
    // SAFETY: takes numbers only.
    unsafe { libc::kill(pid.as_raw_nonzero().get(), signal) };
}

/// Takes what is not in `kept` out of the bounding set. Needs CAP_SETPCAP.
pub(crate) fn limit_bounding_set(kept: u64) -> Result<()> {
    for capability in (0..64).filter(|capability| kept >> capability & 1 == 0) {
        // SAFETY: takes numbers only.
        let dropped = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        match check(dropped.into()) {
            // The kernel has no capability of this number, and none above.
            Err(Errno::INVAL) if capability > 0 => return Ok(()),
            other => other?,
        }
    }
    Ok(())
}

/// Sets the execution domain, which the next program starts with: the bits of personality(2).
pub(crate) fn set_personality(bits: libc::c_ulong) -> Result<()> {
    // SAFETY: takes a number only.
    check(unsafe { libc::personality(bits) }.into())
}

/// Lets this thread and what it starts die of SIGSEGV when they read the time-stamp counter.
#[cfg(target_arch = "x86_64")]
pub(crate) fn forbid_tsc() -> Result<()> {
    // SAFETY: takes numbers only.
    check(unsafe { libc::prctl(libc::PR_SET_TSC, libc::PR_TSC_SIGSEGV, 0, 0, 0) }.into())
}

/// Other processors have no such switch.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn forbid_tsc() -> Result<()> {
    Err(Errno::INVAL)
}

/// Makes this process's coming children those of a new time namespace.
pub(crate) fn unshare_time() -> Result<()> {
    // SAFETY: takes a number only; memory, files and the like stay as they are.
    check(unsafe { libc::unshare(libc::CLONE_NEWTIME) }.into())
}

/// A session keyring of its own, so that the caller's keys are out of reach.
pub(crate) fn join_new_session_keyring() -> Result<()> {
    let anonymous = ptr::null::<c_char>();
    // SAFETY: a null name asks for a new anonymous keyring.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, anonymous) })
}

/// Takes the loopback device of this network namespace up.
pub(crate) fn loopback_up() -> Result<()> {
    // SAFETY: a plain new socket.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    check(socket.into())?;
    // SAFETY: the descriptor is new and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: all-zero bytes are a valid request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(*b"lo") {
        *to = from as c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request has a NUL-terminated name and outlives the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) }.into())
}

/// What a Landlock ruleset is about; the fields are those of `struct landlock_ruleset_attr`.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct RulesetAttributes {
    pub handled_access_fs: u64,
    pub handled_access_net: u64,
    pub scoped: u64,
    /// Not the kernel's: how many bytes of the above it knows.
    pub size: usize,
}

/// The kernel's version of Landlock, 0 for none.
pub(crate) fn landlock_version() -> u32 {
    const VERSION: libc::c_int = 1;
    let none = ptr::null::<libc::c_void>();
    // SAFETY: asks for a number only.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0_usize, VERSION) };
    u32::try_from(version).unwrap_or_default()
}

/// A ruleset that allows nothing of what it handles.
pub(crate) fn landlock_ruleset(attributes: &RulesetAttributes) -> Result<OwnedFd> {
    let size = attributes.size.min(std::mem::offset_of!(RulesetAttributes, size));
    let at = ptr::from_ref(attributes);
    // SAFETY: the first `size` bytes are the kernel's structure and outlive the call.
    let fd = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, at, size, 0) };
    check(fd)?;
    let fd = RawFd::try_from(fd).map_err(|_| Errno::BADF)?;
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Allows `rights` on a file, or on a directory and everything below.
pub(crate) fn landlock_allow(ruleset: BorrowedFd<'_>, place: BorrowedFd<'_>, rights: u64) -> Result<()> {
    /// `struct landlock_path_beneath_attr`.
    #[repr(C, packed)]
    struct PathBeneath {
        allowed_access: u64,
        parent_fd: RawFd,
    }
    const PATH_BENEATH: libc::c_int = 1;
    let rule = PathBeneath { allowed_access: rights, parent_fd: place.as_raw_fd() };
    // SAFETY: the rule is the kernel's structure and outlives the call.
    check(unsafe {
        libc::syscall(libc::SYS_landlock_add_rule, ruleset.as_raw_fd(), PATH_BENEATH, &raw const rule, 0)
    })
}

/// Puts this process under a ruleset for good. no_new_privs must be set.
pub(crate) fn landlock_restrict(ruleset: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: takes numbers only.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) })
}

/// Standard input, output and error, open or not.
pub(crate) fn standard_streams() -> [BorrowedFd<'static>; 3] {
    // SAFETY: these numbers are the process's streams for as long as it runs; on a closed one calls fail.
    [0, 1, 2].map(|fd| unsafe { BorrowedFd::borrow_raw(fd) })
}

/// A program to become, with its argument and environment arrays.
#[derive(Debug)]
pub(crate) struct Image {
    /// The file itself, where it is not to be looked up by its path.
    file: Option<OwnedFd>,
    path: CString,
    argv: Vec<*const c_char>,
    envp: Vec<*const c_char>,
    /// What the arrays point into.
    _strings: Vec<CString>,
}

impl Image {
    /// `args` begins with the program's name for itself.
    pub(crate) fn new(path: CString, args: Vec<CString>, env: Vec<CString>) -> Image {
        let array = |strings: &[CString]| {
            strings.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect::<Vec<*const c_char>>()
        };
        let (argv, envp) = (array(&args), array(&env));
        Image { file: None, path, argv, envp, _strings: args.into_iter().chain(env).collect() }
    }

    /// The same program by the descriptor of its file.
    pub(crate) fn of_file(self, file: OwnedFd) -> Image {
        Image { file: Some(file), ..self }
    }

    /// Replaces this process; returns why it could not.
    pub(crate) fn exec(&self) -> Errno {
        if let Some(file) = &self.file {
            let (file, flag) = (file.as_raw_fd(), libc::AT_EMPTY_PATH);
            let (argv, envp) = (self.argv.as_ptr(), self.envp.as_ptr());
            // SAFETY: the empty path and both arrays are NUL-terminated, and the arrays point to strings of this value.
            unsafe { libc::syscall(libc::SYS_execveat, file, c"".as_ptr(), argv, envp, flag) };
            return last_errno();
        }
        // SAFETY: the path and both arrays are NUL-terminated and point to strings that this value owns.
        unsafe { libc::execve(self.path.as_ptr(), self.argv.as_ptr(), self.envp.as_ptr()) };
        last_errno()
    }
}

fn check(result: libc::c_long) -> Result<()> {
    if result < 0 { Err(last_errno()) } else { Ok(()) }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{WaitOptions, waitpid};

    fn end_of(pid: Pid) -> Option<i32> {
        waitpid(Some(pid), WaitOptions::empty()).unwrap().unwrap().1.exit_status()
    }

    #[test]
    fn a_child_ends_with_its_result_and_never_comes_back() {
        assert_eq!(end_of(fork(|| 7).unwrap()), Some(7));
        let cloned = clone_into(0, || 9).unwrap();
        assert_eq!(end_of(cloned.pid), Some(9));
        assert!(rustix::io::fcntl_getfd(&cloned.pidfd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        assert!(clone_into(libc::CLONE_THREAD, || 0).is_err());
    }

    #[test]
    fn an_image_gets_its_arguments_and_only_its_environment() {
        let own = |text: &str| CString::new(text).unwrap();
        let script = "[ \"$0 $1\" = 'name arg' ] && [ \"$A\" = b ] && [ -z \"$HOME\" ]";
        let args = ["sh", "-c", script, "name", "arg"].map(own).to_vec();
        let image = Image::new(own("/bin/sh"), args, vec![own("A=b")]);
        let none = Image::new(own("/nonexistent"), Vec::new(), Vec::new());
        assert_eq!(none.exec(), Errno::NOENT);
        let mask = nix::sys::signal::SigSet::empty();
        let pid = fork(|| {
            let ready = close_on_exec().and_then(|()| reset_signals(&mask));
            if ready.is_ok() { image.exec().raw_os_error() } else { 99 }
        });
        assert_eq!(end_of(pid.unwrap()), Some(0));
    }

    #[test]
    fn signals_are_waited_for() {
        let pid = fork(|| {
            block_signals().map_or(99, |()| {
                send_signal(rustix::process::getpid(), libc::SIGUSR2);
                wait_signal()
            })
        });
        assert_eq!(end_of(pid.unwrap()), Some(libc::SIGUSR2));
    }
}
