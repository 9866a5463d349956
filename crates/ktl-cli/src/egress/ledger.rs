//! Answers the daemon's questions by the list, and remembers them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use buildsvc::egress::{Decision, Egress, Rule, Target};
use buildsvc::event::{Event, LogStream};
use buildsvc::session::policy::{Source, Verifier};

use super::entry::{Entry, Told, Verdict};
use super::reported::Reported;
use crate::display::inert;

/// Different requests of a build; what comes after them is denied, because it could not be told.
const MAX_ASKED: usize = 50_000;
const MAX_STEPS: usize = 10_000;
/// Bytes of a step's name in a line.
const SHOWN_STEP: usize = 60;
/// Bytes of a step's name.
const MAX_STEP: usize = 200;
/// The daemon tells of a step's beginning a little later than the step's first request is asked about.
const PROGRESS: Duration = Duration::from_millis(300);
/// The proxy's answer where it reached nobody.
const BAD_GATEWAY: u16 = 502;
/// Denied requests that are listed at the end.
const LISTED: usize = 20;

#[derive(Debug)]
pub struct Ledger {
    egress: Egress,
    /// An archive of this session's, which the daemon fetches by a URL without a server.
    upload: Option<String>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    allowed: BTreeMap<Asked, (Target, Option<Rule>)>,
    denied: BTreeMap<Asked, Denied>,
    /// Denied, and not shown yet.
    fresh: Vec<Asked>,
    steps: BTreeMap<String, Step>,
    /// SHA-256 by URL.
    bodies: BTreeMap<String, String>,
}

/// What was asked about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Asked {
    url: String,
    /// By a step, and not by the daemon for a source.
    by_step: bool,
}

#[derive(Debug)]
struct Denied {
    why: String,
    at: SystemTime,
}

#[derive(Debug, Default)]
struct Step {
    name: String,
    started: Option<SystemTime>,
    completed: Option<SystemTime>,
    cached: bool,
    reported: Reported,
}

impl Verifier for Ledger {
    fn check(&self, source: &Source) -> Result<(), String> {
        if self.upload.as_ref() == Some(&source.identifier) {
            return Ok(());
        }
        let decision = self.egress.decide(&source.identifier, &source.attrs);
        let http = source.identifier.starts_with("http://") || source.identifier.starts_with("https://");
        let by_step = http && source.attrs.is_empty();
        let mut state = self.lock();
        let full = state.allowed.len() + state.denied.len() >= MAX_ASKED;
        match decision {
            Decision::Local => Ok(()),
            Decision::Allowed { target, rule } => {
                let asked = Asked { url: target.to_string(), by_step };
                if full && !state.allowed.contains_key(&asked) {
                    return Err(format!("--egress: more than {MAX_ASKED} requests cannot be recorded"));
                }
                state.allowed.insert(asked, (target, rule));
                Ok(())
            }
            Decision::Denied { url, why } => {
                let message = format!("--egress: {url}: {why}");
                let asked = Asked { url: inert::bounded(&url, 1000), by_step };
                if !full && !state.denied.contains_key(&asked) {
                    state.denied.insert(asked.clone(), Denied { why, at: SystemTime::now() });
                    state.fresh.push(asked);
                }
                Err(message)
            }
        }
    }
}

impl Ledger {
    pub fn new(egress: Egress, upload: Option<String>) -> Ledger {
        Ledger { egress, upload, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Learns from the daemon's progress which steps there are and what they report.
    pub fn hear(&self, event: &Event) {
        let mut state = self.lock();
        for vertex in &event.vertexes {
            if state.steps.len() >= MAX_STEPS && !state.steps.contains_key(&vertex.digest) {
                continue;
            }
            let step = state.steps.entry(vertex.digest.clone()).or_default();
            if !vertex.name.is_empty() {
                step.name = inert::bounded(&vertex.name, MAX_STEP);
            }
            step.started = vertex.started.or(step.started);
            step.completed = vertex.completed.or(step.completed);
            step.cached |= vertex.cached;
        }
        for log in &event.logs {
            if let (LogStream::Stderr, Some(step)) = (log.stream, state.steps.get_mut(&log.vertex)) {
                step.reported.read(&log.data);
            }
        }
    }

    /// What was denied since the last time, for the log; a moment later, so that the step is known.
    pub fn news(&self) -> Vec<String> {
        let until = SystemTime::now().checked_sub(PROGRESS).unwrap_or(SystemTime::UNIX_EPOCH);
        let mut state = self.lock();
        let fresh = std::mem::take(&mut state.fresh);
        let (old, fresh): (Vec<Asked>, Vec<Asked>) = fresh
            .into_iter()
            .partition(|asked| state.denied.get(asked).is_none_or(|denied| denied.at <= until));
        state.fresh = fresh;
        old.iter().filter_map(|asked| Some(line(&state.denied_entry(asked)?))).collect()
    }

    /// The last words: how much there was, and what was denied.
    pub fn summary(&self) -> Vec<String> {
        let mut state = self.lock();
        state.fresh.clear();
        let (allowed, denied) = (state.allowed.len(), state.denied.len());
        let mut lines = vec![format!("[egress] {allowed} different requests allowed, {denied} denied")];
        let reported = state.steps.values().flat_map(|step| step.reported.requests());
        let unanswered = reported.filter(|request| request.status == Some(BAD_GATEWAY)).count();
        if unanswered > 0 {
            lines.push(format!(
                "[egress] {unanswered} allowed but not reached; the builder's log says why (`ktl builder logs` for a private one)"
            ));
        }
        for asked in state.denied.keys().take(LISTED) {
            lines.extend(state.denied_entry(asked).as_ref().map(line));
        }
        if denied > LISTED {
            lines.push(format!("[egress] and {} more", denied - LISTED));
        }
        lines
    }

    /// Learns from the provenance of the build what the bodies were that the daemon read.
    pub fn learn_bodies(&self, predicates: &BTreeMap<String, serde_json::Value>) {
        let mut state = self.lock();
        let materials = predicates.values().filter_map(|predicate| predicate["materials"].as_array());
        for material in materials.flatten().take(MAX_ASKED) {
            let (uri, digest) = (material["uri"].as_str(), material["digest"]["sha256"].as_str());
            let target = uri.and_then(|uri| Target::of(uri, &BTreeMap::new()).ok().flatten());
            let hex = |text: &&str| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
            if let (Some(target), Some(digest)) = (target, digest.filter(hex)) {
                state.bodies.insert(target.to_string(), digest.to_owned());
            }
        }
    }

    /// The record.
    pub fn told(&self) -> Told {
        let state = self.lock();
        let digests = &state.bodies;
        let mut entries: BTreeSet<Entry> =
            state.denied.keys().filter_map(|asked| state.denied_entry(asked)).collect();
        let mut seen = BTreeSet::new();
        for step in state.steps.values() {
            for request in step.reported.requests() {
                let target = Target::of(&request.url, &BTreeMap::new()).ok().flatten();
                let url =
                    target.map_or_else(|| inert::bounded(&request.url, 1000), |target| target.to_string());
                let asked = Asked { url: url.clone(), by_step: true };
                let allowed = state.allowed.get(&asked);
                entries.insert(Entry {
                    verdict: if allowed.is_some() { Verdict::Allowed } else { Verdict::Unasked },
                    step: Some(step.name.clone()),
                    method: Some(request.method.clone()),
                    status: request.status,
                    rule: allowed.and_then(|(_, rule)| rule.clone()),
                    why: None,
                    sha256: allowed.and_then(|_| digests.get(&url).cloned()),
                    url,
                });
                seen.insert(asked);
            }
        }
        for (asked, (_, rule)) in state.allowed.iter().filter(|(asked, _)| !seen.contains(asked)) {
            entries.insert(Entry {
                verdict: Verdict::Allowed,
                step: None,
                method: None,
                url: asked.url.clone(),
                status: None,
                rule: rule.clone(),
                why: None,
                sha256: digests.get(&asked.url).cloned(),
            });
        }
        let rule = |(target, rule): &(Target, Option<Rule>)| rule.clone().unwrap_or_else(|| Rule::of(target));
        let rules: BTreeSet<Rule> = state.allowed.values().map(rule).collect();
        Told { entries: entries.into_iter().collect(), rules: rules.into_iter().collect() }
    }
}

impl State {
    fn denied_entry(&self, asked: &Asked) -> Option<Entry> {
        let denied = self.denied.get(asked)?;
        Some(Entry {
            verdict: Verdict::Denied,
            step: asked.by_step.then(|| self.running_at(denied.at)).flatten(),
            method: None,
            url: asked.url.clone(),
            status: None,
            rule: None,
            why: Some(denied.why.clone()),
            sha256: None,
        })
    }

    /// The RUN steps that ran at that time, nearly always one: the daemon does not say which one asks.
    fn running_at(&self, time: SystemTime) -> Option<String> {
        let ran = |step: &&Step| {
            let began = step.started.is_some_and(|started| started <= time);
            !step.cached
                && began
                && step.completed.is_none_or(|completed| completed >= time)
                && is_run(&step.name)
        };
        let mut names: Vec<&str> = self.steps.values().filter(ran).map(|step| step.name.as_str()).collect();
        names.sort_unstable();
        (!names.is_empty()).then(|| names.join(" | "))
    }
}

/// `[2/3] RUN …`, as the Dockerfile frontend names steps.
fn is_run(name: &str) -> bool {
    name.split_once("] ").map_or(name, |(_, rest)| rest).starts_with("RUN")
}

fn line(entry: &Entry) -> String {
    let step = entry
        .step
        .as_deref()
        .map_or_else(String::new, |step| format!(" by {}", inert::bounded(step, SHOWN_STEP)));
    let why = entry.why.as_deref().unwrap_or_default();
    inert::text(&format!("[egress] denied {}{step}: {why}", entry.url)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use buildsvc::event::{Vertex, VertexLog};

    fn source(identifier: &str, attrs: &[(&str, &str)]) -> Source {
        let attrs = attrs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        Source { identifier: identifier.to_owned(), attrs }
    }

    fn ledger(rules: &[&str]) -> Ledger {
        let upload = Some("http://buildkit-session/abc".to_owned());
        Ledger::new(Egress::new(rules.iter().map(|rule| rule.parse().unwrap()), false), upload)
    }

    fn step(digest: &str, name: &str, log: &str) -> Event {
        let now = SystemTime::now();
        let vertex = Vertex {
            digest: digest.to_owned(),
            name: name.to_owned(),
            started: Some(now - Duration::from_secs(60)),
            ..Vertex::default()
        };
        let log = VertexLog {
            vertex: digest.to_owned(),
            stream: LogStream::Stderr,
            data: log.as_bytes().to_vec(),
            timestamp: now,
        };
        Event { vertexes: vec![vertex], logs: vec![log], ..Event::default() }
    }

    #[test]
    fn questions_steps_and_digests_come_together() {
        let ledger = ledger(&["example.org", "http://example.org"]);
        ledger.check(&source("https://example.org:443/a", &[])).unwrap();
        ledger.check(&source("http://example.org/add", &[("http.filename", "add")])).unwrap();
        ledger.check(&source("http://buildkit-session/abc", &[])).unwrap();
        ledger.check(&source("http://buildkit-session/abd", &[])).unwrap_err();
        let error = ledger.check(&source("https://evil.example/\u{1b}[2J", &[])).unwrap_err();
        assert!(error.contains("characters"), "{error}");
        ledger.check(&source("https://evil.example/", &[])).unwrap_err();
        ledger.hear(&step("sha256:1", "[2/3] RUN fetch", ""));
        ledger.hear(&step("sha256:2", "[1/3] COPY x y", ""));
        let log = "proxy network requests:\n- GET https://example.org/a -> 200\n- GET https://other.example/ -> 200\n";
        ledger.hear(&step("sha256:1", "", log));
        let digest = "ab".repeat(32);
        let predicate = serde_json::json!({"materials": [
            {"uri": "https://example.org:443/a", "digest": {"sha256": digest}},
            {"uri": "http://example.org/add", "digest": {"sha256": "short"}},
            {"uri": "pkg:docker/x", "digest": {"sha256": digest}},
        ]});
        ledger.learn_bodies(&[(String::new(), predicate)].into());
        let told = ledger.told();
        let text = String::from_utf8(told.record().unwrap()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                r#"{"verdict":"allowed","url":"http://example.org/add","rule":"http://example.org"}"#,
                &format!(
                    r#"{{"verdict":"allowed","step":"[2/3] RUN fetch","method":"GET","url":"https://example.org/a","status":200,"rule":"example.org","sha256":"{digest}"}}"#
                ),
                r#"{"verdict":"denied","step":"[2/3] RUN fetch","url":"http://buildkit-session/abd","why":"no rule allows it; --egress http://buildkit-session would"}"#,
                r#"{"verdict":"denied","step":"[2/3] RUN fetch","url":"https://evil.example/","why":"no rule allows it; --egress evil.example would"}"#,
                &format!(
                    r#"{{"verdict":"denied","step":"[2/3] RUN fetch","url":{},"why":"it has characters that no URL has"}}"#,
                    serde_json::to_string("https://evil.example/\u{1b}[2J").unwrap()
                ),
                r#"{"verdict":"unasked","step":"[2/3] RUN fetch","method":"GET","url":"https://other.example/","status":200}"#,
            ]
        );
        assert!(told.list().ends_with("\nhttp://example.org\nexample.org\n"), "{}", told.list());
    }

    #[test]
    fn denials_are_told_once_and_again_at_the_end() {
        let ledger = ledger(&[]);
        for _ in 0..3 {
            ledger.check(&source("https://evil.example/", &[])).unwrap_err();
        }
        assert!(ledger.news().is_empty(), "the step may not be known yet");
        ledger.hear(&step("sha256:1", "[2/3] RUN fetch", ""));
        let lines = ledger.summary();
        let denied = "[egress] denied https://evil.example/ by [2/3] RUN fetch: no rule allows it; --egress evil.example would";
        assert_eq!(lines, ["[egress] 0 different requests allowed, 1 denied", denied]);
        assert!(ledger.news().is_empty());
        ledger.check(&source("git://evil.example/\u{1b}", &[])).unwrap_err();
        let lines = ledger.summary();
        assert!(lines[1].starts_with("[egress] denied git://evil.example/") && !lines[1].contains('\u{1b}'));
    }
}
