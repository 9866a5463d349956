//! The events of a run, held until its end is known. What ktl itself says of a jail is little; the jail's own lines may come
//! without end, so of those only the last are held.

use std::collections::VecDeque;

/// Lines of the jail, the last of which are held: the end tells more than the beginning.
const JAIL_LINES: usize = 1000;
/// Everything else, the first of which is held. A policy of the largest size has fewer mounts than this.
const OTHERS: usize = 20_000;

#[derive(Debug, Default)]
pub struct Memory {
    count: u64,
    others: Vec<(u64, String)>,
    jail: VecDeque<(u64, String)>,
    dropped_jail: u64,
    dropped_others: u64,
}

impl Memory {
    pub fn add(&mut self, line: String, from_jail: bool) {
        self.count += 1;
        if from_jail {
            if self.jail.len() == JAIL_LINES {
                self.jail.pop_front();
                self.dropped_jail += 1;
            }
            self.jail.push_back((self.count, line));
        } else if self.others.len() < OTHERS {
            self.others.push((self.count, line));
        } else {
            self.dropped_others += 1;
        }
    }

    /// All lines in their order. Where some are missing, `dropped` makes a line of their number: those of the jail before the
    /// first that is left, the others at the end.
    pub fn lines(self, dropped: impl Fn(u64) -> String) -> Vec<String> {
        let first_of_jail = self.jail.front().map(|(at, _)| *at);
        let mut lines = self.others;
        lines.extend(self.jail);
        lines.sort_by_key(|(at, _)| *at);
        let mut all = Vec::with_capacity(lines.len() + 2);
        for (at, line) in lines {
            if self.dropped_jail > 0 && Some(at) == first_of_jail {
                all.push(dropped(self.dropped_jail));
            }
            all.push(line);
        }
        if self.dropped_others > 0 {
            all.push(dropped(self.dropped_others));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_of_the_jail_are_held_in_order() {
        let mut memory = Memory::default();
        memory.add("begin".to_owned(), false);
        for number in 0..JAIL_LINES + 7 {
            memory.add(format!("jail {number}"), true);
        }
        memory.add("end".to_owned(), false);
        let lines = memory.lines(|count| format!("dropped {count}"));
        assert_eq!(lines[..3], ["begin", "dropped 7", "jail 7"]);
        assert_eq!(lines[lines.len() - 2..], [format!("jail {}", JAIL_LINES + 6), "end".to_owned()]);
        assert_eq!(lines.len(), JAIL_LINES + 3);
    }

    #[test]
    fn a_flood_of_other_events_is_counted() {
        let mut memory = Memory::default();
        for _ in 0..OTHERS + 3 {
            memory.add(String::new(), false);
        }
        let lines = memory.lines(|count| format!("dropped {count}"));
        assert_eq!((lines.len(), lines.last().unwrap().as_str()), (OTHERS + 1, "dropped 3"));
    }
}
