//! Settings of the environment.
//!
//! A variable that is empty counts as unset. Of a flag that may be repeated it holds one value a line, and, where the flag itself
//! takes a list with commas, that as well.

use super::Typed;
use super::apply;
use super::flag::{Flag, Kind};
use super::reach::Reach;
use super::value::{Setting, Source};
use crate::env::Env;
use crate::failure::Failure;

/// Those of the flags that were not typed.
pub fn set(flags: &[Flag], typed: &Typed<'_>, env: &Env) -> Result<Vec<Setting>, Failure> {
    let mut settings = Vec::new();
    for flag in flags.iter().filter(|flag| flag.reach != Reach::Elsewhere && !typed.has(flag)) {
        let Some(value) = env.get(&flag.variable) else { continue };
        let source = Source::Variable(flag.variable.clone());
        let text = value.into_string().map_err(|_| Failure::usage(format!("{source}: is not UTF-8")))?;
        let values = match flag.kind {
            Kind::Many { commas } => list(&text, commas),
            _ => vec![text],
        };
        if values.is_empty() {
            return Err(Failure::usage(format!("{source}: holds nothing but blank lines")));
        }
        if let Some(setting) = Setting::new(flag, values, source)? {
            apply::check(&typed.path, &setting)?;
            settings.push(setting);
        }
    }
    Ok(settings)
}

fn list(text: &str, commas: bool) -> Vec<String> {
    let items = text.split(|c| c == '\n' || (commas && c == ','));
    items.map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_have_one_value_a_line() {
        for (text, commas, want) in [
            ("a", false, &["a"][..]),
            ("type=local,dest=x\n type=tar,dest=y \n\n", false, &["type=local,dest=x", "type=tar,dest=y"]),
            ("linux/amd64,linux/arm64\nlinux/s390x", true, &["linux/amd64", "linux/arm64", "linux/s390x"]),
            (" \n,\n", true, &[]),
        ] {
            assert_eq!(list(text, commas), want, "{text:?}");
        }
    }
}
