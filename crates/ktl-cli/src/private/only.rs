//! Wishes that only a private builder can meet, because ktl starts it: no other is taken for it, named or found.

use crate::builder::{Address, Candidate, DEFAULT_NAME};
use crate::exit::Exit;
use crate::failure::Failure;

/// The private ones of the candidates, or the default one where nobody has named any. `by` is what says the wish, and `why`
/// what is wrong with any other builder.
pub fn only(candidates: Vec<Candidate>, by: &'static str, why: &str) -> Result<Vec<Candidate>, Failure> {
    let private = |candidate: &Candidate| candidate.address.is_private();
    match candidates.iter().find(|candidate| candidate.demanded && !private(candidate)) {
        None if candidates.iter().any(private) => Ok(candidates),
        None => {
            let address = Address::Jail(DEFAULT_NAME.to_owned());
            Ok(vec![Candidate::only(address, by)])
        }
        Some(Candidate { address, named_by, .. }) => {
            Err(Failure::new(Exit::Policy, format!("{by}: {address} ({named_by}) {why}"))
                .hint("Take a private builder, which ktl starts: --builder jail://")
                .hint(format!("Or have this one without the promise: no {by}.")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_other_builder_is_taken() {
        let candidate = |text: &str, demanded| Candidate {
            address: Address::parse(text).unwrap(),
            named_by: "--builder",
            demanded,
            tls: None,
        };
        let only = |candidates: &[Candidate]| only(candidates.to_vec(), "--trust", "cannot");
        let own = only(&[candidate("unix:///found.sock", false)]).unwrap();
        assert_eq!(own, [Candidate { named_by: "--trust", ..candidate("jail://", true) }]);
        for private in ["jail://x", "jail://?ephemeral"] {
            let private = [candidate(private, true)];
            assert_eq!(only(&private).unwrap(), private);
        }
        for plain in ["unix:///named.sock", "tcp://builder:1234"] {
            let failure = only(&[candidate(plain, true)]).unwrap_err();
            assert_eq!(failure.exit, Exit::Policy);
            assert!(failure.title.contains("--trust") && failure.title.contains("cannot"), "{failure}");
        }
    }
}
