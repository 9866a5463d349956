//! Whatever is written, the readers answer, with a place inside the text; and what they take survives being written again.

use proptest::prelude::*;
use prost_reflect::MessageDescriptor;

use super::*;

/// The names and values of the schema, and what stands between them.
fn words() -> Vec<String> {
    fn collect(message: &MessageDescriptor, found: &mut Vec<String>) {
        for field in message.fields() {
            found.push(field.name().to_owned());
            found.push(field.json_name().to_owned());
            if let prost_reflect::Kind::Enum(known) = field.kind() {
                found.extend(known.values().map(|value| value.name().to_owned()));
            }
            if let prost_reflect::Kind::Message(inner) = field.kind() {
                collect(&inner, found);
            }
        }
    }
    let mut found = Vec::new();
    collect(&config_descriptor(), &mut found);
    found.sort();
    found.dedup();
    let signs = [
        ":",
        ";",
        ",",
        "{",
        "}",
        "<",
        ">",
        "[",
        "]",
        "\"",
        "'",
        "\\",
        "-",
        "+",
        ".",
        "/",
        "#",
        "\n",
        "\r",
        "\0",
        "\u{b}",
        "é",
        "\u{feff}",
        "0",
        "1",
        "-1",
        "0x1f",
        "017",
        "1e3",
        "1.0",
        "4294967296",
        "18446744073709551616",
        "true",
        "false",
        "null",
        "\"/x\"",
        "'y'",
        "\"\\x4\"",
        "\"\\777\"",
        "\"\\ud83d\"",
        "\"\\ud83d\\ude00\"",
        "\"aGk=\"",
        "\": ",
        "\", \"",
    ];
    // As many signs as names.
    for _ in 0..4 {
        found.extend(signs.map(str::to_owned));
    }
    found
}

fn answers(text: &str) -> Result<(), TestCaseError> {
    match Policy::parse("p", text.as_bytes()) {
        Ok(policy) => {
            let again = Policy::parse("p", policy.to_text().as_bytes());
            prop_assert!(again.is_ok_and(|again| again.config == policy.config), "{}", policy.to_text());
            let json = policy.to_json().to_string();
            let again = Policy::parse("p", json.as_bytes());
            prop_assert!(again.is_ok_and(|again| again.config == policy.config), "{}", json);
        }
        Err(PolicyError::Syntax { text: shown, span, line, column, message, .. }) => {
            prop_assert!(line >= 1 && column >= 1 && !message.is_empty());
            prop_assert!(shown.get(span).is_some());
            prop_assert!(line <= shown.matches('\n').count() + 1);
        }
        Err(PolicyError::Empty { .. }) => prop_assert!(text.is_empty()),
        Err(error) => prop_assert!(false, "{}", error),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Policy::parse("p", &bytes);
    }

    #[test]
    fn any_text(text in "\\PC{0,80}", brace in any::<bool>()) {
        answers(&if brace { format!("{{{text}") } else { text })?;
    }

    #[test]
    fn any_words(words in prop::collection::vec(prop::sample::select(words()), 0..30), gap in any::<bool>()) {
        answers(&words.join(if gap { " " } else { "" }))?;
    }

    /// Well-formed values in every notation of a field, so that many are taken.
    #[test]
    fn likely_fields(fields in prop::collection::vec((0..8_usize, any::<u32>(), "[a-zé\\\\\"'\n]{0,6}"), 0..12)) {
        let mut text = String::from("#\n");
        for (which, number, word) in fields {
            let quoted = word.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            text += &match which {
                0 => format!("envar: \"{quoted}\";\n"),
                1 => format!("mount {{ dst: \"/{quoted}\" src_content: \"\\{:03o}\\x{:02x}\" rw: {} }}\n", number % 256, number % 251, number % 2),
                2 => format!("mount: [ < dst: '/a' mandatory: False >, {{ dst: \"{quoted}\" }} ],"),
                3 => format!("pass_fd: [ {}, -{}, 0{:o} ]\n", number / 2, number % 1000, number % 999),
                4 => format!("description: \"{quoted}\" \"{quoted}\" '\\u00e9'\n"),
                5 => format!("uidmap {{ inside_id: \"{quoted}\" count: {number:#x} use_newidmap: t }}\n"),
                6 => format!("cap: [\"{quoted}\"] gidmap <>"),
                _ => format!("# {}\n", word.replace('\n', " ")),
            };
        }
        prop_assert!(Policy::parse("p", text.as_bytes()).is_ok(), "{}", text);
        answers(&text)?;
    }

    /// A carried policy with one place damaged.
    #[test]
    fn damage(which in 0..3_usize, at in any::<prop::sample::Index>(), length in 0..20_usize, word in prop::sample::select(words())) {
        let chars: Vec<char> = Builtin::ALL[which].text().chars().collect();
        let start = at.index(chars.len());
        let end = (start + length).min(chars.len());
        let before: String = chars[..start].iter().collect();
        let after: String = chars[end..].iter().collect();
        answers(&format!("{before}{word}{after}"))?;
    }
}
