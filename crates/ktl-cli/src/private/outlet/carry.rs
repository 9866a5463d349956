//! Outside: from a connection in the daemon's namespace to the server that was meant, if it may be reached.
//!
//! The name is resolved here, and what is connected to is the address that was checked: whoever runs the name's zone has no
//! second chance. Addresses that are not public, and those of this machine, have to be on the list themselves.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use buildsvc::egress::{Egress, Host, special};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use super::Sockets;
use super::names::Names;

/// Connections at the same time.
const CONNECTIONS: usize = 512;
const CONNECT: Duration = Duration::from_secs(15);
/// Different lines in the log about what was refused.
const MAX_LINES: usize = 2000;

#[derive(Debug)]
struct Way {
    egress: Egress,
    names: Mutex<Names>,
    room: Semaphore,
    said: Mutex<BTreeSet<String>>,
}

/// Serves until the process ends.
pub fn run(sockets: Sockets, egress: Egress) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(sockets, egress))
}

async fn serve(sockets: Sockets, egress: Egress) -> io::Result<()> {
    let way = Arc::new(Way {
        egress,
        names: Mutex::default(),
        room: Semaphore::new(CONNECTIONS),
        said: Mutex::default(),
    });
    for listener in sockets.ports {
        listener.set_nonblocking(true)?;
        tokio::spawn(accept(TcpListener::from_std(listener)?, way.clone()));
    }
    sockets.names.set_nonblocking(true)?;
    let questions = UdpSocket::from_std(sockets.names)?;
    let mut buffer = [0; 1024];
    loop {
        let Ok((length, from)) = questions.recv_from(&mut buffer).await else { continue };
        let answer =
            way.names.lock().unwrap_or_else(PoisonError::into_inner).answer(&buffer[..length], &way.egress);
        let Some((reply, refused)) = answer else { continue };
        let _ = questions.send_to(&reply, from).await;
        if let Some(name) = refused {
            way.say(format_args!("refused the name {name}: no rule of this daemon's list has it"));
        }
    }
}

async fn accept(listener: TcpListener, way: Arc<Way>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(carry(stream, way.clone()))),
            // Out of descriptors: some will come back.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn carry(mut inside: TcpStream, way: Arc<Way>) {
    let Ok(meant) = inside.local_addr() else { return };
    let Ok(_room) = way.room.acquire().await else { return };
    match reach(meant, &way).await {
        // Either side may end it.
        Ok(mut outside) => drop(tokio::io::copy_bidirectional(&mut inside, &mut outside).await),
        Err(why) => way.say(format_args!("{why}")),
    }
}

/// Connects to whom `meant`, an address of the namespace, stands for.
async fn reach(meant: SocketAddr, way: &Way) -> Result<TcpStream, String> {
    let (address, port) = (meant.ip().to_canonical(), meant.port());
    let name = match address {
        IpAddr::V4(address) => {
            way.names.lock().unwrap_or_else(PoisonError::into_inner).name_of(address).map(str::to_owned)
        }
        IpAddr::V6(_) => None,
    };
    let host = name.clone().map_or(Host::Address(address), Host::Name);
    if !way.egress.admits(&host, port) {
        return Err(format!("refused {host}:{port}: no rule of this daemon's list has it"));
    }
    let addresses: Vec<IpAddr> = match name {
        None => vec![address],
        Some(name) => tokio::net::lookup_host((name.as_str(), port))
            .await
            .map_err(|error| format!("{host}:{port}: its address was not found: {error}"))?
            .map(|address| address.ip().to_canonical())
            .collect(),
    };
    let own = own_addresses();
    let mut why = "it has no address".to_owned();
    for address in addresses {
        if let Some(what) = out_of_bounds(address, port, &way.egress, &own) {
            why = format!("it leads to {address}, which is {what} and not named by a rule itself");
            continue;
        }
        match tokio::time::timeout(CONNECT, TcpStream::connect((address, port))).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => why = format!("{address}: {error}"),
            Err(_) => why = format!("{address}: no answer within {} s", CONNECT.as_secs()),
        }
    }
    Err(format!("{host}:{port} was not reached: {why}"))
}

/// What an address is that no connection may be made to.
fn out_of_bounds(
    address: IpAddr,
    port: u16,
    egress: &Egress,
    own: &BTreeSet<IpAddr>,
) -> Option<&'static str> {
    if egress.names(address, port) {
        return None;
    }
    special(address).or_else(|| own.contains(&address).then_some("this machine's own"))
}

/// Packets to these take another way than packets to other machines, around filters for those.
fn own_addresses() -> BTreeSet<IpAddr> {
    let all = nix::ifaddrs::getifaddrs().into_iter().flatten();
    all.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    })
    .collect()
}

impl Way {
    /// Writes a line into the daemon's log, unless it stands there already.
    fn say(&self, line: fmt::Arguments<'_>) {
        let line = line.to_string();
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.len() < MAX_LINES && said.insert(line.clone()) {
            let _ = writeln!(io::stderr().lock(), "[egress] {line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_out_of_bounds() {
        let egress = Egress::new(
            ["10.0.0.5:80", "192.0.2.1:80", "9.9.9.9:80"].map(|rule| rule.parse().unwrap()),
            false,
        );
        let own = ["8.8.8.8", "9.9.9.9"].map(|address| address.parse().unwrap()).into();
        for (address, port, what) in [
            ("1.1.1.1", 80, None),
            ("10.0.0.5", 80, None),
            ("10.0.0.5", 81, Some("private")),
            ("10.0.0.6", 80, Some("private")),
            ("127.0.0.1", 80, Some("loopback")),
            ("::ffff:127.0.0.1", 80, Some("loopback")),
            ("169.254.169.254", 80, Some("link-local")),
            ("8.8.8.8", 80, Some("this machine's own")),
            ("9.9.9.9", 80, None),
        ] {
            assert_eq!(
                out_of_bounds(address.parse().unwrap(), port, &egress, &own),
                what,
                "{address}:{port}"
            );
        }
        assert!(own_addresses().contains(&"127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn only_what_is_named_is_reached() {
        let server = std::net::TcpListener::bind("127.0.0.2:0").unwrap();
        let port = server.local_addr().unwrap().port();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let reached = |rules: &[String], meant: &str| {
            let way = Way {
                egress: Egress::new(rules.iter().map(|rule| rule.parse().unwrap()), false),
                names: Mutex::default(),
                room: Semaphore::new(1),
                said: Mutex::default(),
            };
            let made_up = way.names.lock().unwrap().address_of("localhost").unwrap();
            let meant = if meant == "localhost" { made_up.to_string() } else { meant.to_owned() };
            runtime.block_on(reach(SocketAddr::new(meant.parse().unwrap(), port), &way)).err()
        };
        let rule = |host: &str| format!("{host}:{port}");
        assert_eq!(reached(&[rule("127.0.0.2")], "127.0.0.2"), None);
        let why = reached(&[rule("127.0.0.1")], "127.0.0.2").unwrap();
        assert!(why.contains("no rule"), "{why}");
        // A name that leads inside is not enough.
        let why = reached(&[rule("localhost")], "localhost").unwrap();
        assert!(why.contains("which is loopback"), "{why}");
        let why = reached(&[rule("localhost"), rule("127.0.0.1"), rule("[::1]")], "localhost").unwrap();
        assert!(why.contains("refused") && !why.contains("loopback"), "nobody listens there: {why}");
    }
}
