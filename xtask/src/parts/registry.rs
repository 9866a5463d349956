//! A docker-registry of our own on a free loopback port, open or with one of the two ways of authentication that
//! registries use.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::supervised::{Isolation, Supervised};
use super::token_server::{TokenRequest, TokenServer};
use crate::{command, tools};

/// Who may pull and push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    /// Everybody.
    None,
    /// One user, by HTTP basic authentication.
    Htpasswd { user: String, password: String },
    /// One user, by bearer tokens that a token server of ours gives out.
    Token { user: String, password: String },
}

/// A running registry, plain http; stopped when dropped.
#[derive(Debug)]
pub struct Registry {
    daemon: Supervised,
    address: String,
    docker_config: PathBuf,
    auth: Auth,
    tokens: Option<TokenServer>,
}

impl Registry {
    /// Starts a registry with its state below `dir` (made when missing) and waits until it answers.
    pub fn start(dir: &Path, auth: Auth) -> Result<Registry> {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let address = format!("127.0.0.1:{}", super::free_port()?);
        let mut tokens = None;
        let auth_config = match &auth {
            Auth::None => serde_json::Value::Null,
            Auth::Htpasswd { user, password } => {
                let file = dir.join("htpasswd");
                fs::write(&file, format!("{user}:{}\n", bcrypt(password)?)).context("write htpasswd")?;
                serde_json::json!({"htpasswd": {"realm": "ktl-test", "path": file}})
            }
            Auth::Token { user, password } => {
                let server = TokenServer::start(&dir.join("tokens"), user, password)?;
                let config = server.registry_config();
                tokens = Some(server);
                serde_json::json!({"token": config})
            }
        };
        let config = registry_config(dir, &address, auth_config);
        // The registry reads YAML, of which JSON is a part.
        let file = dir.join("registry.yml");
        fs::write(&file, config.to_string()).with_context(|| format!("write {}", file.display()))?;
        let docker_config = dir.join("docker-config");
        write_docker_config(&docker_config, &address, &auth)?;

        let mut program = Command::new(tools::docker_registry()?);
        program.arg("serve").arg(&file);
        let mut daemon = Supervised::start(&program, Isolation::None, &dir.join("registry.log"))?;
        daemon.wait_until(|| answers(&address))?;
        Ok(Registry { daemon, address, docker_config, auth, tokens })
    }

    /// `127.0.0.1:PORT`, the first part of its images' names.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What a tag means at this moment, as the registry's files have it.
    pub fn digest(&self, name: &str, tag: &str) -> Result<String> {
        let tags = format!("storage/docker/registry/v2/repositories/{name}/_manifests/tags");
        let link = self.docker_config.with_file_name(tags).join(tag).join("current/link");
        fs::read_to_string(&link).with_context(|| format!("read {}", link.display()))
    }

    /// A directory for `DOCKER_CONFIG` with a `config.json` that holds this registry's credentials.
    pub fn docker_config(&self) -> &Path {
        &self.docker_config
    }

    pub fn needs_credentials(&self) -> bool {
        self.auth != Auth::None
    }

    /// What clients asked the token server so far; empty for the other ways of authentication.
    pub fn token_requests(&self) -> Vec<TokenRequest> {
        self.tokens.as_ref().map(TokenServer::requests).unwrap_or_default()
    }

    /// One line per request that the registry served, and whatever else it logs.
    pub fn log_text(&self) -> String {
        self.daemon.log_text()
    }
}

fn registry_config(dir: &Path, address: &str, auth: serde_json::Value) -> serde_json::Value {
    let mut config = serde_json::json!({
        "version": "0.1",
        "log": {"level": "info"},
        "storage": {"filesystem": {"rootdirectory": dir.join("storage")}, "delete": {"enabled": true}},
        "http": {"addr": address, "secret": "ktl-test"},
    });
    if !auth.is_null() {
        config["auth"] = auth;
    }
    config
}

fn write_docker_config(dir: &Path, address: &str, auth: &Auth) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    let auths = match auth {
        Auth::None => serde_json::json!({}),
        Auth::Htpasswd { user, password } | Auth::Token { user, password } => {
            serde_json::json!({address: {"auth": STANDARD.encode(format!("{user}:{password}"))}})
        }
    };
    fs::write(dir.join("config.json"), serde_json::json!({"auths": auths}).to_string())
        .context("write config.json")
}

/// The registry knows bcrypt only; perl's crypt reaches the C library's.
fn bcrypt(password: &str) -> Result<String> {
    let perl = tools::on_path("perl").context("perl is not on PATH")?;
    let output = command::output_of(Command::new(perl).args([
        "-e",
        "print crypt($ARGV[0], '$2y$05$ktltestsktltestsktlte.')",
        password,
    ]))?;
    String::from_utf8(output.stdout).context("read a password hash")
}

/// Whether `/v2/` is served; a demand for credentials is an answer too.
fn answers(address: &str) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(format!("GET /v2/ HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())?;
        let mut start = [0; 12];
        stream.read_exact(&mut start)?;
        Ok(start.ends_with(b" 200") || start.ends_with(b" 401"))
    };
    ask().unwrap_or(false)
}
