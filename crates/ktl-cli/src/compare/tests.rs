//! Small archives that differ in one thing.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::json;
use sha2::Digest as _;
use tar::{Builder, EntryType, Header};

use super::*;

type Files<'a> = &'a [(&'a str, &'a str, u32, u64)];

fn layer(files: Files<'_>) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for (path, content, mode, mtime) in files {
        let mut header = Header::new_gnu();
        header.set_entry_type(if path.ends_with('/') { EntryType::Directory } else { EntryType::Regular });
        header.set_mode(*mode);
        header.set_mtime(*mtime);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, path, content.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

struct Made<'a> {
    layers: Vec<(Vec<u8>, &'a str)>,
    created: &'a str,
    annotation: &'a str,
    attested: &'a str,
}

impl Default for Made<'_> {
    fn default() -> Self {
        let base = (gzip(&layer(&[("etc/", "", 0o755, 1)])), "gzip");
        Made { layers: vec![base], created: "then", annotation: "a", attested: "" }
    }
}

impl Made<'_> {
    fn write(&self, dir: &Path, name: &str) -> PathBuf {
        let path = dir.join(name);
        let mut tar = Builder::new(std::fs::File::create(&path).unwrap());
        let mut put = |name: &str, bytes: &[u8]| {
            let mut header = Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, bytes).unwrap();
        };
        let mut blob = |bytes: &[u8]| {
            let hex: String = sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            put(&format!("blobs/sha256/{hex}"), bytes);
            format!("sha256:{hex}")
        };
        let history = self.layers.iter().enumerate().flat_map(|(at, _)| {
            [
                json!({"created_by": "ENV a=b", "empty_layer": true}),
                json!({"created_by": format!("RUN {at} # buildkit")}),
            ]
        });
        let history: Vec<_> = history.collect();
        let config = json!({"created": self.created, "history": history}).to_string();
        let config = blob(config.as_bytes());
        let layers: Vec<_> = self
            .layers
            .iter()
            .map(|(bytes, kind)| {
                json!({"digest": blob(bytes), "mediaType": format!("application/vnd.oci.image.layer.v1.tar+{kind}")})
            })
            .collect();
        let manifest =
            json!({"config": {"digest": config}, "layers": layers, "annotations": {"x": self.annotation}});
        let image = blob(manifest.to_string().as_bytes());
        let attested = blob(self.attested.as_bytes());
        let index = json!({"manifests": [
            {"digest": image, "mediaType": "application/vnd.oci.image.manifest.v1+json",
             "platform": {"os": "linux", "architecture": "amd64"}},
            {"digest": attested, "mediaType": "application/vnd.oci.image.manifest.v1+json",
             "annotations": {"vnd.docker.reference.type": "attestation-manifest"}}
        ]});
        let outer = blob(index.to_string().as_bytes());
        let outer =
            json!({"manifests": [{"digest": outer, "mediaType": "application/vnd.oci.image.index.v1+json"}]});
        put("index.json", outer.to_string().as_bytes());
        tar.finish().unwrap();
        path
    }
}

fn compared(a: &Made<'_>, b: &Made<'_>) -> Option<Difference> {
    let dir = tempfile::tempdir().unwrap();
    let open = |made: &Made<'_>, name: &str| Archive::open(&made.write(dir.path(), name)).unwrap();
    first_difference(&open(a, "a"), &open(b, "b")).unwrap()
}

#[test]
fn what_differs_first_is_named() {
    let long = format!("{}/name", "d".repeat(150));
    let with = |files: Files<'_>| {
        let mut made = Made::default();
        made.layers.push((gzip(&layer(files)), "gzip"));
        made
    };
    let usual = [("a", "same", 0o644, 7), ("b", "content", 0o644, 7), (long.as_str(), "x", 0o600, 7)];
    let but = |at: usize, file: (&'static str, &'static str, u32, u64)| {
        let mut files = usual.to_vec();
        let path = if file.0.is_empty() { files[at].0 } else { file.0 };
        files[at] = (path, file.1, file.2, file.3);
        files.iter().map(|f| (f.0.to_owned(), f.1.to_owned(), f.2, f.3)).collect::<Vec<_>>()
    };
    let name = format!("/{long}");
    for (files, what, first) in [
        (but(1, ("b", "c0ntent", 0o644, 7)), "/b: content", "at byte 1: \"ontent\""),
        (but(1, ("b", "content!", 0o644, 7)), "/b: size", "7 bytes"),
        (but(1, ("b", "content", 0o755, 7)), "/b: mode", "0644"),
        (but(1, ("b", "content", 0o644, 8)), "/b: mtime", "1970-01-01T00:00:07Z"),
        (but(1, ("b", "c0ntent", 0o755, 8)), "/b: content, mode, mtime", "at byte 1: \"ontent\""),
        (but(2, ("", "y", 0o600, 7)), &format!("{name}: content"), "at byte 0: \"x\""),
        (but(1, ("c", "content", 0o644, 7)), "/b: existence", "a file"),
    ] {
        let files: Vec<_> = files.iter().map(|f| (f.0.as_str(), f.1.as_str(), f.2, f.3)).collect();
        let found = compared(&with(&usual), &with(&files)).unwrap();
        assert_eq!((found.what.as_str(), found.place.as_str()), (what, "layer 2 of 2"));
        assert_eq!(found.step.as_deref(), Some("RUN 1"));
        assert_eq!(found.values.unwrap().0, first, "{what}");
        assert_eq!(found.mend.is_some(), what == "/b: mtime");
    }
    let more = compared(&with(&usual[..2]), &with(&usual)).unwrap();
    assert_eq!(
        (more.what, more.values.unwrap().0),
        (format!("{name}: existence"), "is not there".to_owned())
    );
    assert_eq!(compared(&with(&usual), &with(&usual)), None);
}

#[test]
fn what_is_no_file_is_told_as_well() {
    let base = Made::default;
    let what =
        |made: &Made<'_>| compared(&base(), made).map(|found| format!("{}: {}", found.place, found.what));
    assert_eq!(what(&Made { created: "now", ..base() }).unwrap(), "config: created");
    assert_eq!(what(&Made { annotation: "b", ..base() }).unwrap(), "manifest: annotations.x");
    assert_eq!(what(&Made { attested: "another run", ..base() }), None, "attestations tell of runs");
    let mut more = base();
    more.layers.push((layer(&[]), "gzip"));
    assert_eq!(what(&more).unwrap(), "manifest: number of layers");
    let plain = Made { layers: vec![(base().layers[0].0.clone(), "zstd")], ..base() };
    // The same bytes under another name differ in the manifest alone.
    assert_eq!(what(&plain).unwrap(), "manifest: layers[0].mediaType");
    let unread = Made { layers: vec![(b"?".to_vec(), "zstd")], ..base() };
    assert!(what(&unread).unwrap().contains("does not read"));
    let packed = Made {
        layers: vec![(
            {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
                encoder.write_all(&layer(&[("etc/", "", 0o755, 1)])).unwrap();
                encoder.finish().unwrap()
            },
            "gzip",
        )],
        ..base()
    };
    assert_eq!(what(&packed).unwrap(), "layer 1 of 1: the same files, in other bytes");
}

#[test]
fn hostile_archives_end_in_errors() {
    let dir = tempfile::tempdir().unwrap();
    let good = Made::default().write(dir.path(), "good");
    let refused = |bytes: &[u8]| {
        let path = dir.path().join("bad");
        std::fs::write(&path, bytes).unwrap();
        Archive::open(&path).and_then(|bad| first_difference(&Archive::open(&good).unwrap(), &bad)).is_err()
    };
    assert!(refused(b""));
    assert!(refused(&[b'x'; 2000]));
    let bytes = std::fs::read(&good).unwrap();
    let manifest = bytes.windows(10).position(|window| window == b"{\"annotati").unwrap();
    let mut other = bytes.clone();
    other[manifest + 20] ^= 1;
    assert!(refused(&other), "bytes that have not their digest");
    let layer = bytes.windows(3).position(|window| window == [0x1f, 0x8b, 8]).unwrap();
    let mut other = bytes.clone();
    other[layer + 12] ^= 1;
    assert!(refused(&other), "a layer that has other bytes in one archive, under the same digest");
    assert!(!refused(&bytes));
    // A name that is as long as its header says would take all memory there is.
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNULongName);
    header.set_path("././@LongLink").unwrap();
    header.set_size(1 << 40);
    header.set_cksum();
    let mut endless = header.as_bytes().to_vec();
    endless.extend_from_slice(&[b'a'; 4096]);
    let made = |bytes: &[u8]| Made { layers: vec![(gzip(bytes), "gzip")], ..Made::default() };
    let open = |made: &Made<'_>, name: &str| Archive::open(&made.write(dir.path(), name)).unwrap();
    let names: Vec<u8> = endless.iter().copied().chain(std::iter::repeat_n(b'a', 2 << 20)).collect();
    let error = first_difference(&open(&Made::default(), "a"), &open(&made(&names), "b")).unwrap_err();
    assert!(crate::failure::chain(&error).contains("extension header"), "{error:?}");
}
