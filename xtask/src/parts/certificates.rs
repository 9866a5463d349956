//! Certificates for daemons and registries of a test, made with openssl(1): good for a day, for loopback only.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{command, tools};

/// Makes `ca.pem` and, signed by it, `server/{cert,key,ca}.pem` for 127.0.0.1 and localhost and
/// `client/{cert,key,ca}.pem`, all in `dir`.
pub fn make(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    self_signed(dir, "ca.pem", "ca-key.pem", "ktl test authority")?;
    for (name, usage) in [("server", "serverAuth"), ("client", "clientAuth")] {
        let place = dir.join(name);
        fs::create_dir_all(&place).with_context(|| format!("create {}", place.display()))?;
        fs::copy(dir.join("ca.pem"), place.join("ca.pem")).context("copy ca.pem")?;
        command::run(
            Command::new(tools::openssl()?)
                .args([
                    "req",
                    "-x509",
                    "-newkey",
                    "ec",
                    "-pkeyopt",
                    "ec_paramgen_curve:P-256",
                    "-nodes",
                    "-days",
                    "1",
                ])
                .args(["-CA", "ca.pem", "-CAkey", "ca-key.pem", "-subj", &format!("/CN=ktl test {name}")])
                .args(["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"])
                .args(["-addext", "basicConstraints=critical,CA:FALSE"])
                .args(["-addext", &format!("extendedKeyUsage={usage}")])
                .args(["-keyout", &format!("{name}/key.pem"), "-out", &format!("{name}/cert.pem")])
                .current_dir(dir),
        )?;
    }
    Ok(())
}

/// Makes an RSA key and a certificate signed by itself.
pub fn self_signed(dir: &Path, certificate: &str, key: &str, name: &str) -> Result<()> {
    command::run(
        Command::new(tools::openssl()?)
            .args([
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "1",
                "-subj",
                &format!("/CN={name}"),
            ])
            .args(["-keyout", key, "-out", certificate])
            .current_dir(dir),
    )
}
