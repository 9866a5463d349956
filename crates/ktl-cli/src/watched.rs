//! The last words about what a context should not have held.

use buildsvc::context::guard::{Finding, Guard};
use tokio::sync::mpsc::UnboundedSender;

use crate::broker::{Ask, BrokerClient};

use crate::exit::Exit;
use crate::failure::Failure;

/// Lines beyond this many become one.
const LINES: usize = 10;

/// Says what was found, in the order of the paths.
pub fn tell(guard: &Guard, notes: &UnboundedSender<String>) {
    let (found, more) = guard.found();
    // A display that is gone has nobody to tell.
    let say = |line: String| drop(notes.send(line));
    for finding in found.iter().take(LINES) {
        say(format!("[guard] WARNING: {}", sentence(finding)));
    }
    let more = more + found.len().saturating_sub(LINES) as u64;
    if more > 0 {
        say(format!("[guard] WARNING: and {more} more of this kind"));
    }
    if !found.is_empty() && !guard.has_denied() {
        say("[guard] They were sent to the builder. Name them in .dockerignore, or give them to RUN by --secret; \
             --context-guard=deny keeps them back, off says nothing."
            .to_owned());
    }
}

/// The same for the audit.
pub fn report(guard: &Guard, broker: &BrokerClient) {
    for Finding { local, path, rule, .. } in guard.found().0 {
        broker.report(&Ask::Found { local, path, rule: rule.to_owned() });
    }
}

/// The end of a build that the guard has ended.
pub fn denial(guard: &Guard) -> Option<Failure> {
    if !guard.has_denied() {
        return None;
    }
    let first = guard.found().0.first().map(sentence)?;
    Some(
        Failure::new(Exit::Policy, format!("the context guard keeps a file back: {first}"))
            .hint("Nothing of it was sent. Name it in .dockerignore, or give it to RUN by --secret.")
            .hint("--context-guard=warn sends it and says so."),
    )
}

fn sentence(finding: &Finding) -> String {
    let Finding { local, path, rule, about } = finding;
    let whose = match local.as_str() {
        "context" | "dockerfile" => String::new(),
        name => format!(" of the context {name}"),
    };
    format!("{path}{whose} {about} (rule {rule})")
}
