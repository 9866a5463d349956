//! Connection attempts of the probe. A refusal by the kernel of this side (no such sockets, no route) means that the other
//! side is out of reach; anything that came back from a network is never called hidden.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::{Answer, Verdict, Visibility};

/// How long a target may keep the probe waiting.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) fn tcp(host: &str, port: u16) -> Answer {
    let addresses = match host.parse::<IpAddr>() {
        Ok(address) => vec![address],
        Err(_) if host.eq_ignore_ascii_case("localhost") => {
            vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
        }
        Err(_) => {
            let why = "names are not resolved inside: the jail has no resolver; ask for an IP address";
            return Answer::unknown(why);
        }
    };
    let each = PATIENCE / u32::try_from(addresses.len()).unwrap_or(1);
    let answers: Vec<Answer> =
        addresses.into_iter().map(|ip| connect(SocketAddr::new(ip, port), each)).collect();
    let strongest = |verdict| answers.iter().find(|answer| answer.verdict == verdict).cloned();
    strongest(Verdict::Visible)
        .or_else(|| strongest(Verdict::Unknown))
        .or_else(|| strongest(Verdict::Hidden))
        .unwrap_or_else(|| Answer::unknown("no address"))
}

fn connect(address: SocketAddr, patience: Duration) -> Answer {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    if let Err(error) = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None) {
        return Answer::hidden(&format!("no such socket can be made: {}", words(error.into())));
    }
    let error = match TcpStream::connect_timeout(&address, patience) {
        Ok(_) => return Answer::visible("connected"),
        Err(error) => error,
    };
    let number = error.raw_os_error().map(Errno::from_raw_os_error);
    match number {
        Some(Errno::NETUNREACH | Errno::NETDOWN | Errno::ADDRNOTAVAIL) => {
            Answer::hidden(&format!("no way there: {}", words(error)))
        }
        Some(Errno::CONNREFUSED) if address.ip().is_loopback() => {
            Answer::hidden("a loopback is there, and nobody listens on it")
        }
        Some(Errno::CONNREFUSED) => Answer::unknown("connection refused, so there is a network"),
        _ if error.kind() == io::ErrorKind::TimedOut => Answer::unknown("no answer in time"),
        _ => Answer::unknown(&words(error)),
    }
}

/// `socket` is an absolute path, or `@NAME`.
pub(super) fn unix(socket: &str) -> Answer {
    let name = socket.strip_prefix('@');
    let address = match name {
        Some(name) => SocketAddrUnix::new_abstract_name(name.as_bytes()),
        None => SocketAddrUnix::new(socket),
    };
    let address = match address {
        Ok(address) => address,
        Err(error) => return Answer::unknown(&words(error.into())),
    };
    let there = || if name.is_some() { Visibility::Hidden } else { super::probe(Path::new(socket)) };
    // Without blocking: a listener whose queue is full would keep the probe waiting.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let made = match rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None) {
        Ok(made) => made,
        Err(error) => {
            return match there() {
                Visibility::Hidden => {
                    Answer::hidden(&format!("no such socket can be made: {}", words(error.into())))
                }
                seen => Answer { verdict: Verdict::Unknown, words: seen.to_string() },
            };
        }
    };
    match rustix::net::connect(&made, &address) {
        Ok(()) => Answer::visible("socket, connected"),
        Err(Errno::AGAIN) => Answer::visible("socket, somebody listens"),
        Err(Errno::PROTOTYPE) => Answer::visible("socket of another type"),
        Err(Errno::CONNREFUSED) if name.is_some() => Answer::hidden(""),
        Err(Errno::CONNREFUSED) => match Path::new(socket).metadata() {
            Ok(found) if found.file_type().is_socket() => Answer::visible("socket, nobody listens"),
            _ => Answer::from(there()),
        },
        Err(Errno::NOENT | Errno::NOTDIR) => Answer::from(there()),
        Err(error) => Answer::unknown(&words(error.into())),
    }
}

fn words(error: io::Error) -> String {
    let text = error.to_string();
    let end = text.find(" (os error").unwrap_or(text.len());
    text[..end].to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::unix::net::{UnixDatagram, UnixListener};

    #[test]
    fn tcp_answers_are_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(tcp("127.0.0.1", port).to_string(), "VISIBLE (connected)");
        assert_eq!(tcp("localhost", port).verdict, Verdict::Visible);
        drop(listener);
        assert_eq!(tcp("127.0.0.1", port).verdict, Verdict::Hidden);
        let named = tcp("builder.example", 80);
        assert_eq!(named.verdict, Verdict::Unknown);
        assert!(named.to_string().starts_with("unreachable (names are not resolved"), "{named}");
    }

    #[test]
    fn unix_sockets_are_tried() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let listener = UnixListener::bind(at("live")).unwrap();
        let _datagram = UnixDatagram::bind(at("dgram")).unwrap();
        drop(UnixListener::bind(at("dead")).unwrap());
        std::fs::write(at("file"), "x").unwrap();
        for (name, want) in [
            ("live", "VISIBLE (socket, connected)"),
            ("dgram", "VISIBLE (socket of another type)"),
            ("dead", "VISIBLE (socket, nobody listens)"),
            ("none", "hidden"),
        ] {
            assert_eq!(unix(&at(name)).to_string(), want, "{name}");
        }
        assert_eq!(unix(&at("file")).verdict, Verdict::Visible);
        assert_eq!(unix("@no-such-abstract-name-of-ktl").to_string(), "hidden");
        assert_eq!(unix(&format!("/{}", "x".repeat(200))).verdict, Verdict::Unknown);
        drop(listener);
    }
}
