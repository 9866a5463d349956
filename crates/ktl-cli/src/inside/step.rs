//! The hidden command that runs as a step: it tries, and writes down what came of it.

use std::fs;
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use sandbox_linux::Verdict;

use super::{Answer, Answers, Question, Try, proxied};
use crate::env::{self, Env};

/// Name of the command; the question is its one argument.
pub const COMMAND: &str = "__inside";
/// Where the answer goes, in the step's own root.
pub const ANSWER: &str = "/ktl-answer.json";

/// For a name server to say anything at all.
const NAME_SERVER: Duration = Duration::from_secs(1);

pub fn run(env: &Env) -> ExitCode {
    let question = std::env::args().nth(2).and_then(|text| serde_json::from_str::<Question>(&text).ok());
    let Some(question) = question else {
        eprintln!("this command is run by ktl, as a step of a build");
        return ExitCode::from(2);
    };
    let proxy = env.text(env::HTTP_PROXY);
    // A way that is open may take its time; each waits by itself.
    let tries: Vec<Vec<_>> = question
        .links
        .into_iter()
        .map(|link| {
            let start = |tried| {
                let proxy = proxy.clone();
                thread::spawn(move || answer(&tried, proxy.as_deref()))
            };
            link.tries.into_iter().map(start).collect()
        })
        .collect();
    let join = |answer: thread::JoinHandle<Answer>| {
        answer.join().unwrap_or_else(|_| unknown("the try ended early".to_owned()))
    };
    let links = tries.into_iter().map(|link| link.into_iter().map(join).collect()).collect();
    let answers = Answers { nonce: question.nonce, links };
    let written =
        serde_json::to_vec(&answers).map_err(io::Error::from).and_then(|text| fs::write(ANSWER, text));
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("failed to write {ANSWER}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn unknown(words: String) -> Answer {
    Answer { verdict: Verdict::Unknown, words }
}

fn answer(tried: &Try, proxy: Option<&str>) -> Answer {
    match tried {
        Try::Reach(_, probe) => {
            let answer = sandbox_linux::ask(probe);
            Answer { verdict: answer.verdict, words: answer.words }
        }
        Try::Interfaces => match sandbox_linux::ways_out("self") {
            Ok(found) if found.is_empty() => {
                Answer { verdict: Verdict::Hidden, words: "lo alone".to_owned() }
            }
            Ok(found) => Answer { verdict: Verdict::Visible, words: found.join(" ") },
            Err(error) => unknown(format!("/proc/self/net/dev: {error}")),
        },
        Try::Names => names(),
        Try::Proxied(url) => proxied::ask(url, proxy),
    }
}

/// Asks every name server that this step has been given, and that of a machine without any.
fn names() -> Answer {
    let given = match fs::read_to_string("/etc/resolv.conf") {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return unknown(format!("/etc/resolv.conf: {error}")),
    };
    let mut servers = name_servers(&given);
    servers.push(IpAddr::from([127, 0, 0, 1]));
    let asked: Vec<(IpAddr, io::Result<()>)> =
        servers.into_iter().take(8).map(|server| (server, resolve(server))).collect();
    if let Some((server, _)) = asked.iter().find(|(_, asked)| asked.is_ok()) {
        return Answer { verdict: Verdict::Visible, words: format!("{server} answers") };
    }
    let silent =
        |error: &io::Error| matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
    if let Some((server, _)) = asked.iter().find(|(_, asked)| asked.as_ref().is_err_and(silent)) {
        return unknown(format!("a question went to {server}, which has not answered"));
    }
    let list: Vec<String> = asked.iter().map(|(server, _)| server.to_string()).collect();
    Answer { verdict: Verdict::Hidden, words: format!("out of reach: {}", list.join(", ")) }
}

fn name_servers(given: &str) -> Vec<IpAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        let address = words.next().filter(|word| *word == "nameserver").and_then(|_| words.next())?;
        address.split('%').next()?.parse().ok()
    };
    given.lines().filter_map(server).collect()
}

/// A question of RFC 1035 for a name that cannot exist; any word that comes back is an answer.
fn resolve(server: IpAddr) -> io::Result<()> {
    let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(NAME_SERVER))?;
    socket.connect((server, 53))?;
    let mut question = vec![0x4b, 0x74, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in ["ktl-looks", "invalid", ""] {
        question.push(u8::try_from(label.len()).unwrap_or_default());
        question.extend(label.bytes());
    }
    question.extend([0, 1, 0, 1]);
    socket.send(&question)?;
    socket.recv(&mut [0; 512]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read() {
        let text =
            "# x\nnameserver 127.0.0.53\nsearch a\nnameserver fe80::1%eth0\nnameserver\nnameserver x\n";
        let found: Vec<String> = name_servers(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["127.0.0.53", "fe80::1"]);
    }

    #[test]
    fn interfaces_are_those_of_this_process() {
        let found = answer(&Try::Interfaces, None);
        let ways = sandbox_linux::ways_out("self").unwrap();
        assert_eq!(found.verdict == Verdict::Visible, !ways.is_empty(), "{found:?}");
    }
}
