//! On which line of a policy's text a field stands. A message holds values without their places, and a finding
//! without a line is hard to act on in a long file, so the readers of policies note the lines of the top level.

use std::collections::BTreeMap;

/// Lines of the top-level fields' values, from 1.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Lines {
    by_field: BTreeMap<String, Vec<usize>>,
    /// The last place that was counted, and its line: places come in the order of the text.
    last: (usize, usize),
}

impl Lines {
    /// Notes the place of one more value of a field.
    pub(crate) fn record(&mut self, field: &str, text: &str, at: usize) {
        let (from, before) = self.last;
        let since = text.as_bytes().get(from..at).unwrap_or_default();
        self.last = (at, before + since.iter().filter(|byte| **byte == b'\n').count());
        self.by_field.entry(field.to_owned()).or_default().push(self.last.1 + 1);
    }

    /// The line of `mode`, or of `mount[3]`; what follows a first `.` does not count.
    pub(crate) fn find(&self, field: &str) -> Option<usize> {
        let top = field.split('.').next().unwrap_or(field);
        let (name, index) = match top.split_once('[') {
            Some((name, index)) => (name, index.strip_suffix(']')?.parse().ok()?),
            None => (top, 0),
        };
        self.by_field.get(name)?.get(index).copied()
    }
}

#[cfg(test)]
mod tests {
    use crate::Policy;

    #[test]
    fn fields_are_found_in_every_notation() {
        let text = "# mode: x\nmode: ONCE\nmount { dst: \"/\" }\nmount: [\n  {dst:\"/a\"},\n  {dst: '/}b'}\n]\n\
                    envar: [\"A=1\",\n\"B#2\"], envar: \"C\"\n \"=3\"\nmount < dst: \"/c\" >;\nclone_newnet: t cwd: \"a\\\"b\"\n";
        let policy = Policy::parse("p", text.as_bytes()).unwrap();
        let lines = policy.lines();
        for (field, line) in [
            ("mode", Some(2)),
            ("mount[0]", Some(3)),
            ("mount[1].dst", Some(5)),
            ("mount[2]", Some(6)),
            ("envar[0]", Some(8)),
            ("envar[1]", Some(9)),
            ("envar[2]", Some(9)),
            ("mount[3]", Some(11)),
            ("mount[4]", None),
            ("clone_newnet", Some(12)),
            ("cwd", Some(12)),
            ("hostname", None),
        ] {
            assert_eq!(lines.find(field), line, "{field}");
        }
        let text =
            "{\n\"mode\": \"ONCE\",\n\"mount\": [\n{\"dst\": \"/\"},\n{\"dst\":\n \"/a\"}], envar: 'A'}";
        let policy = Policy::parse("p", text.as_bytes()).unwrap();
        for (field, line) in
            [("mode", Some(2)), ("mount[1].dst", Some(5)), ("envar[0]", Some(6)), ("cwd", None)]
        {
            assert_eq!(policy.lines().find(field), line, "{field}");
        }
    }
}
