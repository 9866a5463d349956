use std::process::Command;
use xtask::parts::*;
fn main() -> anyhow::Result<()> {
    let t = std::time::Instant::now();
    let scratch = ScratchDir::new("try")?;
    let registry = Registry::start(&scratch.join("r"), Auth::None)?;
    let options = Options { plain_http: vec![registry.address().to_owned()], ..Options::default() };
    let daemon = Buildkitd::start(&scratch.join("d"), &options)?;
    println!("started {:?}", t.elapsed());
    push_base_images(&daemon, &registry, &[BaseImage::Debian])?;
    println!("pushed {:?}", t.elapsed());
    let out = scratch.join("out");
    let s = daemon.buildctl()?.args(["build", "--progress=plain", "--frontend", "dockerfile.v0", "--local", "context=demos/hello", "--local", "dockerfile=demos/hello", "--opt"]).arg(format!("build-arg:BASE={}", BaseImage::Debian.reference(&registry))).arg("--output").arg(format!("type=local,dest={}", out.display())).status()?;
    println!("{s} {:?}", t.elapsed());
    println!("{:?}", Command::new(out.join("hello")).status()?);
    if std::env::args().len() > 1 { std::process::abort(); }
    Ok(())
}
