//! How long a build waits for its builder, in the user's words.

use std::time::Duration;

use buildsvc::patience::Patience;

use crate::env::{self, Env};
use crate::failure::Failure;

/// A day: whoever wants to wait longer wants no limit, and `--timeout` is none unless given.
const LONGEST: u64 = 24 * 60 * 60;

/// The limits of `--timeout` and `KTL_PATIENCE`: for an answer, for silence and for last words, in whole seconds.
pub fn resolve(whole: Option<Duration>, env: &Env) -> Result<Patience, Failure> {
    let patience = Patience { whole, ..Patience::default() };
    let Some(text) = env.text(env::KTL_PATIENCE) else { return Ok(patience) };
    let seconds: Vec<Duration> = text
        .split(',')
        .filter_map(|word| word.trim().parse().ok().filter(|seconds| (1..=LONGEST).contains(seconds)))
        .map(Duration::from_secs)
        .collect();
    match seconds[..] {
        [answer, silence, last_words] if text.split(',').count() == 3 => {
            Ok(Patience { answer, silence, last_words, ..patience })
        }
        _ => Err(Failure::usage(format!("{}={text}: not three numbers of seconds", env::KTL_PATIENCE)).hint(
            "ANSWER,SILENCE,LAST: for an answer, without a word from the builder, for progress after the build's end; 20,60,10 without it.",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_numbers_or_none() {
        let of = |text: &str| resolve(None, &Env::of(&[(env::KTL_PATIENCE, text)]));
        let seconds = |p: Patience| [p.answer, p.silence, p.last_words].map(|time| time.as_secs());
        assert_eq!(of("").ok().map(seconds), Some([20, 60, 10]));
        assert_eq!(of("1, 2,3").ok().map(seconds), Some([1, 2, 3]));
        for wrong in ["1", "1,2", "1,2,3,4", "0,1,1", "a,b,c", "1,2,99999999", "-1,2,3", "1,2,"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }
}
