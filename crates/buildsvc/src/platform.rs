//! Platforms, `os/architecture[/variant]`.
//!
//! People write `x86_64` or `arm64/v8` and mean what OCI calls `linux/amd64` and `linux/arm64`; the cache of a daemon
//! knows only the normal form. Follows containerd's `platforms` package.

use std::fmt;
use std::str::FromStr;

/// A platform in normal form.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Platform {
    pub os: String,
    pub architecture: String,
    /// Empty when the architecture has none or has its usual one.
    pub variant: String,
}

/// Why a text is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlatformError {
    #[error("platform {0:?} is not of the form os/architecture[/variant], such as linux/amd64")]
    Form(String),
    #[error("platform component {0:?} is neither a known operating system nor a known architecture")]
    Unknown(String),
}

const SYSTEMS: &[&str] = &[
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "hurd",
    "illumos",
    "ios",
    "js",
    "linux",
    "nacl",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "windows",
    "zos",
];

const ARCHITECTURES: &[&str] = &[
    "386",
    "amd64",
    "amd64p32",
    "arm",
    "armbe",
    "arm64",
    "arm64be",
    "ppc64",
    "ppc64le",
    "loong64",
    "mips",
    "mipsle",
    "mips64",
    "mips64le",
    "mips64p32",
    "mips64p32le",
    "ppc",
    "riscv",
    "riscv64",
    "s390",
    "s390x",
    "sparc",
    "sparc64",
    "wasm",
];

impl Platform {
    /// The platform that this program was built for.
    pub fn local() -> Platform {
        normal(std::env::consts::OS, std::env::consts::ARCH, "")
    }

    /// The platforms of a flag: comma-separated, several times given, each once. `local` is [`Platform::local`].
    pub fn list<S: AsRef<str>>(values: &[S]) -> Result<Vec<Platform>, PlatformError> {
        let mut platforms = Vec::new();
        for item in values.iter().flat_map(|value| value.as_ref().split(',')) {
            let item = item.trim();
            let platform = if item == "local" { Platform::local() } else { item.parse()? };
            if !platforms.contains(&platform) {
                platforms.push(platform);
            }
        }
        Ok(platforms)
    }

    /// This platform, then those whose programs its processor runs as well, the better ones first: lower variants of arm, amd64
    /// and arm64.
    pub fn with_lesser(&self) -> Vec<Platform> {
        let number = |variant: &str| variant.strip_prefix('v').and_then(|number| number.parse::<u8>().ok());
        let lesser: Vec<String> = match (self.architecture.as_str(), number(&self.variant)) {
            ("arm", Some(own @ 6..=9)) => (5..own).rev().map(|lower| format!("v{lower}")).collect(),
            // The first is the usual one, which has no name.
            ("amd64", Some(own @ 2..=9)) => {
                (2..own).rev().map(|lower| format!("v{lower}")).chain([String::new()]).collect()
            }
            ("arm64", Some(9)) => vec![String::new()],
            _ => Vec::new(),
        };
        let lesser = lesser.into_iter().map(|variant| Platform { variant, ..self.clone() });
        std::iter::once(self.clone()).chain(lesser).collect()
    }

    /// What wire types hold, put into normal form.
    pub fn of(os: &str, architecture: &str, variant: &str) -> Platform {
        normal(os, architecture, variant)
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let form = || PlatformError::Form(text.to_owned());
        let word = |w: &str| {
            !w.is_empty() && w.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        };
        let parts: Vec<&str> = text.split('/').collect();
        if !parts.iter().all(|part| word(part)) {
            return Err(form());
        }
        match *parts {
            [one] => {
                let local = Platform::local();
                let system = normal(one, "", "").os;
                if SYSTEMS.contains(&system.as_str()) {
                    return Ok(Platform { os: system, ..local });
                }
                let machine = normal(&local.os, one, "");
                if ARCHITECTURES.contains(&machine.architecture.as_str()) {
                    return Ok(machine);
                }
                Err(PlatformError::Unknown(one.to_owned()))
            }
            [os, architecture] => Ok(normal(os, architecture, "")),
            [os, architecture, variant] => Ok(normal(os, architecture, variant)),
            _ => Err(form()),
        }
    }
}

fn normal(os: &str, architecture: &str, variant: &str) -> Platform {
    let os = match os.to_ascii_lowercase().as_str() {
        "macos" => "darwin".to_owned(),
        other => other.to_owned(),
    };
    let architecture = architecture.to_ascii_lowercase();
    let variant = variant.to_ascii_lowercase();
    let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
        ("i386" | "x86", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1" | "") => ("amd64", ""),
        ("x86_64" | "x86-64", other) => ("amd64", other),
        ("aarch64" | "arm64", "8" | "v8" | "v8.0" | "") => ("arm64", ""),
        ("aarch64", other) => ("arm64", other),
        ("armhf", _) => ("arm", "v7"),
        ("armel", _) => ("arm", "v6"),
        ("arm", "" | "7") => ("arm", "v7"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "6") => ("arm", "v6"),
        ("arm", "8") => ("arm", "v8"),
        // Rust's names.
        ("powerpc64", other) => ("ppc64", other),
        ("loongarch64", other) => ("loong64", other),
        (architecture, variant) => (architecture, variant),
    };
    Platform { os, architecture: architecture.to_owned(), variant: variant.to_owned() }
}

impl TryFrom<String> for Platform {
    type Error = PlatformError;

    fn try_from(text: String) -> Result<Self, PlatformError> {
        text.parse()
    }
}

impl From<Platform> for String {
    fn from(platform: Platform) -> String {
        platform.to_string()
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_form() {
        let here = Platform::local();
        for (typed, want) in [
            ("linux/amd64", "linux/amd64".to_owned()),
            ("Linux/X86_64", "linux/amd64".to_owned()),
            ("linux/x86-64/v1", "linux/amd64".to_owned()),
            ("linux/amd64/v3", "linux/amd64/v3".to_owned()),
            ("linux/arm64/v8", "linux/arm64".to_owned()),
            ("linux/aarch64", "linux/arm64".to_owned()),
            ("linux/arm", "linux/arm/v7".to_owned()),
            ("linux/arm/6", "linux/arm/v6".to_owned()),
            ("linux/armhf", "linux/arm/v7".to_owned()),
            ("macos/arm64", "darwin/arm64".to_owned()),
            ("linux", format!("linux/{}", here.architecture)),
            ("aarch64", format!("{}/arm64", here.os)),
            ("linux/made-up", "linux/made-up".to_owned()),
        ] {
            assert_eq!(typed.parse::<Platform>().unwrap().to_string(), want, "{typed}");
        }
    }

    #[test]
    fn lists() {
        let list = Platform::list(&["linux/amd64,linux/arm64", "linux/x86_64"]).unwrap();
        assert_eq!(list.iter().map(Platform::to_string).collect::<Vec<_>>(), ["linux/amd64", "linux/arm64"]);
        assert_eq!(Platform::list(&["local"]).unwrap(), [Platform::local()]);
    }

    #[test]
    fn refusals() {
        for typed in ["", "/", "linux/", "a/b/c/d", "lin ux/amd64", "plan10", "linux,"] {
            assert!(Platform::list(&[typed]).is_err(), "{typed}");
        }
    }
}
