//! What provenance says of the rules that a build ran under, so that two machines can show that they were the same.
//!
//! They travel as attributes of the request. BuildKit records those in the predicate (`externalParameters.request.args`; in the
//! older form `invocation.parameters.args`), and its `mode=min` leaves out none but build arguments and labels (moby/buildkit
//! `solver/llbsolver/provenance.go`). Frontends take no notice of names that they do not know. Like all of the request they are
//! the client's word; who wants more than that signs the attestation.
//!
//! Nothing here depends on the machine: a policy is told by the digest of what it says, not of how it is written, and of a
//! private builder's without the ids that it got here.

use std::collections::BTreeMap;

use buildsvc::digest::Digest;
use buildsvc::egress::Egress;
use sandbox_linux::{Policy, Runtime};
use sha2::Digest as _;

use crate::failure::{Failure, chain};
use crate::plan::Hermetic;
use crate::private::{self, Network};

type Attributes = BTreeMap<String, String>;

/// The policy of the client's jail, and who made that.
pub fn jail(attributes: &mut Attributes, policy: &Policy, runtime: &Runtime, binds: usize) {
    set(attributes, "policy", file_name(policy.name()));
    set(attributes, "policy.digest", digest(policy).to_string());
    if binds > 0 {
        // Holes that the policy does not know of.
        set(attributes, "policy.binds", binds.to_string());
    }
    set(attributes, "runtime", runtime.to_string());
}

/// There was none.
pub fn no_jail(attributes: &mut Attributes) {
    set(attributes, "runtime", "off".to_owned());
}

/// The network of RUN steps, and the policy of the builder where it is one in a jail.
pub fn builder(
    attributes: &mut Attributes,
    private: Option<Network>,
    hermetic: Hermetic,
    egress: Option<&Egress>,
) -> Result<(), Failure> {
    let forced = attributes.get("force-network-mode").cloned();
    let listed = egress.map(|_| "egress".to_owned());
    // What a plain builder's default is, only that knows.
    let network = forced.or(listed).or_else(|| private.map(|network| network.to_string()));
    set(attributes, "network", network.unwrap_or_else(|| "default".to_owned()));
    if let Some(list) = egress {
        let list = serde_json::to_vec(list)
            .map_err(|error| Failure::internal(format!("the list of servers: {error}")))?;
        set(attributes, "egress.digest", Digest::sha256(&sha2::Sha256::digest(list).into()).to_string());
    }
    match hermetic {
        Hermetic::Off => {}
        Hermetic::BestEffort => set(attributes, "hermetic", "best-effort".to_owned()),
        Hermetic::Required => set(attributes, "hermetic", "required".to_owned()),
    }
    if let Some(network) = private {
        let policy = private::policy(network)
            .map_err(|error| Failure::internal(format!("the private builder's policy: {}", chain(&error))))?;
        set(attributes, "builder.policy.digest", digest(&policy).to_string());
    }
    set(attributes, "version", env!("CARGO_PKG_VERSION").to_owned());
    Ok(())
}

/// The lock that says what the Dockerfile's names mean.
pub fn lock(attributes: &mut Attributes, digest: &Digest) {
    set(attributes, "lock.digest", digest.to_string());
}

fn set(attributes: &mut Attributes, name: &str, value: String) {
    attributes.insert(format!("ktl.{name}"), value);
}

/// Of the fields in their canonical order.
pub fn digest(policy: &Policy) -> Digest {
    Digest::sha256(&sha2::Sha256::digest(policy.to_json().to_string()).into())
}

fn file_name(path: &str) -> String {
    path.rsplit('/').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_what_it_says() {
        let of = |text: &str| digest(&Policy::parse("p", text.as_bytes()).unwrap());
        let text = of("# mine\nname: \"x\"\nclone_newnet: true\n");
        assert_eq!(text, of("clone_newnet:true name:'x'"));
        assert_eq!(text, of(r#"{"name": "x", "cloneNewnet": true}"#));
        assert_ne!(text, of("name: \"x\"\nclone_newnet: false\n"));
    }

    #[test]
    fn networks_and_builders() {
        let facts = |attributes: &[(&str, &str)], private, hermetic| {
            let mut all = attributes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            builder(&mut all, private, hermetic, None).unwrap();
            all
        };
        let plain = facts(&[], None, Hermetic::Off);
        assert_eq!(plain["ktl.network"], "default");
        assert!(!plain.contains_key("ktl.builder.policy.digest") && !plain.contains_key("ktl.hermetic"));
        let (mut locked, digest) = (plain.clone(), Digest::sha256(&[7; 32]));
        lock(&mut locked, &digest);
        assert_eq!(locked["ktl.lock.digest"], digest.to_string());
        let forced = facts(&[("force-network-mode", "none")], Some(Network::Host), Hermetic::BestEffort);
        assert_eq!(
            (forced["ktl.network"].as_str(), forced["ktl.hermetic"].as_str()),
            ("none", "best-effort")
        );
        let [none, host] =
            [Network::None, Network::Host].map(|network| facts(&[], Some(network), Hermetic::Off));
        assert_eq!((none["ktl.network"].as_str(), host["ktl.network"].as_str()), ("none", "host"));
        assert_ne!(none["ktl.builder.policy.digest"], host["ktl.builder.policy.digest"]);
        let listed = |rules: &[&str]| {
            let list = Egress::new(rules.iter().map(|rule| rule.parse().unwrap()), false);
            let mut all = Attributes::new();
            builder(&mut all, Some(Network::Host), Hermetic::Off, Some(&list)).unwrap();
            (all["ktl.network"].clone(), all["ktl.egress.digest"].clone())
        };
        assert_eq!(listed(&["a.org", "b.org"]), listed(&["b.org", "a.org"]));
        assert_eq!(listed(&["a.org"]).0, "egress");
        assert_ne!(listed(&["a.org"]).1, listed(&["b.org"]).1);
    }
}
