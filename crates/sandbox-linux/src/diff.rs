//! What two policies say differently, field by field. A field that is not set counts as its default, because that is how
//! nsjail reads it; mounts are compared by their place in the jail, so that an entry in between does not make all that
//! follow look changed.

use std::collections::HashMap;

use prost_reflect::{DynamicMessage, FieldDescriptor, ReflectMessage as _, Value};
use serde::Serialize;

use crate::fields::{self, render};
use crate::policy::Policy;

/// One difference. At least one side is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// `mode`, `mount[/tmp].options`, `envar`.
    pub field: String,
    /// `None`: only the other side has it.
    pub left: Option<String>,
    pub right: Option<String>,
}

/// Every field in which the two differ, in the order of the format. Empty for policies that mean the same to nsjail.
pub fn diff(left: &Policy, right: &Policy) -> Vec<Difference> {
    let mut found = Vec::new();
    messages("", &fields::message(left), &fields::message(right), &mut found);
    found
}

fn messages(prefix: &str, left: &DynamicMessage, right: &DynamicMessage, found: &mut Vec<Difference>) {
    for field in left.descriptor().fields() {
        let path = format!("{prefix}{}", field.name());
        if field.is_list() {
            let (left, right) = (list(left, &field), list(right, &field));
            if path == "mount" {
                mounts(&field, &left, &right, found)
            } else {
                lists(&path, &field, &left, &right, found)
            }
            continue;
        }
        let (l, r) = (side(left, &field), side(right, &field));
        match (&l, &r) {
            (Some(Value::Message(l)), Some(Value::Message(r))) => messages(&format!("{path}."), l, r, found),
            _ if l == r => {}
            _ => {
                let shown = |message: &DynamicMessage, value: Option<Value>| {
                    let value = value.map(|value| render(&value, &field.kind()))?;
                    Some(if message.has_field(&field) { value } else { format!("{value} (default)") })
                };
                found.push(Difference { field: path, left: shown(left, l), right: shown(right, r) });
            }
        }
    }
}

/// The value that nsjail acts on; `None` where there is none to act on.
fn side(message: &DynamicMessage, field: &FieldDescriptor) -> Option<Value> {
    let declared = field.field_descriptor_proto().default_value.is_some();
    (message.has_field(field) || declared).then(|| message.get_field(field).into_owned())
}

fn list(message: &DynamicMessage, field: &FieldDescriptor) -> Vec<Value> {
    match message.get_field(field).into_owned() {
        Value::List(items) => items,
        single => vec![single],
    }
}

/// What one list has and the other does not, by the longest common subsequence.
fn lists(path: &str, field: &FieldDescriptor, left: &[Value], right: &[Value], found: &mut Vec<Difference>) {
    let shown =
        |values: &[Value]| values.iter().map(|value| render(value, &field.kind())).collect::<Vec<_>>();
    for (l, r) in changes(&shown(left), &shown(right)) {
        found.push(Difference { field: path.to_owned(), left: l, right: r });
    }
}

fn changes(left: &[String], right: &[String]) -> Vec<(Option<String>, Option<String>)> {
    // Same starts and ends are the rule; the table below is for what lies between.
    let same = left.iter().zip(right).take_while(|(l, r)| l == r).count();
    let (left, right) = (&left[same..], &right[same..]);
    let tail = left.iter().rev().zip(right.iter().rev()).take_while(|(l, r)| l == r).count();
    let (left, right) = (&left[..left.len() - tail], &right[..right.len() - tail]);
    if left.len().saturating_mul(right.len()) > 1 << 20 {
        let gone = left.iter().map(|l| (Some(l.clone()), None));
        return gone.chain(right.iter().map(|r| (None, Some(r.clone())))).collect();
    }
    let mut common = vec![vec![0_usize; right.len() + 1]; left.len() + 1];
    for (i, l) in left.iter().enumerate().rev() {
        for (j, r) in right.iter().enumerate().rev() {
            common[i][j] =
                if l == r { common[i + 1][j + 1] + 1 } else { common[i + 1][j].max(common[i][j + 1]) };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut out = Vec::new();
    while i < left.len() || j < right.len() {
        if i < left.len() && j < right.len() && left[i] == right[j] {
            (i, j) = (i + 1, j + 1);
        } else if j == right.len() || (i < left.len() && common[i + 1][j] >= common[i][j + 1]) {
            out.push((Some(left[i].clone()), None));
            i += 1;
        } else {
            out.push((None, Some(right[j].clone())));
            j += 1;
        }
    }
    out
}

fn mounts(field: &FieldDescriptor, left: &[Value], right: &[Value], found: &mut Vec<Difference>) {
    let (left_keys, right_keys) = (keys(left), keys(right));
    let index = |keys: &[String], values: &[Value]| -> HashMap<String, Value> {
        keys.iter().cloned().zip(values.iter().cloned()).collect()
    };
    let (of_left, of_right) = (index(&left_keys, left), index(&right_keys, right));
    for (key, value) in left_keys.iter().zip(left) {
        let path = format!("mount[{key}]");
        match of_right.get(key) {
            None => {
                found.push(Difference { field: path, left: Some(render(value, &field.kind())), right: None })
            }
            Some(other) => {
                if let (Value::Message(l), Value::Message(r)) = (value, other) {
                    messages(&format!("{path}."), l, r, found);
                }
            }
        }
    }
    for (key, value) in right_keys.iter().zip(right).filter(|(key, _)| !of_left.contains_key(*key)) {
        found.push(Difference {
            field: format!("mount[{key}]"),
            left: None,
            right: Some(render(value, &field.kind())),
        });
    }
    let kept = |keys: &[String], others: &HashMap<String, Value>| {
        keys.iter().filter(|key| others.contains_key(*key)).cloned().collect::<Vec<_>>().join(" ")
    };
    let (l, r) = (kept(&left_keys, &of_right), kept(&right_keys, &of_left));
    if l != r {
        found.push(Difference { field: "mount (order)".to_owned(), left: Some(l), right: Some(r) });
    }
}

/// Places in the jail; what is mounted on a place again gets a number.
fn keys(mounts: &[Value]) -> Vec<String> {
    let mut times: HashMap<String, usize> = HashMap::new();
    mounts
        .iter()
        .map(|mount| {
            let dst = match mount {
                Value::Message(point) => point
                    .get_field_by_name("dst")
                    .and_then(|dst| dst.as_str().map(str::to_owned))
                    .unwrap_or_default(),
                _ => String::new(),
            };
            let time = times.entry(dst.clone()).or_default();
            *time += 1;
            if *time == 1 { dst } else { format!("{dst} #{time}") }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Builtin;

    fn policy(text: &str) -> Policy {
        Policy::parse("p", format!("#\n{text}").as_bytes()).unwrap()
    }

    #[test]
    fn differences_are_named_by_field() {
        let tmp = "mount { dst: \"/tmp\" fstype: \"tmpfs\" }";
        let tmp_rw = "mount { dst: \"/tmp\" fstype: \"tmpfs\" rw: true options: \"size=1M\" }";
        let etc = "mount { dst: \"/etc\" src: \"/etc\" is_bind: true }";
        for (left, right, want) in [
            ("mode: ONCE", "", vec![]),
            ("clone_newnet: true rlimit_fsize: 1", "", vec![]),
            ("mode: EXECVE", "", vec!["mode EXECVE|ONCE (default)"]),
            ("log_fd: 2", "", vec!["log_fd 2|-"]),
            ("cwd: \"/a\"", "cwd: \"/b\"", vec!["cwd \"/a\"|\"/b\""]),
            (
                "envar: [\"A=1\", \"B=2\"]",
                "envar: [\"B=2\", \"C=3\"]",
                vec!["envar \"A=1\"|-", "envar -|\"C=3\""],
            ),
            (
                tmp,
                tmp_rw,
                vec!["mount[/tmp].options \"\" (default)|\"size=1M\"", "mount[/tmp].rw false (default)|true"],
            ),
            (
                &format!("{etc} {tmp}"),
                tmp,
                vec!["mount[/etc] { src: \"/etc\" dst: \"/etc\" is_bind: true }|-"],
            ),
            (&format!("{etc} {tmp}"), &format!("{tmp} {etc}"), vec!["mount (order) /etc /tmp|/tmp /etc"]),
            (&format!("{tmp} {tmp}"), tmp, vec!["mount[/tmp #2] { dst: \"/tmp\" fstype: \"tmpfs\" }|-"]),
            ("user_net {}", "", vec!["user_net { }|-"]),
            (
                "user_net { rule4 { action: DROP } }",
                "user_net { ip4: \"1.2.3.4\" }",
                vec![
                    "user_net.rule4 { action: DROP }|-",
                    "user_net.ip4 \"10.255.255.2\" (default)|\"1.2.3.4\"",
                ],
            ),
        ] {
            let got: Vec<String> = diff(&policy(left), &policy(right))
                .into_iter()
                .map(|d| {
                    format!(
                        "{} {}|{}",
                        d.field,
                        d.left.as_deref().unwrap_or("-"),
                        d.right.as_deref().unwrap_or("-")
                    )
                })
                .collect();
            assert_eq!(got, want, "{left} / {right}");
        }
    }

    #[test]
    fn the_carried_policies_differ_where_they_say() {
        let [ci, strict] = [Builtin::Ci, Builtin::Strict].map(Policy::builtin);
        assert!(diff(&strict, &strict).is_empty());
        let fields: Vec<String> = diff(&ci, &strict).into_iter().map(|d| d.field).collect();
        for field in
            ["seccomp_string", "rlimit_cpu", "rlimit_fsize", "rlimit_nproc_type", "mount[/tmp].options"]
        {
            assert!(fields.iter().any(|found| found == field), "{field} is not in {fields:?}");
        }
        assert!(!fields.iter().any(|found| found.starts_with("clone_") || found == "mode"), "{fields:?}");
    }
}
