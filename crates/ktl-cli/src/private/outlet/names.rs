//! Names in a namespace without a name server: each that is on the list has an address made up for it, and no other has one.
//!
//! Nothing that is asked leaves the machine, so a question carries nothing out. Follows RFC 1035, for questions of one name.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use buildsvc::egress::{Egress, Host};

/// The block that is set aside for benchmarks: nobody's.
const FIRST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// Names that may be given addresses; a wildcard has room for any number.
const MAX_NAMES: usize = 65_536;
const MAX_QUESTION: usize = 512;
/// Seconds. An address stays what it is, so nobody need remember it.
const TTL: u32 = 1;

const TYPE_A: u16 = 1;
const CLASS_IN: u16 = 1;
const NO_ERROR: u8 = 0;
const SERVER_FAILURE: u8 = 2;
const NO_SUCH_NAME: u8 = 3;
const NOT_IMPLEMENTED: u8 = 4;

/// Which name which address was made up for.
#[derive(Debug, Default)]
pub struct Names {
    by_name: HashMap<String, u32>,
    names: Vec<String>,
}

impl Names {
    pub fn address_of(&mut self, name: &str) -> Option<Ipv4Addr> {
        let index = match self.by_name.get(name) {
            Some(index) => *index,
            None if self.names.len() < MAX_NAMES => {
                let index = u32::try_from(self.names.len()).ok()?;
                self.names.push(name.to_owned());
                self.by_name.insert(name.to_owned(), index);
                index
            }
            None => return None,
        };
        Some(Ipv4Addr::from_bits(FIRST.to_bits() + index))
    }

    pub fn name_of(&self, address: Ipv4Addr) -> Option<&str> {
        let index = address.to_bits().checked_sub(FIRST.to_bits())?;
        self.names.get(usize::try_from(index).ok()?).map(String::as_str)
    }

    /// The answer to a question, and the name that was asked for when it has no address; nothing for what is no question.
    pub fn answer(&mut self, question: &[u8], egress: &Egress) -> Option<(Vec<u8>, Option<String>)> {
        let (header, rest) = question.split_at_checked(12)?;
        let is_question = header[2] & 0x80 == 0 && question.len() <= MAX_QUESTION;
        if !is_question {
            return None;
        }
        let plain = header[2] & 0x78 == 0 && header[4..6] == [0, 1];
        let Some((name, kind, length)) = asked(rest).filter(|_| plain) else {
            return Some((reply(header, &[], NOT_IMPLEMENTED, None), None));
        };
        let echoed = &rest[..length];
        let host = Host::parse(&name);
        let listed = host.as_ref().is_ok_and(|host| {
            matches!(host, Host::Name(_)) && egress.ports().iter().any(|port| egress.admits(host, *port))
        });
        let (Ok(host), true) = (host, listed) else {
            return Some((reply(header, echoed, NO_SUCH_NAME, None), Some(name)));
        };
        if kind != (TYPE_A, CLASS_IN) {
            return Some((reply(header, echoed, NO_ERROR, None), None));
        }
        match self.address_of(&host.to_string()) {
            Some(address) => Some((reply(header, echoed, NO_ERROR, Some(address)), None)),
            None => Some((reply(header, echoed, SERVER_FAILURE, None), Some(name))),
        }
    }
}

/// The name, the type and class that are asked for, and how many bytes that takes.
fn asked(question: &[u8]) -> Option<(String, (u16, u16), usize)> {
    let mut name = String::new();
    let mut at = 0;
    loop {
        let length = usize::from(*question.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        // What has the highest bits set is no label.
        let label = question.get(at..at + length).filter(|_| length < 64)?;
        let text = std::str::from_utf8(label)
            .ok()
            .filter(|text| text.bytes().all(|b| b.is_ascii_graphic() && b != b'.'))?;
        if !name.is_empty() {
            name.push('.');
        }
        name.push_str(text);
        at += length;
    }
    let tail = question.get(at..at + 4)?;
    let number = |at: usize| u16::from_be_bytes([tail[at], tail[at + 1]]);
    Some((name, (number(0), number(2)), at + 4))
}

fn reply(header: &[u8], question: &[u8], code: u8, address: Option<Ipv4Addr>) -> Vec<u8> {
    let mut reply = Vec::with_capacity(12 + question.len() + 16);
    reply.extend(&header[..2]);
    // An answer, recursion as it was desired, and available.
    reply.extend([0x80 | (header[2] & 0x01), 0x80 | code]);
    reply.extend([0, u8::from(!question.is_empty()), 0, u8::from(address.is_some()), 0, 0, 0, 0]);
    reply.extend(question);
    if let Some(address) = address {
        // The name of the question, by its place.
        reply.extend([0xc0, 12]);
        reply.extend(TYPE_A.to_be_bytes());
        reply.extend(CLASS_IN.to_be_bytes());
        reply.extend(TTL.to_be_bytes());
        reply.extend([0, 4]);
        reply.extend(address.octets());
    }
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(name: &str, kind: u16) -> Vec<u8> {
        let mut bytes = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            bytes.push(u8::try_from(label.len()).unwrap());
            bytes.extend(label.as_bytes());
        }
        bytes.push(0);
        bytes.extend(kind.to_be_bytes());
        bytes.extend(CLASS_IN.to_be_bytes());
        bytes
    }

    fn egress() -> Egress {
        Egress::new(["example.org", "*.example.com:80"].map(|rule| rule.parse().unwrap()), false)
    }

    #[test]
    fn names_on_the_list_have_addresses() {
        let mut names = Names::default();
        let mut answer = |name: &str, kind| names.answer(&question(name, kind), &egress()).unwrap();
        let (reply, refused) = answer("example.org", TYPE_A);
        assert_eq!(refused, None);
        assert_eq!(reply[..8], [0xab, 0xcd, 0x81, 0x80, 0, 1, 0, 1]);
        assert_eq!(reply[reply.len() - 4..], [198, 18, 0, 1]);
        assert_eq!(answer("EXAMPLE.org", TYPE_A).0[reply.len() - 4..], [198, 18, 0, 1]);
        let (other, _) = answer("a.example.com", TYPE_A);
        assert_eq!(other[other.len() - 4..], [198, 18, 0, 2]);
        // It exists, and has no IPv6 address.
        let (reply, _) = answer("example.org", 28);
        assert_eq!((reply[3] & 0xf, reply[7]), (NO_ERROR, 0));
        for absent in ["example.com", "evil.example", "localhost", "127.0.0.1", "x.example.org"] {
            let (reply, refused) = answer(absent, TYPE_A);
            assert_eq!(
                (reply[3] & 0xf, reply[7], refused.as_deref()),
                (NO_SUCH_NAME, 0, Some(absent)),
                "{absent}"
            );
        }
        assert_eq!(names.name_of(Ipv4Addr::new(198, 18, 0, 2)), Some("a.example.com"));
        assert_eq!(names.name_of(Ipv4Addr::new(198, 18, 0, 3)), None);
        assert_eq!(names.name_of(Ipv4Addr::new(198, 18, 0, 0)), None);
    }

    #[test]
    fn what_is_no_question_is_not_answered() {
        let good = question("example.org", TYPE_A);
        let code = |bytes: &[u8]| Names::default().answer(bytes, &egress()).map(|(reply, _)| reply[3] & 0xf);
        assert_eq!(code(&good), Some(NO_ERROR));
        assert_eq!(code(&good[..11]), None);
        let mut response = good.clone();
        response[2] |= 0x80;
        assert_eq!(code(&response), None);
        assert_eq!(code(&[good.clone(), vec![0; 512]].concat()), None);
        // Cut short, with a pointer for a label, with two questions, with a dot in a label.
        for cut in 12..good.len() {
            assert_eq!(code(&good[..cut]), Some(NOT_IMPLEMENTED), "{cut}");
        }
        let mut pointer = good.clone();
        pointer[12] = 0xc0;
        assert_eq!(code(&pointer), Some(NOT_IMPLEMENTED));
        let mut two = good.clone();
        two[5] = 2;
        assert_eq!(code(&two), Some(NOT_IMPLEMENTED));
        let mut dotted = good;
        dotted[13] = b'.';
        assert_eq!(code(&dotted), Some(NOT_IMPLEMENTED));
    }

    #[test]
    fn a_wildcard_fills_no_memory() {
        let mut names = Names::default();
        let list = Egress::new(["*.example.com:80".parse().unwrap()], false);
        let mut last = NO_ERROR;
        for number in 0..=MAX_NAMES {
            let (reply, _) =
                names.answer(&question(&format!("n{number}.example.com"), TYPE_A), &list).unwrap();
            last = reply[3] & 0xf;
        }
        assert_eq!(last, SERVER_FAILURE);
    }
}
