//! Which servers a build may reach: the list, and the decision about one request.
//!
//! Pure: the session's policy service asks here for what the daemon is about to fetch ([`Egress::decide`]), and whoever carries
//! connections asks for whom a connection is meant ([`Egress::admits`]) and where it leads ([`special`], [`Egress::names`]).

mod address;
mod host;
mod rule;
mod target;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub use address::special;
pub use host::{Host, HostError};
pub use rule::{Rule, RuleError};
pub use target::{Scheme, Target, TargetError};

/// The servers that a build may reach.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Egress {
    rules: BTreeSet<Rule>,
    /// Everything public may be reached; what is, will be the next list.
    learn: bool,
}

/// What is to become of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It reaches no network.
    Local,
    /// By this rule, or by none where a list is learned.
    Allowed {
        target: Target,
        rule: Option<Rule>,
    },
    Denied {
        url: String,
        why: String,
    },
}

impl Egress {
    pub fn new(rules: impl IntoIterator<Item = Rule>, learn: bool) -> Egress {
        Egress { rules: rules.into_iter().collect(), learn }
    }

    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter()
    }

    pub fn learns(&self) -> bool {
        self.learn
    }

    /// Whether the daemon may fetch this source.
    pub fn decide(&self, identifier: &str, attrs: &BTreeMap<String, String>) -> Decision {
        let target = match Target::of(identifier, attrs) {
            Ok(Some(target)) => target,
            Ok(None) => return Decision::Local,
            Err(error) => return Decision::Denied { url: identifier.to_owned(), why: error.to_string() },
        };
        if let Some(rule) = self.rules.iter().find(|rule| rule.admits(&target)) {
            return Decision::Allowed { rule: Some(rule.clone()), target };
        }
        let why = match &target.host {
            host if self.rules.iter().any(|rule| rule.reaches(host, target.port)) => {
                Some("the rules for this server do not go so far".to_owned())
            }
            Host::Address(address) => {
                special(*address).map(|what| format!("the address is {what}, and no rule names it"))
            }
            Host::Name(name) if name == "localhost" || name.ends_with(".localhost") => {
                Some("the name is loopback's, and no rule names it".to_owned())
            }
            Host::Name(_) => None,
        };
        match why {
            None if self.learn => Decision::Allowed { target, rule: None },
            why => Decision::Denied {
                url: target.to_string(),
                why: format!(
                    "{}; --egress {} would",
                    why.as_deref().unwrap_or("no rule allows it"),
                    Rule::of(&target)
                ),
            },
        }
    }

    /// Whether anything at this server may be reached.
    pub fn admits(&self, host: &Host, port: u16) -> bool {
        let named = self.rules.iter().any(|rule| rule.reaches(host, port));
        named || self.learn && !matches!(host, Host::Address(address) if special(*address).is_some())
    }

    /// Whether a rule names the address itself. Others are out of bounds where they are [`special`], whatever name led there:
    /// whoever runs a name's zone decides where it leads.
    pub fn names(&self, address: IpAddr, port: u16) -> bool {
        let host = Host::Address(address.to_canonical());
        self.rules.iter().any(|rule| rule.reaches(&host, port))
    }

    /// Every port at which something may be reached.
    pub fn ports(&self) -> BTreeSet<u16> {
        let learned = [Scheme::Http.port(), Scheme::Https.port()].into_iter().filter(|_| self.learn);
        self.rules.iter().map(Rule::port).chain(learned).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn egress(rules: &[&str], learn: bool) -> Egress {
        Egress::new(rules.iter().map(|rule| rule.parse().unwrap()), learn)
    }

    #[test]
    fn decisions_say_why() {
        let list = egress(&["example.org", "http://127.0.0.1:5000"], false);
        let denied = |list: &Egress, url: &str| match list.decide(url, &BTreeMap::new()) {
            Decision::Denied { why, .. } => why,
            other => panic!("{url}: {other:?}"),
        };
        let allowed = |list: &Egress, url: &str| match list.decide(url, &BTreeMap::new()) {
            Decision::Allowed { rule, .. } => rule.map_or("learned".to_owned(), |rule| rule.to_string()),
            other => panic!("{url}: {other:?}"),
        };
        assert_eq!(allowed(&list, "https://example.org/x"), "example.org");
        assert_eq!(allowed(&list, "docker-image://127.0.0.1:5000/a:1"), "http://127.0.0.1:5000");
        assert_eq!(list.decide("local://context", &BTreeMap::new()), Decision::Local);
        assert_eq!(
            denied(&list, "http://example.org/"),
            "no rule allows it; --egress http://example.org would"
        );
        assert_eq!(
            denied(&list, "http://169.254.169.254/x"),
            "the address is link-local, and no rule names it; --egress http://169.254.169.254 would"
        );
        assert!(denied(&list, "http://2130706433/").contains("four decimal"));

        let learning = egress(&["http://127.0.0.1:5000"], true);
        assert_eq!(allowed(&learning, "https://anything.example/"), "learned");
        assert_eq!(allowed(&learning, "http://127.0.0.1:5000/"), "http://127.0.0.1:5000");
        for url in ["http://127.0.0.1/", "http://[::1]/", "http://10.0.0.1/", "http://a.localhost/"] {
            assert!(denied(&learning, url).contains("no rule names it"), "{url}");
        }
    }

    #[test]
    fn a_name_does_not_lead_inside() {
        let list = egress(&["example.org", "10.0.0.5:443"], false);
        let name = Host::parse("example.org").unwrap();
        assert!(list.admits(&name, 443) && !list.admits(&name, 80));
        assert!(!list.admits(&Host::parse("evil.example").unwrap(), 443));
        for (address, port, ok) in [
            ("10.0.0.5", 443, true),
            ("::ffff:10.0.0.5", 443, true),
            ("10.0.0.5", 80, false),
            ("10.0.0.6", 443, false),
            ("127.0.0.1", 443, false),
        ] {
            assert_eq!(list.names(address.parse().unwrap(), port), ok, "{address}:{port}");
        }
        assert_eq!(list.ports(), [443].into());
        assert_eq!(egress(&["x:8080"], true).ports(), [80, 443, 8080].into());
        assert!(egress(&[], true).admits(&name, 4711));
        assert!(!egress(&[], true).admits(&Host::parse("10.0.0.1").unwrap(), 80));
    }
}
