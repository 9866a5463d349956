//! A terminal that understands what the tty display writes and nothing else.

#[derive(Debug, Default)]
pub struct Screen {
    lines: Vec<String>,
    row: usize,
    /// Text of the current line up to the cursor was written again.
    fresh: Option<String>,
}

impl Screen {
    pub fn text(&self) -> String {
        self.lines.join("\n")
    }

    pub fn write(&mut self, text: &str) {
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            rest = &rest[c.len_utf8()..];
            match c {
                '\n' => {
                    let line = self.fresh.take();
                    self.set(line);
                    self.row += 1;
                }
                '\r' => self.fresh = None,
                '\u{1b}' => {
                    let end = rest.find(|c: char| c.is_ascii_alphabetic()).unwrap();
                    let (params, kind) = (&rest[1..end], &rest[end..=end]);
                    match kind {
                        "A" => {
                            self.row = self.row.checked_sub(params.parse().unwrap()).expect("above the top")
                        }
                        "J" => self.lines.truncate(self.row),
                        "K" => {
                            let line = Some(self.fresh.clone().unwrap_or_default());
                            self.set(line);
                        }
                        "m" | "h" | "l" => {}
                        other => panic!("unknown sequence {params}{other}"),
                    }
                    rest = &rest[end + 1..];
                }
                c => self.fresh.get_or_insert_default().push(c),
            }
        }
    }

    fn set(&mut self, line: Option<String>) {
        if self.row >= self.lines.len() {
            self.lines.resize(self.row + 1, String::new());
        }
        if let Some(line) = line {
            self.lines[self.row] = line;
        }
    }
}
