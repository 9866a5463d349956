//! Policies: nsjail's own files, text or JSON, read into a checked message.
//!
//! People already have nsjail policies, and three come with this program. Reading one is an edge like any other:
//! the bytes are untrusted, a mistake is shown at its place, and what the format demands (required fields, known
//! enum values, one reading only) is enforced here, because the reflection library does not. What a policy *means*
//! for a build, and what has to be corrected in it, is settled in [`jail`](crate::jail).

use std::fmt;
use std::ops::Range;

use miette::Diagnostic as _;
use prost_reflect::{Cardinality, DynamicMessage, Kind, ReflectMessage as _, Value};

use crate::lines::Lines;
use crate::proto::{self, NsJailConfig, config_descriptor};

/// Larger files are not policies. The longest of nsjail's own samples has 8 KiB.
pub const MAX_POLICY_BYTES: usize = 1 << 20;

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
    /// Both the text and the JSON reader accept it, so nsjail would refuse it too.
    #[error("{name}: reads both as text and as JSON; write at least one field")]
    Ambiguous { name: String },
    /// It reads well but breaks a rule of the format.
    #[error("{name}: {field}: {reason}")]
    Invalid { name: String, field: String, reason: String },
    /// A zero-byte file.
    #[error("{name}: is empty")]
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

    /// Reads a policy in nsjail's text form or its JSON form; exactly one of the two must fit.
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
        let as_text = DynamicMessage::parse_text_format(config_descriptor(), text);
        let as_json = parse_json(text);
        let message = match (as_text, as_json) {
            (Ok(_), Ok(_)) => return Err(PolicyError::Ambiguous { name: owned() }),
            (Ok(message), Err(_)) | (Err(_), Ok(message)) => message,
            (Err(error), Err(json)) => {
                return Err(if text.trim_start().starts_with('{') {
                    let at = offset(text, json.line(), json.column());
                    syntax(name, text, at..at + 1, json_message(&json))
                } else {
                    let span = error
                        .labels()
                        .and_then(|mut labels| labels.next())
                        .map_or(text.len()..text.len(), |label| label.offset()..label.offset() + label.len());
                    syntax(name, text, span, error.to_string())
                });
            }
        };
        check(&message, "").map_err(|(field, reason)| PolicyError::Invalid {
            name: owned(),
            field,
            reason,
        })?;
        let config = message.transcode_to().map_err(|error| PolicyError::Invalid {
            name: owned(),
            field: "policy".to_owned(),
            reason: error.to_string(),
        })?;
        Ok(Policy { name: owned(), config, lines: Lines::of(text) })
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

fn parse_json(text: &str) -> Result<DynamicMessage, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let message = DynamicMessage::deserialize(config_descriptor(), &mut reader)?;
    reader.end()?;
    Ok(message)
}

/// The library's text without the place, which is shown by other means.
fn json_message(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let end = text.rfind(" at line ").unwrap_or(text.len());
    text[..end].to_owned()
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

/// Byte offset of a line and column as serde_json counts them (both from 1, columns in bytes).
fn offset(text: &str, line: usize, column: usize) -> usize {
    let start: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    floor_boundary(text, start + column.saturating_sub(1))
}

fn floor_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// Enforces proto2's `required` and closed enums, at any depth. The error is (field path, reason).
fn check(message: &DynamicMessage, prefix: &str) -> Result<(), (String, String)> {
    for field in message.descriptor().fields() {
        let path = format!("{prefix}{}", field.name());
        if field.cardinality() == Cardinality::Required && !message.has_field(&field) {
            return Err((path, "is required".to_owned()));
        }
        if !message.has_field(&field) {
            continue;
        }
        let value = message.get_field(&field);
        match value.as_ref() {
            Value::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    check_value(item, &field.kind(), &format!("{path}[{index}]"))?;
                }
            }
            single => check_value(single, &field.kind(), &path)?,
        }
    }
    Ok(())
}

fn check_value(value: &Value, kind: &Kind, path: &str) -> Result<(), (String, String)> {
    match (value, kind) {
        (Value::Message(inner), _) => check(inner, &format!("{path}.")),
        (Value::EnumNumber(number), Kind::Enum(known)) if known.get_value(*number).is_none() => {
            let names: Vec<String> = known.values().map(|v| v.name().to_owned()).collect();
            let reason = format!("{number} is none of {}", names.join(", "));
            Err((path.to_owned(), reason))
        }
        (Value::String(text), _) if text.contains('\0') => {
            Err((path.to_owned(), "contains a NUL byte".to_owned()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(text: &str) -> String {
        match Policy::parse("p.cfg", text.as_bytes()) {
            Ok(_) => "ok".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn limits_of_control_groups_are_listed() {
        for (text, limits) in [
            ("hostname: \"x\"", &[][..]),
            ("cgroup_pids_max: 0 cgroup_mem_swap_max: -1", &[]),
            ("cgroup_pids_max: 9 cgroup_mem_max: 1", &["cgroup_mem_max", "cgroup_pids_max"]),
            ("cgroup_mem_swap_max: 0", &["cgroup_mem_swap_max"]),
        ] {
            assert_eq!(Policy::parse("p", text.as_bytes()).unwrap().cgroup_limits(), limits, "{text}");
        }
    }

    #[test]
    fn accepts_the_notations_of_nsjail() {
        for text in [
            "# only a comment\n",
            "mode: ONCE",
            "mode: 1",
            "mount { dst: \"/\" fstype: \"tmpfs\" }",
            "mount: < dst: '/tmp' >;",
            "mount: [ {dst:\"/a\"}, {dst:\"/b\"} ]",
            "envar: [\"A=1\",\"B=2\"], envar: \"C\" \"=3\"",
            "rlimit_as: 0x10 rlimit_cpu_type: HARD clone_newnet: t",
            "{\"mode\":\"ONCE\",\"cloneNewnet\":false,\"mount\":[{\"dst\":\"/\",\"fstype\":\"tmpfs\"}]}",
            "{\"rlimit_as\":\"12\",\"envar\":[\"A=1\"]}",
        ] {
            assert_eq!(verdict(text), "ok", "{text}");
        }
    }

    #[test]
    fn refuses_with_a_reason_and_a_place() {
        for (text, want) in [
            ("", "p.cfg: is empty"),
            ("mount { src: \"/x\" }", "p.cfg: mount[0].dst: is required"),
            ("exec_bin { arg: \"x\" }", "p.cfg: exec_bin.path: is required"),
            ("{\"mount\":[{\"src\":\"/x\"}]}", "p.cfg: mount[0].dst: is required"),
            ("hostname: \"a\\0b\"", "p.cfg: hostname: contains a NUL byte"),
        ] {
            assert_eq!(verdict(text), want, "{text}");
        }
        for (text, line, column) in [
            ("mode: ONCE\nclone_newnat: true\n", 2, 1),
            ("mode: once", 1, 7),
            ("mode: 9", 1, 7),
            ("mode: \"ONCE\"", 1, 7),
            ("clone_newnet: yes", 1, 15),
            ("rlimit_as: -1", 1, 12),
            ("mode: ONCE\nmode: ONCE", 2, 7),
            ("hostname \"x\"", 1, 10),
            ("hostname: \"x\n\"", 1, 13),
            ("mount { dst: \"/\" } }", 1, 20),
            ("// no\nmode: ONCE", 1, 1),
            ("{\n \"mode\": \"ONCE\",\n \"nope\": 1\n}", 3, 7),
        ] {
            match Policy::parse("p.cfg", text.as_bytes()) {
                Err(PolicyError::Syntax { line: l, column: c, span, message, .. }) => {
                    assert_eq!((l, c), (line, column), "{text}: {message}");
                    assert!(span.end <= text.len() && !message.is_empty(), "{text}");
                }
                Err(PolicyError::Invalid { field, .. }) if text == "mode: 9" => {
                    assert_eq!(field, "mode");
                }
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn bounds_the_size_and_refuses_other_bytes() {
        let long = vec![b'#'; MAX_POLICY_BYTES + 1];
        assert!(matches!(Policy::parse("p", &long), Err(PolicyError::TooLarge { .. })));
        assert!(matches!(
            Policy::parse("p", b"mode: ONCE\nhostname: \"\xff\""),
            Err(PolicyError::Syntax { line: 2, .. })
        ));
    }

    #[test]
    fn embedded_policies_parse() {
        for which in Builtin::ALL {
            assert_eq!(Policy::builtin(which).name(), which.file_name());
        }
    }
}
