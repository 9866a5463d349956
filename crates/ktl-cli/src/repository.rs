//! The git repository that a context lies in: which commit it is at, when that was made, and where it came from.
//!
//! A context may be anybody's, and what git reads of a repository's configuration can run programs: file system monitors,
//! hooks, pagers, filters, transports of a promisor. So no git ever runs *in* the repository. Which commit `HEAD` is at, is read
//! here from plain files; the commit itself is read by the git program in an empty repository of our own that merely borrows the
//! objects (`GIT_OBJECT_DIRECTORY`), so packs and deltas are left to the program that knows them; and a remote's address is read
//! by `git config --file`, which parses a file and does nothing else. The layout is gitrepository-layout(5)'s.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::broker::{ProgramError, Stop, find_program, run_program};

/// Of a file that names something: `HEAD`, a reference, `gitdir`.
const NAME_LIMIT: u64 = 4 << 10;
/// Of all packed references together.
const PACKED_LIMIT: u64 = 64 << 20;
/// References that name references.
const DEPTH: usize = 5;
const TIME: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    #[error("failed to read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is no reference of git's: {text:?}", path.display())]
    NoReference { path: PathBuf, text: String },
    #[error("its references are kept in a form other than files (reftable)")]
    Reftable,
    #[error("it has no commit yet")]
    NoCommit,
    #[error("the git program is not on PATH")]
    NoGit,
    #[error("failed to run git")]
    Git(#[from] ProgramError),
    #[error("git cannot read the commit {commit}: {said}")]
    NotRead { commit: String, said: String },
    #[error("the commit {0} tells no time")]
    NoTime(String),
}

/// A repository with a work tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    pub root: PathBuf,
    git_dir: PathBuf,
    /// What its work trees share; the same directory for the main one.
    common: PathBuf,
}

impl Repository {
    /// The innermost one around `dir`, which is absolute.
    pub fn around(dir: &Path) -> Result<Option<Repository>, RepositoryError> {
        for root in dir.ancestors() {
            let dot_git = root.join(".git");
            let git_dir = match fs::metadata(&dot_git) {
                Ok(found) if found.is_dir() => dot_git,
                Ok(found) if found.is_file() => {
                    let text = read_name(&dot_git)?;
                    let Some(path) = text.strip_prefix("gitdir: ") else { continue };
                    root.join(path)
                }
                _ => continue,
            };
            // An empty directory of that name is no repository, to git as well.
            if !git_dir.join("HEAD").exists() {
                continue;
            }
            let shared = git_dir.join("commondir");
            let common = if shared.exists() { git_dir.join(read_name(&shared)?) } else { git_dir.clone() };
            return Ok(Some(Repository { root: root.to_owned(), git_dir, common }));
        }
        Ok(None)
    }

    /// The commit that `HEAD` is at, in hexadecimal digits.
    pub fn head(&self) -> Result<String, RepositoryError> {
        let mut name = "HEAD".to_owned();
        for _ in 0..DEPTH {
            let Some((path, text)) = self.reference(&name)? else { return Err(RepositoryError::NoCommit) };
            if is_object_id(&text) {
                return Ok(text);
            }
            match text.strip_prefix("ref:").map(str::trim) {
                Some("refs/heads/.invalid") => return Err(RepositoryError::Reftable),
                Some(next) if is_reference(next) => next.clone_into(&mut name),
                _ => return Err(RepositoryError::NoReference { path, text }),
            }
        }
        Err(RepositoryError::NoCommit)
    }

    /// What a reference holds, and in which file.
    fn reference(&self, name: &str) -> Result<Option<(PathBuf, String)>, RepositoryError> {
        for dir in [&self.git_dir, &self.common] {
            let path = dir.join(name);
            match read_name(&path) {
                Ok(text) => return Ok(Some((path, text))),
                Err(RepositoryError::Read { source, .. }) if is_absent(&source) => {}
                Err(error) => return Err(error),
            }
        }
        let path = self.common.join("packed-refs");
        let failed = |source| RepositoryError::Read { path: path.clone(), source };
        let file = match open(&path) {
            Ok(file) => file,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mut lines = BufReader::new(file.take(PACKED_LIMIT));
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).map_err(failed)? > 0 {
            let text = String::from_utf8_lossy(&line);
            if let Some((id, of)) = text.trim_end().split_once(' ')
                && of == name
                && is_object_id(id)
            {
                return Ok(Some((path.clone(), id.to_owned())));
            }
            line.clear();
        }
        Ok(None)
    }

    /// When `commit` was committed, in seconds since 1970: `git log -1 --format=%ct`.
    pub fn committed_at(&self, commit: &str, search_path: &OsStr) -> Result<i64, RepositoryError> {
        let own = tempfile::tempdir()
            .map_err(|source| RepositoryError::Read { path: std::env::temp_dir(), source })?;
        lay_out(own.path(), commit)
            .map_err(|source| RepositoryError::Read { path: own.path().to_owned(), source })?;
        let mut git = git(search_path, own.path())?;
        git.env("GIT_OBJECT_DIRECTORY", self.common.join("objects"));
        git.arg("--git-dir").arg(own.path()).args(["cat-file", "commit", commit]);
        let ended = run_program(git, b"", TIME, &Stop::new().map_err(ProgramError::Follow)?)?;
        if !ended.status.success() {
            let said = String::from_utf8_lossy(&ended.stderr).trim().to_owned();
            return Err(RepositoryError::NotRead { commit: commit.to_owned(), said });
        }
        committer_time(&ended.stdout).ok_or_else(|| RepositoryError::NoTime(commit.to_owned()))
    }

    /// The address that the repository was cloned from, without the credentials in it: of the remote that the branch follows,
    /// of `origin`, or of `upstream`. `None` also where git cannot tell.
    pub fn source(&self, search_path: &OsStr) -> Option<String> {
        let config = self.common.join("config");
        let mut git = git(search_path, &self.common).ok()?;
        git.arg("config").arg("--file").arg(&config).args(["--no-includes", "--null", "--list"]);
        // A pipe in its place is not waited for.
        open(&config).ok()?;
        let ended = run_program(git, b"", TIME, &Stop::new().ok()?).ok()?;
        let listed = String::from_utf8(ended.stdout).ok()?;
        let value = |key: &str| {
            let mut entries = listed.split('\0').filter_map(|entry| entry.split_once('\n'));
            entries.find(|(of, _)| *of == key).map(|(_, value)| value.to_owned())
        };
        let branch = self.reference("HEAD").ok().flatten().and_then(|(_, text)| {
            text.strip_prefix("ref:")?.trim().strip_prefix("refs/heads/").map(str::to_owned)
        });
        let followed = branch.and_then(|branch| value(&format!("branch.{branch}.remote")));
        let names = followed.into_iter().chain(["origin".to_owned(), "upstream".to_owned()]);
        let url = names.filter_map(|name| value(&format!("remote.{name}.url"))).next()?;
        Some(without_credentials(&url))
    }
}

/// The git program with an environment in which it finds no configuration but that of `home`, and speaks to nobody.
pub fn git(search_path: &OsStr, home: &Path) -> Result<Command, RepositoryError> {
    let program = find_program(search_path, "git").ok_or(RepositoryError::NoGit)?;
    let mut command = Command::new(program);
    let set: [(&str, OsString); 9] = [
        ("PATH", search_path.to_owned()),
        ("HOME", home.into()),
        ("LC_ALL", "C".into()),
        ("GIT_CONFIG_NOSYSTEM", "1".into()),
        ("GIT_CONFIG_GLOBAL", "/dev/null".into()),
        ("GIT_ALLOW_PROTOCOL", "none".into()),
        ("GIT_NO_LAZY_FETCH", "1".into()),
        ("GIT_NO_REPLACE_OBJECTS", "1".into()),
        ("GIT_TERMINAL_PROMPT", "0".into()),
    ];
    command.env_clear().envs(set).current_dir("/");
    Ok(command)
}

/// The least that git takes for a repository.
pub fn lay_out(dir: &Path, commit: &str) -> io::Result<()> {
    let format = if commit.len() == 64 { "sha256" } else { "sha1" };
    fs::write(dir.join("HEAD"), "ref: refs/heads/none\n")?;
    fs::write(
        dir.join("config"),
        format!(
            "[core]\n\trepositoryformatversion = 1\n\tbare = true\n[extensions]\n\tobjectformat = {format}\n"
        ),
    )?;
    fs::create_dir(dir.join("refs"))
}

/// Of a commit object: `committer NAME <ADDRESS> SECONDS ZONE`.
pub fn committer_time(object: &[u8]) -> Option<i64> {
    let headers = object.split(|byte| *byte == b'\n').take_while(|line| !line.is_empty());
    let line = headers.filter_map(|line| line.strip_prefix(b"committer ")).next()?;
    let after = line.rsplit(|byte| *byte == b'>').next()?;
    std::str::from_utf8(after).ok()?.split_ascii_whitespace().next()?.parse().ok()
}

fn is_object_id(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// A name that leads out of no directory.
fn is_reference(name: &str) -> bool {
    name.starts_with("refs/")
        && name.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
        && !name.chars().any(char::is_control)
}

/// An address without `user:password@`; of ssh the user stays, who is part of where the repository is.
fn without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let Some((user, host)) = authority.rsplit_once('@') else { return url.to_owned() };
    match user.split_once(':').map_or(user, |(name, _)| name) {
        name if scheme.ends_with("ssh") => format!("{scheme}://{name}@{host}{path}"),
        _ => format!("{scheme}://{host}{path}"),
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory
    )
}

/// A regular file; whatever else lies there is not waited for.
fn open(path: &Path) -> io::Result<File> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    match file.metadata()? {
        found if found.is_file() => Ok(file),
        found if found.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        _ => Err(io::Error::other("not a regular file")),
    }
}

fn read_name(path: &Path) -> Result<String, RepositoryError> {
    let failed = |source| RepositoryError::Read { path: path.to_owned(), source };
    let mut text = String::new();
    open(path).and_then(|file| file.take(NAME_LIMIT).read_to_string(&mut text)).map_err(failed)?;
    Ok(text.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn committers_addresses_and_references() {
        let object = b"tree x\nauthor A <a@b> 1 +0000\ncommitter C > D <c@d> 1700000000 +0100\ngpgsig \n\ncommitter m <> 9 +0\n";
        assert_eq!(committer_time(object), Some(1_700_000_000));
        assert_eq!(committer_time(b"tree x\n\ncommitter A <a> 1 +0000"), None);
        assert_eq!(committer_time(b"committer A <a>"), None);
        for (url, want) in [
            ("https://me:secret@host/r.git", "https://host/r.git"),
            ("https://token@host/r@1", "https://host/r@1"),
            ("https://host/a@b", "https://host/a@b"),
            ("ssh://git:x@host/r", "ssh://git@host/r"),
            ("git@host:user/r.git", "git@host:user/r.git"),
            ("/srv/r.git", "/srv/r.git"),
        ] {
            assert_eq!(without_credentials(url), want);
        }
        for (name, good) in [("refs/heads/a/b", true), ("refs/../HEAD", false), ("/etc/passwd", false)] {
            assert_eq!(is_reference(name), good, "{name}");
        }
    }

    #[test]
    fn heads_are_found_in_all_places() {
        let dir = tempfile::tempdir().unwrap();
        let (id, other) = ("a".repeat(40), "b".repeat(40));
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let head = |at: &str| Repository::around(&dir.path().join(at)).unwrap().map(|found| found.head());
        assert!(head("main/sub").is_none());
        write("main/.git/HEAD", "ref: refs/heads/x\n");
        assert!(matches!(head("main/sub"), Some(Err(RepositoryError::NoCommit))));
        write(
            "main/.git/packed-refs",
            &format!("# pack-refs\n{other} refs/heads/xx\n{id} refs/heads/x\n^{other}\n"),
        );
        assert_eq!(head("main/sub").unwrap().unwrap(), id);
        write("main/.git/refs/heads/x", &format!("{other}\n"));
        assert_eq!(head("main").unwrap().unwrap(), other, "a loose reference is the newer one");
        write("main/.git/worktrees/w/HEAD", &format!("{id}\n"));
        write("main/.git/worktrees/w/commondir", "../..\n");
        write("w/.git", "gitdir: ../main/.git/worktrees/w\n");
        assert_eq!(head("w").unwrap().unwrap(), id);
        write("main/.git/HEAD", "ref: refs/heads/.invalid\n");
        assert!(matches!(head("main"), Some(Err(RepositoryError::Reftable))));
        write("main/.git/HEAD", "ref: refs/../../secret\n");
        assert!(matches!(head("main"), Some(Err(RepositoryError::NoReference { .. }))));
        write("main/.git/HEAD", "ref: refs/heads/loop\n");
        write("main/.git/refs/heads/loop", "ref: refs/heads/loop\n");
        assert!(matches!(head("main"), Some(Err(RepositoryError::NoCommit))));
    }
}
