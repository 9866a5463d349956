//! Each field that a policy sets, in one sentence, and what ktl makes of it. The second half is not written down here: it
//! is read off a jail that was really settled from the policy, so it cannot disagree with what a build does.

mod sentences;

use prost_reflect::{DynamicMessage, FieldDescriptor, Value};
use serde::Serialize;

use crate::fields::{self, render};
use crate::jail::{Correction, Jail};
use crate::policy::Policy;

/// One set field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explained {
    /// `mode`, `mount[3]`; other lists are explained as one.
    pub field: String,
    /// Line in the policy's text, from 1.
    pub line: Option<usize>,
    /// As the text form has it, on one line.
    pub value: String,
    pub does: String,
    /// What ktl does with it; `None` when no jail could be settled.
    pub ktl: Option<String>,
}

/// Explains the fields that are set. `settled` is the jail that ktl makes of this policy.
pub fn explain(policy: &Policy, settled: Option<&Jail>) -> Vec<Explained> {
    let message = fields::message(policy);
    let effective = settled.map(|jail| (fields::message(&jail.policy()), jail.corrections()));
    let mut out = Vec::new();
    for (field, value) in fields::set(&message) {
        match value {
            Value::List(points) if field.name() == "mount" => {
                for (index, point) in points.iter().enumerate() {
                    let name = format!("mount[{index}]");
                    let ktl = effective.as_ref().map(|(now, corrections)| {
                        corrected(&name, corrections).unwrap_or_else(|| mount_fate(&field, point, now))
                    });
                    out.push(Explained {
                        line: policy.lines().find(&name),
                        value: render(point, &field.kind()),
                        does: sentences::mount(point),
                        ktl,
                        field: name,
                    });
                }
            }
            value => {
                let ktl = effective.as_ref().map(|(now, corrections)| {
                    corrected(field.name(), corrections).unwrap_or_else(|| fate(&field, &value, now))
                });
                out.push(Explained {
                    field: field.name().to_owned(),
                    line: policy.lines().find(field.name()),
                    value: render(&value, &field.kind()),
                    does: sentences::field(field.name()).to_owned(),
                    ktl,
                });
            }
        }
    }
    // As the file has them; what has no line keeps the order of the format.
    out.sort_by_key(|explained| explained.line.unwrap_or(usize::MAX));
    out
}

fn corrected(field: &str, corrections: &[Correction]) -> Option<String> {
    let found = corrections.iter().find(|c| c.field.split(", ").any(|name| name == field))?;
    Some(format!("changes it to {}: {}", found.now, found.why))
}

fn fate(field: &FieldDescriptor, value: &Value, now: &DynamicMessage) -> String {
    let Some(field) = now.descriptor_field(field.name()) else { return "ignores it".to_owned() };
    let settled = now.get_field(&field).into_owned();
    if settled == *value {
        return "keeps it".to_owned();
    }
    if let (Value::List(was), Value::List(is)) = (value, &settled)
        && was.iter().all(|item| is.contains(item))
    {
        return "keeps it, and adds its own".to_owned();
    }
    if now.has_field(&field) {
        format!("sets its own: {}", render(&settled, &field.kind()))
    } else {
        "leaves it out".to_owned()
    }
}

fn mount_fate(field: &FieldDescriptor, point: &Value, now: &DynamicMessage) -> String {
    let dst = |point: &Value| match point {
        Value::Message(point) => point.get_field_by_name("dst").map(|dst| dst.into_owned()),
        _ => None,
    };
    let Some(field) = now.descriptor_field(field.name()) else { return "ignores it".to_owned() };
    let settled = now.get_field(&field).into_owned();
    let Value::List(points) = settled else { return "ignores it".to_owned() };
    if points.contains(point) || points.iter().any(|other| dst(other) == dst(point)) {
        "keeps it".to_owned()
    } else {
        "leaves it out: its source is not on this host".to_owned()
    }
}

trait Fields {
    fn descriptor_field(&self, name: &str) -> Option<FieldDescriptor>;
}

impl Fields for DynamicMessage {
    fn descriptor_field(&self, name: &str) -> Option<FieldDescriptor> {
        use prost_reflect::ReflectMessage as _;
        self.descriptor().get_field_by_name(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Overrides;
    use crate::jail::tests::caller;
    use crate::proto::config_descriptor;

    #[test]
    fn every_field_has_a_sentence() {
        for field in config_descriptor().fields() {
            let sentence = sentences::field(field.name());
            assert!(!sentence.is_empty(), "{} has none", field.name());
            assert!(sentence.ends_with('.') && sentence.len() > 15, "{}: {sentence}", field.name());
        }
    }

    #[test]
    fn says_what_ktl_makes_of_it() {
        let text = "name: \"x\"\nmode: EXECVE\nhostname: \"h\"\nclone_newnet: false\nmount { dst: \"/tmp\" fstype: \"tmpfs\" rw: true }\n\
                    mount { dst: \"/x\" src: \"/no/such\" is_bind: true mandatory: false }\n\
                    mount { dst: \"/r\" src: \"/run\" is_bind: true }\nenvar: \"A=1\"\n";
        let policy = Policy::parse("p", text.as_bytes()).unwrap();
        let overrides = Overrides {
            env: vec![("B".to_owned(), "2".to_owned())],
            no_network: true,
            ..Overrides::default()
        };
        let jail = Jail::new(policy.clone(), overrides, &caller(1001)).unwrap();
        let explained = explain(&policy, Some(&jail));
        for (field, line, part) in [
            ("name", 1, "keeps it"),
            ("mode", 2, "changes it to ONCE: without a supervisor"),
            ("hostname", 3, "keeps it"),
            ("clone_newnet", 4, "changes it to true"),
            ("mount[0]", 5, "keeps it"),
            ("mount[1]", 6, "leaves it out: its source"),
            ("mount[2]", 7, "changes it to left out: holds daemon sockets"),
            ("envar", 8, "keeps it, and adds its own"),
        ] {
            let found = explained.iter().find(|e| e.field == field).unwrap_or_else(|| panic!("no {field}"));
            assert_eq!(found.line, Some(line), "{field}");
            let ktl = found.ktl.as_deref().unwrap_or_default();
            assert!(ktl.starts_with(part), "{field}: {ktl}");
        }
        assert_eq!(explained.len(), 8);
        assert!(explain(&policy, None).iter().all(|e| e.ktl.is_none()));
    }
}
