//! Which Docker Engine is meant when nobody says: the one that docker itself would talk to.
//!
//! Follows docker/cli `cli/command/cli.go` (`DOCKER_HOST`, then `DOCKER_CONTEXT`, then `currentContext` of `config.json`) and
//! `cli/context/store`: a context lies in `contexts/meta/<sha256 of its name>/meta.json`, its certificates in
//! `contexts/tls/<the same>/docker`.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{Address, Ssh};
use crate::env::{self, Env};
use crate::failure::Failure;
use crate::tls::TlsFiles;

/// Where an Engine listens on this machine.
const USUAL_SOCKET: &str = "/var/run/docker.sock";
/// The context that is always there.
pub const DEFAULT_CONTEXT: &str = "default";
/// A file of docker's configuration beyond this was not written by docker.
const FILE_LIMIT: u64 = 4 << 20;

/// Where an Engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineHost {
    Unix(PathBuf),
    Tcp { host: String, port: u16, tls: Option<TlsFiles> },
    Ssh(Ssh),
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Config {
    current_context: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Meta {
    #[serde(default)]
    endpoints: Endpoints,
}

#[derive(Debug, Default, Deserialize)]
struct Endpoints {
    docker: Option<Endpoint>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Endpoint {
    #[serde(default)]
    host: String,
}

/// Where docker would go.
pub fn of_docker(env: &Env) -> Result<EngineHost, Failure> {
    if env.text(env::DOCKER_HOST).is_some() {
        return of_context(env, DEFAULT_CONTEXT);
    }
    let Some(dir) = env.docker_config_dir() else { return Ok(EngineHost::Unix(USUAL_SOCKET.into())) };
    let name = match env.text(env::DOCKER_CONTEXT) {
        Some(name) => name,
        None => read::<Config>(&dir.join("config.json"))?.unwrap_or_default().current_context,
    };
    of_context(env, if name.is_empty() { DEFAULT_CONTEXT } else { &name })
}

/// The Engine of a context of docker's: a named one, or the default one, which `DOCKER_HOST` moves.
pub fn of_context(env: &Env, name: &str) -> Result<EngineHost, Failure> {
    if name != DEFAULT_CONTEXT {
        let dir = env.docker_config_dir().ok_or_else(|| {
            Failure::usage(format!("docker's context `{name}` needs HOME or DOCKER_CONFIG to be found"))
        })?;
        return kept(&dir, name);
    }
    let Some(host) = env.text(env::DOCKER_HOST) else { return Ok(EngineHost::Unix(USUAL_SOCKET.into())) };
    let verify = env.text(env::DOCKER_TLS_VERIFY).is_some();
    let certificates = env.path(env::DOCKER_CERT_PATH).or_else(|| env.docker_config_dir());
    let tls = certificates.filter(|_| verify).map(|dir| TlsFiles::in_dir(&dir)).transpose();
    parse(&host, tls.map_err(Failure::usage)?)
        .map_err(|why| Failure::usage(format!("{}: {why}", env::DOCKER_HOST)))
}

/// Whether docker keeps a context of that name.
pub fn has_context(env: &Env, name: &str) -> bool {
    env.docker_config_dir().is_some_and(|dir| meta(&dir, &id(name)).is_file())
}

fn id(name: &str) -> String {
    Sha256::digest(name).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn meta(dir: &Path, id: &str) -> PathBuf {
    dir.join("contexts/meta").join(id).join("meta.json")
}

fn kept(dir: &Path, name: &str) -> Result<EngineHost, Failure> {
    let id = id(name);
    let path = meta(dir, &id);
    let meta: Meta = read(&path)?.ok_or_else(|| {
        Failure::usage(format!("docker's context `{name}` does not exist: there is no {}", path.display()))
            .hint("`docker context ls` lists them; DOCKER_CONTEXT and currentContext in docker's config.json name one.")
    })?;
    let host = meta.endpoints.docker.map(|endpoint| endpoint.host).unwrap_or_default();
    let certificates = dir.join("contexts/tls").join(&id).join("docker");
    let tls = certificates.is_dir().then(|| TlsFiles::in_dir(&certificates)).transpose();
    parse(&host, tls.map_err(Failure::usage)?)
        .map_err(|why| Failure::usage(format!("docker's context `{name}` ({}): {why}", path.display())))
}

pub fn parse(host: &str, tls: Option<TlsFiles>) -> Result<EngineHost, String> {
    if host.is_empty() {
        return Ok(EngineHost::Unix(USUAL_SOCKET.into()));
    }
    match Address::parse(host)? {
        Address::Unix(path) | Address::Engine(Some(path)) => Ok(EngineHost::Unix(path)),
        Address::Tcp { host, port } => Ok(EngineHost::Tcp { host, port, tls }),
        Address::Ssh(ssh) => Ok(EngineHost::Ssh(ssh)),
        other => Err(format!("an Engine cannot be reached at {other}")),
    }
}

/// `None` when there is no such file.
pub fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Option<T>, Failure> {
    let failed = |why: String| Failure::usage(format!("{}: {why}", path.display()));
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error.to_string())),
    };
    let mut text = Vec::new();
    file.take(FILE_LIMIT).read_to_end(&mut text).map_err(|error| failed(error.to_string()))?;
    if text.trim_ascii().is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(&text).map(Some).map_err(|error| failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_own_order() {
        let home = tempfile::tempdir().unwrap();
        let config = home.path().join(".docker");
        let context = |name: &str, host: &str| {
            let id: String = Sha256::digest(name).iter().map(|byte| format!("{byte:02x}")).collect();
            let dir = config.join("contexts/meta").join(id);
            std::fs::create_dir_all(&dir).unwrap();
            let text = format!(
                r#"{{"Name":"{name}","Metadata":{{}},"Endpoints":{{"docker":{{"Host":"{host}","SkipTLSVerify":false}}}}}}"#
            );
            std::fs::write(dir.join("meta.json"), text).unwrap();
        };
        context("far", "ssh://u@far");
        context("near", "unix:///run/near.sock");
        std::fs::write(config.join("config.json"), r#"{"auths":{},"currentContext":"near"}"#).unwrap();
        let home_text = home.path().to_string_lossy().into_owned();
        let unix = |path: &str| EngineHost::Unix(path.into());
        let found = |pairs: &[(&str, &str)]| {
            let mut all = vec![("HOME", home_text.as_str())];
            all.extend(pairs);
            of_docker(&Env::of(&all))
        };
        assert_eq!(found(&[]).unwrap(), unix("/run/near.sock"));
        assert_eq!(found(&[("DOCKER_CONTEXT", "default")]).unwrap(), unix(USUAL_SOCKET));
        assert!(
            matches!(found(&[("DOCKER_CONTEXT", "far")]).unwrap(), EngineHost::Ssh(ssh) if ssh.host == "far")
        );
        assert_eq!(
            found(&[("DOCKER_CONTEXT", "far"), ("DOCKER_HOST", "unix:///run/d.sock")]).unwrap(),
            unix("/run/d.sock")
        );
        assert_eq!(
            found(&[("DOCKER_HOST", "tcp://h:2375")]).unwrap(),
            EngineHost::Tcp { host: "h".into(), port: 2375, tls: None }
        );
        let missing = found(&[("DOCKER_CONTEXT", "none")]).unwrap_err().to_string();
        assert!(missing.contains("context `none` does not exist"), "{missing}");
        let odd = found(&[("DOCKER_HOST", "jail://x")]).unwrap_err().to_string();
        assert!(odd.contains("DOCKER_HOST: an Engine cannot be reached at jail://x"), "{odd}");
        assert_eq!(of_docker(&Env::of(&[])).unwrap(), unix(USUAL_SOCKET));
    }
}
