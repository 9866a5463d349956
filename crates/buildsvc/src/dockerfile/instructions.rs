//! A Dockerfile's text as instructions: continued lines joined, comments dropped, the bodies of here-documents skipped.
//!
//! Follows `frontend/dockerfile/parser` of moby/buildkit: `Parse`, `directives.go` and `heredocsFromLine`.

/// One instruction; its name in upper case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Instruction {
    pub name: String,
    pub rest: String,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parsed {
    pub instructions: Vec<Instruction>,
    pub syntax: Option<Syntax>,
    /// `\` or a backquote.
    pub escape: char,
}

/// A directive that names the frontend for a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Syntax {
    pub image: String,
    /// All of it: what follows the image is for the frontend.
    pub directive: String,
    /// Where it stands, from 1.
    pub line: usize,
}

impl Syntax {
    pub fn of(directive: &str, line: usize) -> Syntax {
        let image = directive.split(' ').next().unwrap_or_default().to_owned();
        Syntax { image, directive: directive.to_owned(), line }
    }
}

pub(super) fn parse(text: &str) -> Parsed {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let escape = match directive(text, "#", "escape").as_ref().map(|(value, _)| value.as_str()) {
        Some("`") => '`',
        _ => '\\',
    };
    let mut instructions = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (mut whole, mut continues) = continued(line, escape);
        while continues {
            let Some(line) = lines.next() else { break };
            if line.trim().is_empty() || line.trim_start().starts_with('#') {
                continue;
            }
            let (part, more) = continued(line, escape);
            whole.push_str(&part);
            continues = more;
        }
        let (name, rest) = whole.trim().split_once(char::is_whitespace).unwrap_or((whole.trim(), ""));
        let instruction = Instruction { name: name.to_ascii_uppercase(), rest: rest.trim().to_owned() };
        for heredoc in heredocs(&instruction) {
            for line in lines.by_ref() {
                let line = if heredoc.chomp { line.trim_start_matches('\t') } else { line };
                if line == heredoc.end {
                    break;
                }
            }
        }
        instructions.push(instruction);
    }
    Parsed { instructions, syntax: syntax(text), escape }
}

/// A line without the mark of its continuation, and whether there was one. A mark behind another is a character.
fn continued(line: &str, escape: char) -> (String, bool) {
    let trimmed = line.trim_end_matches([' ', '\t']);
    match trimmed.strip_suffix(escape) {
        Some(before) if !before.ends_with(escape) => (before.to_owned(), true),
        _ => (line.to_owned(), false),
    }
}

/// The frontend that the text names, in any of the three forms.
pub fn syntax(text: &str) -> Option<Syntax> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (text, before) = match text.strip_prefix("#!") {
        Some(rest) => (rest.split_once('\n').map_or("", |(_, rest)| rest), 1),
        None => (text, 0),
    };
    let (value, line) =
        directive(text, "#", "syntax").or_else(|| directive(text, "//", "syntax")).or_else(|| {
            let json: serde_json::Value = serde_json::from_str(text).ok()?;
            Some((json.get("syntax")?.as_str()?.to_owned(), 1))
        })?;
    Some(Syntax::of(&value, before + line)).filter(|syntax| !syntax.image.is_empty())
}

/// The value of a directive, and its line. They stand in the first lines, and the first line that is none ends them.
fn directive(text: &str, comment: &str, wanted: &str) -> Option<(String, usize)> {
    for (index, line) in text.lines().enumerate() {
        let (key, value) = line.trim_start().strip_prefix(comment)?.split_once('=')?;
        let (key, value) = (key.trim().to_ascii_lowercase(), value.trim());
        if value.is_empty() || !matches!(key.as_str(), "syntax" | "escape" | "check") {
            return None;
        }
        if key == wanted {
            return Some((value.to_owned(), index + 1));
        }
    }
    None
}

#[derive(Debug)]
struct Heredoc {
    end: String,
    chomp: bool,
}

/// The here-documents that an instruction opens, in the order of their bodies.
fn heredocs(instruction: &Instruction) -> Vec<Heredoc> {
    let (name, rest) = match instruction.name.as_str() {
        "ONBUILD" => {
            let (name, rest) =
                instruction.rest.split_once(char::is_whitespace).unwrap_or((&instruction.rest, ""));
            (name.to_ascii_uppercase(), rest)
        }
        name => (name.to_owned(), instruction.rest.as_str()),
    };
    if !matches!(name.as_str(), "ADD" | "COPY" | "RUN") {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut words = words(rest).into_iter();
    while let Some(word) = words.next() {
        let Some(opened) = word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<") else {
            continue;
        };
        let (opened, chomp) = opened.strip_prefix('-').map_or((opened, false), |opened| (opened, true));
        // `<< EOF` is one word for the frontend's lexer.
        let end = if opened.is_empty() { words.next().unwrap_or_default() } else { opened.to_owned() };
        if !end.is_empty() && !end.contains('<') {
            found.push(Heredoc { end: end.replace(['"', '\''], ""), chomp });
        }
    }
    found
}

/// Words parted by blanks outside of quotes, the quotes kept.
pub(super) fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    for c in text.chars() {
        match quote {
            None if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            None if matches!(c, '"' | '\'') => quote = Some(c),
            Some(open) if open == c => quote = None,
            _ => {}
        }
        word.push(c);
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_instructions() {
        let table: &[(&str, &[(&str, &str)])] = &[
            ("from a\n", &[("FROM", "a")]),
            ("\u{feff}FROM a", &[("FROM", "a")]),
            ("FROM a \\\n  AS b\r\nRUN x", &[("FROM", "a   AS b"), ("RUN", "x")]),
            ("RUN a \\\n# note\n\n  b\nRUN c", &[("RUN", "a   b"), ("RUN", "c")]),
            ("RUN a \\\\\nFROM b", &[("RUN", "a \\\\"), ("FROM", "b")]),
            ("# escape=`\nRUN a `\nFROM b", &[("RUN", "a FROM b")]),
            ("# no\n# escape=`\nRUN a `\nFROM b", &[("RUN", "a `"), ("FROM", "b")]),
            ("RUN <<E\nFROM x/y\nE\nFROM b", &[("RUN", "<<E"), ("FROM", "b")]),
            ("RUN <<-\"E\"\nFROM x/y\n\tE\nFROM b", &[("RUN", "<<-\"E\""), ("FROM", "b")]),
            ("COPY <<A <<B /\nFROM x\nA\nFROM y\nB\nFROM b", &[("COPY", "<<A <<B /"), ("FROM", "b")]),
            ("ONBUILD RUN <<E\nFROM x\nE\nFROM b", &[("ONBUILD", "RUN <<E"), ("FROM", "b")]),
            ("RUN echo \"a << b\"\nFROM b", &[("RUN", "echo \"a << b\""), ("FROM", "b")]),
            ("RUN cat <<E\nFROM x", &[("RUN", "cat <<E")]),
            ("LABEL <<E\nFROM b", &[("LABEL", "<<E"), ("FROM", "b")]),
            ("", &[]),
        ];
        for (text, expected) in table {
            let found: Vec<_> =
                parse(text).instructions.into_iter().map(|found| (found.name, found.rest)).collect();
            let expected: Vec<_> = expected.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect();
            assert_eq!(found, expected, "{text:?}");
        }
    }

    #[test]
    fn frontends_are_named_in_three_ways() {
        let table = [
            ("# syntax=docker/dockerfile:1\nFROM a", Some(("docker/dockerfile:1", 1))),
            ("#syntax = r.example/f:1 arg=x\nFROM a", Some(("r.example/f:1", 1))),
            ("# escape=`\n# SYNTAX=a/b", Some(("a/b", 2))),
            ("#!/usr/bin/env x\n# syntax=a/b", Some(("a/b", 2))),
            ("// syntax=a/b\n", Some(("a/b", 1))),
            (r#"{"syntax": "a/b"}"#, Some(("a/b", 1))),
            ("# a note\n# syntax=a/b", None),
            ("\n# syntax=a/b", None),
            ("FROM a\n# syntax=a/b", None),
            ("# syntax=", None),
        ];
        for (text, expected) in table {
            let syntax = parse(text).syntax;
            assert_eq!(syntax.as_ref().map(|found| (found.image.as_str(), found.line)), expected, "{text:?}");
        }
    }
}
