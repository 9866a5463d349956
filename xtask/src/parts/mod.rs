//! Real parts for tests, demo and bench: a buildkitd, a registry, base images, each alive as long as its value.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use xtask::parts::{Auth, BaseImage, Buildkitd, Options, Registry, ScratchDir, push_base_images};
//! let scratch = ScratchDir::new("example")?;
//! let registry = Registry::start(&scratch.join("registry"), Auth::None)?;
//! let options = Options { plain_http: vec![registry.address().to_owned()], ..Options::default() };
//! let daemon = Buildkitd::start(&scratch.join("daemon"), &options)?;
//! push_base_images(&daemon, &registry, &[BaseImage::Busybox])?;
//! println!("{} {}", daemon.address(), BaseImage::Busybox.reference(&registry));
//! # Ok(())
//! # }
//! ```
//!
//! Values are dropped in reverse order of their declaration: declare the [`ScratchDir`] first, so that it goes last.
//! What a process leaves because it was killed goes too: daemons notice the death of their owner, and the next
//! [`ScratchDir`] of anybody removes the directories of dead processes.

mod astray;
mod buildkitd;
pub mod certificates;
mod engine;
mod images;
mod registry;
mod scratch;
mod sshd;
mod supervised;
mod token_server;
mod user;

pub use astray::AstrayRegistry;
pub use buildkitd::{Buildkitd, Options, Tls};
pub use engine::DockerEngine;
pub use images::{BaseImage, push_base_images};
pub use registry::{Auth, Registry};
pub use scratch::ScratchDir;
pub use sshd::{Sshd, keygen};
pub use token_server::TokenRequest;
pub use user::User;

use std::net::TcpListener;

use anyhow::{Context, Result};

/// A loopback port that nobody listens on at this moment.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("bind a loopback port")?;
    Ok(listener.local_addr().context("read the port")?.port())
}
