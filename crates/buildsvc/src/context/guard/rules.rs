//! The table of what a context should not hold.
//!
//! A rule names files by their paths, and then says of a file's beginning whether it holds what the name suggests: a name
//! alone alarms nobody, and a key in the middle of a source file is left to those who look into sources.

use super::content;

/// The rule that needs no content: the number of names is enough.
pub const HARD_LINK: (&str, &str) =
    ("hard-link", "is a hard link, and another name of the same file lies outside of the directory");

pub struct Rule {
    pub name: &'static str,
    /// The rest of a sentence that begins with the path.
    pub about: &'static str,
    /// Of the path in lower case.
    suspects: fn(&Named<'_>) -> bool,
    pub holds: fn(&[u8]) -> bool,
}

/// A path in lower case.
pub struct Named<'a> {
    path: &'a str,
    name: &'a str,
    /// The last directory; empty at the top.
    parent: &'a str,
    /// Without its dot; empty without one.
    extension: &'a str,
}

pub const RULES: &[Rule] = &[
    Rule {
        name: "private-key",
        about: "holds a private key",
        suspects: may_be_key,
        holds: content::private_key,
    },
    Rule {
        name: "git-login",
        about: "holds a token or password for a git server",
        suspects: |n| {
            n.name == "config" && (n.parent.ends_with(".git") || n.path.contains(".git/modules/"))
                || matches!(n.name, ".gitconfig" | ".git-credentials")
        },
        holds: content::git_login,
    },
    Rule {
        name: "npm-token",
        about: "holds a login for a package registry",
        suspects: |n| matches!(n.name, ".npmrc" | ".yarnrc" | ".yarnrc.yml"),
        holds: content::npm_token,
    },
    Rule {
        name: "python-login",
        about: "holds a password for a package index",
        suspects: |n| matches!(n.name, ".pypirc" | "pip.conf"),
        holds: content::python_login,
    },
    Rule {
        name: "netrc",
        about: "holds passwords",
        suspects: |n| matches!(n.name, ".netrc" | "_netrc"),
        holds: content::netrc,
    },
    Rule {
        name: "registry-login",
        about: "holds logins for image registries",
        suspects: |n| {
            n.name == "config.json" && n.parent == ".docker"
                || matches!(n.name, ".dockercfg" | ".dockerconfigjson" | "auth.json")
        },
        holds: content::registry_login,
    },
    Rule {
        name: "cargo-token",
        about: "holds a token for a package registry",
        suspects: |n| n.parent == ".cargo" && matches!(n.name, "credentials" | "credentials.toml"),
        holds: content::cargo_token,
    },
    Rule {
        name: "cloud-key",
        about: "holds keys of a cloud account",
        suspects: |n| {
            n.name == "credentials" && n.parent == ".aws"
                || matches!(n.name, "accesstokens.json" | "msal_token_cache.json")
                || n.extension == "json"
                    && ["key", "credential", "service", "account", "gcp", "gcloud", "adminsdk"]
                        .iter()
                        .any(|word| n.name.contains(word))
        },
        holds: content::cloud_key,
    },
    Rule {
        name: "kubeconfig",
        about: "holds a login for a Kubernetes cluster",
        suspects: |n| {
            n.name == "config" && n.parent == ".kube"
                || n.name.contains("kubeconfig")
                || n.name == "admin.conf"
        },
        holds: content::kubeconfig,
    },
    Rule {
        name: "env-token",
        about: "holds a token of a well-known form",
        suspects: |n| {
            (n.name == ".env" || n.name.starts_with(".env.") || n.extension == "env")
                && !["example", "sample", "template", "dist"].contains(&n.extension)
        },
        holds: content::env_token,
    },
];

fn may_be_key(n: &Named<'_>) -> bool {
    const EXTENSIONS: &[&str] = &[
        "pem", "key", "ppk", "asc", "gpg", "p8", "pk8", "priv", "rsa", "dsa", "ecdsa", "ed25519", "openssh",
    ];
    if n.extension == "pub" {
        return false;
    }
    EXTENSIONS.contains(&n.extension)
        || n.name.starts_with("id_")
        || n.name.contains(".key.")
        || n.name.contains(".pem.")
        || n.extension.is_empty() && (n.name.contains("key") || n.name.contains("rsa"))
}

/// Three letters that stand in every path which a rule may name, if it does not begin with a dot or an underscore.
const TELLING: &[&[u8; 3]] = &[
    b"key", b"id_", b"rsa", b"dsa", b"ed2", b"pem", b"ppk", b".as", b"gpg", b".p8", b"pk8", b"onf", b"ede",
    b"uth", b"vic", b"acc", b"gcp", b"gcl", b"sdk", b"tok", b"env",
];

/// A bit for each three letters, of which five bits count: upper and lower case are the same, and so are a few others, which
/// costs a second look and misses nothing.
const TABLE: [u64; 512] = {
    let mut table = [0; 512];
    let mut at = 0;
    while at < TELLING.len() {
        let [a, b, c] = *TELLING[at];
        let index = pushed(pushed(pushed(0, a), b), c);
        table[index / 64] |= 1 << (index % 64);
        at += 1;
    }
    table
};

const fn pushed(letters: usize, next: u8) -> usize {
    (letters << 5 | (next & 31) as usize) & 0x7fff
}

/// Whether a rule may name this path. Only what this lets through is looked at any further, and it is asked for every file:
/// one pass over the name, no allocation.
pub fn may_matter(path: &[u8]) -> bool {
    let name = base(path);
    if matches!(name.first(), Some(b'.' | b'_')) {
        return true;
    }
    let mut letters = 0;
    name.iter().any(|byte| {
        letters = pushed(letters, *byte);
        TABLE[letters / 64] & 1 << (letters % 64) != 0
    })
}

/// The rules that have a suspicion about `path`.
pub fn suspicions(path: &[u8]) -> impl Iterator<Item = &'static Rule> {
    let path = String::from_utf8_lossy(path).to_lowercase();
    RULES.iter().filter(move |rule| {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let parent = dir.rsplit('/').next().unwrap_or_default();
        let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
        (rule.suspects)(&Named { path: &path, name, parent, extension })
    })
}

/// Objects of git are named by their digest and never change, and a clone of a neighbour shares them by hard links.
pub fn is_shared_by_git(path: &[u8]) -> bool {
    let mut directories = path.split(|byte| *byte == b'/').collect::<Vec<_>>();
    directories.pop();
    directories.windows(2).any(|pair| pair[0].ends_with(b".git") && pair[1] == b"objects")
}

fn base(path: &[u8]) -> &[u8] {
    &path[path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1)..]
}
