//! `ktl login`: checks a login with its registry and keeps it where docker does.
//!
//! Follows docker/cli `cli/command/registry/login.go`: its flags, its order (a login that is kept already is tried before
//! anybody is asked), and its last line on stdout.

use std::convert::Infallible;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;

use buildsvc::dockerconfig::{HUB_SERVER, Login};
use buildsvc::session::host::Secret;
use clap::Args;

use super::logout::{Keep, Server};
use crate::broker::{HUB, Verified, VerifyError, verify};
use crate::env::Env;
use crate::exit::Exit;
use crate::failure::{Failure, chain};
use crate::login::prompt::{self, PromptError};
use crate::ui::Ui;

/// Longer than any password or token.
const PASSWORD_LIMIT: u64 = 64 << 10;

/// Log in to a registry
///
/// Asks the registry whether it takes the login, then keeps it where docker does and every builder looks: with the credential
/// helper that config.json names for this registry (credHelpers, credsStore), else in config.json itself. A registry without
/// TLS is asked on this machine only.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  ktl login registry.example -u me                        asks for the password
  ktl login ghcr.io -u me --password-stdin <token.txt     takes it from a file or pipe

Exit codes: 0 logged in, 1 refused by the registry or not kept, 2 usage")]
pub struct LoginArgs {
    /// The registry, HOST[:PORT] [default: Docker Hub]
    #[arg(value_name = "SERVER")]
    pub server: Option<String>,
    /// User name
    #[arg(short, long, value_name = "NAME")]
    pub username: Option<String>,
    /// Password or access token. Others on this machine can read it here: --password-stdin is better
    #[arg(short, long, value_name = "PASSWORD", value_parser = secret, conflicts_with = "password_stdin")]
    pub password: Option<Secret>,
    /// Take the password from standard input
    #[arg(long, requires = "username")]
    pub password_stdin: bool,
}

fn secret(text: &str) -> Result<Secret, Infallible> {
    Ok(Secret(text.as_bytes().to_vec()))
}

pub fn run(args: &LoginArgs, env: &Env) -> Result<Exit, Failure> {
    let ui = Ui { verbose: false, quiet: false };
    let server = Server::of(args.server.as_deref())?;
    let keep = Keep::open(env)?;
    if args.password.is_some() {
        ui.line(format_args!(
            "WARNING: --password shows the password to others on this machine; use --password-stdin."
        ));
    }
    let mut known = None;
    if args.username.is_none() && args.password.is_none() {
        known = kept(&keep, &server, &ui)?;
    }
    let (login, verified) = match known {
        Some(known) => known,
        None => {
            let login = given(args, &server, &ui)?;
            let verified = verify(&server.host, &login).map_err(|error| refused(&server, &error))?;
            (login, verified)
        }
    };
    let login = match verified {
        Verified::Open => {
            ui.line(format_args!(
                "WARNING: {} asks nobody for a login: this one is kept, and was not checked.",
                server.host
            ));
            login
        }
        Verified::Known { identity_token } if identity_token.0.is_empty() => login,
        Verified::Known { identity_token } => Login { password: Secret::default(), identity_token, ..login },
    };
    if !keep.put(&server, &login)? {
        ui.line(format_args!(
            "WARNING: the login lies readable in {}. A credential helper (credsStore in that file) keeps it better.",
            keep.path().display()
        ));
    }
    writeln!(io::stdout().lock(), "Login Succeeded")
        .map_err(|error| Failure::new(Exit::BuildFailed, format!("failed to write to stdout: {error}")))?;
    Ok(Exit::Ok)
}

/// A login that is kept already and still good.
fn kept(keep: &Keep, server: &Server, ui: &Ui) -> Result<Option<(Login, Verified)>, Failure> {
    let Some(login) = keep.get(server)? else { return Ok(None) };
    ui.line(format_args!("Trying the login that is kept for {}", server.host));
    match verify(&server.host, &login) {
        Ok(verified) => Ok(Some((login, verified))),
        Err(error @ VerifyError::Refused { .. }) => {
            ui.line(format_args!("{error}"));
            Ok(None)
        }
        Err(error) => Err(refused(server, &error)),
    }
}

/// The login that the command line and the user's answers make.
fn given(args: &LoginArgs, server: &Server, ui: &Ui) -> Result<Login, Failure> {
    let stdin = io::stdin();
    let asks = args.username.is_none() || (args.password.is_none() && !args.password_stdin);
    if asks && !stdin.is_terminal() {
        return Err(Failure::usage("there is no terminal to ask for the login at")
            .hint("--username NAME --password-stdin takes the password from standard input."));
    }
    if args.username.is_none() && server.key == HUB_SERVER {
        ui.line(format_args!("Log in to Docker Hub; an access token serves as a password."));
    }
    let username = match &args.username {
        Some(name) => name.trim().to_owned(),
        None => prompt::shown(stdin.as_fd(), "Username: ").map_err(unanswered)?,
    };
    let password = match &args.password {
        Some(password) => password.clone(),
        None if args.password_stdin => from_stdin()?,
        None => prompt::hidden(stdin.as_fd(), "Password: ").map_err(unanswered)?,
    };
    if username.is_empty() || username.contains(':') {
        return Err(Failure::usage(match username.is_empty() {
            true => "the user name is empty",
            false => "a user name cannot hold a colon",
        }));
    }
    if password.0.is_empty() {
        return Err(Failure::usage("the password is empty"));
    }
    Ok(Login { username, password, ..Login::default() })
}

fn unanswered(error: PromptError) -> Failure {
    match error {
        PromptError::Interrupted => Failure::new(Exit::Signal(2), "interrupted: nothing was changed"),
        error => Failure::usage(chain(&error)),
    }
}

/// All of standard input but the line break that `echo` adds.
fn from_stdin() -> Result<Secret, Failure> {
    let mut text = Secret::default();
    let read = io::stdin().lock().take(PASSWORD_LIMIT + 1).read_to_end(&mut text.0);
    read.map_err(|error| Failure::usage(format!("cannot read the password from stdin: {error}")))?;
    if text.0.len() as u64 > PASSWORD_LIMIT {
        return Err(Failure::usage(format!("standard input holds more than {PASSWORD_LIMIT} bytes")));
    }
    for end in [b'\n', b'\r'] {
        if text.0.last() == Some(&end) {
            text.0.pop();
        }
    }
    Ok(text)
}

fn refused(server: &Server, error: &VerifyError) -> Failure {
    let failure = Failure::new(Exit::BuildFailed, chain(error));
    match error {
        VerifyError::Refused { .. } if server.key == HUB_SERVER => failure.hint(format!(
            "User name or password is wrong, or {HUB} wants an access token in the place of the password."
        )),
        VerifyError::Refused { .. } => {
            failure.hint("User name or password is wrong. Nothing was kept.")
        }
        VerifyError::Silent { .. } => failure.hint(
            "A registry is reached by https; without TLS only one at localhost or a loopback address. Nothing was kept.",
        ),
        _ => failure.hint("Nothing was kept."),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::cli::{Cli, Command};

    #[test]
    fn flags_are_dockers_and_show_no_password() {
        let parsed = Cli::try_parse_from(["ktl", "login", "-u", "me", "-p", "hidden", "r.example"]).unwrap();
        assert!(!format!("{parsed:?}").contains("hidden"));
        let Command::Login(args) = parsed.command else { panic!("not a login") };
        assert_eq!(args.password.unwrap().0, b"hidden");
        for wrong in [
            &["ktl", "login", "--password-stdin"][..],
            &["ktl", "login", "-u", "me", "-p", "x", "--password-stdin"],
            &["ktl", "login", "a", "b"],
        ] {
            assert!(Cli::try_parse_from(wrong).is_err(), "{wrong:?}");
        }
    }
}
