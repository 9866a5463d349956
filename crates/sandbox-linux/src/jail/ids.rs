//! Who the guest is on the host. Started by root, it must not be root there: nsjail's default would map the
//! guest's root to the host's, and root-owned files and device nodes need no capability. So such a guest gets an
//! id that owns nothing, a different one for each run.

use super::{Correction, JailError};
use crate::caller::{Caller, Extent};
use crate::proto::IdMap;

/// The id that a guest without reason for another one has inside.
const INSIDE: u32 = 1000;
/// Base of the per-run host ids: far above accounts, subordinate ids and systemd's ranges.
const BASE: u32 = 0x7000_0000;
/// The kernel shows unmapped ids as this one.
const OVERFLOW: u32 = 65_534;

/// Which of the two maps.
#[derive(Debug, Clone, Copy)]
pub(super) enum Which {
    Uid,
    Gid,
}

impl Which {
    /// The policy's field, the caller's id, and the map of the caller's own namespace.
    pub(super) fn facts(self, caller: &Caller) -> (&'static str, u32, &[Extent]) {
        match self {
            Which::Uid => ("uidmap", caller.uid, &caller.uid_map),
            Which::Gid => ("gidmap", caller.gid, &caller.gid_map),
        }
    }
}

/// Replaces the policy's map by one that works for the caller and reaches nothing of worth. Returns its extents.
pub(super) fn settle(
    which: Which,
    map: &mut Vec<IdMap>,
    caller: &Caller,
    corrections: &mut Vec<Correction>,
) -> Result<Vec<Extent>, JailError> {
    let (field, own, outer) = which.facts(caller);
    let asked = extents(map, own);
    let settled = if caller.is_root() {
        match &asked {
            Some(asked) if !asked.is_empty() && asked.iter().all(|e| harmless(*e, outer)) => asked.clone(),
            _ => vec![Extent {
                inside: INSIDE,
                outside: per_run_id(caller.pid, outer).ok_or(JailError::NoFreeId { field })?,
                count: 1,
            }],
        }
    } else {
        let inside = asked.as_ref().and_then(|asked| asked.first()).map_or(own, |first| first.inside);
        vec![Extent { inside, outside: own, count: 1 }]
    };
    if !map.is_empty() && asked.as_ref() != Some(&settled) {
        let why = if caller.is_root() {
            "a jail started by root maps to an id that owns nothing on the host"
        } else {
            "a plain user can map its own id only"
        };
        corrections.push(Correction::new(field, &show(map), &show_extents(&settled), why));
    }
    *map = entries(&settled, false);
    Ok(settled)
}

/// The policy's form of a settled map.
pub(super) fn entries(extents: &[Extent], by_helper: bool) -> Vec<IdMap> {
    let entry = |extent: &Extent| IdMap {
        inside_id: Some(extent.inside.to_string()),
        outside_id: Some(extent.outside.to_string()),
        count: Some(extent.count),
        use_newidmap: by_helper.then_some(true),
    };
    extents.iter().map(entry).collect()
}

/// The policy's extents as numbers; `None` when one has a name, or wants the set-uid helpers.
fn extents(map: &[IdMap], own: u32) -> Option<Vec<Extent>> {
    let number = |text: &str| match text {
        "" => Some(own),
        text => text.parse().ok(),
    };
    map.iter()
        .map(|entry| {
            (!entry.use_newidmap()).then_some(())?;
            Some(Extent {
                inside: number(entry.inside_id())?,
                outside: number(entry.outside_id())?,
                count: entry.count().max(1),
            })
        })
        .collect()
}

/// True when the extent lies in the outer map and does not reach id 0.
pub(super) fn harmless(extent: Extent, outer: &[Extent]) -> bool {
    let Some(end) = extent.outside.checked_add(extent.count) else {
        return false;
    };
    extent.outside > 0
        && outer
            .iter()
            .any(|o| extent.outside >= o.inside && u64::from(end) <= u64::from(o.inside) + u64::from(o.count))
}

/// An id for this run. With all ids at hand it is [`BASE`] plus the low bits of the process id, so two runs at one
/// time differ; in a container it is high in the largest extent.
pub(super) fn per_run_id(pid: u32, outer: &[Extent]) -> Option<u32> {
    let wanted = Extent { inside: 0, outside: BASE + (pid & 0x3f_ffff), count: 1 };
    if harmless(wanted, outer) {
        return Some(wanted.outside);
    }
    let largest = outer.iter().max_by_key(|extent| extent.count)?;
    let spread = (largest.count / 2).min(1024);
    let last = largest.inside.checked_add(largest.count - 1)?;
    let mut id = last - pid.checked_rem(spread).unwrap_or(0);
    if id == OVERFLOW {
        id -= 1;
    }
    harmless(Extent { outside: id, ..wanted }, outer).then_some(id)
}

pub(super) fn show(map: &[IdMap]) -> String {
    let entry = |e: &IdMap| format!("{}:{}:{}", e.inside_id(), e.outside_id(), e.count());
    map.iter().map(entry).collect::<Vec<_>>().join(" ")
}

pub(super) fn show_extents(map: &[Extent]) -> String {
    let entry = |e: &Extent| format!("{}:{}:{}", e.inside, e.outside, e.count);
    map.iter().map(entry).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jail::tests::caller;

    fn map(inside: &str, outside: &str, count: u32) -> IdMap {
        IdMap {
            inside_id: Some(inside.to_owned()),
            outside_id: Some(outside.to_owned()),
            count: Some(count),
            use_newidmap: None,
        }
    }

    #[test]
    fn root_never_maps_to_root() {
        let free = format!("1000:{}:1", BASE + 77);
        for (asked, want, corrected) in [
            (vec![], free.as_str(), false),
            (vec![map("0", "0", 1)], &free, true),
            (vec![map("", "", 1)], &free, true),
            (vec![map("0", "root", 1)], &free, true),
            (vec![map("0", "0x7", 1)], &free, true),
            (vec![map("0", "4294967295", 2)], &free, true),
            (vec![map("0", "100000", 0)], "0:100000:1", false),
            (vec![map("0", "100000", 1), map("1", "100001", 9)], "0:100000:1 1:100001:9", false),
            (vec![map("0", "100000", 1), map("1", "0", 1)], &free, true),
        ] {
            let mut corrections = Vec::new();
            let mut entries = asked.clone();
            let got = settle(Which::Uid, &mut entries, &caller(0), &mut corrections).unwrap();
            assert_eq!(show_extents(&got), want, "{asked:?}");
            assert_eq!(show(&entries), want);
            assert_eq!(!corrections.is_empty(), corrected, "{asked:?}");
        }
    }

    #[test]
    fn a_plain_user_maps_itself() {
        for (asked, want) in [
            (vec![], "1001:1001:1"),
            (vec![map("0", "", 1)], "0:1001:1"),
            (vec![map("5", "0", 3)], "5:1001:1"),
        ] {
            let mut entries = asked;
            let got = settle(Which::Gid, &mut entries, &caller(1001), &mut Vec::new()).unwrap();
            assert_eq!(show_extents(&got), want);
        }
    }

    #[test]
    fn root_of_one_foreign_id_counts_as_that_user() {
        let mut alone = caller(0);
        let only = Extent { inside: 0, outside: 1000, count: 1 };
        (alone.uid_map, alone.gid_map) = (vec![only], vec![only]);
        assert!(!alone.is_root());
        let got = settle(Which::Uid, &mut Vec::new(), &alone, &mut Vec::new()).unwrap();
        assert_eq!(show_extents(&got), "0:0:1");
        alone.uid_map[0].outside = 0;
        assert!(alone.is_root());
        let refused = settle(Which::Uid, &mut Vec::new(), &alone, &mut Vec::new());
        assert!(matches!(refused, Err(JailError::NoFreeId { field: "uidmap" })));
    }

    #[test]
    fn containers_give_what_they_have() {
        let extent = |inside, outside, count| Extent { inside, outside, count };
        let rootless = [extent(0, 1000, 1), extent(1, 100_000, 65_535)];
        let id = per_run_id(4242, &rootless).unwrap();
        assert!((60_000..=65_535).contains(&id) && id != OVERFLOW, "{id}");
        assert_eq!(per_run_id(1, &[extent(0, 1000, 1)]), None);
        assert_eq!(per_run_id(1, &[]), None);
        for pid in 0..3000 {
            let id = per_run_id(pid, &[extent(0, 100_000, 65_536)]).unwrap();
            assert!(id > 0 && id < 65_536 && id != OVERFLOW);
        }
    }
}
