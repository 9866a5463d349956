//! The range of host ids that a private daemon and its containers run under: 65536 of them, which own nothing else.
//!
//! Root takes ranges far above all accounts, another one for each daemon, so that a step that gets out of one daemon's
//! container does not own another's files. A plain user is the containers' root himself and has his subordinate ids for the
//! rest, as rootless container engines do it. See subuid(5), user_namespaces(7).

use std::fs;

use super::Place;
use crate::env::Env;
use crate::failure::Failure;

/// Ids of a container.
const COUNT: u32 = 65_536;
const FIRST: u32 = 0x7100_0000;
const RANGES: u32 = 0x0e00;

/// One map's entries: inside, outside, count.
type Map = Vec<(u32, u32, u32)>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ids {
    pub uids: Map,
    pub gids: Map,
    /// Written by newuidmap and newgidmap.
    pub by_helper: bool,
}

impl Ids {
    /// The ids of the daemon at `place`; chosen once and kept there.
    pub fn of(place: &Place, env: &Env) -> Result<Ids, Failure> {
        if !nix::unistd::geteuid().is_root() {
            return subordinate();
        }
        let first = match kept(place) {
            Some(first) => first,
            None => {
                let taken: Vec<u32> = Place::all(env)?.iter().filter_map(kept).collect();
                let free =
                    (0..RANGES).map(|range| FIRST + range * COUNT).find(|first| !taken.contains(first));
                let free = free.ok_or_else(|| Failure::sandbox("there are too many private builders"))?;
                fs::write(place.ids(), free.to_string()).map_err(|error| {
                    Failure::sandbox(format!("failed to write {}: {error}", place.ids().display()))
                })?;
                free
            }
        };
        let map = vec![(0, first, COUNT)];
        Ok(Ids { uids: map.clone(), gids: map, by_helper: false })
    }

    /// Host owner of what the containers' root owns.
    pub fn root(&self) -> (u32, u32) {
        let first = |map: &Map| map.first().map_or(u32::MAX, |entry| entry.1);
        (first(&self.uids), first(&self.gids))
    }

    /// As the lines of a policy.
    pub fn policy(&self) -> String {
        let line = |field: &str, (inside, outside, count): &(u32, u32, u32)| {
            let helper = if self.by_helper { " use_newidmap: true" } else { "" };
            format!(
                "{field} {{ inside_id: \"{inside}\" outside_id: \"{outside}\" count: {count}{helper} }}\n"
            )
        };
        let uids = self.uids.iter().map(|entry| line("uidmap", entry));
        uids.chain(self.gids.iter().map(|entry| line("gidmap", entry))).collect()
    }
}

fn kept(place: &Place) -> Option<u32> {
    let first: u32 = fs::read_to_string(place.ids()).ok()?.trim().parse().ok()?;
    // Written by ktl, but a wrong one would be somebody's account.
    (first >= FIRST && (first - FIRST).is_multiple_of(COUNT)).then_some(first)
}

fn subordinate() -> Result<Ids, Failure> {
    let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid.to_string()).then(|| name.to_owned())
    });
    let range = |file: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        largest(&text, &uid.to_string(), name.as_deref()).ok_or_else(|| {
            Failure::sandbox(format!("{file} gives this user no subordinate ids, and a container has many"))
                .hint("sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER")
                .hint(
                    "newuidmap and newgidmap come with the package uidmap (Debian, Ubuntu) or shadow-utils.",
                )
        })
    };
    let map = |own, (first, count): (u32, u32)| vec![(0, own, 1), (1, first, count.min(COUNT - 1))];
    Ok(Ids { uids: map(uid, range("/etc/subuid")?), gids: map(gid, range("/etc/subgid")?), by_helper: true })
}

/// The longest range of a user; a file has `NAME-OR-ID:FIRST:COUNT` on each line.
fn largest(text: &str, id: &str, name: Option<&str>) -> Option<(u32, u32)> {
    let ranges = text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let owner = fields.next()?;
        let range = (fields.next()?.parse().ok()?, fields.next()?.trim().parse().ok()?);
        (owner == id || Some(owner) == name).then_some(range)
    });
    ranges.filter(|(first, count)| *first > 0 && *count > 0).max_by_key(|(_, count)| *count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::private::Network;

    #[test]
    fn the_longest_range_of_the_user() {
        let text = "other:100000:65536\nme:200000:10\n1000:300000:65536\nme:0:99999\nme:x:y\n";
        assert_eq!(largest(text, "1000", Some("me")), Some((300_000, 65_536)));
        assert_eq!(largest(text, "7", Some("me")), Some((200_000, 10)));
        assert_eq!(largest(text, "7", None), None);
    }

    #[test]
    fn daemons_of_root_share_no_id() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let env = Env::of(&[("KTL_STATE_DIR", dir.path().to_str().unwrap())]);
        let mut seen = Vec::new();
        for name in ["a", "b"] {
            for network in [Network::None, Network::Host] {
                let place = Place::of(name, network, &env).unwrap();
                place.make().unwrap();
                let ids = Ids::of(&place, &env).unwrap();
                assert_eq!(Ids::of(&place, &env).unwrap(), ids, "kept");
                assert!(!seen.contains(&ids.root()), "{name} {network}");
                seen.push(ids.root());
            }
        }
        let place = Place::of("a", Network::None, &env).unwrap();
        fs::write(place.ids(), "0").unwrap();
        assert!(Ids::of(&place, &env).unwrap().root().0 >= FIRST, "a wrong file is not believed");
    }
}
