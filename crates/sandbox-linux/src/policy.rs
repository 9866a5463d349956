//! Policies: nsjail's own files, text or JSON, read into a checked message.
//!
//! People already have nsjail policies, and three come with this program. Reading one is an edge like any other:
//! the bytes are untrusted, and a mistake is shown at its place. Both notations are read here (`text`, `json`) by the
//! descriptors of the schema: the reflection library's readers differ from protobuf's in what they take, and tell no place. What a policy *means*
//! for a build, and what has to be corrected in it, is settled in [`jail`](crate::jail).

mod json;
mod json_tree;
mod lexer;
mod text;
mod value;

use std::fmt;
use std::ops::Range;
use std::os::fd::RawFd;

use crate::lines::Lines;
use crate::proto::{self, NsJailConfig, config_descriptor};

/// Larger files are not policies. The longest of nsjail's own samples has 8 KiB.
pub const MAX_POLICY_BYTES: usize = 1 << 20;

/// What may stand between any two words, in both notations.
const SPACE: [char; 6] = [' ', '\t', '\n', '\r', '\x0b', '\x0c'];

/// A policy that was read and is well-formed.
#[derive(Clone)]
pub struct Policy {
    name: String,
    config: NsJailConfig,
    lines: Lines,
}

/// The policies that the program carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Builtin {
    /// `sandbox/linux-ci.cfg`: the jail alone, without a real filter; the one to start an own policy from.
    Ci,
    /// `sandbox/linux-strict.cfg`: with a system call filter and limits.
    Strict,
    /// `sandbox/ktl-hermetic.cfg`: what `--hermetic` uses.
    Hermetic,
}

impl Builtin {
    /// All of them, for listings and tests.
    pub const ALL: [Builtin; 3] = [Builtin::Ci, Builtin::Strict, Builtin::Hermetic];

    /// The file's name under `sandbox/`.
    pub fn file_name(self) -> &'static str {
        match self {
            Builtin::Ci => "linux-ci.cfg",
            Builtin::Strict => "linux-strict.cfg",
            Builtin::Hermetic => "ktl-hermetic.cfg",
        }
    }

    /// The policy's text, with its comments.
    pub fn text(self) -> &'static str {
        match self {
            Builtin::Ci => include_str!("../../../sandbox/linux-ci.cfg"),
            Builtin::Strict => include_str!("../../../sandbox/linux-strict.cfg"),
            Builtin::Hermetic => include_str!("../../../sandbox/ktl-hermetic.cfg"),
        }
    }
}

/// Why a file is not a policy. `name` is the file's name as it was given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// The text cannot be read as a policy; `span` is a byte range of `text`, line and column count from 1.
    #[error("{name}:{line}:{column}: {message}")]
    Syntax { name: String, text: String, span: Range<usize>, line: usize, column: usize, message: String },
    /// A zero-byte file.
    #[error("{name}:1:1: the file is empty; the smallest policy is a comment")]
    Empty { name: String },
    /// More than [`MAX_POLICY_BYTES`].
    #[error("{name}: has {size} bytes, more than the {MAX_POLICY_BYTES} a policy may have")]
    TooLarge { name: String, size: usize },
}

impl Policy {
    /// The fields that limit the jail by control groups, as far as they are set.
    pub fn cgroup_limits(&self) -> Vec<&'static str> {
        let config = &self.config;
        let fields = [
            ("cgroup_mem_max", config.cgroup_mem_max() > 0),
            ("cgroup_mem_memsw_max", config.cgroup_mem_memsw_max() > 0),
            ("cgroup_mem_swap_max", config.cgroup_mem_swap_max() >= 0),
            ("cgroup_pids_max", config.cgroup_pids_max() > 0),
            ("cgroup_net_cls_classid", config.cgroup_net_cls_classid() > 0),
            ("cgroup_cpu_ms_per_sec", config.cgroup_cpu_ms_per_sec() > 0),
        ];
        fields.into_iter().filter(|(_, set)| *set).map(|(name, _)| name).collect()
    }

    /// Reads a policy in nsjail's text form or its JSON form.
    ///
    /// # Errors
    /// See [`PolicyError`]; a syntax error carries the text and the place.
    pub fn parse(name: &str, bytes: &[u8]) -> Result<Policy, PolicyError> {
        let owned = || name.to_owned();
        if bytes.is_empty() {
            return Err(PolicyError::Empty { name: owned() });
        }
        if bytes.len() > MAX_POLICY_BYTES {
            return Err(PolicyError::TooLarge { name: owned(), size: bytes.len() });
        }
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => {
                let at = error.valid_up_to();
                let shown = String::from_utf8_lossy(bytes).into_owned();
                let message = "not UTF-8; write other bytes as \\xHH".to_owned();
                return Err(syntax(name, &shown, at..at + 1, message));
            }
        };
        // No text form begins with a brace and no JSON with anything else, so no file reads both ways.
        let read = if text.trim_start_matches(SPACE).starts_with('{') { json::read } else { text::read };
        let (message, lines) = read(text, config_descriptor())
            .map_err(|mistake| syntax(name, text, mistake.span, mistake.message))?;
        let config = message.transcode_to().map_err(|error| syntax(name, text, 0..0, error.to_string()))?;
        Ok(Policy { name: owned(), config, lines })
    }

    /// One of the policies that the program carries.
    pub fn builtin(which: Builtin) -> Policy {
        Policy::parse(which.file_name(), which.text().as_bytes())
            .expect("the embedded policies are parsed by this crate's tests")
    }

    /// The file's name as it was given to [`Policy::parse`].
    pub fn name(&self) -> &str {
        &self.name
    }

    /// In nsjail's text form, with every string escaped.
    pub fn to_text(&self) -> String {
        let options = prost_reflect::text_format::FormatOptions::new().pretty(true);
        let mut text = proto::reflect(&self.config).to_text_format_with_options(&options);
        text.push('\n');
        text
    }

    /// In nsjail's JSON form.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(proto::reflect(&self.config)).unwrap_or_default()
    }

    /// Numbers of the descriptors that the policy wants passed (`pass_fd`). Whoever starts the jail decides which of its own
    /// they are, and lists them in the overrides.
    pub fn pass_fds(&self) -> &[RawFd] {
        &self.config.pass_fd
    }

    pub(crate) fn config(&self) -> &NsJailConfig {
        &self.config
    }

    pub(crate) fn lines(&self) -> &Lines {
        &self.lines
    }

    pub(crate) fn from_config(name: &str, config: NsJailConfig) -> Policy {
        Policy { name: name.to_owned(), config, lines: Lines::default() }
    }

    pub(crate) fn into_config(self) -> NsJailConfig {
        self.config
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("name", &self.name)
            .field("mounts", &self.config.mount.len())
            .finish_non_exhaustive()
    }
}

fn syntax(name: &str, text: &str, span: Range<usize>, message: String) -> PolicyError {
    let start = floor_boundary(text, span.start);
    let mut end = span.end.clamp(start, text.len());
    while !text.is_char_boundary(end) {
        end += 1;
    }
    let before = &text[..start];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    PolicyError::Syntax {
        name: name.to_owned(),
        text: text.to_owned(),
        span: start..end,
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
        message,
    }
}

fn floor_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// What is wrong, and at which bytes.
#[derive(Debug)]
struct Mistake {
    span: Range<usize>,
    message: String,
}

impl Mistake {
    fn new(span: Range<usize>, message: impl Into<String>) -> Mistake {
        Mistake { span, message: message.into() }
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
