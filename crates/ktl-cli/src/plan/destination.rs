//! Places that a builder's files do not go to by accident.
//!
//! What a result holds is the builder's choice. In the root directory, in a home, or among a home's settings a single file of
//! the right name is enough to be run at the next login, so these want a word more than a path.

use std::path::{Component, Path, PathBuf};

use buildsvc::output::Destination;

use super::Facts;
use crate::env::Env;
use crate::failure::Failure;

/// Refuses a destination that needs `--output-force`.
pub fn check(destination: &Destination, env: &Env, facts: &Facts) -> Result<(), Failure> {
    let (path, is_file) = match destination {
        Destination::Directory(path) | Destination::Mirror(path) => (path, false),
        Destination::File(path) => (path, true),
        Destination::None | Destination::Stdout | Destination::Engine => return Ok(()),
    };
    let home = env.home().map(|home| resolved(&home, facts.real));
    let path = resolved(path, facts.real);
    match what_it_is(&path, is_file, home.as_deref()) {
        Some(what) => Err(Failure::usage(format!("the output {} is {what}", path.display()))
            .hint("Name another place, or add --output-force if you trust the builder with this one.")),
        None => Ok(()),
    }
}

fn what_it_is(path: &Path, is_file: bool, home: Option<&Path>) -> Option<&'static str> {
    if !is_file && path == Path::new("/") {
        return Some("the root directory");
    }
    let below = path.strip_prefix(home?).ok()?;
    match below.components().next() {
        None if is_file => None,
        None => Some("your home directory"),
        Some(Component::Normal(first)) if first.as_encoded_bytes().starts_with(b".") => {
            Some("among the settings of your home directory")
        }
        Some(_) => None,
    }
}

/// Without symlinks, `.` and `..`, as far as it exists.
fn resolved(path: &Path, real: fn(&Path) -> Option<PathBuf>) -> PathBuf {
    let mut whole = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(whole.pop()),
            component => whole.push(component),
        }
        whole = real(&whole).unwrap_or(whole);
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_homes_and_settings_want_a_word() {
        let home = Some(Path::new("/home/me"));
        for (path, is_file, refused) in [
            ("/", false, true),
            ("/home/me", false, true),
            ("/home/me/.ssh", false, true),
            ("/home/me/.config/deep/er", false, true),
            ("/home/me/.bashrc", true, true),
            ("/home/me/.ssh/authorized_keys", true, true),
            ("/home/me/out", false, false),
            ("/home/me/out/.hidden", false, false),
            ("/home/me/image.tar", true, false),
            ("/home/you/.ssh", false, false),
            ("/srv/out", false, false),
        ] {
            assert_eq!(what_it_is(Path::new(path), is_file, home).is_some(), refused, "{path}");
        }
        assert_eq!(what_it_is(Path::new("/home/me/.ssh"), false, None), None);
    }

    #[test]
    fn a_way_around_leads_to_the_same_place() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(base.join("home/.ssh")).unwrap();
        std::os::unix::fs::symlink(base.join("home/.ssh"), base.join("innocent")).unwrap();
        let real = |path: &Path| path.canonicalize().ok();
        for way in ["innocent", "home/x/../.ssh", "./home/.ssh", "innocent/../.ssh"] {
            assert_eq!(resolved(&base.join(way), real), base.join("home/.ssh"), "{way}");
        }
        assert_eq!(resolved(&base.join("innocent/new"), real), base.join("home/.ssh/new"));
    }
}
