//! Paths in the one form that the gate compares and forwards.
//!
//! The Engine's router decodes, cleans and redirects (gorilla/mux), so two spellings of a path may mean the same route to
//! it. Here a path is decoded once and must then consist of plain characters and plain segments; what is forwarded is that
//! decoded form, in which nothing is left to decode or to clean.

use percent_encoding::percent_decode_str;

/// More than the longest image reference (a name of 255, a tag of 128, a digest) between the longest prefix and suffix.
const LONGEST: usize = 512;

/// A path taken apart: the API version as it was asked for (`/v1.41`, or nothing), and the rest.
#[derive(Debug, PartialEq, Eq)]
pub struct Normal {
    pub version: String,
    pub path: String,
}

/// Decodes and checks the path of a request's target. The error says what is wrong with it.
pub fn normalise(raw: &str) -> Result<Normal, &'static str> {
    // Percent-encoding is three times as long.
    if raw.len() > 3 * LONGEST {
        return Err("the path is too long");
    }
    let path = percent_decode_str(raw).decode_utf8().map_err(|_| "the path is not UTF-8")?;
    if path.len() > LONGEST {
        return Err("the path is too long");
    }
    if !path.chars().all(|c| c.is_ascii_alphanumeric() || "/._-:@+".contains(c)) {
        return Err("the path has characters that no call of the Engine has");
    }
    let Some(rest) = path.strip_prefix('/') else { return Err("the path does not begin with a slash") };
    if rest.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
        return Err("the path has empty or dotted segments");
    }
    let (first, after) = rest.split_once('/').unwrap_or((rest, ""));
    if !after.is_empty() && is_version(first) {
        return Ok(Normal { version: format!("/{first}"), path: format!("/{after}") });
    }
    Ok(Normal { version: String::new(), path: path.into_owned() })
}

/// `v1.` and one to three digits: every version that an Engine ever spoke.
fn is_version(segment: &str) -> bool {
    segment.strip_prefix("v1.").is_some_and(|minor| {
        (1..=3).contains(&minor.len()) && minor.bytes().all(|byte| byte.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_has_one_form() {
        for (raw, version, path) in [
            ("/_ping", "", "/_ping"),
            ("/v1.41/build", "/v1.41", "/build"),
            (
                "/v1.41/images/docker.io/library/busybox:1@sha256:ab/json",
                "/v1.41",
                "/images/docker.io/library/busybox:1@sha256:ab/json",
            ),
            ("/images/a%2Fb%3Alatest/json", "", "/images/a/b:latest/json"),
            ("/%62uild", "", "/build"),
            ("/v1.41", "", "/v1.41"),
            ("/v1.4111/build", "", "/v1.4111/build"),
            ("/v2.0/build", "", "/v2.0/build"),
            ("/v1.x/build", "", "/v1.x/build"),
            ("/v1.41/v1.41/build", "/v1.41", "/v1.41/build"),
            ("/BUILD", "", "/BUILD"),
        ] {
            let want = Normal { version: version.to_owned(), path: path.to_owned() };
            assert_eq!(normalise(raw), Ok(want), "{raw}");
        }
    }

    #[test]
    fn a_path_with_a_second_meaning_is_refused() {
        for raw in [
            "",
            "*",
            "build",
            "/",
            "//build",
            "/build/",
            "/./build",
            "/build/..",
            "/images/../containers/json",
            "/images/%2e%2e/containers/json",
            "/images/%2E./containers/json",
            "/images%2F..%2Fcontainers/json",
            "/images/a%252Fb/json",
            "/images/a%00/json",
            "/images/a%0d%0aHost:%20x/json",
            "/images/a%20b/json",
            "/images/a;b/json",
            "/images/a\\..\\b/json",
            "/images/%ff/json",
            "/images/%c0%ae%c0%ae/json",
            "/v1.41//build",
            "/v1.41/../build",
            "/build%3Fnetworkmode=host",
            "/build%23",
        ] {
            assert!(normalise(raw).is_err(), "{raw}");
        }
        assert!(normalise(&format!("/images/{}/json", "a".repeat(600))).is_err());
        assert!(normalise(&format!("/images/{}/json", "%61".repeat(600))).is_err());
    }
}
