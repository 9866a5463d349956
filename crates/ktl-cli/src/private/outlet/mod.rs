//! The one way out of a private daemon whose network namespace has none: to the servers of its list.
//!
//! The daemon's own proxy asks the build's session about each request, but what the daemon fetches besides (what a registry
//! redirects to, the target of a redirected ADD) is asked about nowhere, and an allowed name may lead to any address. So the
//! namespace has no uplink at all. In it every address leads to [`inside`] sockets, and each name that is on the list is given an
//! address of its own ([`names`]). The sockets are held by the supervisor, outside: it sees who was meant, resolves the name
//! itself, and carries the bytes ([`carry`]) where the list and the address allow it. TLS stays between the daemon and the server.
//!
//! The list belongs to the daemon and never changes; builds with different lists have different daemons. So a step that another
//! build has made was made under the same list.

mod carry;
pub mod inside;
mod names;

use std::io::{self, Write as _};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixStream;

use buildsvc::egress::Egress;

use crate::broker::wire::{self, Descriptors};

/// Different ports that a list may have; each has a socket.
pub const MAX_PORTS: usize = 128;

/// Sockets of the daemon's namespace.
#[derive(Debug)]
struct Sockets {
    names: UdpSocket,
    ports: Vec<TcpListener>,
}

/// Takes the sockets that arrive on `channel` and serves them for as long as this process lives, on a thread of its own.
pub fn serve(channel: UnixStream, egress: Egress) {
    std::thread::spawn(move || {
        let served = receive(&channel).and_then(|sockets| carry::run(sockets, egress));
        if let Err(error) = served {
            let _ = writeln!(io::stderr().lock(), "[egress] the way out is closed: {error}");
        }
    });
}

fn receive(channel: &UnixStream) -> io::Result<Sockets> {
    let mut names = None;
    let mut ports = Vec::new();
    while let Some(frame) = wire::receive(channel, Descriptors::Take)? {
        match (frame.header.as_slice(), frame.descriptor, names.take()) {
            (inside::NAMES, Some(socket), None) => names = Some(UdpSocket::from(socket)),
            (inside::PORT, Some(socket), Some(kept)) if ports.len() < MAX_PORTS => {
                ports.push(TcpListener::from(socket));
                names = Some(kept);
            }
            (inside::DONE, None, Some(names)) => return Ok(Sockets { names, ports }),
            _ => return Err(io::Error::other("the jail hands out what nobody asked for")),
        }
    }
    Err(io::Error::other("the jail ended before it had handed out its sockets"))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn sockets_come_in_order() {
        let received = |frames: &[&[u8]]| {
            let (ours, theirs) = UnixStream::pair().unwrap();
            for header in frames {
                let name = UdpSocket::bind("127.0.0.1:0").unwrap();
                let port = TcpListener::bind("127.0.0.1:0").unwrap();
                let socket = match *header {
                    inside::NAMES => Some(name.as_fd()),
                    inside::PORT => Some(port.as_fd()),
                    _ => None,
                };
                wire::send(&theirs, header, &[], socket).unwrap();
            }
            theirs.shutdown(std::net::Shutdown::Write).unwrap();
            receive(&ours).map(|sockets| sockets.ports.len())
        };
        let (names, port, done) = (inside::NAMES, inside::PORT, inside::DONE);
        assert_eq!(received(&[names, port, port, done]).unwrap(), 2);
        for wrong in
            [&[names, port][..], &[port, names, done], &[done], &[names, names, done], &[names, b"x", done]]
        {
            received(wrong).unwrap_err();
        }
        let mut many = vec![names];
        many.extend(vec![port; MAX_PORTS + 1]);
        received(&many).unwrap_err();
    }
}
