//! What the guest says of its proof. It is the first document in the result's memory file, written before anything else is
//! done inside, so that it is there however the guest ends; the result itself follows it.

use std::io;

use sandbox_linux::{Proof, ProofError};
use serde::{Deserialize, Serialize};

use crate::failure::chain;

#[derive(Debug, Serialize, Deserialize)]
pub enum Reported {
    Proven(Proof),
    /// What was not as promised.
    Refused(String),
}

impl Reported {
    pub fn of(verdict: &Result<Proof, ProofError>) -> Reported {
        match verdict {
            Ok(proof) => Reported::Proven(proof.clone()),
            Err(error) => Reported::Refused(chain(error)),
        }
    }

    /// Writes it where the host side reads it.
    pub fn hand_out(&self, result: impl io::Write) -> io::Result<()> {
        serde_json::to_writer(result, self).map_err(io::Error::from)
    }

    /// Reads it off the front of what the guest handed out, and leaves the rest.
    pub fn read<'a, R: Deserialize<'a>>(
        bytes: &'a [u8],
    ) -> (Option<Reported>, Result<Option<R>, serde_json::Error>) {
        let mut documents = serde_json::Deserializer::from_slice(bytes);
        match Reported::deserialize(&mut documents) {
            Ok(reported) => {
                let mut rest = documents.into_iter();
                let result = rest.next().transpose();
                match (result, rest.next()) {
                    (Ok(_), Some(_)) => {
                        let more = <serde_json::Error as serde::de::Error>::custom("something follows it");
                        (Some(reported), Err(more))
                    }
                    (result, _) => (Some(reported), result),
                }
            }
            Err(_) if bytes.is_empty() => (None, Ok(None)),
            Err(error) => (None, Err(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proof_is_read_off_the_front() {
        let refused = r#"{"Refused":"no"}"#;
        for (text, reported, result) in [
            (String::new(), false, Ok(None)),
            (refused.to_owned(), true, Ok(None)),
            (format!("{refused}7"), true, Ok(Some(7))),
            (format!("{refused}7 8"), true, Err(())),
            (format!("{refused}\"x\""), true, Err(())),
            ("7".to_owned(), false, Err(())),
        ] {
            let (found, read) = Reported::read::<u8>(text.as_bytes());
            assert_eq!((found.is_some(), read.map_err(drop)), (reported, result), "{text}");
        }
    }
}
