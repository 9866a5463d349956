//! Names that nobody else has: of builds and of sessions.
//!
//! Follows moby/buildkit `identity/randomid.go` in form: 25 characters of base 36.

/// A fresh random name with 128 bits of the kernel's randomness.
pub fn fresh() -> String {
    let mut random = [0u8; 16];
    let mut filled = 0;
    while filled < random.len() {
        match rustix::rand::getrandom(&mut random[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(n) => filled += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("the kernel refuses random bytes: {error}"),
        }
    }
    let mut rest = u128::from_ne_bytes(random);
    let mut name = [b'0'; 25];
    for digit in name.iter_mut().rev() {
        *digit = b"0123456789abcdefghijklmnopqrstuvwxyz"[(rest % 36) as usize];
        rest /= 36;
    }
    name.iter().map(|&b| char::from(b)).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn form() {
        let (a, b) = (super::fresh(), super::fresh());
        assert_ne!(a, b);
        assert!(a.len() == 25 && a.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'z')), "{a}");
    }
}
