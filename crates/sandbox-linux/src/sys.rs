//! System calls that no safe wrapper offers, and the fork that starts a jail. With [`contain`], the only file with
//! `unsafe`.
//!
//! Everything here is a thin shape around one kernel facility; what is done with it is decided elsewhere. Code
//! that runs between fork and exec touches only memory that was prepared before, and calls only what is
//! async-signal-safe.

#![allow(unsafe_code)]

pub(crate) mod contain;
pub(crate) mod trial;

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};
use std::ptr;

use crate::seccomp::Program;

/// The mount attributes of [`mount_setattr`] that this crate sets.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct MountAttributes {
    pub read_only: bool,
    pub nosuid: bool,
    pub nodev: bool,
    pub noexec: bool,
}

/// Sets attributes on a detached mount tree and all its submounts, and cuts it off from propagation.
pub(crate) fn mount_setattr(tree: BorrowedFd<'_>, attributes: MountAttributes) -> io::Result<()> {
    let mut set = 0;
    for (wanted, bit) in [
        (attributes.read_only, libc::MOUNT_ATTR_RDONLY),
        (attributes.nosuid, libc::MOUNT_ATTR_NOSUID),
        (attributes.nodev, libc::MOUNT_ATTR_NODEV),
        (attributes.noexec, libc::MOUNT_ATTR_NOEXEC),
    ] {
        if wanted {
            set |= bit;
        }
    }
    raw_mount_setattr(tree, libc::AT_RECURSIVE, set, libc::MS_PRIVATE, 0)
}

/// Makes one mount read-only, without those below it.
pub(crate) fn mount_read_only(mount: BorrowedFd<'_>) -> io::Result<()> {
    raw_mount_setattr(mount, 0, libc::MOUNT_ATTR_RDONLY, 0, 0)
}

/// Gives a detached mount tree the id map of a user namespace: an on-disk id that is "inside" there appears as
/// the id it maps to "outside". Fails with EINVAL on file systems that cannot.
pub(crate) fn mount_idmap(tree: BorrowedFd<'_>, namespace: BorrowedFd<'_>) -> io::Result<()> {
    let userns = u64::try_from(namespace.as_raw_fd()).map_err(io::Error::other)?;
    raw_mount_setattr(tree, libc::AT_RECURSIVE, libc::MOUNT_ATTR_IDMAP, 0, userns)
}

/// True when this process may make detached mounts and change them. Asks by changing nothing of the root: a trial mount
/// would have to be taken down again, for which the kernel waits until all processors have noticed.
pub(crate) fn may_handle_mounts() -> bool {
    let nothing = libc::mount_attr { attr_set: 0, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let size = size_of::<libc::mount_attr>();
    // SAFETY: the path is a NUL-terminated literal, `nothing` lives across the call and its true size is passed.
    let asked = unsafe {
        libc::syscall(libc::SYS_mount_setattr, libc::AT_FDCWD, c"/".as_ptr(), 0, &raw const nothing, size)
    };
    asked == 0
}

fn raw_mount_setattr(
    tree: BorrowedFd<'_>,
    recursive: libc::c_int,
    set: u64,
    propagation: libc::c_ulong,
    userns_fd: u64,
) -> io::Result<()> {
    let attr = libc::mount_attr { attr_set: set, attr_clr: 0, propagation, userns_fd };
    // SAFETY: the path is a NUL-terminated literal, `attr` lives across the call and its true size is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    check(result).map(drop)
}

/// A user namespace with the given maps (`/proc/PID/uid_map` lines) and no process in it, as a handle.
pub(crate) fn user_namespace(uid_map: &str, gid_map: &str) -> io::Result<OwnedFd> {
    let (ready, ready_child) = nix::unistd::pipe()?;
    let (hold_child, hold) = nix::unistd::pipe()?;
    // SAFETY: the child calls only async-signal-safe functions and leaves through _exit.
    let pid = check(unsafe { libc::fork() }.into())?;
    if pid == 0 {
        // SAFETY: plain system calls on descriptors and memory that the fork copied.
        unsafe {
            let done = libc::syscall(libc::SYS_unshare, libc::CLONE_NEWUSER) == 0;
            let byte = [u8::from(done)];
            libc::close(hold.as_raw_fd());
            libc::write(ready_child.as_raw_fd(), byte.as_ptr().cast(), 1);
            let mut end = [0_u8];
            libc::read(hold_child.as_raw_fd(), end.as_mut_ptr().cast(), 1);
            libc::_exit(0);
        }
    }
    drop((ready_child, hold_child));
    let made = (|| {
        let mut byte = [0];
        if nix::unistd::read(&ready, &mut byte)? != 1 || byte != [1] {
            return Err(io::Error::from_raw_os_error(libc::EPERM));
        }
        std::fs::write(format!("/proc/{pid}/uid_map"), uid_map)?;
        std::fs::write(format!("/proc/{pid}/gid_map"), gid_map)?;
        std::fs::File::open(format!("/proc/{pid}/ns/user")).map(OwnedFd::from)
    })();
    drop(hold);
    let child = nix::unistd::Pid::from_raw(i32::try_from(pid).map_err(io::Error::other)?);
    // Another test or library thread may have inherited the pipe's end; do not wait for it.
    let _ = nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL);
    let _ = nix::sys::wait::waitpid(child, None);
    made
}

/// A detached mount tree and the place it is moved to in the child's private mount namespace.
#[derive(Debug)]
pub(crate) struct Placement {
    pub tree: OwnedFd,
    pub target: CString,
    pub is_dir: bool,
}

/// The private mount namespace of a jail that is started by root: a small tmpfs over `base`, with the bind
/// sources in it.
#[derive(Debug)]
pub(crate) struct PrivateMounts<'a> {
    pub base: CString,
    /// Mount options of the tmpfs.
    pub options: CString,
    pub placements: &'a [Placement],
}

/// What the child does before it becomes the program of `command`.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    /// The signal mask to restore.
    pub mask: nix::sys::signal::SigSet,
    /// Drop supplementary groups; needs CAP_SETGID.
    pub drop_groups: bool,
    /// Lead a process group, which the terminal's signals do not reach.
    pub own_group: bool,
    pub mounts: Option<PrivateMounts<'a>>,
    /// (descriptor here, number there); the numbers must not collide with any descriptor here.
    pub fds: &'a [(BorrowedFd<'a>, RawFd)],
    /// Gets the name of the step that failed.
    pub report: BorrowedFd<'a>,
}

/// Starts `command` as its own process group, bound to the life of the calling thread.
pub(crate) fn spawn(command: &mut Command, launch: &Launch<'_>) -> io::Result<Child> {
    let parent = std::process::id();
    let mask = *launch.mask.as_ref();
    let fds: Vec<(RawFd, RawFd)> =
        launch.fds.iter().map(|(here, there)| (here.as_raw_fd(), *there)).collect();
    let (drop_groups, own_group) = (launch.drop_groups, launch.own_group);
    let report = launch.report.as_raw_fd();
    let mounts = launch.mounts.as_ref().map(|mounts| {
        let placements: Vec<(RawFd, CString, bool)> =
            mounts.placements.iter().map(|p| (p.tree.as_raw_fd(), p.target.clone(), p.is_dir)).collect();
        (mounts.base.clone(), mounts.options.clone(), placements)
    });
    let child = move || -> io::Result<()> {
        let step = |name: &'static str, result: libc::c_long| -> io::Result<()> {
            if result >= 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            // SAFETY: writes a static string to a descriptor that is open in this process.
            unsafe { libc::write(report, name.as_ptr().cast(), name.len()) };
            Err(error)
        };
        // SAFETY: between fork and exec: system calls on prepared memory only, nothing allocates.
        unsafe {
            if own_group {
                step("process group", libc::setpgid(0, 0).into())?;
            }
            let armed = libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            step("parent death signal", armed.into())?;
            if libc::getppid() as u32 != parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            let set = libc::pthread_sigmask(libc::SIG_SETMASK, &raw const mask, ptr::null_mut());
            step("signal mask", -libc::c_long::from(set))?;
            if drop_groups {
                // The bare call: glibc's wrapper would try to reach threads that the fork did not copy.
                let none: *const libc::gid_t = ptr::null();
                let dropped = libc::syscall(libc::SYS_setgroups, 0, none);
                step("supplementary groups", dropped)?;
            }
            if let Some((base, options, placements)) = &mounts {
                enter_private_mounts(base, options, placements, &step)?;
            }
            for (here, there) in &fds {
                step("descriptors", libc::dup2(*here, *there).into())?;
            }
        }
        Ok(())
    };
    // SAFETY: `child` allocates nothing and calls only async-signal-safe functions (see above).
    unsafe { command.pre_exec(child) };
    command.spawn()
}

/// # Safety
/// Runs between fork and exec; the strings were made before.
unsafe fn enter_private_mounts(
    base: &CStr,
    options: &CStr,
    placements: &[(RawFd, CString, bool)],
    step: &dyn Fn(&'static str, libc::c_long) -> io::Result<()>,
) -> io::Result<()> {
    let nothing = ptr::null::<libc::c_char>();
    // SAFETY: all pointers are NUL-terminated strings that outlive the calls, or null where the call allows it.
    unsafe {
        let unshared = libc::syscall(libc::SYS_unshare, libc::CLONE_NEWNS);
        step("private mount namespace", unshared)?;
        let receive_only = libc::MS_REC | libc::MS_SLAVE;
        let done = libc::mount(nothing, c"/".as_ptr(), nothing, receive_only, ptr::null());
        step("mount propagation", done.into())?;
        let done = libc::mount(
            c"ktl".as_ptr(),
            base.as_ptr(),
            c"tmpfs".as_ptr(),
            libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC,
            options.as_ptr().cast(),
        );
        step("staging tmpfs", done.into())?;
        for (tree, target, is_dir) in placements {
            let made = if *is_dir {
                libc::mkdir(target.as_ptr(), 0o755)
            } else {
                libc::mknod(target.as_ptr(), libc::S_IFREG | 0o644, 0)
            };
            step("staging mount point", made.into())?;
            let moved = libc::syscall(
                libc::SYS_move_mount,
                *tree,
                c"".as_ptr(),
                libc::AT_FDCWD,
                target.as_ptr(),
                libc::MOVE_MOUNT_F_EMPTY_PATH,
            );
            step("staging a bind source", moved)?;
        }
    }
    Ok(())
}

/// A program in the kernel's shape, made before a fork so that the child can install it without allocating.
pub struct PreparedFilter {
    instructions: Vec<libc::sock_filter>,
    len: u16,
    log: bool,
}

impl std::fmt::Debug for PreparedFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PreparedFilter").field("len", &self.len).field("log", &self.log).finish()
    }
}

impl PreparedFilter {
    /// With `log`, what the filter refuses goes to the kernel's log (nsjail's `seccomp_log`).
    ///
    /// # Errors
    /// For a program longer than the kernel can be told of, which no [`Program`] is.
    pub fn new(program: &Program, log: bool) -> io::Result<PreparedFilter> {
        let instructions: Vec<_> = program
            .instructions()
            .iter()
            .map(|i| libc::sock_filter { code: i.code, jt: i.jt, jf: i.jf, k: i.k })
            .collect();
        let len = u16::try_from(instructions.len()).map_err(io::Error::other)?;
        Ok(PreparedFilter { instructions, len, log })
    }

    /// Puts the filter on the calling thread, for good: it passes to what the thread starts and to what it becomes.
    /// Sets no_new_privs first, without which only root may. Allocates nothing.
    ///
    /// # Errors
    /// Those of `seccomp(SECCOMP_SET_MODE_FILTER)`: EINVAL for a program that the kernel does not take, ENOMEM for
    /// too much of them on one thread.
    pub fn install(&self) -> io::Result<()> {
        let fprog = libc::sock_fprog { len: self.len, filter: self.instructions.as_ptr().cast_mut() };
        let flags = if self.log { libc::SECCOMP_FILTER_FLAG_LOG } else { 0 };
        // SAFETY: the first call takes numbers only; for the second `fprog` and the `len` instructions that it
        // points to live across the call, and the kernel only reads them.
        unsafe {
            check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into())?;
            check(libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const fprog))?;
        }
        Ok(())
    }
}

/// Puts a filter on the calling thread; see [`PreparedFilter::install`].
///
/// # Errors
/// Those of [`PreparedFilter`].
pub fn install_filter(program: &Program, log: bool) -> io::Result<()> {
    PreparedFilter::new(program, log)?.install()
}

/// Takes over a descriptor number that the process was started with.
///
/// # Errors
/// EBADF when no such descriptor is open, EINVAL for 0 to 2, which belong to the standard streams.
pub fn take_fd(number: RawFd) -> io::Result<OwnedFd> {
    if number <= 2 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: F_GETFD only asks about a number; it touches no memory.
    check(unsafe { libc::fcntl(number, libc::F_GETFD) }.into())?;
    // SAFETY: the number is open (checked above). The caller states that nothing else in the process owns it.
    let taken = unsafe { OwnedFd::from_raw_fd(number) };
    // Whoever holds it from here on must not leak it into programs that it starts.
    rustix::io::fcntl_setfd(taken.as_fd(), rustix::io::FdFlags::CLOEXEC)?;
    Ok(taken)
}

/// Keeps a statically linked glibc from loading the host's name-service modules, which crash such a program.
///
/// Since glibc 2.34 `files` and `dns` are compiled in; any other source named in `/etc/nsswitch.conf` would be
/// loaded with dlopen, together with a second C library. Call it first in `main`. Does nothing elsewhere.
pub fn close_name_service_trap() {
    #[cfg(all(target_os = "linux", target_env = "gnu", target_feature = "crt-static"))]
    {
        unsafe extern "C" {
            fn __nss_configure_lookup(
                database: *const libc::c_char,
                sources: *const libc::c_char,
            ) -> libc::c_int;
        }
        for (database, sources) in [
            (c"passwd", c"files"),
            (c"group", c"files"),
            (c"shadow", c"files"),
            (c"services", c"files"),
            (c"protocols", c"files"),
            (c"hosts", c"files dns"),
        ] {
            // SAFETY: two NUL-terminated literals; glibc copies what it keeps. A failure leaves the default.
            unsafe { __nss_configure_lookup(database.as_ptr(), sources.as_ptr()) };
        }
    }
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn take_fd_checks_the_number() {
        assert_eq!(take_fd(1).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        assert_eq!(take_fd(9_999).unwrap_err().raw_os_error(), Some(libc::EBADF));
        let file = std::fs::File::open("/dev/null").unwrap();
        let number = rustix::io::fcntl_dupfd_cloexec(&file, 700).unwrap();
        use std::os::fd::IntoRawFd as _;
        let number = number.into_raw_fd();
        assert_eq!(take_fd(number).unwrap().as_raw_fd(), number);
    }

    #[test]
    fn name_service_is_confined_twice_without_harm() {
        close_name_service_trap();
        close_name_service_trap();
        use std::net::ToSocketAddrs as _;
        assert!(("localhost", 1).to_socket_addrs().is_ok());
    }
}
