//! Children that try one thing and end, so that a question about the kernel is answered by the kernel.

use std::ffi::CStr;
use std::io;

use super::check;

/// What a trial child writes into its `/proc/self` after it has its user namespace.
#[derive(Debug)]
pub(crate) struct Maps<'a> {
    pub uid: &'a CStr,
    pub gid: &'a CStr,
}

/// Makes namespaces in a child that then ends. The error is the child's.
pub(crate) fn unshare(flags: libc::c_int, maps: Option<&Maps<'_>>) -> io::Result<()> {
    let writes: [(&CStr, &CStr); 3] = match maps {
        Some(maps) => [
            (c"/proc/self/setgroups", c"deny"),
            (c"/proc/self/uid_map", maps.uid),
            (c"/proc/self/gid_map", maps.gid),
        ],
        None => [(c"", c""); 3],
    };
    // SAFETY: the child calls only async-signal-safe functions on prepared memory and leaves through _exit.
    let pid = check(unsafe { libc::fork() }.into())?;
    if pid == 0 {
        // SAFETY: plain system calls; every pointer is to a NUL-terminated string that the fork copied.
        unsafe {
            if libc::syscall(libc::SYS_unshare, flags) != 0 {
                libc::_exit(*libc::__errno_location());
            }
            for (path, text) in writes.iter().filter(|(path, _)| !path.is_empty()) {
                let file = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
                let length = text.to_bytes().len();
                if file < 0 || libc::write(file, text.as_ptr().cast(), length) < 0 {
                    libc::_exit(*libc::__errno_location());
                }
                libc::close(file);
            }
            libc::_exit(0);
        }
    }
    let child = nix::unistd::Pid::from_raw(i32::try_from(pid).map_err(io::Error::other)?);
    loop {
        match nix::sys::wait::waitpid(child, None) {
            Ok(nix::sys::wait::WaitStatus::Exited(_, 0)) => return Ok(()),
            Ok(nix::sys::wait::WaitStatus::Exited(_, errno)) => {
                return Err(io::Error::from_raw_os_error(errno));
            }
            Ok(other) => return Err(io::Error::other(format!("the child ended as {other:?}"))),
            Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
