//! What becomes of a build's result: the grammar of `--output`.
//!
//! Follows docker buildx (`util/buildflags/export.go`, `build/opt.go`): a directory alone, `-` for a tar on standard
//! output, or comma-separated attributes beginning with `type=`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::csv::{self, CsvError, boolean};
use crate::reference::ImageRef;

/// An exporter of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutputKind {
    /// Into the builder's image store or, with `push=true`, to a registry.
    Image,
    /// An OCI layout in one tar.
    Oci,
    /// What `docker load` reads.
    Docker,
    /// The files of the result, in a directory.
    Local,
    /// The files of the result, in one tar.
    Tar,
    /// Nowhere: the result stays in the builder's cache.
    CacheOnly,
}

impl OutputKind {
    /// Name of the exporter as requests carry it.
    pub fn name(self) -> &'static str {
        match self {
            OutputKind::Image => "image",
            OutputKind::Oci => "oci",
            OutputKind::Docker => "docker",
            OutputKind::Local => "local",
            OutputKind::Tar => "tar",
            OutputKind::CacheOnly => "cacheonly",
        }
    }

    /// Whether the result is an image that can have names.
    pub fn is_image(self) -> bool {
        matches!(self, OutputKind::Image | OutputKind::Oci | OutputKind::Docker)
    }
}

/// Where the daemon's bytes go on this side.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Destination {
    /// The daemon keeps or sends the result itself.
    None,
    Stdout,
    /// One file.
    File(PathBuf),
    /// A tree of files.
    Directory(PathBuf),
    /// A tree of files that takes the place of all that is there.
    Mirror(PathBuf),
    /// A docker archive that nobody named a file for: it is loaded into a Docker Engine.
    Engine,
}

/// One parsed `--output`. `attrs` is what the daemon gets: never `type`, never `dest`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputSpec {
    pub kind: OutputKind,
    pub attrs: BTreeMap<String, String>,
    pub destination: Destination,
}

/// Why an `--output` is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OutputError {
    #[error(transparent)]
    Csv(#[from] CsvError),
    #[error("{0:?} is not of the form key=value")]
    NotAPair(String),
    #[error("type is required for output, such as type=local")]
    NoType,
    #[error("output type {0:?} is not one of local, tar, oci, docker, image, registry, cacheonly")]
    UnknownType(String),
    #[error("dest is required for the {0} exporter")]
    NoDestination(&'static str),
    #[error("dest of the {0} exporter cannot be standard output: it is a directory")]
    StdoutDirectory(&'static str),
    #[error("the {0} exporter takes no dest")]
    NeedlessDestination(&'static str),
    #[error("{key}={value} is not a boolean")]
    NotBoolean { key: String, value: String },
    #[error("mode={0} of the local exporter is neither copy nor delete")]
    UnknownMode(String),
    #[error("{0} is not supported yet")]
    NotYet(&'static str),
    #[error("several outputs write to standard output")]
    StdoutTwice,
    #[error("a tag is needed when pushing to a registry")]
    PushWithoutName,
}

impl OutputSpec {
    /// One value of `-o`/`--output`.
    pub fn parse(text: &str) -> Result<OutputSpec, OutputError> {
        let fields = csv::fields(text)?;
        if let [only] = fields.as_slice()
            && only == text
            && !text.starts_with("type=")
        {
            return match text {
                "" => Err(OutputError::NoType),
                "-" => OutputSpec::new("tar", BTreeMap::new(), Some("-")),
                dir => OutputSpec::new("local", BTreeMap::new(), Some(dir)),
            };
        }
        let (mut kind, mut dest, mut attrs) = (None, None, BTreeMap::new());
        for field in fields {
            let Some((key, value)) = field.split_once('=') else { return Err(OutputError::NotAPair(field)) };
            match key.trim().to_ascii_lowercase().as_str() {
                "type" => kind = Some(value.to_owned()),
                "dest" => dest = Some(value.to_owned()),
                key => {
                    attrs.insert(key.to_owned(), value.to_owned());
                }
            }
        }
        let kind = kind.filter(|kind| !kind.is_empty()).ok_or(OutputError::NoType)?;
        OutputSpec::new(&kind, attrs, dest.as_deref())
    }

    /// `--push`: `type=registry`.
    pub fn push() -> OutputSpec {
        let attrs = [("push", "true"), ("unpack", "false")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        OutputSpec { kind: OutputKind::Image, attrs: attrs.into(), destination: Destination::None }
    }

    /// `--load`: `type=docker`, into a Docker Engine.
    pub fn load() -> OutputSpec {
        OutputSpec { kind: OutputKind::Docker, attrs: BTreeMap::new(), destination: Destination::Engine }
    }

    /// Names an image result; others are left alone. Names given on the command line win over the attribute.
    pub fn name_it(&mut self, names: &[ImageRef]) {
        if self.kind.is_image() && !names.is_empty() {
            let names: Vec<String> = names.iter().map(ImageRef::to_string).collect();
            self.attrs.insert("name".to_owned(), names.join(","));
        }
    }

    /// Whether the daemon sends the result to a registry.
    pub fn pushes(&self) -> bool {
        self.kind == OutputKind::Image && self.attrs.get("push").and_then(|v| boolean(v)) == Some(true)
    }

    fn new(
        kind: &str,
        mut attrs: BTreeMap<String, String>,
        dest: Option<&str>,
    ) -> Result<OutputSpec, OutputError> {
        let kind = match kind {
            "image" => OutputKind::Image,
            "registry" => {
                attrs.insert("push".to_owned(), "true".to_owned());
                attrs.entry("unpack".to_owned()).or_insert_with(|| "false".to_owned());
                OutputKind::Image
            }
            "oci" => OutputKind::Oci,
            "docker" => OutputKind::Docker,
            "local" => OutputKind::Local,
            "tar" => OutputKind::Tar,
            "cacheonly" => OutputKind::CacheOnly,
            other => return Err(OutputError::UnknownType(other.to_owned())),
        };
        for key in ["push", "unpack", "store", "tar", "registry.insecure", "push-by-digest", "name-canonical"]
        {
            if let Some(value) = attrs.get(key)
                && boolean(value).is_none()
            {
                return Err(OutputError::NotBoolean { key: key.to_owned(), value: value.clone() });
            }
        }
        let dest = dest.filter(|dest| !dest.is_empty());
        let destination = match (kind, dest) {
            (OutputKind::Image | OutputKind::CacheOnly, None) => Destination::None,
            (OutputKind::Image | OutputKind::CacheOnly, Some(_)) => {
                return Err(OutputError::NeedlessDestination(kind.name()));
            }
            (OutputKind::Oci | OutputKind::Docker, _)
                if attrs.get("tar").and_then(|v| boolean(v)) == Some(false) =>
            {
                return Err(OutputError::NotYet("tar=false"));
            }
            (OutputKind::Local, None) => return Err(OutputError::NoDestination(kind.name())),
            (OutputKind::Local, Some("-")) => return Err(OutputError::StdoutDirectory(kind.name())),
            // What becomes of what is there is settled on this side, whatever the daemon's version.
            (OutputKind::Local, Some(dir)) => match attrs.remove("mode").as_deref() {
                None | Some("copy") => Destination::Directory(dir.into()),
                Some("delete") => Destination::Mirror(dir.into()),
                Some(other) => return Err(OutputError::UnknownMode(other.to_owned())),
            },
            (OutputKind::Docker, None) => Destination::Engine,
            (_, None | Some("-")) => Destination::Stdout,
            (_, Some(file)) => Destination::File(file.into()),
        };
        Ok(OutputSpec { kind, attrs, destination })
    }
}

/// What the outputs of one build must keep to together. `cacheonly` entries are dropped.
pub fn settle(outputs: Vec<OutputSpec>) -> Result<Vec<OutputSpec>, OutputError> {
    if outputs.iter().filter(|output| output.destination == Destination::Stdout).count() > 1 {
        return Err(OutputError::StdoutTwice);
    }
    if outputs.iter().any(|output| output.pushes() && output.attrs.get("name").is_none_or(String::is_empty)) {
        return Err(OutputError::PushWithoutName);
    }
    Ok(outputs.into_iter().filter(|output| output.kind != OutputKind::CacheOnly).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attrs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
    }

    #[test]
    fn grammar() {
        use Destination as D;
        use OutputKind as K;
        for (text, kind, pairs, destination) in [
            ("out", K::Local, &[][..], D::Directory("out".into())),
            ("./a=b", K::Local, &[], D::Directory("./a=b".into())),
            ("-", K::Tar, &[], D::Stdout),
            ("type=local,dest=out", K::Local, &[], D::Directory("out".into())),
            ("type=local,dest=out,mode=copy", K::Local, &[], D::Directory("out".into())),
            ("type=local,dest=out,mode=delete", K::Local, &[], D::Mirror("out".into())),
            ("type=tar", K::Tar, &[], D::Stdout),
            ("type=tar,dest=x.tar", K::Tar, &[], D::File("x.tar".into())),
            ("type=oci,dest=-", K::Oci, &[], D::Stdout),
            ("type=oci,tar=true,dest=x", K::Oci, &[("tar", "true")], D::File("x".into())),
            ("type=docker", K::Docker, &[], D::Engine),
            ("type=docker,dest=x.tar", K::Docker, &[], D::File("x.tar".into())),
            ("type=cacheonly", K::CacheOnly, &[], D::None),
            (
                r#"type=image,"name=a:1,b:2",push=true,registry.insecure=true"#,
                K::Image,
                &[("name", "a:1,b:2"), ("push", "true"), ("registry.insecure", "true")],
                D::None,
            ),
            (
                "Type=registry,Name=a",
                K::Image,
                &[("name", "a"), ("push", "true"), ("unpack", "false")],
                D::None,
            ),
            ("type=registry,unpack=true", K::Image, &[("push", "true"), ("unpack", "true")], D::None),
        ] {
            let want = OutputSpec { kind, attrs: attrs(pairs), destination };
            assert_eq!(OutputSpec::parse(text).unwrap_or_else(|e| panic!("{text}: {e}")), want, "{text}");
        }
    }

    #[test]
    fn refusals() {
        use OutputError as E;
        for (text, want) in [
            ("", E::NoType),
            ("dest=x,name=y", E::NoType),
            ("type=", E::NoType),
            ("type=zip", E::UnknownType("zip".into())),
            ("type=local", E::NoDestination("local")),
            ("type=local,dest=-", E::StdoutDirectory("local")),
            ("type=image,dest=x", E::NeedlessDestination("image")),
            ("type=oci,tar=false,dest=x", E::NotYet("tar=false")),
            ("type=local,dest=x,mode=move", E::UnknownMode("move".into())),
            ("type=image,push=yes", E::NotBoolean { key: "push".into(), value: "yes".into() }),
            ("type=image,push", E::NotAPair("push".into())),
            (r#"type=image,name="a"#, E::Csv(CsvError::BareQuote(16))),
        ] {
            assert_eq!(OutputSpec::parse(text).unwrap_err(), want, "{text}");
        }
    }

    #[test]
    fn names_and_settling() {
        let names = ["app:dev".parse().unwrap(), "localhost:5000/app:dev".parse().unwrap()];
        let mut push = OutputSpec::push();
        assert_eq!(settle(vec![push.clone()]).unwrap_err(), OutputError::PushWithoutName);
        push.name_it(&names);
        assert_eq!(push.attrs["name"], "docker.io/library/app:dev,localhost:5000/app:dev");
        let mut dir = OutputSpec::parse("out").unwrap();
        dir.name_it(&names);
        assert!(dir.attrs.is_empty());
        let none = OutputSpec::parse("type=cacheonly").unwrap();
        assert_eq!(settle(vec![push.clone(), none, dir.clone()]).unwrap(), [push, dir]);
        let stdout = OutputSpec::parse("-").unwrap();
        assert_eq!(settle(vec![stdout.clone(), stdout]).unwrap_err(), OutputError::StdoutTwice);
    }
}
