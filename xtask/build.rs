//! Compiles the project's `.proto` files once more, with the daemon's side of each service.

use std::path::Path;

const ROOTS: &[&str] = &[
    "github.com/moby/buildkit/api/services/control/control.proto",
    "github.com/moby/buildkit/frontend/gateway/pb/gateway.proto",
    "github.com/moby/buildkit/session/auth/auth.proto",
    "github.com/moby/buildkit/session/filesync/filesync.proto",
    "github.com/moby/buildkit/session/secrets/secrets.proto",
    "github.com/moby/buildkit/session/sshforward/ssh.proto",
    "github.com/tonistiigi/fsutil/types/wire.proto",
    "google/rpc/status.proto",
    "grpc/health/v1/health.proto",
];

#[allow(clippy::disallowed_methods, reason = "the rule is for ktl, whose environment is read in one place")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Whose crates are linked (`dist/licences.rs`).
    println!("cargo::rustc-env=TARGET={}", std::env::var("TARGET")?);
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto");
    for package in ["github.com", "google", "grpc"] {
        println!("cargo::rerun-if-changed={}", include.join(package).display());
    }
    let files = protox::compile(ROOTS, [&include])?;
    tonic_prost_build::configure()
        .bytes(".")
        // Progress leaves as bytes: what no encoder would write is to be sent too.
        .extern_path(".moby.buildkit.v1.StatusResponse", "crate::hostile::progress::Raw")
        .include_file("wire.rs")
        .compile_fds(files)?;
    Ok(())
}
