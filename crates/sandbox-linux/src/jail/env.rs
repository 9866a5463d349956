//! The guest's environment: a list that was written down, never what happens to be set.

use super::{Correction, JailError, Overrides, Tenant};
use crate::proto::NsJailConfig;

/// Writes the environment into the policy and returns its names.
pub(super) fn settle(
    config: &mut NsJailConfig,
    overrides: &Overrides,
    corrections: &mut Vec<Correction>,
) -> Result<Vec<String>, JailError> {
    for (name, value) in &overrides.env {
        if !fits(name, value) {
            return Err(JailError::refused("env", "a name or value that no environment can hold"));
        }
    }
    if overrides.tenant == Tenant::Program {
        take_host_values(config, overrides, corrections);
    }
    config.envar.retain(|entry| !overrides.env.iter().any(|(name, _)| *name == name_of(entry)));
    for (name, value) in &overrides.env {
        config.envar.push(format!("{name}={value}"));
    }
    let mut names: Vec<String> = config.envar.iter().map(|entry| name_of(entry).to_owned()).collect();
    names.sort();
    names.dedup();
    Ok(names)
}

/// `keep_env` and names without a value, by the host's values. nsjail gets an empty environment, so both become entries.
fn take_host_values(config: &mut NsJailConfig, overrides: &Overrides, corrections: &mut Vec<Correction>) {
    let mut entries: Vec<String> = Vec::new();
    if config.keep_env.take() == Some(true) {
        let host = overrides.host_env.iter().filter(|(name, value)| fits(name, value));
        entries.extend(host.map(|(name, value)| format!("{name}={value}")));
    }
    let mut missing = Vec::new();
    for entry in std::mem::take(&mut config.envar) {
        if entry.contains('=') {
            entries.push(entry);
            continue;
        }
        match overrides.host_env.get(&entry).filter(|value| fits(&entry, value)) {
            Some(value) => entries.push(format!("{entry}={value}")),
            None => missing.push(entry),
        }
    }
    if !missing.is_empty() {
        corrections.push(Correction::new("envar", &missing.join(" "), "left out", "is not set on the host"));
    }
    // As putenv(3) leaves it: the last entry of a name counts.
    for (index, entry) in entries.iter().enumerate() {
        if !entries[index + 1..].iter().any(|later| name_of(later) == name_of(entry)) {
            config.envar.push(entry.clone());
        }
    }
}

fn name_of(entry: &str) -> &str {
    entry.split('=').next().unwrap_or_default()
}

fn fits(name: &str, value: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Policy;

    #[test]
    fn host_values_enter_where_the_policy_asks() {
        let pairs = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<Vec<_>>()
        };
        let host = pairs(&[("A", "host"), ("B", "b=c"), ("odd=name", "x"), ("NUL", "\0")]);
        for (text, entries, corrected) in [
            ("envar: \"A\" envar: \"X=1\"", "X=1 A=over", 0),
            ("envar: \"B\" envar: \"NONE\" envar: \"NUL\"", "B=b=c A=over", 1),
            ("keep_env: true", "B=b=c A=over", 0),
            ("keep_env: true envar: \"B=own\" envar: \"B=last\"", "B=last A=over", 0),
            ("envar: \"Z=1\" envar: \"B\"", "Z=1 B=b=c A=over", 0),
        ] {
            let overrides = Overrides {
                tenant: Tenant::Program,
                env: pairs(&[("A", "over")]),
                host_env: host.iter().cloned().collect(),
                ..Overrides::default()
            };
            let mut config = Policy::parse("p", text.as_bytes()).unwrap().into_config();
            let mut corrections = Vec::new();
            let names = settle(&mut config, &overrides, &mut corrections).unwrap();
            assert_eq!(config.envar.join(" "), entries, "{text}");
            assert_eq!(names.len(), config.envar.len(), "{text}");
            assert_eq!((corrections.len(), config.keep_env), (corrected, None), "{text}");
        }
    }
}
