//! The cache, room on the disks, and the registry logins.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use buildsvc::dockerconfig::DockerConfig;

use super::{About, Check};
use crate::broker::find_program;
use crate::env::Env;
use crate::failure::chain;
use crate::stage;

const GIB: u64 = 1 << 30;

/// Whoever can write to the cache can replace what runs in the jail.
pub(super) fn cache(cache: &Path) -> Vec<Check> {
    let mut checks = Vec::new();
    for (name, dir) in [("cache", cache.to_owned()), ("staged ktl", cache.join(stage::DIR))] {
        let shown = dir.display();
        let found = match fs::metadata(&dir) {
            Ok(found) => found,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let mend = "The first build makes it. KTL_CACHE_DIR moves it.";
                checks.push(Check::warn(About::Other, name, format!("{shown} is not there yet"), mend));
                continue;
            }
            Err(error) => {
                let mend = vec!["Set KTL_CACHE_DIR to a directory of yours.".to_owned()];
                checks.push(Check::fail(About::Other, name, format!("{shown}: {error}"), mend));
                continue;
            }
        };
        let what = format!("{shown} belongs to uid {}, mode {:04o}", found.uid(), found.mode() & 0o7777);
        let me = nix::unistd::geteuid().as_raw();
        checks.push(if !found.is_dir() {
            let mend = vec![format!("Remove it, or set KTL_CACHE_DIR: {shown}")];
            Check::fail(About::Other, name, format!("{shown} is no directory"), mend)
        } else if found.uid() != me && found.uid() != 0 {
            let mend =
                vec![format!("Its owner can replace what runs in the jail. Type: sudo chown {me} {shown}")];
            Check::fail(About::Other, name, what, mend)
        } else if found.mode() & 0o022 != 0 {
            let mend = vec![format!("Others can replace what runs in the jail. Type: chmod go-w {shown}")];
            Check::fail(About::Other, name, what, mend)
        } else if let Err(error) = nix::unistd::access(&dir, nix::unistd::AccessFlags::W_OK) {
            let mend = vec!["Set KTL_CACHE_DIR to a directory of yours.".to_owned()];
            Check::fail(About::Other, name, format!("{what}, and you may not write to it: {error}"), mend)
        } else {
            Check::ok(About::Other, name, what)
        });
    }
    checks
}

/// Room where ktl and nsjail write.
pub(super) fn space(cache: &Path) -> Vec<Check> {
    [("room for the cache", cache), ("room in /tmp", Path::new("/tmp"))]
        .into_iter()
        .map(|(name, dir)| match rustix::fs::statvfs(dir) {
            Ok(found) => {
                let free = found.f_bavail.saturating_mul(found.f_frsize);
                let what = format!("{} MiB free at {}", free >> 20, dir.display());
                if free < GIB {
                    Check::warn(
                        About::Other,
                        name,
                        what,
                        "Less than 1 GiB: make room, or move the cache with KTL_CACHE_DIR.",
                    )
                } else {
                    Check::ok(About::Other, name, what)
                }
            }
            Err(error) => {
                let what = format!("cannot tell for {}: {error}", dir.display());
                Check::warn(About::Other, name, what, "Is the directory there?")
            }
        })
        .collect()
}

/// docker's config.json and the helpers that it names.
pub(super) fn logins(env: &Env) -> Vec<Check> {
    let name = "registry logins";
    let Some(path) = env.docker_config_dir().map(|dir| dir.join("config.json")) else {
        let mend = "Set HOME or DOCKER_CONFIG; without them every registry is used without a login.";
        return vec![Check::warn(About::Other, name, "nowhere to look for docker's config.json", mend)];
    };
    let shown = path.display();
    let config = match DockerConfig::read(&path) {
        Ok(config) => config,
        Err(error) => {
            let mend = vec!["Builds go on without logins. `docker login` writes the file anew.".to_owned()];
            return vec![Check::fail(About::Other, name, chain(&error), mend)];
        }
    };
    let helpers = config.helpers();
    let mut checks = vec![if path.exists() {
        Check::ok(About::Other, name, format!("read {shown}; it names {} credential helpers", helpers.len()))
    } else {
        Check::ok(About::Other, name, format!("looked for {shown}: not there, so no logins"))
    }];
    let search = env.get("PATH").unwrap_or_default();
    for helper in helpers {
        let name = "credential helper";
        let program = format!("docker-credential-{helper}");
        checks.push(match find_program(&search, &program) {
            Some(found) => Check::ok(About::Other, name, format!("found {}", found.display())),
            None => Check::warn(
                About::Other,
                name,
                format!("{program} is not on PATH, and {shown} names it"),
                "Install it, or take it out of the file: its registries are used without a login.",
            ),
        });
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn rights_of_the_cache() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("cache");
        let statuses = || cache(&at).iter().map(|check| check.status).collect::<Vec<_>>();
        assert_eq!(statuses(), [Status::Warn, Status::Warn], "not there yet");
        fs::create_dir_all(at.join(stage::DIR)).unwrap();
        for dir in [&at, &at.join(stage::DIR)] {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
        }
        assert_eq!(statuses(), [Status::Ok, Status::Ok]);
        fs::set_permissions(&at, fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(statuses(), [Status::Fail, Status::Ok]);
        fs::remove_dir_all(&at).unwrap();
        fs::write(&at, "x").unwrap();
        assert_eq!(statuses(), [Status::Fail, Status::Fail]);
    }

    #[test]
    fn helpers_are_looked_for() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().display().to_string();
        let statuses = || {
            let env = Env::of(&[("DOCKER_CONFIG", &at), ("PATH", &at)]);
            logins(&env).iter().map(|check| check.status).collect::<Vec<_>>()
        };
        assert_eq!(statuses(), [Status::Ok]);
        fs::write(dir.path().join("config.json"), r#"{"credsStore":"a","credHelpers":{"r.example":"b"}}"#)
            .unwrap();
        assert_eq!(statuses(), [Status::Ok, Status::Warn, Status::Warn]);
        let helper = dir.path().join("docker-credential-a");
        fs::write(&helper, "").unwrap();
        fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(statuses(), [Status::Ok, Status::Ok, Status::Warn]);
        fs::write(dir.path().join("config.json"), "{").unwrap();
        assert_eq!(statuses(), [Status::Fail]);
        assert_eq!(logins(&Env::of(&[])).first().map(|check| check.status), Some(Status::Warn));
    }

    #[test]
    fn room_is_measured() {
        assert!(space(Path::new("/no/such/dir")).iter().any(|check| check.status == Status::Warn));
    }
}
