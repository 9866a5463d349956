//! Resource limits of a jail. nsjail's defaults are made for small untrusted programs and break builds (1 MiB
//! files, 32 descriptors); where a policy says nothing, the guest gets the caller's hard limits instead, written
//! as numbers because releases of nsjail disagree about the words. Any other program gets what nsjail would give it.

use std::collections::BTreeMap;

use nix::sys::resource::Resource;

use crate::jail::Correction;
use crate::proto::{NsJailConfig, RLimit};

/// Every limit that nsjail sets, by the name its policies use.
pub(crate) const RESOURCES: [(&str, Resource); 10] = [
    ("as", Resource::RLIMIT_AS),
    ("core", Resource::RLIMIT_CORE),
    ("cpu", Resource::RLIMIT_CPU),
    ("fsize", Resource::RLIMIT_FSIZE),
    ("nofile", Resource::RLIMIT_NOFILE),
    ("nproc", Resource::RLIMIT_NPROC),
    ("stack", Resource::RLIMIT_STACK),
    ("memlock", Resource::RLIMIT_MEMLOCK),
    ("rtprio", Resource::RLIMIT_RTPRIO),
    ("msgqueue", Resource::RLIMIT_MSGQUEUE),
];

/// The names of the limits that a policy can set, without their `rlimit_` prefix.
pub fn limit_names() -> impl Iterator<Item = &'static str> {
    RESOURCES.iter().map(|(name, _)| *name)
}

/// How a limit is settled.
struct Rule {
    name: &'static str,
    /// Bytes, seconds or pieces per unit of the policy.
    unit: u64,
    /// nsjail's default breaks builds, so silence means the caller's hard limit.
    fill: bool,
}

const RULES: [Rule; 9] = [
    Rule { name: "as", unit: 1 << 20, fill: true },
    Rule { name: "cpu", unit: 1, fill: true },
    Rule { name: "fsize", unit: 1 << 20, fill: true },
    Rule { name: "nofile", unit: 1, fill: true },
    Rule { name: "nproc", unit: 1, fill: false },
    Rule { name: "stack", unit: 1 << 20, fill: false },
    Rule { name: "memlock", unit: 1 << 10, fill: false },
    Rule { name: "rtprio", unit: 1, fill: false },
    Rule { name: "msgqueue", unit: 1, fill: false },
];

/// The value and type fields of a limit.
fn field<'a>(config: &'a mut NsJailConfig, name: &str) -> Option<(&'a mut Option<u64>, &'a mut Option<i32>)> {
    Some(match name {
        "as" => (&mut config.rlimit_as, &mut config.rlimit_as_type),
        "cpu" => (&mut config.rlimit_cpu, &mut config.rlimit_cpu_type),
        "fsize" => (&mut config.rlimit_fsize, &mut config.rlimit_fsize_type),
        "nofile" => (&mut config.rlimit_nofile, &mut config.rlimit_nofile_type),
        "nproc" => (&mut config.rlimit_nproc, &mut config.rlimit_nproc_type),
        "stack" => (&mut config.rlimit_stack, &mut config.rlimit_stack_type),
        "memlock" => (&mut config.rlimit_memlock, &mut config.rlimit_memlock_type),
        "rtprio" => (&mut config.rlimit_rtprio, &mut config.rlimit_rtprio_type),
        "msgqueue" => (&mut config.rlimit_msgqueue, &mut config.rlimit_msgqueue_type),
        "core" => (&mut config.rlimit_core, &mut config.rlimit_core_type),
        _ => return None,
    })
}

/// Settles the limits and returns the ones that the guest can check: name to the highest allowed hard limit, in
/// the kernel's units.
pub(crate) fn settle(
    config: &mut NsJailConfig,
    hard_limits: &BTreeMap<&'static str, u64>,
    corrections: &mut Vec<Correction>,
) -> BTreeMap<String, u64> {
    if config.disable_rl() {
        config.disable_rl = None;
        let why = "with limits off a crash of the guest could write a core file";
        corrections.push(Correction::new("disable_rl", "true", "false", why));
    }
    let mut promised = BTreeMap::new();
    let mut silent = Vec::new();
    for Rule { name, unit, fill } in RULES {
        let hard = hard_limits.get(name).copied().unwrap_or(u64::MAX);
        let Some((value, kind)) = field(config, name) else { continue };
        let mut lower = |was: &str| {
            let field = format!("rlimit_{name}");
            let why = "no process may raise its own hard limit";
            corrections.push(Correction::new(&field, was, "the caller's hard limit", why));
        };
        // Where the type is unset, the first four are numbers and the others the caller's soft limit.
        let unsaid = if fill { RLimit::Value } else { RLimit::Soft };
        let said = kind.map_or(unsaid, |kind| RLimit::try_from(kind).unwrap_or(unsaid));
        match (said, *value) {
            (RLimit::Value, None) if fill && kind.is_none() => {
                silent.push(format!("rlimit_{name}"));
                as_hard(value, kind, hard, unit);
            }
            (RLimit::Value, None) | (RLimit::Soft, _) => {}
            (RLimit::Value, Some(asked)) => {
                // nsjail multiplies without looking; a wrapped product would be a tiny limit.
                let most = asked.saturating_mul(unit);
                if most > hard {
                    lower(&asked.to_string());
                    as_hard(value, kind, hard, unit);
                } else if most == u64::MAX {
                    as_hard(value, kind, u64::MAX, unit);
                } else {
                    promised.insert(name.to_owned(), most);
                }
            }
            (RLimit::Hard, _) => as_hard(value, kind, hard, unit),
            (RLimit::Inf, _) => {
                if hard != u64::MAX {
                    lower("INF");
                }
                as_hard(value, kind, hard, unit);
            }
        }
    }
    let core_kind = config.rlimit_core_type();
    if config.rlimit_core() != 0 || core_kind != RLimit::Value {
        corrections.push(Correction::new(
            "rlimit_core",
            "a size",
            "0",
            "a core file of the guest would hold registry credentials",
        ));
    }
    (config.rlimit_core, config.rlimit_core_type) = (Some(0), None);
    promised.insert("core".to_owned(), 0);
    if !silent.is_empty() {
        corrections.push(Correction::new(
            &silent.join(", "),
            "unset",
            "the caller's hard limits",
            "nsjail's defaults (4 GiB of address space, 600 s, 1 MiB files, 32 descriptors) break builds",
        ));
    }
    promised
}

/// Settles the limits of any program: nsjail's own values where the policy is silent, and none where it turns them off.
/// What the caller may not have becomes the caller's hard limit. Returns the highest that each may come to.
pub(crate) fn as_written(
    config: &mut NsJailConfig,
    hard_limits: &BTreeMap<&'static str, u64>,
    corrections: &mut Vec<Correction>,
) -> BTreeMap<String, u64> {
    let mut promised = BTreeMap::new();
    if config.disable_rl() {
        return promised;
    }
    let core = Rule { name: "core", unit: 1 << 20, fill: true };
    for Rule { name, unit, .. } in RULES.iter().chain([&core]) {
        let hard = hard_limits.get(name).copied().unwrap_or(u64::MAX);
        let most = wanted(config, name, hard, hard);
        let Some((value, kind)) = field(config, name) else { continue };
        if most > hard {
            let was = value.map_or("unset".to_owned(), |value| value.to_string());
            let was = if *kind == Some(RLimit::Inf.into()) { "INF" } else { &was };
            let why = "no process may raise its own hard limit";
            let field = format!("rlimit_{name}");
            corrections.push(Correction::new(&field, was, "the caller's hard limit", why));
            as_hard(value, kind, hard, *unit);
        } else if most == u64::MAX || *kind == Some(RLimit::Hard.into()) {
            // nsjail multiplies without looking, and a wrapped product would be a tiny limit; releases of it disagree
            // about the word.
            as_hard(value, kind, hard, *unit);
        }
        promised.insert((*name).to_owned(), most.min(hard));
    }
    promised
}

/// What a settled policy sets the soft and the hard limit to, in the kernel's units; `soft` and `hard` are the
/// caller's own.
pub(crate) fn wanted(config: &NsJailConfig, name: &str, soft: u64, hard: u64) -> u64 {
    let (value, kind, unit) = match name {
        "as" => (config.rlimit_as(), config.rlimit_as_type(), 1 << 20),
        "core" => (config.rlimit_core(), config.rlimit_core_type(), 1 << 20),
        "cpu" => (config.rlimit_cpu(), config.rlimit_cpu_type(), 1),
        "fsize" => (config.rlimit_fsize(), config.rlimit_fsize_type(), 1 << 20),
        "nofile" => (config.rlimit_nofile(), config.rlimit_nofile_type(), 1),
        "nproc" => (config.rlimit_nproc(), config.rlimit_nproc_type(), 1),
        "stack" => (config.rlimit_stack(), config.rlimit_stack_type(), 1 << 20),
        "memlock" => (config.rlimit_memlock(), config.rlimit_memlock_type(), 1 << 10),
        "rtprio" => (config.rlimit_rtprio(), config.rlimit_rtprio_type(), 1),
        _ => (config.rlimit_msgqueue(), config.rlimit_msgqueue_type(), 1),
    };
    match kind {
        RLimit::Value => value.saturating_mul(unit),
        // nsjail raises its own soft limit before it looks.
        RLimit::Soft if name == "nofile" => soft.max(hard.min(8192)),
        RLimit::Soft => soft,
        RLimit::Hard => hard,
        RLimit::Inf => u64::MAX,
    }
}

fn as_hard(value: &mut Option<u64>, kind: &mut Option<i32>, hard: u64, unit: u64) {
    (*value, *kind) = if hard == u64::MAX {
        (None, Some(RLimit::Inf.into()))
    } else if hard >= unit {
        (Some(hard / unit), Some(RLimit::Value.into()))
    } else {
        (None, Some(RLimit::Hard.into()))
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Policy;

    #[test]
    fn settled_values_have_the_kernels_units() {
        for (text, name, want) in [
            ("rlimit_as: 3", "as", 3 << 20),
            ("rlimit_as_type: INF", "as", u64::MAX),
            ("rlimit_memlock: 2 rlimit_memlock_type: VALUE", "memlock", 2 << 10),
            ("rlimit_memlock: 2", "memlock", 100),
            ("rlimit_nofile_type: SOFT", "nofile", 5000),
            ("rlimit_stack_type: HARD", "stack", 5000),
            ("rlimit_msgqueue: 7 rlimit_msgqueue_type: VALUE", "msgqueue", 7),
            ("#", "core", 0),
            ("#", "fsize", 1 << 20),
        ] {
            let config = Policy::parse("p", text.as_bytes()).unwrap().into_config();
            assert_eq!(wanted(&config, name, 100, 5000), want, "{text}");
        }
    }

    #[test]
    fn any_programs_limits_are_the_policys() {
        let hard =
            BTreeMap::from([("as", u64::MAX), ("nofile", 1024), ("fsize", 1 << 20), ("core", u64::MAX)]);
        for (text, name, want, count) in [
            ("#", "as", Some(4096 << 20), 0),
            ("#", "cpu", Some(600), 0),
            ("#", "fsize", Some(1 << 20), 0),
            ("#", "nofile", Some(32), 0),
            ("#", "core", Some(0), 0),
            ("rlimit_nofile_type: HARD", "nofile", Some(1024), 0),
            ("rlimit_nofile: 5000", "nofile", Some(1024), 1),
            ("rlimit_nofile_type: INF", "nofile", Some(1024), 1),
            ("rlimit_fsize: 3", "fsize", Some(1 << 20), 1),
            ("rlimit_as: 17592186044417", "as", Some(u64::MAX), 0),
            ("rlimit_core: 3", "core", Some(3 << 20), 0),
            ("disable_rl: true rlimit_nofile: 5000", "nofile", None, 0),
        ] {
            let mut config = Policy::parse("p", text.as_bytes()).unwrap().into_config();
            let mut corrections = Vec::new();
            let limits = as_written(&mut config, &hard, &mut corrections);
            assert_eq!(limits.get(name).copied(), want, "{text} {name}");
            assert_eq!(corrections.len(), count, "{text}: {corrections:?}");
            if let Some(want) = want {
                assert_eq!(
                    wanted(&config, name, 7, hard.get(name).copied().unwrap_or(u64::MAX)),
                    want,
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn settles_each_form() {
        let number = Some(RLimit::Value.into());
        let hard = BTreeMap::from([
            ("as", u64::MAX),
            ("cpu", u64::MAX),
            ("fsize", 3 << 20),
            ("nofile", 1024),
            ("nproc", 50),
        ]);
        for (text, nofile, fsize, promised, count) in [
            ("# silent", (Some(1024), number), (Some(3), number), None, 1),
            (
                "rlimit_nofile: 64 rlimit_fsize: 2 rlimit_as: 1 rlimit_cpu: 1",
                (Some(64), None),
                (Some(2), None),
                Some(64),
                0,
            ),
            (
                "rlimit_nofile: 99999 rlimit_fsize_type: INF rlimit_as: 1 rlimit_cpu: 1",
                (Some(1024), number),
                (Some(3), number),
                None,
                2,
            ),
            (
                "rlimit_nofile_type: HARD rlimit_fsize: 17592186044417 rlimit_as: 1 rlimit_cpu: 1 disable_rl: true",
                (Some(1024), number),
                (Some(3), number),
                None,
                2,
            ),
            (
                "rlimit_nofile_type: SOFT rlimit_fsize: 1 rlimit_as: 1 rlimit_cpu: 1 rlimit_core: 5",
                (None, Some(RLimit::Soft.into())),
                (Some(1), None),
                None,
                1,
            ),
            (
                "rlimit_nofile: 9 rlimit_fsize: 1 rlimit_as: 1 rlimit_cpu: 1 rlimit_nproc: 60 rlimit_nproc_type: VALUE",
                (Some(9), None),
                (Some(1), None),
                Some(9),
                1,
            ),
        ] {
            let mut config = Policy::parse("p", text.as_bytes()).unwrap().into_config();
            let mut corrections = Vec::new();
            let limits = settle(&mut config, &hard, &mut corrections);
            assert_eq!((config.rlimit_nofile, config.rlimit_nofile_type), nofile, "{text}");
            assert_eq!((config.rlimit_fsize, config.rlimit_fsize_type), fsize, "{text}");
            assert_eq!(limits.get("nofile").copied(), promised, "{text}");
            assert_eq!(limits["core"], 0);
            assert_eq!(corrections.len(), count, "{text}: {corrections:?}");
            assert_eq!(config.rlimit_core, Some(0));
        }
    }
}
