use super::*;

fn sha(c: char) -> Digest {
    format!("sha256:{}", c.to_string().repeat(64)).parse().unwrap()
}

fn platforms(pairs: &[(&str, char)]) -> BTreeMap<Platform, Digest> {
    pairs.iter().map(|(platform, c)| (platform.parse().unwrap(), sha(*c))).collect()
}

fn example() -> Lock {
    let mut lock = Lock::default();
    let image = |reference: &str, digest, pairs: &[(&str, char)]| LockedImage {
        reference: reference.parse().unwrap(),
        digest: sha(digest),
        platforms: platforms(pairs),
    };
    lock.add_image(image("r.example/tool:2", 'c', &[("linux/amd64", 'c')])).unwrap();
    lock.add_image(image(
        "debian",
        'a',
        &[("linux/arm64", 'b'), ("linux/amd64", 'd'), ("linux/arm/v6", 'e')],
    ))
    .unwrap();
    let url = "https://h.example/a?x=\"1\"\\".to_owned();
    lock.add_url(LockedUrl { url, checksum: sha('1'), size: 7 }).unwrap();
    let git = LockedGit {
        url: "https://h.example/r.git#v1".into(),
        commit: "0".repeat(40),
        trees: [(".", '2'), ("a \"b\" with .git", '3')].map(|(part, c)| (part.to_owned(), sha(c))).into(),
    };
    lock.add_git(git).unwrap();
    lock
}

#[test]
fn what_is_written_is_read_again() {
    let lock = example();
    let text = String::from_utf8(lock.to_bytes()).unwrap();
    assert_eq!(Lock::read(text.as_bytes()).unwrap(), lock, "{text}");
    let (debian, tool) = (text.find("docker.io/library/debian:latest"), text.find("r.example/tool:2"));
    assert!(debian.unwrap() < tool.unwrap(), "sorted:\n{text}");
    assert!(lock.image(&"debian:latest".parse().unwrap()).is_some());
    assert!(lock.image(&"debian:12".parse().unwrap()).is_none());
    assert_eq!(lock.url("https://h.example/a?x=\"1\"\\").unwrap().size, 7);
    assert!(lock.git("https://h.example/r.git#v2").is_none());
    assert!(Lock::read(&Lock::default().to_bytes()).unwrap().is_empty());
}

#[test]
fn the_digest_is_of_what_is_said() {
    let lock = example();
    let text = String::from_utf8(lock.to_bytes()).unwrap();
    let mut parts: Vec<&str> = text.split("\n[[").collect();
    let head = parts.remove(0);
    parts.reverse();
    let shuffled = format!("{head}\n# a note\n[[{}", parts.join("\n\n[["));
    assert_ne!(shuffled, text);
    assert_eq!(Lock::read(shuffled.as_bytes()).unwrap().digest(), lock.digest());
    assert_ne!(Lock::default().digest(), lock.digest());
}

#[test]
fn what_is_not_understood_is_refused_with_its_line() {
    let (a, b) = (sha('a'), sha('b'));
    let image = |rest: &str| format!("version = 1\n[[image]]\nreference = \"debian\"\n{rest}");
    let pinned = format!(
        "version = 1\n[[image]]\nreference = \"debian@{b}\"\ndigest = \"{a}\"\nplatforms.\"linux/amd64\" = \"{a}\""
    );
    let twice = format!(
        "digest = \"{a}\"\nplatforms.\"linux/amd64\" = \"{a}\"\n[[image]]\nreference = \"docker.io/library/debian:latest\"\ndigest = \"{b}\"\nplatforms.\"linux/amd64\" = \"{b}\""
    );
    let url = |url: &str, sum: &str| {
        format!("version = 1\n[[url]]\nurl = \"{url}\"\nchecksum = \"{sum}\"\nsize = 1")
    };
    let git =
        |commit: &str| format!("version = 1\n[[git]]\nurl = \"https://h/r.git\"\ncommit = \"{commit}\"");
    let sha512 = format!("sha512:{}", "a".repeat(128));
    for (text, said) in [
        (String::new(), "line 1: missing field `version`"),
        ("version = 2\nnews = true".to_owned(), "version 2 of the lock is not known"),
        ("version = 1\n\nimages = []".to_owned(), "line 3: unknown field `images`"),
        ("version = 1\n[[image]\n".to_owned(), "line 2: "),
        (image("digest = \"sha256:1\"\nplatforms = {}"), "line 4: digest \"sha256:1\" needs 64"),
        (
            image(&format!("digest = \"{a}\"\nplatforms = {{ amd64x = \"{a}\" }}")),
            "line 5: platform component",
        ),
        (image(&format!("digest = \"{a}\"\nplatforms = {{}}")), "no platform"),
        (image(&format!("digest = \"{a}\"")), "line 2: missing field `platforms`"),
        (image(&twice), "\"docker.io/library/debian:latest\" is locked twice"),
        (pinned, "the reference itself names another digest"),
        (url("ftp://h/x", a.as_str()), "no http(s) URL"),
        (url("https://h/x\\ny", a.as_str()), "no http(s) URL"),
        (url("https://h/x", &sha512), "the checksum is no sha256"),
        (git("abc"), "the commit is no full hash"),
        (git(&"A".repeat(40)), "the commit is no full hash"),
    ] {
        let error = Lock::read(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(said), "{error:?} for\n{text}");
    }
    assert_eq!(Lock::read(&[0xff]), Err(LockError::NotText));
    assert_eq!(Lock::read(&vec![b' '; usize::try_from(SIZE_LIMIT).unwrap() + 1]), Err(LockError::TooLong));
}

#[test]
fn a_processor_runs_what_lesser_ones_do() {
    let lock = example();
    let debian = lock.image(&"debian".parse().unwrap()).unwrap();
    for (platform, manifest) in [
        ("linux/amd64", Some('d')),
        ("linux/amd64/v3", Some('d')),
        ("linux/arm/v7", Some('e')),
        ("linux/arm/v5", None),
        ("linux/arm64", Some('b')),
        ("linux/s390x", None),
        ("windows/amd64", None),
    ] {
        let found = debian.manifest(&platform.parse().unwrap());
        assert_eq!(found, manifest.map(sha).as_ref(), "{platform}");
    }
}
