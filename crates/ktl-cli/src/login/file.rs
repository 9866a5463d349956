//! Docker's `config.json`, changed in one entry.
//!
//! Whoever writes this file holds other people's settings in the hand: members that ktl does not know stay, in their order,
//! a symbolic link stays one, and a reader sees the old file or the new one. Layout and indentation follow docker/cli
//! `cli/config/configfile/file.go` and `cli/config/credentials/file_store.go`.

use std::fs::{self, DirBuilder};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, fchown};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use buildsvc::dockerconfig::{DockerConfig, Login};
use serde::Serialize;

use super::json::{Json, Members};

const FILE_LIMIT: u64 = 4 << 20;
/// As many links as the kernel follows.
const LINK_LIMIT: usize = 40;
/// Members of an entry that say who the user is.
const OF_LOGIN: [&str; 5] = ["auth", "username", "password", "identitytoken", "registrytoken"];

#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is longer than {FILE_LIMIT} bytes")]
    TooLong { path: PathBuf },
    /// Without serde's own text, which may quote a login.
    #[error("{path}:{line}:{column}: is no JSON that docker would read")]
    Syntax { path: PathBuf, line: usize, column: usize },
    #[error("{path}: {what} is not an object")]
    Shape { path: PathBuf, what: &'static str },
    #[error("cannot write {path}")]
    Write { path: PathBuf, source: io::Error },
}

/// It may hold logins, so it has no `Debug`.
pub struct ConfigFile {
    /// Behind all links.
    path: PathBuf,
    members: Members,
}

impl ConfigFile {
    /// Reads the file at `path`; one that is not there, or empty, has no members.
    pub fn open(path: &Path) -> Result<ConfigFile, ConfigFileError> {
        let failed = |source| ConfigFileError::Read { path: path.to_owned(), source };
        let target = behind_links(path).map_err(failed)?;
        let mut text = Vec::new();
        match fs::File::open(&target) {
            Ok(file) => {
                file.take(FILE_LIMIT + 1).read_to_end(&mut text).map_err(failed)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        if text.len() as u64 > FILE_LIMIT {
            return Err(ConfigFileError::TooLong { path: path.to_owned() });
        }
        if text.trim_ascii().is_empty() {
            return Ok(ConfigFile { path: target, members: Members::new() });
        }
        match serde_json::from_slice(&text) {
            Ok(Json::Object(members)) => Ok(ConfigFile { path: target, members }),
            Ok(_) => Err(ConfigFileError::Shape { path: path.to_owned(), what: "the whole" }),
            Err(error) => Err(ConfigFileError::Syntax {
                path: path.to_owned(),
                line: error.line(),
                column: error.column(),
            }),
        }
    }

    /// Keeps `login` under `server`; `None` leaves the empty entry that docker leaves beside a credential helper.
    pub fn put(&mut self, server: &str, login: Option<&Login>) -> Result<(), ConfigFileError> {
        let auths = self.auths()?;
        let at = auths.iter().rposition(|(key, _)| key == server).unwrap_or(auths.len());
        if at == auths.len() {
            auths.push((server.to_owned(), Json::Null));
        }
        let entry = &mut auths[at].1;
        let mut members = match entry {
            Json::Object(members) => std::mem::take(members),
            _ => Members::new(),
        };
        members.retain(|(key, _)| !OF_LOGIN.contains(&key.as_str()));
        if let Some(login) = login {
            let mut auth = format!("{}:", login.username).into_bytes();
            auth.extend(&login.password.0);
            members.push(("auth".to_owned(), Json::Text(STANDARD.encode(auth))));
            if !login.identity_token.0.is_empty() {
                let token = String::from_utf8_lossy(&login.identity_token.0).into_owned();
                members.push(("identitytoken".to_owned(), Json::Text(token)));
            }
        }
        *entry = Json::Object(members);
        Ok(())
    }

    /// Takes away every entry in which a login of `host` would be found, and returns their names.
    pub fn remove(&mut self, host: &str) -> Result<Vec<String>, ConfigFileError> {
        if !self.members.iter().any(|(key, _)| key == "auths") {
            return Ok(Vec::new());
        }
        let auths = self.auths()?;
        let (gone, left) =
            std::mem::take(auths).into_iter().partition(|(key, _)| DockerConfig::is_for(key, host));
        *auths = left;
        let gone: Members = gone;
        Ok(gone.into_iter().map(|(key, _)| key).collect())
    }

    fn auths(&mut self) -> Result<&mut Members, ConfigFileError> {
        // Of two members with one name the later one counts, as for docker.
        let at = match self.members.iter().rposition(|(key, _)| key == "auths") {
            Some(at) => at,
            None => {
                self.members.insert(0, ("auths".to_owned(), Json::Null));
                0
            }
        };
        let auths = &mut self.members[at].1;
        if *auths == Json::Null {
            *auths = Json::Object(Members::new());
        }
        match auths {
            Json::Object(members) => Ok(members),
            _ => Err(ConfigFileError::Shape { path: self.path.clone(), what: "`auths`" }),
        }
    }

    /// Writes the file in the place of the old one, for its owner's eyes alone.
    pub fn save(&self) -> Result<(), ConfigFileError> {
        self.write().map_err(|source| ConfigFileError::Write { path: self.path.clone(), source })
    }

    fn write(&self) -> io::Result<()> {
        let dir = self.path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        // Made with mode 0600.
        let mut file = tempfile::Builder::new().prefix(".config.json.").tempfile_in(dir)?;
        let mut text = Vec::new();
        let layout = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        let object = Json::Object(self.members.clone());
        object.serialize(&mut serde_json::Serializer::with_formatter(&mut text, layout))?;
        file.write_all(&text)?;
        if let Ok(old) = fs::metadata(&self.path)
            && (old.uid(), old.gid()) != (file.as_file().metadata()?.uid(), file.as_file().metadata()?.gid())
        {
            // A file that root has changed for its user stays the user's; who may not do that owns it anyway.
            let _ = fchown(file.as_file(), Some(old.uid()), Some(old.gid()));
        }
        file.as_file().sync_all()?;
        file.persist(&self.path).map_err(|error| error.error)?;
        Ok(())
    }
}

/// What `path` means once its own links are followed, whether or not it is there.
fn behind_links(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..LINK_LIMIT {
        match fs::read_link(&path) {
            Ok(link) => path = path.parent().map_or_else(|| link.clone(), |dir| dir.join(&link)),
            // No link, or nothing there.
            Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::NotFound) => {
                return Ok(path);
            }
            Err(error) => return Err(error),
        }
    }
    Err(rustix::io::Errno::LOOP.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use buildsvc::session::host::Secret;

    use super::*;

    fn login(password: &str, token: &str) -> Login {
        let secret = |text: &str| Secret(text.as_bytes().to_vec());
        Login {
            username: "u".into(),
            password: secret(password),
            identity_token: secret(token),
            ..Login::default()
        }
    }

    const OLD: &str = r#"{"zeta":[1,2.5,-3,true,null,{"b":1,"a":"\u00e9"}],"auths":{"r.example":{"email":"e","auth":"eDp5"},
        "https://r.example/v2/":{},"other.example":{"auth":"eDp5"}},"credsStore":"","HttpHeaders":{"b":"1","a":"2"}}"#;

    #[test]
    fn one_entry_changes_and_all_else_stays_in_its_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        fs::write(&path, OLD).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        let mut file = ConfigFile::open(&path).unwrap();
        file.put("r.example", Some(&login("p", ""))).unwrap();
        file.put("new.example", Some(&login("", "refresh"))).unwrap();
        file.save().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let expected = "{\"zeta\":[1,2.5,-3,true,null,{\"b\":1,\"a\":\"é\"}],\"auths\":{\"r.example\":{\"email\":\"e\",\
            \"auth\":\"dTpw\"},\"https://r.example/v2/\":{},\"other.example\":{\"auth\":\"eDp5\"},\"new.example\":{\
            \"auth\":\"dTo=\",\"identitytoken\":\"refresh\"}},\"credsStore\":\"\",\"HttpHeaders\":{\"b\":\"1\",\"a\":\"2\"}}";
        assert_eq!(text.split_whitespace().collect::<String>(), expected);
        assert!(text.starts_with("{\n\t\"zeta\": ["), "{text}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let read = DockerConfig::read(&path).unwrap();
        assert_eq!(read.stored("r.example").unwrap().unwrap(), login("p", ""));
        assert_eq!(read.stored("new.example").unwrap().unwrap(), login("", "refresh"));

        let mut file = ConfigFile::open(&path).unwrap();
        assert_eq!(file.remove("r.example").unwrap(), ["r.example", "https://r.example/v2/"]);
        assert_eq!(file.remove("r.example").unwrap(), [""; 0]);
        file.put("new.example", None).unwrap();
        file.save().unwrap();
        let read = DockerConfig::read(&path).unwrap();
        assert_eq!(read.stored("r.example").unwrap(), None);
        assert_eq!(read.stored("new.example").unwrap(), None);
        assert!(read.stored("other.example").unwrap().is_some());
    }

    #[test]
    fn files_that_are_not_there_are_made_and_links_are_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/config.json");
        let mut file = ConfigFile::open(&path).unwrap();
        file.put("r", Some(&login("p", ""))).unwrap();
        file.save().unwrap();
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);

        let link = dir.path().join("config.json");
        std::os::unix::fs::symlink("a/b/config.json", &link).unwrap();
        let dangling = dir.path().join("dangling");
        std::os::unix::fs::symlink("a/fresh", &dangling).unwrap();
        for (link, target) in [(&link, &path), (&dangling, &dir.path().join("a/fresh"))] {
            let mut file = ConfigFile::open(link).unwrap();
            file.put("s", Some(&login("q", ""))).unwrap();
            file.save().unwrap();
            assert!(link.is_symlink());
            assert!(DockerConfig::read(target).unwrap().stored("s").unwrap().is_some());
        }
        std::os::unix::fs::symlink("loop", dir.path().join("loop")).unwrap();
        assert!(ConfigFile::open(&dir.path().join("loop")).is_err());
    }

    #[test]
    fn what_docker_would_not_read_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        for (text, part) in [
            ("{\"auths\":{\"secret\"}}", "config.json:1:"),
            ("[]", "the whole is not an object"),
            ("{\"auths\":\"secret\"}", "`auths` is not an object"),
        ] {
            fs::write(&path, text).unwrap();
            let result = ConfigFile::open(&path).and_then(|mut file| file.put("r", Some(&login("p", ""))));
            let error = result.unwrap_err().to_string();
            assert!(error.contains(part) && !error.contains("secret"), "{text}: {error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }
}
