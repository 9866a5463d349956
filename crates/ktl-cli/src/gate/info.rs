//! `GET /info` without the host: the Engine tells its name, addresses, proxies (with their passwords), swarm, labels, counts
//! of containers and more. A build reads the platform, and from the image store's kind whether OCI archives can be loaded
//! (buildx, `util/dockerutil`).

use serde_json::{Map, Value};

/// An Engine's own answer has some kilobytes.
pub const LARGEST: usize = 1 << 20;

const KEPT: [&str; 6] =
    ["Architecture", "Driver", "ExperimentalBuild", "OSType", "OperatingSystem", "ServerVersion"];

/// The answer as it is passed on; `None` when `body` is not an object.
pub fn cut(body: &[u8]) -> Option<Vec<u8>> {
    let Ok(Value::Object(full)) = serde_json::from_slice(body) else { return None };
    let mut kept: Map<String, Value> = full
        .iter()
        .filter(|(name, _)| KEPT.contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if let Some(Value::Array(status)) = full.get("DriverStatus") {
        let kind = status.iter().filter(|pair| pair.get(0).and_then(Value::as_str) == Some("driver-type"));
        kept.insert("DriverStatus".to_owned(), kind.cloned().collect());
    }
    serde_json::to_vec(&kept).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_says_nothing_of_the_host() {
        let full = br#"{"ID":"x","Name":"host7","Driver":"overlayfs","OSType":"linux","HttpProxy":"http://u:p@proxy",
            "DriverStatus":[["driver-type","io.containerd.snapshotter.v1"],["Backing Filesystem","extfs"]],"Labels":["a=b"]}"#;
        let cut: Value = serde_json::from_slice(&cut(full).unwrap()).unwrap();
        let want = serde_json::json!({
            "Driver": "overlayfs", "OSType": "linux", "DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]]
        });
        assert_eq!(cut, want);
        assert_eq!(super::cut(b"[]"), None);
        assert_eq!(super::cut(b"no JSON"), None);
    }
}
