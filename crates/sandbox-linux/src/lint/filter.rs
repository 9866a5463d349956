//! The system call filter.

use super::Report;
use crate::proto::NsJailConfig;

pub(super) fn look(config: &NsJailConfig, report: &mut Report<'_>) {
    if let Some(file) = config.seccomp_policy_file.as_ref().filter(|file| !file.is_empty()) {
        report.note(
            "seccomp_policy_file",
            file.clone(),
            "the filter lies in a file of its own, relative to where nsjail is started, and was not read for this report",
            "put it into seccomp_string",
        );
        return;
    }
    let text = without_comments(&config.seccomp_string.join("\n"));
    let words: Vec<&str> = text.split_whitespace().collect();
    if words.is_empty() {
        report.weak(
            "seccomp_string",
            "unset",
            "every system call of every ABI goes to the kernel, and new user namespaces can be made inside",
            "seccomp_string: \"DEFAULT ALLOW\" at the very least; sandbox/linux-strict.cfg has a real one",
        );
    } else if matches!(words[..], ["DEFAULT", "ALLOW" | "LOG"]) {
        report.weak(
            "seccomp_string",
            format!("{} alone", words.join(" ")),
            "it shuts out foreign ABIs and pins no_new_privs, and filters nothing else",
            "refuse what the program never calls; sandbox/linux-strict.cfg is an example",
        );
    } else if words.windows(2).any(|pair| matches!(pair, ["DEFAULT", "ALLOW" | "LOG"])) {
        report.note(
            "seccomp_string",
            "a list of refusals",
            "a system call that a later kernel adds passes until somebody lists it",
            "an allow-list, where the program's calls are known",
        );
    }
}

fn without_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("/*").into_iter().chain(rest.find("//")).min() {
        out.push_str(&rest[..at]);
        out.push(' ');
        let (end, skip) = if rest[at..].starts_with("//") { ("\n", 0) } else { ("*/", 2) };
        rest = rest[at + 2..].find(end).map_or("", |to| &rest[at + 2 + to + skip..]);
    }
    out + rest
}
