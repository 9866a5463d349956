//! What is listed, in what order, and what is not.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;

use super::super::stat::{MODE_DIR, MODE_NAMED_PIPE, MODE_SYMLINK};
use super::super::{Selection, fence, with_causes};
use super::*;
use crate::session::host::{Access, Opener};

fn list(dir: &LocalDir, selection: &Selection) -> Result<Vec<types::Stat>, ContextError> {
    let entries = Mutex::new(Entries::new());
    let mut listed = Vec::new();
    walk(dir, &Filter::new(dir, selection)?, &entries, &mut |entry| {
        listed.extend(entry);
        Ok(())
    })?;
    Ok(listed)
}

/// One word per entry: `path/` for a directory, `path=first` for a hard link, `path>target` for a symlink.
fn words(dir: &Path, selection: &Selection) -> String {
    let listed = list(&LocalDir::open("context", dir).unwrap(), selection).unwrap();
    let word = |entry: &types::Stat| {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let sign = match entry.mode & MODE_TYPE {
            MODE_DIR => "/",
            MODE_SYMLINK => ">",
            MODE_NAMED_PIPE => "|",
            _ if !entry.linkname.is_empty() => "=",
            _ => "",
        };
        text(&entry.path) + sign + &text(&entry.linkname)
    };
    listed.iter().map(word).collect::<Vec<_>>().join(" ")
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|item| (*item).to_owned()).collect()
}

#[test]
fn selections_keep_what_upstream_keeps() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    for dir in ["a/b/c", "a-b", "node_modules/keep", "empty"] {
        std::fs::create_dir_all(at(dir)).unwrap();
    }
    for file in ["a/b/c/deep.go", "a/b/x.md", "a/z.go", "a-b/f", "node_modules/drop", "node_modules/keep/k"] {
        std::fs::write(at(file), "").unwrap();
    }
    std::fs::hard_link(at("a/z.go"), at("node_modules/linked")).unwrap();
    std::fs::hard_link(at("a/z.go"), at("zz")).unwrap();
    symlink("a/b", at("link")).unwrap();
    for (include, exclude, follow, expected) in [
        (
            &[][..],
            &[][..],
            &[][..],
            "a/ a/b/ a/b/c/ a/b/c/deep.go a/b/x.md a/z.go a-b/ a-b/f empty/ link>a/b node_modules/ \
             node_modules/drop node_modules/keep/ node_modules/keep/k node_modules/linked=a/z.go zz=a/z.go",
        ),
        (&["a/b/c"], &[], &[], "a/ a/b/ a/b/c/ a/b/c/deep.go"),
        (&["**/*.go"], &[], &[], "a/ a/b/ a/b/c/ a/b/c/deep.go a/z.go"),
        (&["*"], &["**"], &[], ""),
        // The first of the links is left out, so the next takes its place.
        (
            &[],
            &["a", "empty", "a-b"],
            &[],
            "link>a/b node_modules/ node_modules/drop node_modules/keep/ \
             node_modules/keep/k node_modules/linked zz=node_modules/linked",
        ),
        (
            &[],
            &["node_modules", "!node_modules/keep", "a*", "empty", "zz"],
            &[],
            "link>a/b node_modules/ node_modules/keep/ node_modules/keep/k",
        ),
        (&[], &["*", "!**/*.md"], &[], "a/ a/b/ a/b/x.md"),
        (&[], &[], &["link/c"], "a/ a/b/ a/b/c/ a/b/c/deep.go link>a/b"),
        (&["zz"], &[], &["a-b"], "a-b/ a-b/f zz"),
        (
            &[],
            &["a-b"],
            &["."],
            "a/ a/b/ a/b/c/ a/b/c/deep.go a/b/x.md a/z.go empty/ link>a/b node_modules/ \
             node_modules/drop node_modules/keep/ node_modules/keep/k node_modules/linked=a/z.go zz=a/z.go",
        ),
        (&[""], &[], &[], ""),
    ] {
        let selection =
            Selection { include: strings(include), exclude: strings(exclude), followpaths: strings(follow) };
        assert_eq!(words(root.path(), &selection), expected, "{selection:?}");
    }
}

#[test]
fn a_tree_deeper_than_the_open_levels_is_walked_back_out_of() {
    let root = tempfile::tempdir().unwrap();
    let mut dir = root.path().to_owned();
    for _ in 0..OPEN_LEVELS * 2 {
        dir.push("d");
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("z"), "").unwrap();
    }
    let listed = words(root.path(), &Selection::default());
    assert_eq!(listed.split(' ').count(), OPEN_LEVELS * 4);
    let only_deep = Selection { include: vec!["d/".repeat(OPEN_LEVELS * 2) + "z"], ..Selection::default() };
    assert_eq!(words(root.path(), &only_deep).split(' ').count(), OPEN_LEVELS * 2 + 1);
}

#[test]
fn what_vanishes_is_left_out() {
    let root = tempfile::tempdir().unwrap();
    for name in ["a", "b", "c", "d/e", "f"] {
        let path = root.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "").unwrap();
    }
    let dir = LocalDir::open("context", root.path()).unwrap();
    let (mut listed, entries) = (Vec::new(), Mutex::new(Entries::new()));
    walk(&dir, &Filter::new(&dir, &Selection::default()).unwrap(), &entries, &mut |entry| {
        listed.extend(entry.map(|entry| String::from_utf8_lossy(&entry.path).into_owned()));
        if listed == ["a"] {
            std::fs::remove_file(root.path().join("b")).unwrap();
            std::fs::remove_dir_all(root.path().join("d")).unwrap();
            symlink("/etc", root.path().join("d")).unwrap();
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(listed, ["a", "c", "f"]);
}

/// Opens as the user who runs the tests, whatever the calling thread has become.
#[derive(Debug)]
struct Owner(OwnedFd);

impl Opener for Owner {
    fn open(&self, local: &str, path: &Path, access: Access) -> io::Result<OwnedFd> {
        use rustix::fs::{Mode, OFlags, openat};
        assert_eq!(local, "context");
        let flags = match access {
            Access::Locate => OFlags::PATH | OFlags::NOFOLLOW,
            Access::Read => OFlags::RDONLY | OFlags::NONBLOCK,
            Access::List => OFlags::RDONLY | OFlags::DIRECTORY,
        };
        nix::unistd::setfsuid(0.into());
        let opened = openat(&self.0, path, flags | OFlags::CLOEXEC, Mode::empty());
        nix::unistd::setfsuid(65534.into());
        Ok(opened?)
    }
}

#[test]
fn what_may_not_be_read_is_asked_for_or_named() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root, to become somebody who may not read");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("closed/inner")).unwrap();
    std::fs::write(root.path().join("closed/secret"), "secret").unwrap();
    std::fs::write(root.path().join("open"), "open").unwrap();
    symlink("secret", root.path().join("closed/link")).unwrap();
    let mode = |name: &str, mode| {
        std::fs::set_permissions(root.path().join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("", 0o755);
    mode("closed/secret", 0o600);
    // Of `closed`, a stranger may see the names but nothing else.
    mode("closed", 0o744);
    let dir = LocalDir::open("context", root.path()).unwrap();
    let with_opener = dir.clone().with_opener(Arc::new(Owner(dir.locate(b".").unwrap())));
    let as_stranger = |dir: LocalDir, selection: Selection| {
        std::thread::spawn(move || {
            nix::unistd::setfsuid(65534.into());
            list(&dir, &selection).map(|listed| listed.len())
        })
        .join()
        .unwrap()
    };
    let error = with_causes(&as_stranger(dir.clone(), Selection::default()).unwrap_err());
    assert_eq!(error, "failed to open closed/inner: Permission denied (os error 13)");
    assert_eq!(as_stranger(with_opener.clone(), Selection::default()).unwrap(), 5);
    mode("closed", 0o700);
    let error = with_causes(&as_stranger(dir.clone(), Selection::default()).unwrap_err());
    assert_eq!(error, "failed to open closed: Permission denied (os error 13)");
    assert_eq!(as_stranger(with_opener, Selection::default()).unwrap(), 5);
    // Ignored, and so is that it cannot be read, even where an exception could lie in it.
    for exclude in [&["closed"][..], &["closed", "!**/open"]] {
        let selection = Selection { exclude: strings(exclude), ..Selection::default() };
        assert_eq!(as_stranger(dir.clone(), selection).unwrap(), 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Depth-first, bytewise, with the slash below every other byte.
    #[test]
    fn the_order_is_total(files in prop::collection::btree_set("[a!+\\-0]{1,3}(/[a!+\\-0]{1,3}){0,2}", 1..20)) {
        let root = tempfile::tempdir().unwrap();
        for file in &files {
            let path = root.path().join(file);
            // Where a file and a directory contend for a name, whoever came first has it.
            if path.parent().is_some_and(|parent| std::fs::create_dir_all(parent).is_ok()) {
                let _ = std::fs::write(path, "");
            }
        }
        let listed = list(&LocalDir::open("context", root.path()).unwrap(), &Selection::default()).unwrap();
        let keys: Vec<Vec<u8>> = listed
            .iter()
            .map(|entry| entry.path.iter().map(|byte| if *byte == b'/' { 0 } else { *byte }).collect())
            .collect();
        prop_assert!(keys.is_sorted() && !keys.is_empty());
    }
}

#[test]
fn a_fence_holds_whatever_is_asked_for() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    for dir in ["docker", "keys/public", "src"] {
        std::fs::create_dir_all(at(dir)).unwrap();
    }
    for (file, text) in [
        ("docker/real", "FROM scratch"),
        ("keys/id", "secret"),
        ("keys/public/id.pub", ""),
        ("src/main.go", ""),
        ("src/.env", "secret"),
        ("docker/ignore", "# secrets\nkeys\n!keys/public\n**/.env\n.dockerignore\ndocker\n"),
    ] {
        std::fs::write(at(file), text).unwrap();
    }
    symlink("docker/real", at("Dockerfile")).unwrap();
    symlink("docker/ignore", at(".dockerignore")).unwrap();
    let everything = Selection::default();
    let locals = ["context", "dockerfile", "named"]
        .map(|name| (name.to_owned(), LocalDir::open(name, root.path()).unwrap()));
    let fenced = fence(locals.into(), "Dockerfile").unwrap();
    let asked = |name: &str, selection: &Selection| {
        let listed = list(&fenced[name], selection).unwrap();
        let paths = listed.iter().map(|entry| String::from_utf8_lossy(&entry.path).into_owned());
        paths.collect::<Vec<_>>().join(" ")
    };
    let unfenced = words(root.path(), &everything);
    assert!(unfenced.contains("keys/id") && unfenced.contains("src/.env"), "{unfenced}");

    let context =
        ".dockerignore Dockerfile docker docker/ignore keys keys/public keys/public/id.pub src src/main.go";
    assert_eq!(asked("context", &everything), context);
    assert_eq!(asked("named", &everything), context);
    assert_eq!(asked("dockerfile", &everything), "Dockerfile docker docker/real");
    // What an honest frontend asks for is what it gets.
    let select = |include: &[&str], exclude: &[&str], follow: &[&str]| Selection {
        include: strings(include),
        exclude: strings(exclude),
        followpaths: strings(follow),
    };
    let names = ["Dockerfile", "Dockerfile.dockerignore", "dockerfile"];
    assert_eq!(asked("dockerfile", &select(&[], &[], &names)), "Dockerfile docker docker/real");
    assert_eq!(asked("context", &select(&[], &[], &[".dockerignore"])), ".dockerignore docker docker/ignore");
    let honest = ["keys", "!keys/public", "**/.env", ".dockerignore", "docker"];
    assert_eq!(
        asked("context", &select(&[], &honest, &[])),
        "Dockerfile keys keys/public keys/public/id.pub src src/main.go"
    );
    // And a hostile one no more, however it asks.
    for selection in [
        select(&["keys/id", "src/.env"], &[], &[]),
        select(&[], &["!keys/id", "!**/.env"], &["keys/id"]),
        select(&["**"], &["nothing"], &[]),
    ] {
        let got = asked("context", &selection);
        assert!(!got.contains("keys/id") && !got.contains(".env"), "{selection:?}: {got}");
    }
    assert_eq!(asked("dockerfile", &select(&["src"], &[], &["src/main.go"])), "");
}

#[test]
fn the_dockerfile_has_an_ignore_file_of_its_own() {
    let root = tempfile::tempdir().unwrap();
    for (file, text) in [("a", ""), ("b", ""), (".dockerignore", "a"), ("x.dockerignore", "b"), ("x", "")] {
        std::fs::write(root.path().join(file), text).unwrap();
    }
    let open = |name: &str| (name.to_owned(), LocalDir::open(name, root.path()).unwrap());
    let fenced = fence([open("context"), open("dockerfile")].into(), "x").unwrap();
    let listed = list(&fenced["context"], &Selection::default()).unwrap();
    let paths: Vec<_> = listed.iter().map(|entry| String::from_utf8_lossy(&entry.path)).collect();
    assert_eq!(paths, [".dockerignore", "a", "x", "x.dockerignore"]);
    std::fs::write(root.path().join("x.dockerignore"), "x".repeat(2 << 20)).unwrap();
    assert!(fence([open("context"), open("dockerfile")].into(), "x").is_err(), "too large to be honoured");
}
