//! Compiles the project's `.proto` files without protoc.

use std::path::Path;

const ROOTS: &[&str] = &["github.com/tonistiigi/fsutil/types/wire.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    println!("cargo::rerun-if-changed={}", include.display());
    let files = protox::compile(ROOTS, [&include])?;
    tonic_prost_build::configure().bytes(".").compile_fds(files)?;
    Ok(())
}
