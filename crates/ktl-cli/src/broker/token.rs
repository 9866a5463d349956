//! The token authority: how a daemon knows that two sessions belong to one user.
//!
//! A daemon keeps a token that one session fetched and lends it to another only when that one signs a challenge with
//! the same key. The key comes from the daemon's salt and a seed that only the user has, so it is of no use to another
//! daemon. Without a login there is nothing to guard and the seed is left out, which lets all share an anonymous token.
//!
//! Follows `getAuthorityKey` and `VerifyTokenAuthority` in `session/auth/authprovider/authprovider.go`, and the sizes in
//! `session/auth/auth.go` of moby/buildkit.

use ring::hmac;
use ring::signature::{Ed25519KeyPair, KeyPair};

/// Salts and challenges are 32 random bytes of the daemon. Nothing else is signed: the key must not become a way to
/// put a signature under a text.
pub const CHALLENGE_LENGTH: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenKeyError {
    #[error("a token authority's salt has {CHALLENGE_LENGTH} bytes, not {0}")]
    Salt(usize),
    #[error("a token authority's challenge has {CHALLENGE_LENGTH} bytes, not {0}")]
    Challenge(usize),
    #[error("the token authority's key cannot be made")]
    Key,
}

/// Public key for `salt`; `seed` is empty when the user has no login.
pub fn authority(salt: &[u8], seed: &[u8]) -> Result<[u8; 32], TokenKeyError> {
    key(salt, seed)?.public_key().as_ref().try_into().map_err(|_| TokenKeyError::Key)
}

/// NaCl `sign`: the signature, then what was signed.
pub fn sign(salt: &[u8], seed: &[u8], challenge: &[u8]) -> Result<Vec<u8>, TokenKeyError> {
    if challenge.len() != CHALLENGE_LENGTH {
        return Err(TokenKeyError::Challenge(challenge.len()));
    }
    let mut signed = key(salt, seed)?.sign(challenge).as_ref().to_vec();
    signed.extend_from_slice(challenge);
    Ok(signed)
}

fn key(salt: &[u8], seed: &[u8]) -> Result<Ed25519KeyPair, TokenKeyError> {
    if salt.len() != CHALLENGE_LENGTH {
        return Err(TokenKeyError::Salt(salt.len()));
    }
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, salt), seed);
    Ed25519KeyPair::from_seed_unchecked(tag.as_ref()).map_err(|_| TokenKeyError::Key)
}

#[cfg(test)]
mod tests {
    use ring::signature::{ED25519, UnparsedPublicKey};

    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    /// Made by Go with `crypto/hmac`, `crypto/ed25519` and `golang.org/x/crypto/nacl/sign`: salt 0, 1, 2 … 31,
    /// challenge 255, 254 … 224; seed, public key, signature.
    const VECTORS: [(&[u8], &str, &str); 2] = [
        (
            b"0123456789abcdef",
            "e8fc5aa623ea69e8e91f30d0d1c6ae53c1d4b87660865a2108bb4879071d2603",
            "dd421b5a0c2657c97e09003a7e4d61095b401a55e06ff102f8b3106e6c857914\
             37ed926fad844f0cdbd0a22bbb2a9cdd9e758f01603c57df88fa224424f6b600",
        ),
        (
            b"",
            "040621616cad1cec87d58de663a3da915dc2bf8afbd0bd361931d2c207644cc4",
            "d7b427ce0e2fcbbe014c2c297b34dc35148b31d2d5804b85619b2dfe8687a28f\
             801a31ef7255465f0b71709369f5a7ec6798f1e3620b5815aacd460a14989c0c",
        ),
    ];

    #[test]
    fn keys_and_signatures_are_those_of_upstream() {
        let salt: Vec<u8> = (0..32).collect();
        let challenge: Vec<u8> = (224..=255).rev().collect();
        for (seed, public, signature) in VECTORS {
            let key = authority(&salt, seed).unwrap();
            assert_eq!(key.to_vec(), hex(public));
            let signed = sign(&salt, seed, &challenge).unwrap();
            assert_eq!(signed, [hex(signature), challenge.clone()].concat());
            UnparsedPublicKey::new(&ED25519, key).verify(&challenge, &signed[..64]).unwrap();
        }
    }

    #[test]
    fn only_challenges_are_signed() {
        for length in [0, 31, 33, 64, 1000] {
            let other = vec![0; length];
            assert_eq!(sign(&[0; 32], b"s", &other), Err(TokenKeyError::Challenge(length)));
            assert_eq!(authority(&other, b"s"), Err(TokenKeyError::Salt(length)));
            assert_eq!(sign(&other, b"s", &[0; 32]), Err(TokenKeyError::Salt(length)));
        }
    }
}
