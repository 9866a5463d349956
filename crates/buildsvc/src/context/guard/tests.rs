use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::*;
use crate::context::entries::Entries;
use crate::context::filter::Filter;
use crate::context::walk::walk;
use crate::context::{Fence, Selection};

/// Not a key of anything: the right form, and the same letters again and again.
fn pem(label: &str) -> String {
    let line = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg";
    format!("-----BEGIN {label}-----\n{line}\n{line}\n-----END {label}-----\n")
}

/// Findings in a directory with this one file, as path and rule.
fn found(path: &str, content: &str) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), path, content);
    let guard = Guard::new(Watch::Warn);
    announce(dir.path(), guard, Fence::default()).0
}

fn write(root: &Path, path: &str, content: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// Walks as a transfer does: the rules that spoke, what was announced, and how it ended.
fn announce(root: &Path, guard: Guard, fence: Fence) -> (Vec<String>, Vec<String>, Result<(), ContextError>) {
    let guard = Arc::new(guard);
    let dir = LocalDir::open("context", root).unwrap().fenced(fence).guarded(guard.clone());
    let filter = Filter::new(&dir, &Selection::default()).unwrap();
    let mut announced = Vec::new();
    let end = walk(&dir, &filter, &Mutex::new(Entries::new()), &mut |entry| {
        announced.extend(entry.map(|entry| String::from_utf8_lossy(&entry.path).into_owned()));
        Ok(())
    });
    let rules = guard.found().0.iter().map(|finding| format!("{} {}", finding.rule, finding.path)).collect();
    (rules, announced, end)
}

#[test]
fn what_should_stay_at_home_is_found() {
    let token = "ghp_16C7e42F292c6912E7710c838347Ae178B4a";
    let cases: &[(&str, String, &str)] = &[
        ("tls/server.key", pem("PRIVATE KEY"), "private-key"),
        ("server.pem", format!("{}{}", pem("CERTIFICATE"), pem("EC PRIVATE KEY")), "private-key"),
        ("keys/id_ed25519", pem("OPENSSH PRIVATE KEY"), "private-key"),
        ("keys/ID_RSA.old", pem("RSA PRIVATE KEY"), "private-key"),
        ("deploy-key", pem("ENCRYPTED PRIVATE KEY"), "private-key"),
        ("ca.key.bak", pem("DSA PRIVATE KEY"), "private-key"),
        ("signing.asc", pem("PGP PRIVATE KEY BLOCK"), "private-key"),
        (
            "a.ppk",
            "PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\nPrivate-Lines: 1\nAA\n".into(),
            "private-key",
        ),
        (
            ".git/config",
            "[remote \"origin\"]\n\turl = https://me:hunter2@git.example.org/x.git\n".into(),
            "git-login",
        ),
        (".git/config", format!("[remote \"origin\"]\n\turl = https://{token}@github.com/x\n"), "git-login"),
        (".git/config", format!("\turl = https://{token}:x-oauth-basic@github.com/x\n"), "git-login"),
        (".git/config", "\textraheader = AUTHORIZATION: basic eC1hY2Nlc3M6YWJjZGVm\n".into(), "git-login"),
        ("sub/.git/modules/lib/config", "\turl = https://ci:s3cr3t@host/x\n".into(), "git-login"),
        (".git-credentials", "https://me:hunter2@github.com\n".into(), "git-login"),
        (
            ".npmrc",
            "//registry.npmjs.org/:_authToken=npm_aB3dE5gH7jK9mN1pQ3sT5vW7yZ9bC1dE3fG5\n".into(),
            "npm-token",
        ),
        (".npmrc", "_password = aHVudGVyMg==\n".into(), "npm-token"),
        (".yarnrc.yml", "npmRegistries:\n  \"//r\":\n    npmAuthToken: \"0123-4567\"\n".into(), "npm-token"),
        (
            ".pypirc",
            "[pypi]\nusername = __token__\npassword = pypi-AgEIcHlwaS5vcmcabcdefgh\n".into(),
            "python-login",
        ),
        ("pip.conf", "[global]\nindex-url = https://u:pw123@pypi.host/simple\n".into(), "python-login"),
        (".netrc", "machine github.com\nlogin me\npassword hunter2\n".into(), "netrc"),
        (
            ".docker/config.json",
            r#"{"auths":{"r.example.org":{"auth":"bWU6aHVudGVyMg=="}}}"#.into(),
            "registry-login",
        ),
        (".dockercfg", r#"{"r.host":{"auth":"bWU6aHVudGVyMg==","email":"a"}}"#.into(), "registry-login"),
        (".cargo/credentials.toml", "[registry]\ntoken = \"cioAbCdEfGh\"\n".into(), "cargo-token"),
        (
            ".aws/credentials",
            "[default]\naws_access_key_id = A\naws_secret_access_key = wJalrXUtnFEMI/K7MDENG\n".into(),
            "cloud-key",
        ),
        (
            "gcp-key.json",
            r#"{"type": "service_account", "private_key": "-----BEGIN PRIVATE KEY-----\nMIIE"}"#.into(),
            "cloud-key",
        ),
        (
            ".azure/accessTokens.json",
            r#"[{"_authority":"https://login.microsoftonline.com/x","refreshToken":"0.AAA"}]"#.into(),
            "cloud-key",
        ),
        (
            "kubeconfig.yaml",
            "clusters:\n- cluster:\nusers:\n- name: a\n  user:\n    token: eyJhbGciOi\n".into(),
            "kubeconfig",
        ),
        (
            ".kube/config",
            "clusters: []\nusers:\n- user:\n    client-key-data: LS0tLS1CRUdJTg==\n".into(),
            "kubeconfig",
        ),
        (".env", format!("DEBUG=1\nGITHUB_TOKEN={token}\n"), "env-token"),
        (
            "prod.env",
            "export AWS_SECRET_ACCESS_KEY='wJalrXUtnFEMIaK7MDENGabPxRfiCYabcdefghij'\n".into(),
            "env-token",
        ),
    ];
    for (path, content, rule) in cases {
        assert!(rules::may_matter(path.as_bytes()), "{path} is not looked at");
        assert_eq!(found(path, content), [format!("{rule} {path}")], "{path}: {content}");
    }
}

#[test]
fn whatever_a_rule_names_is_looked_at() {
    // Every extension and word of the table, in both cases.
    for name in [
        "a.pem",
        "a.KEY",
        "a.ppk",
        "a.asc",
        "a.gpg",
        "a.p8",
        "a.pk8",
        "a.rsa",
        "a.dsa",
        "a.ecdsa",
        "a.ed25519",
        "id_x",
        "MYKEY",
    ] {
        assert!(rules::may_matter(name.as_bytes()), "{name}");
        assert!(rules::suspicions(name.as_bytes()).any(|rule| rule.name == "private-key"), "{name}");
    }
    for name in [
        "pip.conf",
        "_netrc",
        "auth.json",
        "Credentials.json",
        "my-service.json",
        "account.json",
        "gcp.json",
        "gcloud.json",
        "x-adminsdk.json",
        "kubeconfig",
        "admin.conf",
        "x.env",
        "accessTokens.json",
        ".aws/credentials",
        ".cargo/credentials",
        ".kube/config",
    ] {
        assert!(rules::may_matter(name.as_bytes()), "{name}");
        assert!(rules::suspicions(name.as_bytes()).count() > 0, "{name}");
    }
    for name in ["index.js", "main.rs", "component.tsx", "controller.go", "README.md", "create.py"] {
        assert!(!rules::may_matter(name.as_bytes()), "{name}");
    }
}

#[test]
fn what_is_ordinary_alarms_nobody() {
    let cases: &[(&str, String)] = &[
        // The right content under a name of sources, and the right name without the content.
        ("src/keys.py", format!("KEY = '''\n{}'''\n", pem("PRIVATE KEY"))),
        ("tls/ca.pem", pem("CERTIFICATE")),
        ("id_ed25519.pub", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI me\n".into()),
        ("docs/example.pem", "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----\n".into()),
        ("monkey", "a picture".into()),
        ("keys.json", r#"{"enter": 13, "escape": 27}"#.into()),
        (
            ".git/config",
            "[core]\n\tbare = false\n[remote \"origin\"]\n\turl = https://github.com/a/b\n".into(),
        ),
        (".git/config", "\turl = git@github.com:a/b.git\n\turl = https://me@dev.azure.com/a\n".into()),
        (".git/config", "\turl = https://oauth2:${TOKEN}@gitlab.com/a\n".into()),
        (
            ".npmrc",
            "registry=https://registry.npmjs.org/\n//registry.npmjs.org/:_authToken=${NPM_TOKEN}\n".into(),
        ),
        (".npmrc", "# _authToken=npm_aB3dE5gH7jK9mN1pQ3sT5vW7yZ9bC1dE3fG5\nengine-strict=true\n".into()),
        (".pypirc", "[pypi]\nusername = __token__\npassword = <your token>\n".into()),
        ("pip.conf", "[global]\nindex-url = https://pypi.org/simple\n".into()),
        (".docker/config.json", r#"{"credsStore":"desktop","auths":{"r.host":{}}}"#.into()),
        ("auth.json", r#"{"http-basic": {}}"#.into()),
        ("service.json", r#"{"name": "web", "account": "main"}"#.into()),
        (".env", "PORT=8080\nDB_PASSWORD=postgres\nSECRET_KEY=changeme\n".into()),
        (".env.example", "GITHUB_TOKEN=ghp_16C7e42F292c6912E7710c838347Ae178B4a\n".into()),
        (".env", "GITHUB_TOKEN=ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n".into()),
        ("kubeconfig.tmpl", "clusters:\nusers:\n- user:\n    token: ${TOKEN}\n".into()),
        (".aws/credentials", "[default]\naws_secret_access_key = YOUR_SECRET\n".into()),
    ];
    for (path, content) in cases {
        assert!(found(path, content).is_empty(), "{path}: {content}: {:?}", found(path, content));
    }
}

#[test]
fn a_denied_file_is_not_announced_and_an_ignored_one_not_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a", "first");
    write(dir.path(), "server.key", &pem("PRIVATE KEY"));
    let (rules, announced, end) = announce(dir.path(), Guard::new(Watch::Deny), Fence::default());
    assert_eq!(rules, ["private-key server.key"]);
    assert_eq!(announced, ["a"]);
    let error = end.unwrap_err().to_string();
    assert_eq!(error, "server.key holds a private key, and is not sent (rule private-key)");

    let (rules, announced, end) = announce(dir.path(), Guard::new(Watch::Off), Fence::default());
    assert!(end.is_ok() && rules.is_empty());
    assert_eq!(announced, ["a", "server.key"]);

    let fence = Fence { ignore: vec!["*.key".into()], ..Fence::default() };
    let (rules, announced, end) = announce(dir.path(), Guard::new(Watch::Deny), fence);
    assert!(end.is_ok() && rules.is_empty());
    assert_eq!(announced, ["a"]);
}

#[test]
fn a_name_outside_is_told_from_one_within() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("ctx");
    write(&root, "one", "1");
    write(&root, "ignored/two", "2");
    write(&root, "repo/.git/objects/ab/cd", "object");
    write(dir.path(), "outside", "precious");
    for (from, to) in [("ctx/one", "ctx/sub-one"), ("ctx/ignored/two", "ctx/two")] {
        fs::hard_link(dir.path().join(from), dir.path().join(to)).unwrap();
    }
    fs::hard_link(root.join("repo/.git/objects/ab/cd"), dir.path().join("shared-object")).unwrap();
    let fence = || Fence { ignore: vec!["ignored".into()], ..Fence::default() };
    let (rules, _, end) = announce(&root, Guard::new(Watch::Deny), fence());
    assert!(end.is_ok() && rules.is_empty(), "{rules:?}");

    fs::hard_link(dir.path().join("outside"), root.join("inside")).unwrap();
    let (rules, _, end) = announce(&root, Guard::new(Watch::Warn), fence());
    assert!(end.is_ok());
    assert_eq!(rules, ["hard-link inside"]);
    let (_, announced, end) = announce(&root, Guard::new(Watch::Deny), fence());
    assert!(end.is_err() && !announced.contains(&"inside".to_owned()));
}

#[test]
fn a_flood_of_findings_stays_small() {
    let dir = tempfile::tempdir().unwrap();
    for number in 0..KEPT + 20 {
        write(dir.path(), &format!("{number}.key"), &pem("PRIVATE KEY"));
    }
    let guard = Arc::new(Guard::new(Watch::Warn));
    let root = LocalDir::open("context", dir.path()).unwrap().guarded(guard.clone());
    let filter = Filter::new(&root, &Selection::default()).unwrap();
    walk(&root, &filter, &Mutex::new(Entries::new()), &mut |_| Ok(())).unwrap();
    let (kept, more) = guard.found();
    assert_eq!((kept.len(), more), (KEPT, 20));
}
