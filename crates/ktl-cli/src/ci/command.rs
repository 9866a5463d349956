//! Orders to GitHub's runner, which reads them at the beginning of lines. How values are escaped: actions/toolkit
//! `packages/core/src/command.ts`.

use super::notice::Notice;
use crate::display::inert;

/// Folds what follows.
pub const GROUP: &str = "::group::ktl build";
/// Ends that; one that ends nothing is none.
pub const GROUP_END: &str = "::endgroup::";

/// An annotation, at its line where `file` is known. A line break in the text stays one.
pub fn annotation(notice: &Notice, file: Option<&str>) -> String {
    let place = match (file, notice.line) {
        (Some(file), Some(line)) => format!("file={},line={line},", property(file)),
        (Some(_) | None, _) => String::new(),
    };
    format!("::{} {place}title=ktl build::{}", notice.kind(), data(&inert::paragraph(&notice.text)))
}

fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_annotation_is_one_line_and_one_order() {
        let notice = |text| {
            let mut notice = Notice::error(text);
            notice.line = Some(3);
            notice
        };
        for (text, file, expected) in [
            (
                "it failed",
                Some("app/Dockerfile"),
                "::error file=app/Dockerfile,line=3,title=ktl build::it failed",
            ),
            ("it failed", None, "::error title=ktl build::it failed"),
            ("100%\n::set-output x", None, "::error title=ktl build::100%25%0A| ::set-output x"),
            ("a\r\u{1b}[2Jb", Some("a,b:c\nd"), "::error file=a%2Cb%3Ac%0Ad,line=3,title=ktl build::a␍␛[2Jb"),
        ] {
            assert_eq!(annotation(&notice(text), file), expected);
        }
    }
}
