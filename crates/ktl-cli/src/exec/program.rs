//! Which host files a program in the jail consists of: itself, a script's interpreter, a loader, libraries.
//!
//! Each is bound by itself and at the very path that it has on the host, so that names in scripts, run paths of libraries
//! and what a program is called stay true inside. A program that is reached by a link lies at both paths.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sandbox_linux::Bind;

use super::loader;
use crate::exit::Exit;
use crate::failure::Failure;

/// Interpreters of interpreters of … that the kernel would follow.
const DEEPEST: usize = 4;
/// What the kernel reads of a script's first line.
const FIRST_LINE: usize = 256;
/// Where a loader finds libraries outside of its own directories.
const LOADER_CACHE: &str = "/etc/ld.so.cache";

const NOT_FOUND: Exit = Exit::Guest(127);
const NOT_EXECUTABLE: Exit = Exit::Guest(126);

/// The programs of one jail.
#[derive(Debug)]
pub struct Programs<'a> {
    /// The user's PATH.
    pub search: OsString,
    pub cwd: &'a Path,
    /// The context, with its links resolved: what lies in it is nothing that the user installed.
    pub context: &'a Path,
    /// Directories that the policy itself shows at the path that they have on the host.
    pub shown: Vec<PathBuf>,
    /// By path inside: the file on the host, and the rights that the guest needs of it.
    files: BTreeMap<PathBuf, (PathBuf, u32)>,
    dirs: Vec<PathBuf>,
}

impl<'a> Programs<'a> {
    pub fn new(search: OsString, cwd: &'a Path, context: &'a Path, shown: Vec<PathBuf>) -> Programs<'a> {
        Programs { search, cwd, context, shown, files: BTreeMap::new(), dirs: Vec::new() }
    }

    /// Adds a program by the name that a shell would take. Returns the path to start it by.
    pub fn add(&mut self, name: &OsStr) -> Result<PathBuf, Failure> {
        let path = self.find(name)?;
        self.add_file(&path, &path, 0)
    }

    /// Adds a program that is not on PATH, at another path than its own.
    pub fn add_at(&mut self, path: &Path, dst: &Path) -> Result<(), Failure> {
        self.add_file(path, dst, 0).map(drop)
    }

    /// Whether `name` can be added.
    pub fn has(&self, name: &str) -> bool {
        self.find(OsStr::new(name)).is_ok()
    }

    /// PATH inside: the directories that programs were found in.
    pub fn path_var(&self) -> String {
        let dirs: Vec<_> = self.dirs.iter().map(|dir| dir.to_string_lossy()).collect();
        dirs.join(":")
    }

    pub fn binds(&self) -> Vec<Bind> {
        let shown = |dst: &Path| self.shown.iter().any(|dir| dst.starts_with(dir));
        self.files
            .iter()
            .filter(|(dst, _)| !shown(dst))
            .map(|(dst, (src, needed))| {
                let mode = fs::metadata(src).map_or(0, |found| found.permissions().mode());
                // What everybody may read needs no map of ids.
                let idmap = mode & needed != *needed;
                Bind { src: src.clone(), dst: dst.clone(), rw: false, idmap, is_dir: false }
            })
            .collect()
    }

    fn find(&self, name: &OsStr) -> Result<PathBuf, Failure> {
        if name.is_empty() {
            return Err(Failure::usage("the program's name is empty"));
        }
        if name.as_bytes().contains(&b'/') {
            let path = self.cwd.join(name);
            return match fs::metadata(&path) {
                Ok(found) if is_program(&found) => Ok(path),
                Ok(_) => Err(Failure::new(NOT_EXECUTABLE, format!("{}: is no program", path.display()))),
                Err(error) => Err(Failure::new(NOT_FOUND, format!("{}: {error}", path.display()))),
            };
        }
        std::env::split_paths(&self.search)
            .filter(|dir| dir.is_absolute())
            .map(|dir| dir.join(name))
            .find(|path| fs::metadata(path).is_ok_and(|found| is_program(&found)))
            .ok_or_else(|| {
                Failure::new(NOT_FOUND, format!("{}: not found on PATH", name.to_string_lossy())).hint(
                    "Relative entries of PATH are not searched. A program elsewhere is given by its path.",
                )
            })
    }

    fn add_file(&mut self, path: &Path, dst: &Path, depth: usize) -> Result<PathBuf, Failure> {
        let unfit = |why: &dyn std::fmt::Display| {
            Failure::new(NOT_EXECUTABLE, format!("{}: cannot be run in the jail: {why}", path.display()))
        };
        if depth > DEEPEST {
            return Err(unfit(&"its interpreter is a script, whose interpreter is a script, and so on"));
        }
        let real = path.canonicalize().map_err(|error| unfit(&error))?;
        for place in [dst, real.as_path()] {
            if place.to_str().is_none() {
                return Err(unfit(&"its path is not UTF-8"));
            }
            self.files.insert(place.to_owned(), (real.clone(), 0o005));
        }
        if let Some(dir) = dst.parent().filter(|dir| !self.dirs.iter().any(|known| known == dir)) {
            self.dirs.push(dir.to_owned());
        }
        let file = File::open(&real).map_err(|error| unfit(&error))?;
        let mut head = Vec::new();
        Read::take(&file, FIRST_LINE as u64).read_to_end(&mut head).map_err(|error| unfit(&error))?;
        if let Some(line) = head.strip_prefix(b"#!") {
            let (interpreter, argument) = script(line).map_err(|why| unfit(&why))?;
            let found = fs::metadata(&interpreter)
                .map_err(|error| unfit(&format!("its interpreter {}: {error}", interpreter.display())))?;
            if !is_program(&found) {
                return Err(unfit(&format!("its interpreter {} is no program", interpreter.display())));
            }
            self.add_file(&interpreter, &interpreter, depth + 1)?;
            if interpreter.file_name() == Some(OsStr::new("env"))
                && let Some(name) = argument.as_deref().and_then(program_of_env)
            {
                let path = self.find(OsStr::new(name))?;
                self.add_file(&path, &path, depth + 1)?;
            }
            return Ok(real);
        }
        let interpreter = sandbox_linux::elf_interpreter(&file)
            .map_err(|error| unfit(&format!("neither a script nor a program of this machine ({error})")))?;
        if let Some(loader) = interpreter {
            self.add_libraries(&loader, &real).map_err(|why| unfit(&why))?;
        }
        Ok(real)
    }

    fn add_libraries(&mut self, loader: &Path, program: &Path) -> Result<(), String> {
        if program.starts_with(self.context) {
            return Err("it lies in the context and needs a loader, which ktl lets read installed programs only; link it \
                        statically, or copy it elsewhere if you trust it"
                .to_owned());
        }
        let mut libraries = loader::libraries(loader, program)?;
        libraries.insert(LOADER_CACHE.into());
        for library in libraries {
            let Ok(real) = library.canonicalize() else {
                continue;
            };
            if library.to_str().is_none() {
                return Err(format!("{}: is not UTF-8", library.display()));
            }
            let needed = if library == loader { 0o005 } else { 0o004 };
            self.files.entry(library).or_insert((real, needed));
        }
        Ok(())
    }
}

fn is_program(found: &fs::Metadata) -> bool {
    found.is_file() && found.permissions().mode() & 0o111 != 0
}

/// The interpreter of a script and the one argument that the kernel gives it; `line` is what follows `#!`.
fn script(line: &[u8]) -> Result<(PathBuf, Option<String>), String> {
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = std::str::from_utf8(line).map_err(|_| "its first line is not UTF-8".to_owned())?.trim();
    let (interpreter, argument) = match line.split_once([' ', '\t']) {
        Some((interpreter, argument)) => (interpreter, Some(argument.trim().to_owned())),
        None => (line, None),
    };
    let path = PathBuf::from(interpreter);
    if path.is_absolute() {
        Ok((path, argument))
    } else {
        Err(format!("its interpreter `{interpreter}` is no absolute path"))
    }
}

/// What `env` will look for: the first word that is neither an option nor a variable.
fn program_of_env(argument: &str) -> Option<&str> {
    argument.split_whitespace().find(|word| !word.starts_with('-') && !word.contains('='))
}

/// Where docker looks for `name` among its plugins, the user's own first.
pub fn docker_plugin(name: &str, docker_config: Option<&Path>) -> Option<PathBuf> {
    const SYSTEM: [&str; 4] = [
        "/usr/local/lib/docker/cli-plugins",
        "/usr/local/libexec/docker/cli-plugins",
        "/usr/lib/docker/cli-plugins",
        "/usr/libexec/docker/cli-plugins",
    ];
    let own = docker_config.map(|dir| dir.join("cli-plugins"));
    own.into_iter()
        .chain(SYSTEM.map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|path| fs::metadata(path).is_ok_and(|found| is_program(&found)))
}

/// As [`Programs::find`] says it, for a directory.
pub fn directory(path: &Path) -> io::Result<PathBuf> {
    let real = path.canonicalize()?;
    if real.is_dir() { Ok(real) } else { Err(io::ErrorKind::NotADirectory.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_lines() {
        for (line, expected) in [
            ("/bin/sh\n", Ok(("/bin/sh", None))),
            (" /bin/sh -e\nrest", Ok(("/bin/sh", Some("-e")))),
            ("/usr/bin/env -S  python3 -u", Ok(("/usr/bin/env", Some("-S  python3 -u")))),
            ("sh", Err("`sh`")),
            ("", Err("``")),
        ] {
            match (script(line.as_bytes()), expected) {
                (Ok((path, argument)), Ok(expected)) => {
                    assert_eq!((path.to_str().unwrap(), argument.as_deref()), expected);
                }
                (Err(why), Err(part)) => assert!(why.contains(part), "{why}"),
                (found, expected) => panic!("{line:?}: {found:?}, not {expected:?}"),
            }
        }
        assert!(script(b"/bin/\xff").is_err());
        for (argument, program) in [
            ("bash", Some("bash")),
            ("-S python3 -u", Some("python3")),
            ("-i A=1 sh -e", Some("sh")),
            ("-i", None),
        ] {
            assert_eq!(program_of_env(argument), program, "{argument}");
        }
    }

    #[test]
    fn scripts_bring_their_interpreter_and_its_libraries() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let write = |name: &str, text: &str, mode: u32| {
            fs::write(root.join(name), text).unwrap();
            fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).unwrap();
        };
        write("good", "#!/usr/bin/env sh\n", 0o755);
        write("plain", "#!/bin/sh\n", 0o644);
        write("text", "hello", 0o755);
        write("lost", "#!/no/such/sh\n", 0o755);
        let context = Path::new("/nowhere");
        let search = OsString::from(format!("relative:{}:/usr/bin:/bin", root.display()));
        let mut programs = Programs::new(search, Path::new("/"), context, Vec::new());
        assert_eq!(programs.add(OsStr::new("good")).unwrap(), root.join("good"));
        let places: Vec<PathBuf> = programs.binds().into_iter().map(|bind| bind.dst).collect();
        assert!(places.contains(&"/usr/bin/env".into()), "{places:?}");
        assert!(places.iter().any(|place| place.ends_with("sh")), "{places:?}");
        assert!(places.iter().any(|place| place.to_string_lossy().contains("libc.")), "{places:?}");
        assert!(programs.path_var().starts_with(root.to_str().unwrap()));
        for (name, code) in [("plain", 127), ("text", 126), ("lost", 126), ("none", 127), ("./none", 127)] {
            assert_eq!(programs.add(OsStr::new(name)).unwrap_err().exit.code(), code, "{name}");
        }
        assert_eq!(programs.add(root.join("plain").as_os_str()).unwrap_err().exit.code(), 126);
        programs.shown = vec!["/usr".into(), "/lib".into(), "/lib64".into(), "/bin".into()];
        assert!(
            programs.binds().iter().all(|bind| bind.dst.starts_with(&root) || bind.dst.starts_with("/etc"))
        );
    }

    #[test]
    fn no_loader_reads_a_program_of_the_context() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::copy("/usr/bin/env", root.join("mine")).unwrap();
        let mut programs = Programs::new(OsString::new(), &root, &root, Vec::new());
        let refused = programs.add(OsStr::new("./mine")).unwrap_err();
        assert_eq!(refused.exit.code(), 126);
        assert!(refused.title.contains("context"), "{}", refused.title);
    }
}
