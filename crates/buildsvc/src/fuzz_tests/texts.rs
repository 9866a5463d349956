//! Texts that somebody else may have written: configurations, names, addresses, Dockerfiles, locks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use xtask::fuzz::Messages;

use crate::context::guard::RULES;
use crate::dockerconfig::DockerConfig;
use crate::dockerfile::{self, Arguments};
use crate::egress::{Egress, Rule};
use crate::lock::Lock;
use crate::ocilayout::{LayoutIndex, LayoutRef};
use crate::platform::Platform;
use crate::reference::ImageRef;
use crate::remote::{self, GitSource};

pub fn docker_config(messages: &mut Messages) {
    let good = [
        r#"{"auths":{"https://index.docker.io/v1/":{"auth":"bWU6aHVudGVyMg=="},"r:5000":{"identitytoken":"x"}},"credHelpers":{"a":"b"},"credsStore":"c"}"#,
        r#"{"auths":{"r":{"username":"u","password":"p","registrytoken":"t"}},"proxies":{"default":{"httpProxy":"http://p"}},"HttpHeaders":{"A":"b"}}"#,
    ];
    while let Some(text) = messages.next(&good) {
        if let Ok(config) = DockerConfig::parse(&text, Path::new("config.json")) {
            for host in ["r:5000", "docker.io", "a"] {
                let _ = (config.stored(host), config.helper(host));
            }
        }
    }
}

pub fn references(messages: &mut Messages) {
    let good = [
        "docker.io/library/a:1@sha256:0000000000000000000000000000000000000000000000000000000000000000",
        "localhost:5000/a/b:tag",
        "a_b/c-d.e",
        "[::1]:5000/x",
    ];
    while let Some(text) = messages.text(&good) {
        if let Ok(reference) = text.parse::<ImageRef>() {
            let again = reference.to_string().parse().ok();
            assert_eq!(again.as_ref(), Some(&reference), "{text:?}");
        }
    }
}

pub fn addresses(messages: &mut Messages) {
    let good = [
        "https://user:pass@host/x.git?ref=a&subdir=b#c:d",
        "ssh://git@host:22/x#main",
        "git@host:a/b.git#v1:dir",
        "git://h/x",
        "oci-layout://path/to:tag@sha256:0000000000000000000000000000000000000000000000000000000000000000",
        "http://h/a.tar.gz",
    ];
    while let Some(text) = messages.text(&good) {
        let _ = (remote::is_remote(&text), remote::is_repository(&text), remote::is_over_ssh(&text));
        let _ = (remote::has_query(&text), LayoutRef::parse(&text));
        if let Some(source) = GitSource::parse(&text) {
            let _ = (source.pinned_name(), source.identifier());
        }
    }
}

pub fn egress(messages: &mut Messages) {
    let good = [
        "https://proxy.golang.org/path/",
        "*.crates.io:443",
        "http://[2001:db8::1]:8080",
        "10.0.0.0/8:80",
        "127.0.0.1:5000",
        "ssh://git@host/x",
        "docker-image://a/b:c@sha256:00",
        "git://host/x.git#main",
        "https://h/%2e%2e/a?b#c",
    ];
    let list = ["*.crates.io", "https://proxy.golang.org/path/", "127.0.0.1:5000"];
    let egress = Egress::new(list.iter().map(|rule| rule.parse().unwrap()), false);
    let attrs = BTreeMap::new();
    while let Some(text) = messages.text(&good) {
        let _ = egress.decide(&text, &attrs);
        if let Ok(rule) = text.parse::<Rule>() {
            let shown = rule.to_string();
            assert_eq!(shown.parse::<Rule>().ok().as_ref(), Some(&rule), "{text:?} as {shown:?}");
        }
    }
}

pub fn flags(messages: &mut Messages) {
    let good = [
        "type=image,name=a/b:c,push=true,\"annotation.a=b,c\"",
        "type=local,dest=out,platform-split=false",
        "id=a,src=b,env=C",
        "default=$SSH_AUTH_SOCK,key",
        "linux/arm64/v8,windows(10.0.1)/amd64",
        "network.host",
        "v0.12.5-rc1+unknown",
        "sha256:0000000000000000000000000000000000000000000000000000000000000000",
    ];
    while let Some(text) = messages.text(&good) {
        let _ = (crate::csv::fields(&text), crate::output::OutputSpec::parse(&text));
        let _ = (crate::secret::SecretSpec::parse(&text), crate::ssh::SshSpec::parse(&text));
        let _ = (crate::history::Which::parse(&text), crate::version::Version::parse(&text));
        let _ = (text.parse::<crate::digest::Digest>(), text.parse::<crate::entitlement::Entitlement>());
        if let Ok(platform) = text.parse::<Platform>() {
            assert_eq!(platform.to_string().parse().ok(), Some(platform), "{text:?}");
        }
    }
}

pub fn locks(messages: &mut Messages) {
    let digest = format!("sha256:{}", "ab".repeat(32));
    let commit = "0".repeat(40);
    let good = format!(
        "version = 1\n\n[[image]]\nreference = \"docker.io/library/debian:latest\"\ndigest = \"{digest}\"\n\
         [image.platforms]\n\"linux/amd64\" = \"{digest}\"\n\n[[url]]\nurl = \"https://h.example/a?x=\\\"1\\\"\"\n\
         checksum = \"{digest}\"\nsize = 7\n\n[[git]]\nurl = \"https://h.example/r.git#v1\"\ncommit = \"{commit}\"\n"
    );
    assert!(Lock::read(good.as_bytes()).is_ok());
    while let Some(text) = messages.next(&[&good]) {
        if let Ok(lock) = Lock::read(&text) {
            assert_eq!(Lock::read(&lock.to_bytes()).ok().as_ref(), Some(&lock), "{}", text.escape_ascii());
        }
    }
}

pub fn dockerfiles(messages: &mut Messages) {
    let good = [
        "# syntax=docker/dockerfile:1\nARG A=1\nFROM --platform=$BUILDPLATFORM a:${A:-b} AS x\nRUN --mount=type=bind,from=img,target=/m <<EOF\nFROM no\nEOF\nCOPY --from=x /a /b\nADD --checksum=sha256:00 https://h/f git@h:r.git#v /c\n",
        "# escape=`\nFROM ${B:+c}${A%%.*}${A/x/y} as y\nCOPY <<-\"E\" /x\n\tt\n\tE\nFROM x`\n AS z\nONBUILD ADD https://a/b /\n",
        "#!/usr/bin/env x\n// syntax = a\n{\"syntax\":\"b\"}\nFROM scratch\n",
    ];
    let arguments = Arguments {
        build_args: BTreeMap::from([("A".into(), "${A}".into()), ("B".into(), "$A".into())]),
        ..Arguments::default()
    };
    let builder = Platform::of("linux", "amd64", "");
    while let Some(text) = messages.text(&good) {
        let _ = dockerfile::references(&text, &arguments);
        let _ = dockerfile::sources(&text, &arguments, &builder, BTreeSet::new());
    }
}

pub fn manifests(messages: &mut Messages) {
    let digest = format!("sha256:{}", "ab".repeat(32));
    let good = [
        format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{digest}","size":7,"platform":{{"os":"linux","architecture":"amd64"}},"annotations":{{"org.opencontainers.image.ref.name":"latest"}}}}]}}"#
        ),
        format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{digest}","size":7}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{digest}","size":9}}]}}"#
        ),
        r#"{"os":"linux","architecture":"arm64","variant":"v8","rootfs":{"diff_ids":[]}}"#.to_owned(),
    ];
    while let Some(text) = messages.next(&good) {
        let _ = (crate::manifest::Document::parse(&text), crate::manifest::platform_of(&text));
        if let Ok(mut index) = LayoutIndex::parse(&text) {
            let _ = (index.find("latest"), index.find_or_only(""));
            index.put(serde_json::Map::new(), "latest");
            assert!(LayoutIndex::parse(&index.to_json()).is_ok());
        }
    }
}

pub fn source_policies(messages: &mut Messages) {
    let good = [
        r#"{"version":1,"rules":[{"action":"CONVERT","selector":{"identifier":"docker-image://a:*","matchType":"WILDCARD","constraints":[{"key":"k","value":"v","condition":"MATCHES"}]},"updates":{"identifier":"docker-image://b","attrs":{"http.checksum":"sha256:00"}}}]}"#,
        r#"{"rules":[{"action":1,"selector":{"identifier":"*","matchType":2}}]}"#,
    ];
    while let Some(text) = messages.next(&good) {
        if let Ok(policy) = crate::sourcepolicy::SourcePolicy::parse(&text) {
            policy.to_wire();
        }
    }
}

/// Files of a context that the guard looks into.
pub fn guarded_files(messages: &mut Messages) {
    let good = [
        "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\n-----END OPENSSH PRIVATE KEY-----\n",
        "[remote \"origin\"]\n\turl = https://u:p@h/r.git\n[http]\n\textraheader = AUTHORIZATION: basic x\n",
        "//r/:_authToken=npm_aB3dE5gH7jK9mN1pQ3sT5vW7yZ9bC1dE3fG5\n_auth=\"eA==\"\n",
        "[pypi]\nusername = u\npassword = p\nindex-url = https://u:p@h/simple\n",
        "machine h login u password p\n",
        "{\"auths\":{\"h\":{\"auth\":\"dTpw\"}}}",
        "[registry]\ntoken = \"cio\"\naws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY\n",
        "users:\n- name: a\n  user:\n    client-key-data: eA==\n    token: t\n",
        "export TOKEN=ghp_0123456789abcdefghijklmnopqrstuvwxyz\n",
    ];
    while let Some(text) = messages.next(&good) {
        for rule in RULES {
            (rule.holds)(&text);
        }
    }
}
