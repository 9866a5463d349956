"""Attempts to get out of a jail, or at what is outside of it, each as a small program.

Told by its arguments where things are, so that the same program runs without a jail as well, where it has to succeed.
Each prints one line: `name: OUT how`, or `name: held why`.
"""

import array
import ctypes
import fcntl
import os
import signal
import socket
import stat
import sys
import termios

report, tree, scratch, victim, address, known, peer = sys.argv[1:8]
known = {int(number) for number in known.split(",")} | {int(report)}
libc = ctypes.CDLL(None, use_errno=True)
PTRACE_SEIZE = 0x4206
MS_RDONLY, MS_REMOUNT, MS_BIND = 1, 32, 4096
CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000


class Held(Exception):
    pass


def call(name, *arguments):
    if getattr(libc, name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def in_child(attempt):
    """Runs what changes the process itself; the child's words are passed on."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            words = "+" + attempt()
        except (OSError, Held) as error:
            words = "-" + str(error)
        os.write(writer, words.encode())
        os._exit(0)
    os.close(writer)
    words = os.read(reader, 4096).decode()
    os.close(reader)
    os.waitpid(child, 0)
    if not words.startswith("+"):
        raise Held(words[1:])
    return words[1:]


def nested(attempt):
    """With all capabilities of a user namespace of its own, if there may be one."""

    def run():
        uid, gid = os.getuid(), os.getgid()
        call("unshare", CLONE_NEWUSER | CLONE_NEWNS)
        for file, text in (("setgroups", "deny"), ("gid_map", f"0 {gid} 1"), ("uid_map", f"0 {uid} 1")):
            try:
                with open(f"/proc/self/{file}", "w") as f:
                    f.write(text)
            except OSError:
                pass  # capabilities do without a name
        return attempt()

    return in_child(run)


def both(attempt):
    try:
        return attempt()
    except OSError as error:
        try:
            return "nested: " + nested(attempt)
        except Held as other:
            raise Held(f"{error}; nested: {other}")


def descriptor_leak():
    numbers = {int(number) for number in os.listdir("/proc/self/fd")}
    for number in sorted(numbers - known):
        try:
            return f"{number} is {os.readlink(f'/proc/self/fd/{number}')}"
        except FileNotFoundError:
            pass  # the listing's own
    raise Held("only what was handed over")


def program_overwrite():
    """CVE-2019-5736: hold on to the file of a running program, and open it when it runs no more."""
    child = os.fork()
    if child == 0:
        os.execv(victim, [victim, "sleep", "100"])
    while os.readlink(f"/proc/{child}/exe") != os.path.realpath(victim):
        os.sched_yield()
    program = os.open(f"/proc/{child}/exe", os.O_PATH)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    try:
        os.close(os.open(f"/proc/self/fd/{program}", os.O_WRONLY))
    except OSError as error:
        if os.getpid() == 1 or scratch != "/tmp":
            raise
        try:
            os.open("/proc/1/exe", os.O_PATH)
        except OSError as other:
            raise Held(f"{error.strerror}; of the jail's init: {other.strerror}")
        return "the jail's init"
    return "opened a program for writing"


def trace_the_parent():
    parent = os.getppid()
    if parent == 0:
        raise Held("the parent is not in sight")

    def attempt():
        call("ptrace", PTRACE_SEIZE, parent, None, None)
        return "attached"

    return in_child(attempt)


def abstract_socket():
    with socket.socket(socket.AF_UNIX) as s:
        s.connect("\0" + address)
    return "connected"


def session_keyring():
    keyctl = {"x86_64": 250, "aarch64": 219}[os.uname().machine]
    search, read, session = 10, 11, -3
    key = libc.syscall(keyctl, search, session, b"user", b"ktl-escape", 0)
    content = ctypes.create_string_buffer(64)
    if key < 0 or libc.syscall(keyctl, read, key, content, ctypes.c_size_t(64)) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return f"read {content.value.decode()!r}"


def type_into_the_terminal():
    fcntl.ioctl(0, termios.TIOCSTI, b"x")
    return "typed"


def nested_namespaces():
    return nested(lambda: "all capabilities in it")


def remount():
    def attempt():
        call("mount", None, tree.encode(), None, MS_REMOUNT | MS_BIND, None)
        with open(f"{tree}/written", "w"):
            return "writable"

    return both(attempt)


def propagation():
    """Whether it reaches the host is for the host to see."""

    def attempt():
        call("mount", b"ktl-escape", tree.encode(), b"tmpfs", 0, None)
        return "mounted"

    try:
        both(attempt)
    except Held as error:
        raise Held(str(error))
    raise Held("mounted, but only in a namespace of its own")


def device_node():
    path = f"{scratch}/device"

    def attempt():
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.close(os.open(path, os.O_RDWR))
        return "made and opened"

    return both(attempt)


def core_pattern():
    os.close(os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY))
    return "opened for writing"


def directory_from_a_peer():
    """A descriptor of a host directory leads around the mount tree; only Landlock is behind it."""
    with socket.socket(fileno=int(peer)) as s:
        _, got, _, _ = s.recvmsg(1, socket.CMSG_SPACE(4))
    directory = array.array("i", got[0][2])[0]
    try:
        os.close(os.open("written", os.O_CREAT | os.O_WRONLY, dir_fd=directory))
        return "a file on the host"
    finally:
        os.close(directory)


with open(int(report), "w") as out:
    for attempt in (
        descriptor_leak,
        program_overwrite,
        trace_the_parent,
        abstract_socket,
        session_keyring,
        type_into_the_terminal,
        nested_namespaces,
        remount,
        propagation,
        device_node,
        core_pattern,
        directory_from_a_peer,
    ):
        try:
            words = "OUT " + attempt()
        except (OSError, Held) as error:
            words = f"held {error}"
        out.write(f"{attempt.__name__}: {words}\n".replace("\0", ""))
    out.write("end: \n")
