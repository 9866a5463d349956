//! Id maps as the policy wrote them, for any program: names, ranges, and the set-uid helpers of subordinate ids.
//!
//! One rule stays above the policy: nobody inside is the host's root. A map of root's that reaches host id 0, by default
//! or by word, becomes the per-run id; the ids inside stay. See user_namespaces(7), newuidmap(1); nsjail's user.cc.

use std::fs;

use super::ids::{self, Which};
use super::{Correction, JailError};
use crate::caller::{Caller, Extent};
use crate::proto::IdMap;

/// A settled map.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Written {
    pub extents: Vec<Extent>,
    /// Written by newuidmap or newgidmap.
    pub by_helper: bool,
}

/// Settles the policy's map. Without a user namespace (`own` is false) there is one id, the host's.
pub(super) fn settle(
    which: Which,
    map: &mut Vec<IdMap>,
    caller: &Caller,
    own: bool,
    corrections: &mut Vec<Correction>,
) -> Result<Written, JailError> {
    let (field, caller_id, outer) = which.facts(caller);
    let was = if map.is_empty() { "unset".to_owned() } else { ids::show(map) };
    let by_helper = own && map.iter().any(IdMap::use_newidmap);
    if by_helper && !map.iter().all(IdMap::use_newidmap) {
        return Err(JailError::refused(
            field,
            "has entries with and without use_newidmap, and a map can be written once only",
        ));
    }
    let mut asked = Vec::with_capacity(map.len());
    for entry in map.iter() {
        let id = |text: &str| {
            number(which, text, caller_id).ok_or_else(|| {
                JailError::refused(field, &format!("{text:?} is neither a name of this host nor a number"))
            })
        };
        asked.push(Extent {
            inside: id(entry.inside_id())?,
            outside: id(entry.outside_id())?,
            count: entry.count().max(1),
        });
    }
    let first = asked.first().map_or(caller_id, |extent| extent.inside);
    if asked.is_empty() {
        asked.push(Extent { inside: caller_id, outside: caller_id, count: 1 });
    }
    if !own {
        asked = vec![Extent { inside: first, outside: first, count: 1 }];
    }
    let harmless = asked.iter().all(|extent| ids::harmless(*extent, outer));
    let settled = if caller.is_root() {
        if harmless {
            asked.clone()
        } else {
            let outside = ids::per_run_id(caller.pid, outer).ok_or(JailError::NoFreeId { field })?;
            vec![Extent { inside: if own { first } else { outside }, outside, count: 1 }]
        }
    } else if by_helper {
        if asked
            .iter()
            .any(|extent| extent.outside == 0 || extent.outside.checked_add(extent.count).is_none())
        {
            return Err(JailError::refused(field, "reaches the host's id 0, or past the last one"));
        }
        asked.clone()
    } else {
        vec![Extent { inside: first, outside: caller_id, count: 1 }]
    };
    if settled != asked {
        let why = if caller.is_root() {
            "nobody in a jail is the host's root"
        } else {
            "a plain user maps its own id only, but for use_newidmap"
        };
        corrections.push(Correction::new(field, &was, &ids::show_extents(&settled), why));
    }
    let by_helper = by_helper && settled == asked;
    *map = ids::entries(&settled, by_helper);
    Ok(Written { extents: settled, by_helper })
}

/// As nsjail reads an id: nothing is the caller's own, then come the host's names, then numbers, octal after a 0.
fn number(which: Which, text: &str, own: u32) -> Option<u32> {
    if text.is_empty() {
        return Some(own);
    }
    let file = match which {
        Which::Uid => "/etc/passwd",
        Which::Gid => "/etc/group",
    };
    let names = fs::read_to_string(file).unwrap_or_default();
    let named = names.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(text)).then(|| fields.nth(1)?.parse().ok())?
    });
    named.or_else(|| match text.strip_prefix('0') {
        Some("") => Some(0),
        Some(octal) => u32::from_str_radix(octal, 8).ok(),
        None if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
        None => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Policy;
    use crate::jail::tests::caller;

    fn settled(text: &str, uid: u32, own: bool) -> Result<(String, bool, usize), JailError> {
        let config = Policy::parse("p", format!("#\n{text}").as_bytes()).unwrap().into_config();
        let mut map = config.uidmap;
        let mut corrections = Vec::new();
        let written = settle(Which::Uid, &mut map, &caller(uid), own, &mut corrections)?;
        assert_eq!(ids::show(&map), ids::show_extents(&written.extents));
        assert!(map.iter().all(|entry| entry.use_newidmap() == written.by_helper));
        Ok((ids::show_extents(&written.extents), written.by_helper, corrections.len()))
    }

    #[test]
    fn maps_stay_but_for_the_hosts_root() {
        let range = "uidmap { inside_id: \"0\" outside_id: \"1001\" use_newidmap: true } \
                     uidmap { inside_id: \"1\" outside_id: \"100000\" count: 65535 use_newidmap: true }";
        let free = 0x7000_0000 + 77;
        for (text, uid, want, helper, corrected) in [
            ("", 1001, "1001:1001:1".to_owned(), false, 0),
            ("uidmap { inside_id: \"0\" }", 1001, "0:1001:1".to_owned(), false, 0),
            (
                "uidmap { inside_id: \"010\" outside_id: \"7\" count: 3 }",
                1001,
                "8:1001:1".to_owned(),
                false,
                1,
            ),
            (range, 1001, "0:1001:1 1:100000:65535".to_owned(), true, 0),
            (range, 0, "0:1001:1 1:100000:65535".to_owned(), true, 0),
            ("", 0, format!("0:{free}:1"), false, 1),
            ("uidmap { inside_id: \"5\" outside_id: \"root\" }", 0, format!("5:{free}:1"), false, 1),
            (
                "uidmap { inside_id: \"0\" outside_id: \"0\" count: 9 use_newidmap: true }",
                0,
                format!("0:{free}:1"),
                false,
                1,
            ),
            ("uidmap { outside_id: \"9\" count: 4294967290 }", 0, format!("0:{free}:1"), false, 1),
            ("uidmap { outside_id: \"100000\" count: 65536 }", 0, "0:100000:65536".to_owned(), false, 0),
        ] {
            assert_eq!(settled(text, uid, true).unwrap(), (want, helper, corrected), "{text}");
        }
    }

    #[test]
    fn without_a_namespace_the_id_is_the_hosts() {
        let free = 0x7000_0000 + 77;
        assert_eq!(settled("", 0, false).unwrap(), (format!("{free}:{free}:1"), false, 1));
        let root = "uidmap { inside_id: \"0\" outside_id: \"100000\" }";
        assert_eq!(settled(root, 0, false).unwrap().0, format!("{free}:{free}:1"));
        let other = "uidmap { inside_id: \"1234\" outside_id: \"5\" }";
        assert_eq!(settled(other, 0, false).unwrap(), ("1234:1234:1".to_owned(), false, 0));
    }

    #[test]
    fn refuses_what_cannot_be_written() {
        for text in [
            "uidmap { use_newidmap: true } uidmap { inside_id: \"7\" outside_id: \"7\" }",
            "uidmap { inside_id: \"no such user\" }",
            "uidmap { inside_id: \"0x3e8\" }",
            "uidmap { inside_id: \"09\" }",
            "uidmap { inside_id: \"-1\" }",
            "uidmap { outside_id: \"0\" count: 2 use_newidmap: true }",
            "uidmap { outside_id: \"4294967295\" count: 2 use_newidmap: true }",
        ] {
            let error = settled(text, 1001, true).unwrap_err().to_string();
            assert!(error.starts_with("uidmap: "), "{text}: {error}");
        }
    }
}
