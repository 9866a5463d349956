//! Compiles nsjail's policy message without protoc, and keeps its descriptors: the text form of a policy is read
//! by reflection, which is the only way to point at the place of a mistake.

use std::path::{Path, PathBuf};
use std::{env, fs};

#[expect(clippy::disallowed_methods, reason = "cargo hands a build script its directory so")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let source = include.join("nsjail/config.proto");
    println!("cargo::rerun-if-changed={}", source.display());
    let mut compiler = protox::Compiler::new([&include])?;
    compiler.open_file(&source)?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    fs::write(out.join("nsjail.bin"), compiler.encode_file_descriptor_set())?;
    prost_build::Config::new().compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
