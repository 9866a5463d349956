//! What may be signed with a user's key: the words by which ssh logs in, and nothing else.
//!
//! A signature of an agent can be many things: a login to any server, a git commit, a file. A build that clones over
//! ssh needs the first alone. Such a request names in itself the session it is for, the user, the service and the key,
//! so it can be told from all others by its form.
//!
//! Follows RFC 4252 §7 for what is signed, `PROTOCOL.sshsig` of OpenSSH for what must not be, and
//! `publickey-hostbound-v00@openssh.com` of OpenSSH's `PROTOCOL`.

const USERAUTH_REQUEST: u8 = 50;
/// Session ids are hashes: of 20 bytes (SHA-1) to 64.
const SESSION_ID: std::ops::RangeInclusive<usize> = 16..=64;
const NAME_LIMIT: usize = 256;
const HOST_KEY_LIMIT: usize = 16 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotALogin {
    #[error("a request that is cut short or goes on after its end")]
    Form,
    #[error("a signature under a file or a text (SSHSIG)")]
    Sshsig,
    #[error("a signature under something that is no login by ssh")]
    Data,
    #[error("a login with another key than it is to be signed with")]
    Key,
}

/// A request to sign that may reach the agent.
#[derive(Debug, PartialEq, Eq)]
pub struct Login<'a> {
    pub key: &'a [u8],
    pub user: &'a str,
}

/// Reads the body of `SSH_AGENTC_SIGN_REQUEST`, behind its first byte.
pub fn login(body: &[u8]) -> Result<Login<'_>, NotALogin> {
    let mut rest = body;
    let key = string(&mut rest).ok_or(NotALogin::Form)?;
    let data = string(&mut rest).ok_or(NotALogin::Form)?;
    // The flags choose between hashes of RSA.
    if rest.len() != 4 {
        return Err(NotALogin::Form);
    }
    if data.starts_with(b"SSHSIG") {
        return Err(NotALogin::Sshsig);
    }
    let (user, of_login) = userauth(data).ok_or(NotALogin::Data)?;
    if of_login != key {
        return Err(NotALogin::Key);
    }
    Ok(Login { key, user })
}

/// The user and the key of the data that a login signs.
fn userauth(data: &[u8]) -> Option<(&str, &[u8])> {
    let mut rest = data;
    let session = string(&mut rest)?;
    if !SESSION_ID.contains(&session.len()) || byte(&mut rest)? != USERAUTH_REQUEST {
        return None;
    }
    let user = std::str::from_utf8(string(&mut rest)?).ok()?;
    let service = string(&mut rest)?;
    let method = string(&mut rest)?;
    let signed = byte(&mut rest)?;
    let algorithm = string(&mut rest)?;
    let key = string(&mut rest)?;
    let bound = match method {
        b"publickey" => true,
        b"publickey-hostbound-v00@openssh.com" => string(&mut rest)?.len() <= HOST_KEY_LIMIT,
        _ => false,
    };
    let fine = bound
        && service == b"ssh-connection"
        && signed == 1
        && user.len() <= NAME_LIMIT
        && (1..=NAME_LIMIT).contains(&algorithm.len())
        && algorithm.iter().all(u8::is_ascii_graphic)
        && !key.is_empty()
        && rest.is_empty();
    fine.then_some((user, key))
}

fn byte(rest: &mut &[u8]) -> Option<u8> {
    let (first, after) = rest.split_first()?;
    *rest = after;
    Some(*first)
}

/// An ssh `string`.
pub fn string<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk::<4>()?;
    let (taken, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    *rest = after;
    Some(taken)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// An ssh `string`.
    pub fn packed(bytes: &[u8]) -> Vec<u8> {
        [&(bytes.len() as u32).to_be_bytes()[..], bytes].concat()
    }

    /// The data that a login as `git` with `key` signs.
    pub fn login_data(key: &[u8]) -> Vec<u8> {
        data(&[7; 32], 50, b"git", b"ssh-connection", b"publickey", 1, key)
    }

    fn data(
        session: &[u8],
        kind: u8,
        user: &[u8],
        service: &[u8],
        method: &[u8],
        signed: u8,
        key: &[u8],
    ) -> Vec<u8> {
        [
            packed(session),
            vec![kind],
            packed(user),
            packed(service),
            packed(method),
            vec![signed],
            packed(b"ssh-ed25519"),
            packed(key),
        ]
        .concat()
    }

    /// The body of a request to sign.
    pub fn request(key: &[u8], data: &[u8]) -> Vec<u8> {
        [packed(key), packed(data), vec![0; 4]].concat()
    }

    #[test]
    fn logins_and_nothing_else() {
        let key: &[u8] = b"the key";
        let connection: &[u8] = b"ssh-connection";
        let good = login_data(key);
        assert_eq!(login(&request(key, &good)), Ok(Login { key, user: "git" }));
        let hostbound = [
            data(&[7; 64], 50, b"git", connection, b"publickey-hostbound-v00@openssh.com", 1, key),
            packed(b"host key"),
        ]
        .concat();
        assert!(login(&request(key, &hostbound)).is_ok());
        let sshsig =
            [&b"SSHSIG"[..], &packed(b"git"), &packed(b""), &packed(b"sha512"), &packed(&[0; 64])].concat();
        let table = [
            (sshsig, NotALogin::Sshsig),
            (b"tree 0123\nauthor x\n".to_vec(), NotALogin::Data),
            (Vec::new(), NotALogin::Data),
            (good[..good.len() - 1].to_vec(), NotALogin::Data),
            ([&good[..], b"x"].concat(), NotALogin::Data),
            (hostbound[..hostbound.len() - 12].to_vec(), NotALogin::Data),
            (data(&[7; 15], 50, b"git", connection, b"publickey", 1, key), NotALogin::Data),
            (data(&[7; 65], 50, b"git", connection, b"publickey", 1, key), NotALogin::Data),
            (data(&[7; 32], 51, b"git", connection, b"publickey", 1, key), NotALogin::Data),
            (data(&[7; 32], 50, b"\xff", connection, b"publickey", 1, key), NotALogin::Data),
            (data(&[7; 32], 50, &[b'x'; 257], connection, b"publickey", 1, key), NotALogin::Data),
            (data(&[7; 32], 50, b"git", b"ssh-userauth", b"publickey", 1, key), NotALogin::Data),
            (data(&[7; 32], 50, b"git", connection, b"hostbased", 1, key), NotALogin::Data),
            (data(&[7; 32], 50, b"git", connection, b"publickey", 0, key), NotALogin::Data),
            (data(&[7; 32], 50, b"git", connection, b"publickey", 1, b""), NotALogin::Data),
            (login_data(b"another key"), NotALogin::Key),
        ];
        for (data, expected) in table {
            assert_eq!(login(&request(key, &data)), Err(expected), "{data:?}");
        }
        let whole = request(key, &good);
        for length in 0..whole.len() {
            assert!(login(&whole[..length]).is_err(), "{length}");
        }
        assert_eq!(login(&[&whole[..], b"x"].concat()), Err(NotALogin::Form));
    }

    proptest::proptest! {
        /// One bit of a login turned over leaves a login of the same form, or none; it never ends in a panic.
        #[test]
        fn any_bytes_are_read(body in proptest::collection::vec(proptest::num::u8::ANY, 0..200), bit in 0..800usize) {
            let _ = login(&body);
            let mut whole = request(b"key", &login_data(b"key"));
            let at = bit / 8 % whole.len();
            whole[at] ^= 1 << (bit % 8);
            if let Ok(login) = login(&whole) {
                proptest::prop_assert_eq!(login.key, b"key");
            }
        }
    }
}
