//! Where `ktl.toml` lies, and whose word it is.
//!
//! The user's own, in ktl's configuration directory, may set what a variable may. The one at the root of a local context comes with
//! the sources, so from whoever could change these: it may make the build stricter, and do nothing else. It is opened without
//! following a link and without waiting for a pipe.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use clap::Command;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::file::{self, Entry, FILE, SIZE_LIMIT};
use super::flag::{Flag, Kind};
use super::reach::Reach;
use super::value::{Setting, Source};
use super::{Typed, apply};
use crate::commands::build::read_bounded;
use crate::display::inert;
use crate::env::{self, Env};
use crate::exit::Exit;
use crate::failure::Failure;

/// Variables of other programs that go before the user's file.
const GO_BEFORE: [(&str, &[&str]); 2] =
    [("builder", &[env::BUILDKIT_HOST, env::BUILDX_BUILDER]), ("progress", &[env::BUILDKIT_PROGRESS])];

/// What the files say of flags that were not typed, the repository's first.
pub fn set(flags: &[Flag], typed: &Typed<'_>, root: &Command, env: &Env) -> Result<Vec<Setting>, Failure> {
    if flags.iter().all(|flag| flag.key.is_none()) {
        return Ok(Vec::new());
    }
    let known = Flag::of(&["build".to_owned()], root);
    let mut settings = Vec::new();
    if let Some((path, bytes)) = of_repository(typed)? {
        let source = |line| Source::Repository { path: path.clone(), line };
        for setting in read(&bytes, &known, source)? {
            if !matches!(setting.flag.reach, Reach::Stricter(_)) {
                return Err(Failure::new(
                    Exit::Policy,
                    format!("{}: --{} is not for a repository to set", setting.source, setting.flag.long),
                )
                .hint("What lies in a context can make its build stricter, and do nothing else.")
                .hint("In the ktl.toml of your own configuration directory it counts for all builds."));
            }
            settings.push(setting);
        }
    }
    if let Some(path) = env.config_dir().map(|dir| dir.join(FILE)) {
        let bytes = match read_bounded(&path, SIZE_LIMIT) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_symlink() => Vec::new(),
            Err(error) => return Err(Failure::usage(format!("{}: {error}", path.display()))),
        };
        settings.extend(read(&bytes, &known, |line| Source::User { path: path.clone(), line })?);
    }
    // The same flags, as this command has them.
    let own = |setting: Setting| {
        let flag = flags.iter().find(|flag| flag.key.is_some() && flag.key == setting.flag.key)?;
        (!typed.has(flag) && !goes_before(flag, &setting.source, env))
            .then(|| Setting { flag: flag.clone(), ..setting })
    };
    let settings: Vec<Setting> = settings.into_iter().filter_map(own).collect();
    settings.iter().try_for_each(|setting| apply::check(&typed.path, setting))?;
    settings.iter().try_for_each(|setting| one_policy(setting, env))?;
    Ok(settings)
}

/// Whether a variable that is read elsewhere says it already.
fn goes_before(flag: &Flag, source: &Source, env: &Env) -> bool {
    let others = GO_BEFORE.iter().find(|(long, _)| *long == flag.long).map_or(&[][..], |(_, names)| names);
    let own = (flag.reach == Reach::Elsewhere).then_some(flag.variable.as_str());
    let is_set = |name: &&str| env.get(name).is_some();
    matches!(source, Source::User { .. }) && others.iter().copied().chain(own).any(|name| is_set(&name))
}

/// Of two source policies nobody can say which is the stricter.
fn one_policy(setting: &Setting, env: &Env) -> Result<(), Failure> {
    let variables = [setting.flag.variable.as_str(), env::EXPERIMENTAL_BUILDKIT_SOURCE_POLICY];
    match variables
        .into_iter()
        .find(|name| setting.flag.long == "source-policy-file" && env.get(name).is_some())
    {
        Some(name) => Err(Failure::usage(format!("{} and {name} both name a source policy", setting.source))
            .hint("Leave one of them out, or type --source-policy-file.")),
        None => Ok(()),
    }
}

fn read(bytes: &[u8], known: &[Flag], source: impl Fn(usize) -> Source) -> Result<Vec<Setting>, Failure> {
    let entries = file::parse(bytes)
        .map_err(|error| Failure::usage(format!("{}: {}", source(error.line), inert::text(&error.why))))?;
    let settings = entries.into_iter().map(|entry| setting(entry, known, &source));
    settings.filter_map(Result::transpose).collect()
}

fn setting(
    entry: Entry,
    known: &[Flag],
    source: impl Fn(usize) -> Source,
) -> Result<Option<Setting>, Failure> {
    let Entry { table, name, line, values, is_list } = entry;
    let source = source(line);
    let keyed = |flag: &&Flag| flag.key.as_ref().is_some_and(|key| key.table == table && key.name == name);
    let Some(flag) = known.iter().find(keyed) else {
        let unknown =
            format!("{source}: there is no key `{}` in [{}]", inert::text(&name), inert::text(&table));
        let failure = Failure::usage(unknown);
        let meant = known
            .iter()
            .filter(|flag| flag.long == name || flag.key.as_ref().is_some_and(|key| key.name == name));
        let meant =
            meant.filter_map(|flag| Some(format!("There is {}, for --{}.", flag.key.as_ref()?, flag.long)));
        return Err(failure
            .hints(meant)
            .hint("The keys are those of the flags of `ktl build`: docs/reference.md has them all."));
    };
    if is_list && !matches!(flag.kind, Kind::Many { .. }) {
        return Err(Failure::usage(format!("{source}: --{} takes one value, and no list", flag.long)));
    }
    Setting::new(flag, values, source)
}

/// The file at the root of a context that is a directory of this machine.
fn of_repository(typed: &Typed<'_>) -> Result<Option<(PathBuf, Vec<u8>)>, Failure> {
    let context = typed.is_build().then(|| typed.matches.get_one::<PathBuf>("context")).flatten();
    let Some(context) = context.filter(|context| *context != Path::new("-")) else { return Ok(None) };
    let path = context.join(FILE);
    let failed = |why: &str| Failure::usage(format!("{}: {why}", path.display()));
    let dir = match rustix::fs::openat(
        CWD,
        context,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    ) {
        Ok(dir) => dir,
        // The plan says what is wrong with it, or it is a URL.
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(error) => return Err(failed(&io::Error::from(error).to_string())),
    };
    match open_beneath(&dir) {
        Ok(file) => {
            bounded(file).map(|bytes| Some((path.clone(), bytes))).map_err(|error| failed(&error.to_string()))
        }
        Err(Errno::NOENT) => Ok(None),
        Err(Errno::LOOP) => Err(failed("is a link, and none is followed out of sources")),
        Err(error) => Err(failed(&io::Error::from(error).to_string())),
    }
}

fn open_beneath(dir: &OwnedFd) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::io::retry_on_intr(|| rustix::fs::openat2(dir, FILE, flags, Mode::empty(), resolve))
}

fn bounded(file: OwnedFd) -> io::Result<Vec<u8>> {
    if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("is no regular file"));
    }
    let mut bytes = Vec::new();
    File::from(file).take(SIZE_LIMIT + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > SIZE_LIMIT {
        true => Err(io::Error::other(format!("is larger than {SIZE_LIMIT} bytes"))),
        false => Ok(bytes),
    }
}
