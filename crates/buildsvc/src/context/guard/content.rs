//! What the beginning of a file says about it.
//!
//! Values that stand for something else (`${TOKEN}`, `<your password>`, `xxxx`) are no secrets: examples and templates are
//! full of them.

use std::borrow::Cow;

fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// PEM (RFC 7468), OpenSSH, SSH2 (RFC 4716) and PuTTY, with something in them.
pub fn private_key(bytes: &[u8]) -> bool {
    let text = text(bytes);
    if text.starts_with("PuTTY-User-Key-File-") {
        return text.contains("\nPrivate-Lines: ");
    }
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.iter().enumerate().any(|(at, line)| {
        let begins = line.strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----"));
        let is_key = begins
            .is_some_and(|label| label.ends_with("PRIVATE KEY") || label == "PGP PRIVATE KEY BLOCK")
            || *line == "---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----";
        let body = || {
            lines[at + 1..].iter().take(12).take_while(|line| !line.starts_with("----")).any(|line| {
                line.len() >= 32 && line.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b))
            })
        };
        is_key && body()
    })
}

/// A URL with a password or a token in it, or a header with a login.
pub fn git_login(bytes: &[u8]) -> bool {
    text(bytes).lines().any(|line| {
        let header = line
            .trim()
            .to_ascii_lowercase()
            .strip_prefix("extraheader")
            .and_then(|rest| rest.split_once("authorization:").map(|(_, value)| value.trim().to_owned()));
        header.is_some_and(|value| !is_placeholder(value.rsplit(' ').next().unwrap_or_default()))
            || has_login_in_url(line)
    })
}

pub fn npm_token(bytes: &[u8]) -> bool {
    const KEYS: &[&str] = &["_authtoken", "_auth", "_password", "npmauthtoken", "npmauthident"];
    text(bytes).lines().any(|line| {
        setting(line).is_some_and(|(key, value)| {
            let key = key.rsplit(':').next().unwrap_or_default().to_ascii_lowercase();
            KEYS.contains(&key.as_str()) && !is_placeholder(value)
        })
    })
}

pub fn python_login(bytes: &[u8]) -> bool {
    text(bytes).lines().any(|line| {
        setting(line).is_some_and(|(key, value)| {
            key.eq_ignore_ascii_case("password") && !is_placeholder(value) || has_login_in_url(value)
        })
    })
}

pub fn netrc(bytes: &[u8]) -> bool {
    let text = text(bytes);
    let mut words =
        text.lines().filter(|line| !line.trim_start().starts_with('#')).flat_map(str::split_whitespace);
    std::iter::from_fn(|| words.find(|word| *word == "password").and_then(|_| words.next()))
        .any(|password| !is_placeholder(password))
}

/// Docker's and podman's form, with logins in it and not only names of helpers.
pub fn registry_login(bytes: &[u8]) -> bool {
    let Ok(json) = serde_json::from_slice::<serde_json::Value>(bytes) else { return false };
    // Docker's older file has the registries at the top.
    let auths = json.get("auths").or(Some(&json)).and_then(serde_json::Value::as_object);
    auths.is_some_and(|auths| {
        auths.values().any(|login| {
            ["auth", "password", "identitytoken", "registrytoken"].iter().any(|key| {
                login.get(key).and_then(serde_json::Value::as_str).is_some_and(|v| !is_placeholder(v))
            })
        })
    })
}

pub fn cargo_token(bytes: &[u8]) -> bool {
    let is_token = |(key, value): (&str, &str)| key == "token" && !is_placeholder(value);
    text(bytes).lines().any(|line| setting(line).is_some_and(is_token))
}

/// AWS's shared file, a service account of Google, caches of Azure's client.
pub fn cloud_key(bytes: &[u8]) -> bool {
    let text = text(bytes);
    let aws = || {
        text.lines().any(|line| {
            setting(line).is_some_and(|(key, value)| {
                key.eq_ignore_ascii_case("aws_secret_access_key") && !is_placeholder(value)
            })
        })
    };
    let google = || {
        text.contains("\"service_account\"") && text.contains("-----BEGIN PRIVATE KEY-----\\n")
            || text.contains("\"authorized_user\"") && json_value(&text, "refresh_token")
    };
    let azure = || {
        text.contains("microsoftonline") && (json_value(&text, "refreshToken") || json_value(&text, "secret"))
    };
    google() || azure() || aws()
}

pub fn kubeconfig(bytes: &[u8]) -> bool {
    let text = text(bytes);
    text.contains("clusters:")
        && text.lines().filter_map(setting).any(|(key, value)| {
            matches!(key.trim_start_matches("- "), "client-key-data" | "token" | "password")
                && !is_placeholder(value)
        })
}

pub fn env_token(bytes: &[u8]) -> bool {
    text(bytes).lines().filter_map(setting).any(|(key, value)| {
        let key = key.trim_start_matches("export ");
        let aws = key == "AWS_SECRET_ACCESS_KEY" && value.len() == 40;
        !is_placeholder(value) && (aws || is_well_known_token(value))
    })
}

/// `key = value` or `key: value`, without quotes; no comments.
fn setting(line: &str) -> Option<(&str, &str)> {
    let line = line.trim();
    if line.starts_with(['#', ';']) {
        return None;
    }
    let separator = [line.find('='), line.find(": ")].into_iter().flatten().min()?;
    let (key, value) = (&line[..separator], &line[separator + 1..]);
    Some((key.trim().trim_matches('"'), value.trim().trim_matches(['"', '\''])))
}

fn json_value(text: &str, key: &str) -> bool {
    let quoted = format!("\"{key}\"");
    text.split(&quoted).skip(1).any(|rest| {
        let value = rest.trim_start().strip_prefix(':').map(str::trim_start);
        let value = value.and_then(|value| value.strip_prefix('"')).and_then(|value| value.split('"').next());
        value.is_some_and(|value| !is_placeholder(value))
    })
}

/// Whether a URL in `line` logs somebody in.
fn has_login_in_url(line: &str) -> bool {
    ["http://", "https://"].iter().any(|scheme| {
        line.split(scheme).skip(1).any(|rest| {
            let authority = rest.split(['/', ' ', '"', '\'', '?', '#']).next().unwrap_or_default();
            let Some((user, _)) = authority.rsplit_once('@') else { return false };
            match user.split_once(':') {
                Some((name, "" | "x-oauth-basic")) => is_token(name),
                Some((_, password)) => !is_placeholder(password),
                None => is_token(user),
            }
        })
    })
}

/// A name that is no person's.
fn is_token(name: &str) -> bool {
    let opaque = name.len() >= 32 && name.bytes().all(|b| b.is_ascii_alphanumeric());
    is_well_known_token(name) || opaque && name.bytes().any(|b| b.is_ascii_digit())
}

/// By the prefixes that those who issue them have published.
fn is_well_known_token(value: &str) -> bool {
    const PREFIXES: &[&str] = &[
        "ghp_",
        "gho_",
        "ghu_",
        "ghs_",
        "ghr_",
        "github_pat_",
        "glpat-",
        "gldt-",
        "npm_",
        "pypi-",
        "dckr_pat_",
        "xoxb-",
        "xoxp-",
        "sk_live_",
        "rk_live_",
        "hf_",
    ];
    PREFIXES.iter().any(|prefix| {
        value.strip_prefix(prefix).is_some_and(|rest| {
            rest.len() >= 16 && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
        })
    }) && !is_placeholder(value)
}

/// Nothing that would open anything.
fn is_placeholder(value: &str) -> bool {
    let value = value.trim();
    let lower = value.to_ascii_lowercase();
    let one_letter = value.bytes().all(|b| Some(&b) == value.as_bytes().first());
    value.len() < 4
        || one_letter
        || value.starts_with(['$', '<', '{', '%', '['])
        || ["example", "placeholder", "changeme", "change-me", "change_me", "your", "xxxx", "****", "dummy"]
            .iter()
            .any(|word| lower.contains(word))
        || lower.starts_with("null")
}
