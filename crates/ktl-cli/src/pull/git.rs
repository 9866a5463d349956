//! A repository: the commit that it has under a name, and the objects of one commit.
//!
//! The user's git is asked, which knows the user's ways to a server. It runs in a repository of ktl's own, so that nothing that
//! lies around, a context's configuration say, is read; only transports that speak over a network are allowed; and what it
//! writes is bounded. Follows `source/git` of moby/buildkit for which of several names is meant: the full one, then a branch, then a tag.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use buildsvc::lock::LockedGit;
use buildsvc::remote::GitSource;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::way::Way;
use super::{PullError, Puller};
use crate::broker::{find_program, run_program};
use crate::display::inert;
use crate::repository;

const ASK_TIME: Duration = Duration::from_secs(60);
const FETCH_TIME: Duration = Duration::from_secs(30 * 60);
/// Of one file that git writes while it fetches.
const PACK_LIMIT: u64 = 8 << 30;
/// What would lead git to another repository.
const LEFT_OUT: [&str; 7] = [
    "GIT_DIR",
    "GIT_COMMON_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
];

impl Puller<'_> {
    /// What `git` is at now, or as it is locked; without its files.
    pub fn commit(
        &self,
        git: &GitSource,
        known: Option<&LockedGit>,
        search_path: &OsStr,
    ) -> Result<String, PullError> {
        let name = git.pinned_name();
        let commit = match known {
            Some(known) => known.commit.clone(),
            None if is_commit(&git.reference) => git.reference.clone(),
            None => self.ask(git, search_path)?,
        };
        match &git.checksum {
            Some(expected) if !commit.starts_with(expected.as_str()) => {
                Err(PullError::Commit { name, expected: expected.clone(), got: commit })
            }
            _ => Ok(commit),
        }
    }

    fn ask(&self, git: &GitSource, search_path: &OsStr) -> Result<String, PullError> {
        let remote = git.remote.clone();
        let empty = self.depot.scratch()?;
        let way = self.way(&remote)?;
        let mut command = users_git(search_path, &way, empty.path())?;
        command.args(["ls-remote", "--", &way.remote]);
        let listed = self.run(command, "ls-remote", &remote, ASK_TIME)?;
        chosen(&String::from_utf8_lossy(&listed), &git.reference)
            .ok_or_else(|| PullError::NoReference { remote, reference: git.reference.clone() })
    }

    /// Brings the objects of `commit` into the repository `dir`, which is made: without its past, where the server does that.
    pub(super) fn objects(
        &self,
        git: &GitSource,
        commit: &str,
        dir: &Path,
        search_path: &OsStr,
    ) -> Result<(), PullError> {
        let made = |source| PullError::Files { path: dir.to_owned(), source };
        repository::lay_out(dir, commit).and_then(|()| fs::create_dir(dir.join("objects"))).map_err(made)?;
        let shallow = ["--depth=1", "--no-tags"];
        let reference = if git.reference.is_empty() { "HEAD" } else { git.reference.as_str() };
        // Not every server gives a commit that no name leads to at once, or at all.
        let ways: [(&[&str], &str); 3] =
            [(&shallow, commit), (&shallow, reference), (&["--force"], "+refs/*:refs/fetched/*")];
        let way = self.way(&git.remote)?;
        let mut last = None;
        for (options, what) in ways {
            let mut command = users_git(search_path, &way, dir)?;
            command.arg("--git-dir").arg(dir).args(["fetch", "--quiet", "--no-write-fetch-head"]);
            command.args(options);
            if what.starts_with('+') && dir.join("shallow").exists() {
                command.arg("--unshallow");
            }
            command.args(["--", &way.remote, what]);
            let fetched = bounded(|| self.run(command, "fetch", &git.remote, FETCH_TIME));
            if let Err(error) = fetched {
                if !matches!(error, PullError::GitFailed { .. }) {
                    return Err(error);
                }
                // The first way may not be known to the server; what it says to the last counts.
                last = Some(error);
                continue;
            }
            last = None;
            let mut command = self.own_git(search_path, dir)?;
            command.args(["cat-file", "-e", &format!("{commit}^{{commit}}")]);
            if self.run(command, "cat-file", &git.remote, ASK_TIME).is_ok() {
                return Ok(());
            }
        }
        let gone = PullError::NoCommit { remote: git.remote.clone(), commit: commit.to_owned() };
        Err(last.unwrap_or(gone))
    }

    /// git in the repository `dir`, of ktl's own, with nobody's configuration and no way to a network.
    pub(super) fn own_git(&self, search_path: &OsStr, dir: &Path) -> Result<Command, PullError> {
        let mut command =
            repository::git(search_path, dir).map_err(|_| PullError::NoGit(dir.display().to_string()))?;
        command.env("GIT_ATTR_NOSYSTEM", "1");
        command.args(["-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false"]);
        command.arg("--git-dir").arg(dir);
        Ok(command)
    }

    pub(super) fn run(
        &self,
        command: Command,
        what: &'static str,
        remote: &str,
        time: Duration,
    ) -> Result<Vec<u8>, PullError> {
        let ended = run_program(command, &[], time, self.registries.stop());
        let ended = ended.map_err(|source| PullError::Git { what, remote: remote.to_owned(), source })?;
        if ended.status.success() {
            return Ok(ended.stdout);
        }
        let text = String::from_utf8_lossy(&ended.stderr);
        let text = inert::text(text.trim().lines().last().unwrap_or_default()).into_owned();
        Err(PullError::GitFailed { what, remote: remote.to_owned(), text })
    }
}

/// git with the user's configuration, in the empty directory or repository `dir`.
fn users_git(search_path: &OsStr, way: &Way, dir: &Path) -> Result<Command, PullError> {
    let program = find_program(search_path, "git").ok_or_else(|| PullError::NoGit(way.remote.clone()))?;
    let mut command = Command::new(program);
    command.args(way.settings.iter().flat_map(|setting| ["-c", setting])).envs(way.host.clone());
    for name in LEFT_OUT {
        command.env_remove(name);
    }
    let above = dir.parent().map(Path::to_owned).unwrap_or_else(|| PathBuf::from("/"));
    command
        .current_dir(dir)
        // Directories around are not looked at.
        .env("GIT_CEILING_DIRECTORIES", above)
        // A transport that runs a program, or reads this machine's files, is nothing that a Dockerfile may ask for.
        .env("GIT_ALLOW_PROTOCOL", "http:https:git:ssh")
        .env("GIT_TERMINAL_PROMPT", "0")
        .args(["-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "gc.auto=0"])
        .args(["-c", "maintenance.auto=false", "-c", "fetch.recurseSubmodules=false"]);
    Ok(command)
}

/// Calls with a limit on the size of files that programs write, which no other thread is there to feel.
fn bounded<T>(call: impl FnOnce() -> Result<T, PullError>) -> Result<T, PullError> {
    let limit = |source: nix::Error| PullError::Limit(source.into());
    let (soft, hard) = getrlimit(Resource::RLIMIT_FSIZE).map_err(limit)?;
    setrlimit(Resource::RLIMIT_FSIZE, soft.min(PACK_LIMIT), hard).map_err(limit)?;
    let called = call();
    setrlimit(Resource::RLIMIT_FSIZE, soft, hard).map_err(limit)?;
    called
}

fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The commit of `reference` in what `git ls-remote` prints.
fn chosen(listed: &str, reference: &str) -> Option<String> {
    let of = |name: &str| {
        let mut lines = listed.lines().filter_map(|line| line.split_once('\t'));
        lines.find(|(_, found)| *found == name).map(|(commit, _)| commit).filter(|commit| is_commit(commit))
    };
    let reference = if reference.is_empty() { "HEAD" } else { reference };
    let short = reference.strip_prefix("refs/").unwrap_or(reference);
    let names = [
        reference.to_owned(),
        format!("refs/{short}"),
        format!("refs/heads/{}", short.strip_prefix("heads/").unwrap_or(short)),
        format!("refs/tags/{}", short.strip_prefix("tags/").unwrap_or(short)),
    ];
    // Of a tag that is an object of its own, the commit.
    names.iter().find_map(|name| of(&format!("{name}^{{}}")).or_else(|| of(name))).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_commit() {
        let hash = |c: char| c.to_string().repeat(40);
        let line = |c, name: &str| format!("{}\t{name}\n", hash(c));
        let listed = line('a', "HEAD")
            + &line('b', "refs/heads/main")
            + &line('c', "refs/heads/v1")
            + &line('d', "refs/tags/v1")
            + &line('e', "refs/tags/v2")
            + &line('f', "refs/tags/v2^{}")
            + "x\trefs/heads/bad\n";
        for (reference, commit) in [
            ("", Some('a')),
            ("main", Some('b')),
            ("heads/main", Some('b')),
            ("refs/heads/main", Some('b')),
            ("v1", Some('c')),
            ("refs/tags/v1", Some('d')),
            ("v2", Some('f')),
            ("v3", None),
            ("bad", None),
        ] {
            assert_eq!(chosen(&listed, reference), commit.map(hash), "{reference:?}");
        }
    }
}
