//! ktl's own binary on the server: `bin/HASH` in ktl's cache directory there, started only when its content has that hash.
//!
//! What is needed there is a POSIX shell. The check is made by the server's `sha256sum`, `shasum` or `openssl`, each time; where
//! there is none of them, nothing is started. A file arrives under a name of its own, is checked,
//! and then renamed, so that nobody starts half of one. The directory is the user's alone, or nothing is done.

use std::fs::File;
use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

use super::COMMAND;

/// What the scripts print on a line of its own. Login scripts may print others.
pub const SYSTEM: &str = "ktl-system ";
pub const ABSENT: &str = "ktl-absent";
pub const STORED: &str = "ktl-stored";
pub const TROUBLE: &str = "ktl-trouble ";

/// Shared by both: where it lies, and how it is checked.
const COMMON: &str = r#"umask 077
t() { echo "ktl-trouble $*"; exit 1; }
c=${KTL_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/ktl}
d=$c/bin; f=$d/HASH
h() {
  if command -v sha256sum >/dev/null 2>&1; then sha256sum <"$1"
  elif command -v shasum >/dev/null 2>&1; then shasum -a 256 <"$1"
  elif command -v openssl >/dev/null 2>&1; then openssl dgst -sha256 -r <"$1"
  else echo none; fi 2>/dev/null | cut -c 1-64
}
own() {
  set -- $(ls -ldn "$d")
  case $1:$3 in drwx------*:$(id -u)) ;; *) t "$d is open to others, who could replace what is started there; close it: chmod 700 $d";; esac
}
"#;

/// Starts the binary where it is there, with its hash.
const START: &str = r#"echo "ktl-system $(uname -s) $(uname -m)"
if [ -f "$f" ] && [ ! -L "$f" ]; then
  own
  if [ "$(h "$f")" = HASH ]; then exec "$f" COMMAND; fi
fi
echo ktl-absent
"#;

/// Takes it from standard input.
const STORE: &str = r#"mkdir -p "$d" || t "failed to make $d: is the disk full, or closed to $(id -un)?"
own
n=$d/.new.$$
trap 'rm -f "$n"' EXIT
trap 'exit 1' HUP INT TERM
cat >"$n" || t "failed to write $d: is the disk full?"
[ "$(wc -c <"$n")" -eq SIZE ] || t "only $(wc -c <"$n") of SIZE bytes have arrived in $d: is the disk full?"
g=$(h "$n")
[ "$g" = none ] && t "there is none of sha256sum, shasum and openssl, so nothing that is sent can be checked"
[ "$g" = HASH ] || t "what has arrived in $d has another hash: $g"
chmod 700 "$n" && mv -f "$n" "$f" || t "failed to move it to $f"
echo ktl-stored
"#;

/// The running binary.
#[derive(Debug)]
pub struct Binary {
    pub hash: String,
    pub size: u64,
}

impl Binary {
    pub fn own() -> io::Result<Binary> {
        let mut file = Binary::open()?;
        let mut hash = Sha256::new();
        let mut chunk = vec![0; 256 << 10];
        let mut size = 0;
        loop {
            let count = file.read(&mut chunk)?;
            if count == 0 {
                break;
            }
            size += count as u64;
            hash.update(&chunk[..count]);
        }
        let hash = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Binary { hash, size })
    }

    pub fn open() -> io::Result<File> {
        File::open("/proc/self/exe")
    }

    /// The script that starts it on the server, or says [`ABSENT`].
    pub fn start(&self) -> String {
        self.fill(START)
    }

    /// The script that puts it there, read from standard input, and says [`STORED`].
    pub fn store(&self) -> String {
        self.fill(STORE)
    }

    fn fill(&self, script: &str) -> String {
        format!("{COMMON}{script}")
            .replace("HASH", &self.hash)
            .replace("SIZE", &self.size.to_string())
            .replace("COMMAND", COMMAND)
    }
}
