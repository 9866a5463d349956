//! The last words about the user's things: what the builder was refused, and with `-v` what it got.

use std::collections::BTreeMap;

use crate::broker::Record;
use crate::display::inert;
use crate::ui::Ui;

/// Builders ask for these of their own accord, whatever the Dockerfile says (git and http sources of moby/buildkit).
const ASKED_BY_BUILDERS: [&str; 4] =
    ["GIT_AUTH_TOKEN", "GIT_AUTH_HEADER", "HTTP_AUTH_TOKEN_", "HTTP_AUTH_HEADER_"];

pub fn tell(record: &Record, ui: &Ui) {
    if !record.asked.is_empty() {
        ui.verbose(format_args!(
            "[broker] asked: {}; refused {}, failed {}",
            counts(&record.asked),
            record.refused,
            record.failed
        ));
    }
    granted(record, ui);
    for refusal in &record.refusals {
        let times = times(refusal.count);
        let line = format!("[broker] refused {}: {}{times}", refusal.kind, inert::text(&refusal.reason));
        match refusal.usual {
            true => ui.verbose(format_args!("{line}")),
            false => ui.note(format_args!("{line}")),
        }
    }
    let by_builders = |id: &str| ASKED_BY_BUILDERS.iter().any(|prefix| id.starts_with(prefix));
    let unknown: BTreeMap<_, _> = record
        .unknown_secrets
        .iter()
        .filter(|(id, _)| ui.verbose || !by_builders(id))
        .map(|(id, count)| (inert::text(id).to_string(), *count))
        .collect();
    if !unknown.is_empty() {
        ui.note(format_args!(
            "[broker] asked for secrets that this build does not have: {}",
            counts(&unknown)
        ));
    }
}

fn granted(record: &Record, ui: &Ui) {
    for used in &record.logins {
        let times = times(used.count);
        let host = inert::text(&used.host);
        if used.realm.is_empty() {
            ui.verbose(format_args!("[broker] gave the builder the login for {host}{times}"));
            continue;
        }
        ui.verbose(format_args!(
            "[broker] gave {} token for {host} from {}, scope {}{times}",
            if used.anonymous { "an anonymous" } else { "a" },
            inert::text(&used.realm),
            inert::text(&used.scopes.join(" "))
        ));
    }
    for used in &record.signatures {
        ui.verbose(format_args!(
            "[broker] signed as {} with {} {} of --ssh {}{}",
            inert::text(&used.user),
            inert::text(&used.fingerprint),
            inert::text(&used.comment),
            inert::text(&used.agent),
            times(used.count)
        ));
    }
    if !record.secrets.is_empty() {
        let secrets: BTreeMap<_, _> =
            record.secrets.iter().map(|(id, count)| (inert::text(id).to_string(), *count)).collect();
        ui.verbose(format_args!("[broker] gave secrets: {}", counts(&secrets)));
    }
}

fn counts<K: std::fmt::Display>(counts: &BTreeMap<K, u64>) -> String {
    counts.iter().map(|(what, count)| format!("{what} {count}")).collect::<Vec<_>>().join(", ")
}

fn times(count: u64) -> String {
    if count > 1 { format!(" ({count} times)") } else { String::new() }
}
