//! What a dynamic program needs besides itself, as its own loader says.
//!
//! `ld.so --list PROGRAM` (glibc and musl) maps the program and tells what it would load from where; nothing of the program
//! runs, but the loader reads it with the user's rights. So it is asked only about programs that the user installed, never
//! about one that came with the context.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Loaders live here and nowhere else.
const PLACES: [&str; 4] = ["/lib", "/usr/lib", "/nix/store", "/gnu/store"];
/// How long a loader may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// More than any list of libraries.
const LONGEST_LIST: u64 = 1 << 20;

/// The files that `program` is loaded with, as the loader looks for them. The reason, when it cannot be told.
pub fn libraries(loader: &Path, program: &Path) -> Result<BTreeSet<PathBuf>, String> {
    if !is_a_loaders_place(loader) {
        return Err(format!("its loader {} lies in no directory of loaders", loader.display()));
    }
    let list = ask(loader, program).map_err(|error| format!("{} --list: {error}", loader.display()))?;
    let mut found = parse(&list)?;
    found.insert(loader.to_owned());
    Ok(found)
}

/// `/lib…`, `/usr/lib…` or a store, and no way out of it.
fn is_a_loaders_place(loader: &Path) -> bool {
    let text = loader.to_string_lossy();
    loader.is_absolute()
        && !loader.components().any(|part| part == Component::ParentDir)
        && PLACES.iter().any(|place| text.starts_with(place))
}

/// Lines are `NAME => PATH (ADDRESS)`, `PATH (ADDRESS)` or, for the kernel's own, `NAME (ADDRESS)`.
fn parse(list: &str) -> Result<BTreeSet<PathBuf>, String> {
    let mut found = BTreeSet::new();
    for line in list.lines() {
        let line = line.trim();
        if let Some((name, "not found")) = line.split_once(" => ") {
            return Err(format!("it needs {name}, which is not found"));
        }
        let path = line.split_once(" => ").map_or(line, |(_, path)| path);
        let path = path.rsplit_once(" (").map_or(path, |(path, _)| path);
        if path.starts_with('/') {
            found.insert(lexical(Path::new(path)));
        }
    }
    Ok(found)
}

/// Without `..`: inside, directories are real ones.
fn lexical(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir => {}
            other => out.push(other),
        }
    }
    out
}

fn ask(loader: &Path, program: &Path) -> io::Result<String> {
    // A file takes any amount; a pipe that nobody reads would hold the loader up.
    let mut said = File::from(rustix::fs::memfd_create("ktl-list", rustix::fs::MemfdFlags::CLOEXEC)?);
    let mut child = Command::new(loader)
        .arg("--list")
        .arg(program)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(said.try_clone()?)
        .stderr(Stdio::null())
        .spawn()?;
    let end = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= end {
            child.kill()?;
            child.wait()?;
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer for 10 seconds"));
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let mut text = Vec::new();
    said.rewind()?;
    said.take(LONGEST_LIST).read_to_end(&mut text)?;
    let text = String::from_utf8(text).map_err(|_| io::Error::other("a library's name is not UTF-8"))?;
    // musl ends with 127 when a library is missing, glibc says so in the list.
    if !status.success() && !text.contains(" => not found") {
        return Err(io::Error::other(format!("it ended with {status}")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_lists_of_both_loaders() {
        let glibc = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibtinfo.so.6 => /lib/x86_64-linux-gnu/libtinfo.so.6 (0x00007f)\n\
                     \tlibx.so => /opt/x/bin/../lib/libx.so (0x7f)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let paths: Vec<String> =
            parse(glibc).unwrap().iter().map(|path| path.display().to_string()).collect();
        assert_eq!(
            paths,
            ["/lib/x86_64-linux-gnu/libtinfo.so.6", "/lib64/ld-linux-x86-64.so.2", "/opt/x/lib/libx.so"]
        );
        let musl =
            "\t/lib/ld-musl-x86_64.so.1 (0x7f)\n\tlibc.musl-x86_64.so.1 => /lib/ld-musl-x86_64.so.1 (0x7f)\n";
        assert_eq!(parse(musl).unwrap().len(), 1);
        assert_eq!(
            parse("\tlibgone.so.1 => not found\n").unwrap_err(),
            "it needs libgone.so.1, which is not found"
        );
    }

    #[test]
    fn only_a_systems_loader_is_started() {
        for (loader, good) in [
            ("/lib64/ld-linux-x86-64.so.2", true),
            ("/usr/lib/ld.so", true),
            ("/nix/store/x/ld.so", true),
            ("/lib/../tmp/ld.so", false),
            ("/tmp/ld.so", false),
            ("lib/ld.so", false),
        ] {
            assert_eq!(is_a_loaders_place(Path::new(loader)), good, "{loader}");
        }
        assert!(
            libraries(Path::new("/tmp/ld.so"), Path::new("/bin/true")).unwrap_err().contains("/tmp/ld.so")
        );
    }

    #[test]
    fn a_real_program_names_its_libraries() {
        let env = Path::new("/usr/bin/env");
        let loader = sandbox_linux::elf_interpreter(&File::open(env).unwrap()).unwrap().unwrap();
        let found = libraries(&loader, &env.canonicalize().unwrap()).unwrap();
        assert!(
            found.contains(&loader) && found.iter().any(|path| path.to_string_lossy().contains("libc")),
            "{found:?}"
        );
        assert!(found.iter().all(|path| path.exists()), "{found:?}");
    }
}
