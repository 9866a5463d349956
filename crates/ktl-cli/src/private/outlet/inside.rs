//! In the daemon's namespace, before the daemon starts: every address leads to this namespace itself, and sockets of it go out.
//!
//! A route of type local for all addresses, on the loopback device (`ip route add local default dev lo`), makes the kernel take
//! connections to any of them for its own; a socket that is bound to no address accepts them, and tells which one was meant. See
//! rtnetlink(7).

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

use crate::broker::wire;

/// Frame of the socket that is asked for names.
pub const NAMES: &[u8] = b"names";
/// Frame of a socket that is connected to.
pub const PORT: &[u8] = b"port";
/// The last frame: whoever made the jail may hold the channel open.
pub const DONE: &[u8] = b"done";

/// Address of the loopback device in a namespace of its own.
const LOOPBACK: u32 = 1;

/// Makes the routes and the sockets, and hands the sockets out on `channel`.
pub fn hand_out(ports: &BTreeSet<u16>, channel: OwnedFd) -> io::Result<()> {
    let channel = UnixStream::from(channel);
    route(libc::AF_INET)?;
    // A kernel without IPv6 has no address that leads anywhere.
    let ipv6 = route(libc::AF_INET6).is_ok();
    let names = UdpSocket::bind((Ipv4Addr::LOCALHOST, 53))?;
    wire::send(&channel, NAMES, &[], Some(names.as_fd()))?;
    for port in ports {
        // One for both families, where there are two.
        let listener = match ipv6 {
            true => TcpListener::bind((Ipv6Addr::UNSPECIFIED, *port)),
            false => TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)),
        }?;
        wire::send(&channel, PORT, &[], Some(listener.as_fd()))?;
    }
    wire::send(&channel, DONE, &[], None)
}

/// Takes every address of the family for one of this namespace's own.
fn route(family: i32) -> io::Result<()> {
    let socket =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    let message = new_route(family);
    send(socket.as_raw_fd(), &message, MsgFlags::empty())?;
    let mut reply = [0; 1024];
    let length = recv(socket.as_raw_fd(), &mut reply, MsgFlags::empty())?;
    acknowledged(&reply[..length])
}

/// `struct nlmsghdr`, `struct rtmsg` and one attribute.
fn new_route(family: i32) -> Vec<u8> {
    let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let mut message = vec![0; 4];
    message.extend(libc::RTM_NEWROUTE.to_ne_bytes());
    message.extend((flags as u16).to_ne_bytes());
    // Sequence, and the port that the kernel chooses.
    message.extend([0; 8]);
    let no_flags = 0_u32.to_ne_bytes();
    message.extend([family as u8, 0, 0, 0]);
    message.extend([libc::RT_TABLE_LOCAL, libc::RTPROT_BOOT, libc::RT_SCOPE_HOST, libc::RTN_LOCAL]);
    message.extend(no_flags);
    message.extend(8_u16.to_ne_bytes());
    message.extend(libc::RTA_OIF.to_ne_bytes());
    message.extend(LOOPBACK.to_ne_bytes());
    let length = (message.len() as u32).to_ne_bytes();
    message[..4].copy_from_slice(&length);
    message
}

/// Reads the `struct nlmsgerr` that answers a request.
fn acknowledged(reply: &[u8]) -> io::Result<()> {
    let kind = reply.get(4..6).map(|bytes| u16::from_ne_bytes([bytes[0], bytes[1]]));
    let code = reply.get(16..20).map(|bytes| i32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
    match (kind.map(i32::from), code) {
        (Some(libc::NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(libc::NLMSG_ERROR), Some(code)) => Err(io::Error::from_raw_os_error(-code)),
        _ => Err(io::Error::other("the kernel gave no answer about a route")),
    }
}
