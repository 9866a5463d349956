//! `ktl logout`, and where logins are kept.
//!
//! Follows docker/cli `cli/command/registry/logout.go`, and for who keeps a login `cli/config/credentials/native_store.go`: a
//! helper keeps it, and the file then holds an empty entry that names the registry.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use buildsvc::dockerconfig::{DockerConfig, HUB_SERVER, Login, hostname};
use clap::Args;

use crate::broker::{HELPER_TIME, HelperError, Helpers, Stop, login_host};
use crate::env::Env;
use crate::exit::Exit;
use crate::failure::{Failure, chain};
use crate::login::{ConfigFile, ConfigFileError};

/// Forget the login of a registry
///
/// Takes it out of docker's config.json and has the credential helper forget it that keeps it. One that was never there is
/// no failure.
#[derive(Debug, Args)]
pub struct LogoutArgs {
    /// The registry, HOST[:PORT] [default: Docker Hub]
    #[arg(value_name = "SERVER")]
    pub server: Option<String>,
}

pub fn run(args: &LogoutArgs, env: &Env) -> Result<Exit, Failure> {
    let server = Server::of(args.server.as_deref())?;
    let keep = Keep::open(env)?;
    writeln!(io::stdout().lock(), "Removing login credentials for {}", server.shown())
        .map_err(|error| Failure::new(Exit::BuildFailed, format!("failed to write to stdout: {error}")))?;
    keep.remove(&server)?;
    Ok(Exit::Ok)
}

/// A registry as a login names it.
#[derive(Debug, PartialEq, Eq)]
pub struct Server {
    /// The host that serves it.
    pub host: String,
    /// Under which its login is kept.
    pub key: String,
}

impl Server {
    /// `HOST[:PORT]`, or a URL of which only that counts; none is Docker Hub.
    pub fn of(text: Option<&str>) -> Result<Server, Failure> {
        let text = text.unwrap_or_default();
        let host = login_host(if text.is_empty() { HUB_SERVER } else { text }.trim());
        let host = login_host(hostname(&host));
        let fine = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
        if host.is_empty() || host.len() > 259 || host.starts_with('-') || !host.chars().all(fine) {
            return Err(Failure::usage(format!("`{text}` is no registry; one is named HOST[:PORT]")));
        }
        let key = DockerConfig::server(&host).to_owned();
        Ok(Server { host, key })
    }

    fn shown(&self) -> &str {
        if self.key == HUB_SERVER { HUB_SERVER } else { &self.host }
    }
}

/// Docker's `config.json` and the helpers that it names.
#[derive(Debug)]
pub struct Keep {
    path: PathBuf,
    config: DockerConfig,
    helpers: Helpers,
    stop: Stop,
}

impl Keep {
    pub fn open(env: &Env) -> Result<Keep, Failure> {
        let dir = env.docker_config_dir().ok_or_else(|| {
            Failure::usage("without HOME or DOCKER_CONFIG there is no place for docker's config.json")
        })?;
        let path = dir.join("config.json");
        let config = DockerConfig::read(&path).map_err(|error| Failure::usage(chain(&error)))?;
        let stop =
            Stop::new().map_err(|error| Failure::internal(format!("failed to make a pipe: {error}")))?;
        let helpers = Helpers::new(env.get("PATH").unwrap_or_default(), HELPER_TIME);
        Ok(Keep { path, config, helpers, stop })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn get(&self, server: &Server) -> Result<Option<Login>, Failure> {
        if let Some(name) = self.config.helper(&server.host)
            && let Some(login) = self.helpers.get(name, &server.key, &self.stop).map_err(of_helper)?
        {
            return Ok(Some(login));
        }
        self.config.stored(&server.host).map_err(|error| Failure::usage(chain(&error)))
    }

    /// Whether a helper keeps it, rather than the file.
    pub fn put(&self, server: &Server, login: &Login) -> Result<bool, Failure> {
        let mut file = ConfigFile::open(&self.path).map_err(of_file)?;
        let helper = self.config.helper(&server.host);
        let entry = match helper {
            None => Some(login),
            Some(name) => {
                self.helpers.store(name, &server.key, login, &self.stop).map_err(of_helper)?;
                None
            }
        };
        file.put(&server.key, entry).and_then(|()| file.save()).map_err(of_file)?;
        Ok(helper.is_some())
    }

    fn remove(&self, server: &Server) -> Result<(), Failure> {
        let mut file = ConfigFile::open(&self.path).map_err(of_file)?;
        let mut keys = file.remove(&server.host).map_err(of_file)?;
        if !keys.is_empty() {
            file.save().map_err(of_file)?;
        }
        if let Some(name) = self.config.helper(&server.host) {
            if !keys.contains(&server.key) {
                keys.push(server.key.clone());
            }
            for key in &keys {
                self.helpers.erase(name, key, &self.stop).map_err(of_helper)?;
            }
        }
        Ok(())
    }
}

fn of_helper(error: HelperError) -> Failure {
    Failure::new(Exit::BuildFailed, chain(&error))
        .hint("Docker's config.json names it, in credHelpers for this registry or in credsStore for all.")
}

fn of_file(error: ConfigFileError) -> Failure {
    Failure::new(Exit::BuildFailed, chain(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_filed_as_docker_files_them() {
        let hub = ("registry-1.docker.io", HUB_SERVER);
        for (text, (host, key)) in [
            (None, hub),
            (Some(""), hub),
            (Some("docker.io"), hub),
            (Some(HUB_SERVER), hub),
            (Some("https://docker.io"), hub),
            (Some("ghcr.io"), ("ghcr.io", "ghcr.io")),
            (Some("https://ghcr.io/v2/"), ("ghcr.io", "ghcr.io")),
            (Some("localhost:5000"), ("localhost:5000", "localhost:5000")),
            (Some("http://[::1]:5000"), ("[::1]:5000", "[::1]:5000")),
        ] {
            let server = Server::of(text).unwrap();
            assert_eq!((server.host.as_str(), server.key.as_str()), (host, key), "{text:?}");
        }
        for text in ["https://", "a b", "u@h", "-u", "a\nb"] {
            assert_eq!(Server::of(Some(text)).unwrap_err().exit, Exit::Usage, "{text}");
        }
    }
}
