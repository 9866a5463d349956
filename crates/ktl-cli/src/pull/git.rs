//! The commit that a repository has under a name.
//!
//! git is asked, which knows the user's ways to a server. Follows `source/git` of moby/buildkit for which of several names is meant:
//! the full one, then a branch, then a tag.

use std::ffi::OsStr;
use std::process::Command;
use std::time::Duration;

use buildsvc::lock::LockedGit;
use buildsvc::remote::GitSource;

use super::{PullError, Puller};
use crate::broker::{find_program, run_program};
use crate::display::inert;

const TIME: Duration = Duration::from_secs(60);

impl Puller<'_> {
    /// What `git` is at now, or as it is locked.
    pub fn commit(
        &self,
        git: &GitSource,
        known: Option<&LockedGit>,
        search_path: &OsStr,
    ) -> Result<LockedGit, PullError> {
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
            _ => Ok(LockedGit { url: name, commit }),
        }
    }

    fn ask(&self, git: &GitSource, search_path: &OsStr) -> Result<String, PullError> {
        let remote = git.remote.clone();
        let program = find_program(search_path, "git").ok_or_else(|| PullError::NoGit(remote.clone()))?;
        let mut command = Command::new(program);
        // A transport that runs a program is nothing that a Dockerfile may ask for.
        command.args(["-c", "protocol.ext.allow=never", "ls-remote", "--", &remote]);
        command.env("GIT_TERMINAL_PROMPT", "0");
        let ended = run_program(command, &[], TIME, self.registries.stop());
        let ended = ended.map_err(|source| PullError::Git { remote: remote.clone(), source })?;
        if !ended.status.success() {
            let text = String::from_utf8_lossy(&ended.stderr);
            let text = inert::text(text.trim().lines().last().unwrap_or_default()).into_owned();
            return Err(PullError::GitFailed { remote, text });
        }
        chosen(&String::from_utf8_lossy(&ended.stdout), &git.reference)
            .ok_or_else(|| PullError::NoReference { remote, reference: git.reference.clone() })
    }
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
