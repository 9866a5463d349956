//! A build on the page of its job.

use std::fmt::Write as _;

use crate::claims::State;
use crate::commands::build::Run;
use crate::display::inert;
use crate::exit::Exit;
use crate::failure::Failure;

/// Of an error's text.
const REASON_MAX: usize = 8 << 10;

/// The build as Markdown. What is not ktl's own stands in `<code>` and `<pre>` with HTML's characters escaped, where neither
/// Markdown nor HTML, mentions or links come of it.
pub fn markdown(run: &Run, outcome: &Result<Exit, Failure>) -> String {
    let (exit, failure) = match outcome {
        Ok(exit) => (*exit, run.failure.as_deref()),
        Err(failure) => (failure.exit, Some(failure.title.as_str())),
    };
    let end = match exit.code() {
        0 => "built".to_owned(),
        code => format!("failed (exit code {code})"),
    };
    let mut out = format!("### ktl build: {end}\n\n<table>\n");
    let mut row = |name: &str, value: &str| {
        let _ = writeln!(out, "<tr><th align=\"left\">{name}</th><td>{value}</td></tr>");
    };
    for (name, key) in [("Image", "image.name"), ("Digest", "containerimage.digest")] {
        if let Some(value) = run.result.get(key).filter(|_| exit == Exit::Ok) {
            row(name, &code(value));
        }
    }
    if let Some(builder) = &run.builder {
        row("Builder", &code(builder));
    }
    if let Some(tally) = run.tally {
        let told = format!("{:.1} s, {} steps, {} from the cache", tally.seconds, tally.steps, tally.cached);
        row("Work", &told);
    }
    for claim in &run.claims {
        let state = match claim.state {
            State::Held => "held",
            State::Broken => "<b>broken</b>",
            State::Unproven => "unproven",
        };
        row(&escaped(&claim.about), &format!("{state}: {}", code(&claim.detail)));
    }
    out.push_str("</table>\n\n");
    if let Some(failure) = failure {
        let text = inert::bounded(failure.trim(), REASON_MAX);
        // An empty line would end the block for Markdown.
        let text = escaped(&inert::paragraph(&text)).replace('\n', "&#10;");
        let _ = writeln!(out, "<pre>{text}</pre>\n");
    }
    out
}

fn code(text: &str) -> String {
    format!("<code>{}</code>", escaped(&inert::text(text)))
}

/// HTML's characters, and those that Markdown reads within a line.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' | '<' | '>' | '"' | '\'' | '`' | '*' | '_' | '[' | ']' | '!' | '@' | '#' | '\\' | '~'
            | '|' | ':' => {
                let _ = write!(out, "&#{};", c as u32);
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ci::Tally;
    use crate::claims::Claim;

    #[test]
    fn a_build_that_went_well() {
        let mut run = Run { builder: Some("jail://default".into()), ..Run::default() };
        run.result.insert("containerimage.digest".into(), "sha256:ab".into());
        run.claims.push(Claim::held("network mode of RUN", "none"));
        run.tally = Some(Tally { steps: 4, cached: 3, seconds: 1.25 });
        let text = markdown(&run, &Ok(Exit::Ok));
        assert_eq!(
            text,
            "### ktl build: built\n\n<table>\n\
             <tr><th align=\"left\">Digest</th><td><code>sha256&#58;ab</code></td></tr>\n\
             <tr><th align=\"left\">Builder</th><td><code>jail&#58;//default</code></td></tr>\n\
             <tr><th align=\"left\">Work</th><td>1.2 s, 4 steps, 3 from the cache</td></tr>\n\
             <tr><th align=\"left\">network mode of RUN</th><td>held: <code>none</code></td></tr>\n\
             </table>\n\n"
        );
    }

    #[test]
    fn what_a_build_says_is_text() {
        let run = Run {
            failure: Some("a\n\n</pre><img src=x>\n# @team [x](http://y) `z`\n".into()),
            ..Run::default()
        };
        let text = markdown(&run, &Ok(Exit::BuildFailed));
        let pre = text.split_once("<pre>").unwrap().1.split_once("</pre>").unwrap().0;
        assert!(text.starts_with("### ktl build: failed (exit code 1)\n"));
        for live in ['<', '>', '@', '[', '`', '\n'] {
            assert!(!pre.contains(live), "{live:?} in {pre}");
        }
        assert!(text.ends_with("</pre>\n\n"), "the block ends once: {text}");
    }
}
