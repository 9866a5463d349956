//! What the step is to look for, and the sockets that ktl opens for it on this machine.
//!
//! They are opened, and connected to once, before the jail is forked. Nobody needs to serve them: the kernel keeps who has
//! connected in each one's queue, where [`Controls::heard`] looks after the build. They stay open for the whole build, so a RUN
//! step that finds one is heard as well.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};

use sandbox_linux::{Probe, Verdict, ask};
use tempfile::TempDir;

use super::{Link, PROXIED, Question, Try};
use crate::claims::{Claim, State};
use crate::failure::Failure;

const LOOPBACK: &str = "RUN: loopback of the host";
const ABSTRACT: &str = "RUN: abstract socket of the host";
const FILE: &str = "RUN: socket file of the host";

/// Addresses of documentation (RFC 5737, RFC 3849), which stand for all machines elsewhere: nobody has them, so what counts is
/// whether the kernel knows a way.
const ELSEWHERE: (&str, &str) = ("198.51.100.1", "2001:db8::1");
const METADATA: &str = "169.254.169.254";

/// The sockets. They close, and the file goes, when this is dropped.
#[derive(Debug)]
pub struct Controls {
    listeners: Vec<(&'static str, Listener)>,
    question: Question,
    _dir: TempDir,
}

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Controls {
    /// Opens them, and proves of each that it can be reached from here.
    pub fn open(nonce: &str, proxied: bool) -> Result<Controls, Failure> {
        let failed = |what: &'static str| {
            move |error: io::Error| {
                Failure::internal(format!("failed to open {what} for the look from inside: {error}"))
            }
        };
        let mut listeners = Vec::new();
        let v4 = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed("a port"))?;
        let port = v4.local_addr().map_err(failed("a port"))?;
        let mut loopback = vec![tcp(port)];
        listeners.push((LOOPBACK, Listener::Tcp(v4)));
        // A machine without IPv6 has none.
        if let Ok(v6) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) {
            loopback.push(tcp(v6.local_addr().map_err(failed("a port"))?));
            listeners.push((LOOPBACK, Listener::Tcp(v6)));
        }
        let name = format!("ktl-{nonce}");
        let address = UnixAddr::from_abstract_name(&name).map_err(failed("an abstract socket"))?;
        let listener = UnixListener::bind_addr(&address).map_err(failed("an abstract socket"))?;
        listeners.push((ABSTRACT, Listener::Unix(listener)));
        let dir =
            tempfile::Builder::new().prefix("ktl-").tempdir_in("/tmp").map_err(failed("a directory"))?;
        let path = dir.path().join("socket");
        listeners.push((FILE, Listener::Unix(UnixListener::bind(&path).map_err(failed("a socket"))?)));

        let reach = |what: &str, probe| Try::Reach(what.to_owned(), probe);
        let file = reach("its socket", Probe::Unix(path.display().to_string()));
        let mut elsewhere: Vec<Try> =
            own_address().map(|own| tcp(SocketAddr::new(own, 9))).into_iter().collect();
        elsewhere.push(address_of(ELSEWHERE.0));
        let link = |about: &str, tries| Link { about: about.to_owned(), tries, network: true };
        let mut links = vec![
            link(LOOPBACK, loopback),
            link(ABSTRACT, vec![reach("its socket", Probe::Unix(format!("@{name}")))]),
            Link {
                network: false,
                ..link(FILE, vec![file, reach("docker's", Probe::Unix("/var/run/docker.sock".into()))])
            },
            link("RUN: LAN and other machines", elsewhere),
            link("RUN: metadata address", vec![address_of(METADATA)]),
            link("RUN: IPv6", vec![address_of(ELSEWHERE.1)]),
            link("RUN: names", vec![Try::Names]),
        ];
        // The one interface of a step that has the daemon's proxy leads to the proxy.
        links.insert(
            0,
            match proxied {
                true => link(PROXIED, vec![Try::Proxied(format!("http://{port}/{nonce}"))]),
                false => link("RUN: network interfaces", vec![Try::Interfaces]),
            },
        );
        let controls =
            Controls { listeners, question: Question { nonce: nonce.to_owned(), links }, _dir: dir };
        controls.prove()?;
        Ok(controls)
    }

    pub fn question(&self) -> &Question {
        &self.question
    }

    /// A socket that cannot be reached from here would be "not reached" from everywhere.
    fn prove(&self) -> Result<(), Failure> {
        let ours = |about: &str| self.listeners.iter().any(|(of, _)| *of == about);
        for link in self.question.links.iter().filter(|link| ours(&link.about)) {
            let own =
                link.tries.iter().filter(|tried| !matches!(tried, Try::Reach(what, _) if what == "docker's"));
            for tried in own {
                if let Try::Reach(_, probe) = tried
                    && ask(probe).verdict != Verdict::Visible
                {
                    let what = format!("{}: {probe:?} is not to be reached from here either", link.about);
                    return Err(Failure::internal(what));
                }
            }
        }
        for (about, listener) in &self.listeners {
            let heard = listener.count();
            if heard != 1 {
                let what = format!("{about}: {heard} connections instead of the one that was made");
                return Err(Failure::internal(what));
            }
        }
        Ok(())
    }

    /// What came to the sockets since: a link whose socket somebody has reached is broken, whatever else was said of it.
    pub fn heard(&self, claims: &mut Vec<Claim>) {
        for (about, listener) in &self.listeners {
            let heard = listener.count();
            if heard == 0 {
                continue;
            }
            let claim = claims.iter().position(|claim| claim.about == *about);
            let said = claim.map(|at| claims.remove(at));
            let mut detail = match heard {
                1 => "a connection has arrived on this side".to_owned(),
                many => format!("{many} connections have arrived on this side"),
            };
            if let Some(said) = said.filter(|said| said.state != State::Broken) {
                detail = format!("{detail}, though the step said: {}", said.detail);
            }
            let claim = Claim { forced: *about != FILE, ..Claim::new(*about, State::Broken, detail) };
            claims.push(claim);
        }
    }
}

impl Listener {
    /// How many have connected since the last time.
    fn count(&self) -> usize {
        let mut count = 0;
        let ready = match self {
            Listener::Tcp(listener) => listener.set_nonblocking(true),
            Listener::Unix(listener) => listener.set_nonblocking(true),
        };
        while ready.is_ok() && count < 1000 {
            let next = match self {
                Listener::Tcp(listener) => listener.accept().map(drop),
                Listener::Unix(listener) => listener.accept().map(drop),
            };
            match next {
                Ok(()) => count += 1,
                Err(_) => break,
            }
        }
        count
    }
}

fn tcp(address: SocketAddr) -> Try {
    Try::Reach(address.to_string(), Probe::Tcp { host: address.ip().to_string(), port: address.port() })
}

fn address_of(host: &str) -> Try {
    Try::Reach(host.to_owned(), Probe::Tcp { host: host.to_owned(), port: 80 })
}

/// The address under which other machines know this one, where it has one. Nothing is sent for that.
fn own_address() -> Option<std::net::IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((ELSEWHERE.0, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|own| !own.is_loopback() && !own.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_connects_is_heard_whatever_was_said() {
        let controls = Controls::open("0123456789abcdef", false).unwrap();
        let mut claims = vec![Claim::held(ABSTRACT, "hidden"), Claim::held(FILE, "hidden")];
        controls.heard(&mut claims);
        assert!(claims.iter().all(|claim| claim.state == State::Held), "{claims:?}");

        let tries = |about: &str| {
            controls.question.links.iter().find(|link| link.about == about).unwrap().tries.clone()
        };
        for about in [ABSTRACT, LOOPBACK] {
            let Try::Reach(_, probe) = &tries(about)[0] else { panic!("{about}") };
            assert_eq!(ask(probe).verdict, Verdict::Visible);
        }
        controls.heard(&mut claims);
        let state = |about: &str| claims.iter().find(|claim| claim.about == about).map(|claim| claim.state);
        assert_eq!(state(ABSTRACT), Some(State::Broken), "{claims:?}");
        assert_eq!(state(LOOPBACK), Some(State::Broken), "a link that nobody spoke of");
        assert_eq!(state(FILE), Some(State::Held));
        assert_eq!(claims.len(), 3);
    }
}
