//! Sockets of daemons that do for whoever connects what root may do. A jail with one of them in it is none, so a bind of
//! one is refused; what a build needs of a Docker Engine goes through the gate, and containerd's socket has a flag that says
//! what it gives away.

use std::path::{Path, PathBuf};

use crate::env::{self, Env};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::plan::HostBind;

/// By name, wherever they lie.
const NAMES: [&str; 6] = [
    "docker.sock",
    "containerd.sock",
    "containerd.sock.ttrpc",
    "podman.sock",
    "crio.sock",
    "dockershim.sock",
];
/// Below `/run` and a user's runtime directory.
const PLACES: [&str; 5] = [
    "docker.sock",
    "containerd/containerd.sock",
    "podman/podman.sock",
    "crio/crio.sock",
    "docker/docker.sock",
];

/// Refuses a bind that shows such a socket: by its name, by a link to it, by a directory that holds it, or because it is
/// the Engine that this run was given.
pub fn refuse(binds: &[HostBind], engine: Option<&Path>, env: &Env) -> Result<(), Failure> {
    let runtime = env.path("XDG_RUNTIME_DIR");
    let mut known: Vec<PathBuf> = ["/run", "/var/run"]
        .map(PathBuf::from)
        .into_iter()
        .chain(runtime)
        .flat_map(|dir| PLACES.map(|place| dir.join(place)))
        .chain(listening())
        .chain(engine.map(Path::to_owned))
        .filter_map(|path| path.canonicalize().ok())
        .collect();
    known.dedup();
    for bind in binds {
        let real = bind.src.canonicalize().unwrap_or_else(|_| bind.src.clone());
        let found = if named(&real) || named(&bind.src) {
            Some(real)
        } else {
            let within = NAMES.iter().map(|name| real.join(name)).find(|path| path.exists());
            within.or_else(|| known.iter().find(|socket| socket.starts_with(&real)).cloned())
        };
        if let Some(socket) = found {
            return Err(Failure::new(
                Exit::Policy,
                format!(
                    "--sandbox-bind {}: shows {}, and whoever can write to that socket is root on this host",
                    bind.src.display(),
                    socket.display()
                ),
            )
            .hint("A Docker Engine is handed in with --docker-socket PATH, through a gate that passes what a build needs.")
            .hint("containerd's socket is handed in with --containerd-socket PATH, and gives away what it says there."));
        }
    }
    Ok(())
}

fn named(path: &Path) -> bool {
    path.file_name().is_some_and(|name| NAMES.iter().any(|known| *known == name.to_string_lossy()))
}

/// Sockets of such a name that somebody on this host listens on, wherever that is: in a home directory, for one.
fn listening() -> Vec<PathBuf> {
    let table = std::fs::read("/proc/net/unix").unwrap_or_default();
    String::from_utf8_lossy(&table)
        .lines()
        .filter_map(|line| line.find(" /").map(|at| PathBuf::from(&line[at + 1..])))
        .filter(|path| named(path))
        .collect()
}

/// The Engine's socket: what was typed, else what docker itself would take, for a program that is docker's.
pub fn engine(
    flag: Option<&Path>,
    is_dockers: bool,
    env: &Env,
    cwd: &Path,
) -> Result<Option<PathBuf>, Failure> {
    if let Some(path) = flag {
        if path == Path::new("none") {
            return Ok(None);
        }
        let path = cwd.join(path);
        return match path.canonicalize() {
            Ok(real) if is_socket(&real) => Ok(Some(real)),
            Ok(_) => Err(Failure::usage(format!("--docker-socket {}: is no socket", path.display()))),
            Err(error) => Err(Failure::usage(format!("--docker-socket {}: {error}", path.display()))),
        };
    }
    if !is_dockers {
        return Ok(None);
    }
    let path = match env.text(env::DOCKER_HOST) {
        Some(host) => match host.strip_prefix("unix://") {
            Some(path) => PathBuf::from(path),
            None => return Ok(None),
        },
        None => PathBuf::from("/var/run/docker.sock"),
    };
    Ok(path.canonicalize().ok().filter(|real| is_socket(real)))
}

/// Whether a socket's file is at `path`.
pub fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn no_way_leads_to_a_daemons_socket() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        for name in ["a", "b", "plain", "deep/er/still"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        let _deep = UnixListener::bind(root.join("deep/er/still/docker.sock")).unwrap();
        let _docker = UnixListener::bind(root.join("a/docker.sock")).unwrap();
        let _renamed = UnixListener::bind(root.join("b/engine")).unwrap();
        let _other = UnixListener::bind(root.join("plain/agent")).unwrap();
        symlink(root.join("a/docker.sock"), root.join("plain/link")).unwrap();
        let engine = root.join("b/engine");
        for (src, expected) in [
            ("a/docker.sock", true),
            ("a", true),
            ("plain/link", true),
            ("b/engine", true),
            ("b", true),
            ("deep", true),
            ("", true),
            ("plain/agent", false),
            ("plain", false),
        ] {
            let bind = HostBind { src: root.join(src), dst: "/x".into(), rw: false };
            let found = refuse(&[bind], Some(&engine), &Env::default());
            assert_eq!(found.is_err(), expected, "{src}");
            if let Err(failure) = found {
                assert_eq!(failure.exit.code(), 5, "{src}");
                assert!(failure.hints[0].contains("--docker-socket"), "{src}");
            }
        }
    }

    #[test]
    fn the_engine_is_what_docker_would_take() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().canonicalize().unwrap().join("d.sock");
        let _listener = UnixListener::bind(&socket).unwrap();
        let host = format!("unix://{}", socket.display());
        let set = Env::of(&[("DOCKER_HOST", host.as_str())]);
        let cwd = Path::new("/");
        assert_eq!(engine(None, true, &set, cwd).unwrap(), Some(socket.clone()));
        assert_eq!(engine(None, false, &set, cwd).unwrap(), None);
        assert_eq!(engine(Some(&socket), false, &Env::default(), cwd).unwrap(), Some(socket.clone()));
        assert_eq!(engine(Some(Path::new("none")), true, &set, cwd).unwrap(), None);
        assert_eq!(engine(None, true, &Env::of(&[("DOCKER_HOST", "tcp://h:1")]), cwd).unwrap(), None);
        assert_eq!(engine(Some(Path::new("/no/such")), true, &set, cwd).unwrap_err().exit, Exit::Usage);
        assert_eq!(engine(Some(Path::new("/dev/null")), true, &set, cwd).unwrap_err().exit, Exit::Usage);
    }
}
