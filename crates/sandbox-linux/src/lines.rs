//! On which line of a policy's text a field stands. The reflection library reads values without their places, and a finding
//! without a line is hard to act on in a long file, so the text form is scanned once more, for the names at its top level.

use std::collections::BTreeMap;

/// Lines of the top-level fields, from 1. Empty for policies in JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Lines(BTreeMap<String, Vec<usize>>);

impl Lines {
    /// Scans a text that was accepted as a policy.
    pub(crate) fn of(text: &str) -> Lines {
        if text.trim_start().starts_with('{') {
            return Lines::default();
        }
        let mut scan =
            Scan { lines: Lines::default(), name: String::new(), value_next: false, listed: false, depth: 0 };
        let mut line = 1;
        let mut rest = text.chars().peekable();
        while let Some(c) = rest.next() {
            match c {
                '\n' => line += 1,
                '#' => {
                    while rest.peek().is_some_and(|c| *c != '\n') {
                        rest.next();
                    }
                }
                '"' | '\'' => {
                    scan.value(line);
                    let mut escaped = false;
                    for inner in rest.by_ref() {
                        if !escaped && inner == c {
                            break;
                        }
                        escaped = !escaped && inner == '\\';
                        line += usize::from(inner == '\n');
                    }
                }
                c if c.is_alphanumeric() || c == '_' => {
                    let mut word = String::from(c);
                    while let Some(next) = rest.next_if(|c| c.is_alphanumeric() || *c == '_' || *c == '.') {
                        word.push(next);
                    }
                    scan.word(word, line);
                }
                other => scan.sign(other, line),
            }
        }
        scan.lines
    }

    /// The line of `mode`, or of `mount[3]`; what follows a first `.` does not count.
    pub(crate) fn find(&self, field: &str) -> Option<usize> {
        let top = field.split('.').next().unwrap_or(field);
        let (name, index) = match top.split_once('[') {
            Some((name, index)) => (name, index.strip_suffix(']')?.parse().ok()?),
            None => (top, 0),
        };
        self.0.get(name)?.get(index).copied()
    }
}

struct Scan {
    lines: Lines,
    /// The field whose value is read.
    name: String,
    /// The next word or string is its value, not a name.
    value_next: bool,
    /// Within `[ … ]` of that field.
    listed: bool,
    depth: usize,
}

impl Scan {
    fn word(&mut self, word: String, line: usize) {
        if self.depth > 0 || self.value_next || self.listed {
            self.value(line);
        } else {
            self.name = word;
        }
    }

    fn value(&mut self, line: usize) {
        if self.depth == 0 && self.value_next {
            self.lines.0.entry(self.name.clone()).or_default().push(line);
            self.value_next = false;
        }
    }

    fn sign(&mut self, sign: char, line: usize) {
        match sign {
            ':' if self.depth == 0 => self.value_next = true,
            '[' if self.depth == 0 => (self.listed, self.value_next) = (true, true),
            ']' if self.depth == 0 => (self.listed, self.value_next) = (false, false),
            ',' if self.depth == 0 && self.listed => self.value_next = true,
            '{' | '<' => {
                if self.depth == 0 {
                    self.value_next = true;
                    self.value(line);
                }
                self.depth += 1;
            }
            '}' | '>' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_in_every_notation() {
        let text = "# mode: x\nmode: ONCE\nmount { dst: \"/\" }\nmount: [\n  {dst:\"/a\"},\n  {dst: '/}b'}\n]\n\
                    envar: [\"A=1\",\n\"B#2\"], envar: \"C\"\n \"=3\"\nmount < dst: \"/c\" >;\nclone_newnet: t cwd: \"a\\\"b\"\n";
        let lines = Lines::of(text);
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
        assert_eq!(Lines::of("{\"mode\": \"ONCE\"}").find("mode"), None);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_scanned(text in "[a-c:\\[\\]{}<>,;#'\"\\\\ \n0-9é-]{0,80}") {
            let lines = Lines::of(&text);
            let last = text.matches('\n').count() + 1;
            proptest::prop_assert!(lines.0.values().flatten().all(|line| (1..=last).contains(line)));
        }
    }
}
