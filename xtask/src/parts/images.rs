//! The base images of tests and demo: root file systems that setup made, built into images by buildctl and pushed to
//! a registry of the test's own.

use anyhow::{Context, Result};

use super::{Buildkitd, Registry};
use crate::{command, workspace};

/// An image to say FROM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BaseImage {
    /// Debian 12 with gcc; some seconds to push.
    Debian,
    /// A static busybox; pushed in no time.
    Busybox,
    /// The demos' frontend, which reaches for what it was not given.
    Reaching,
}

impl BaseImage {
    fn name(self) -> &'static str {
        match self {
            BaseImage::Debian => "debian",
            BaseImage::Busybox => "busybox",
            BaseImage::Reaching => "reaching",
        }
    }

    /// The image's name in that registry: `127.0.0.1:PORT/busybox:latest`.
    pub fn reference(self, registry: &Registry) -> String {
        format!("{}/{}:latest", registry.address(), self.name())
    }

    /// The image, once pushed, as one that cannot become another: `127.0.0.1:PORT/busybox@sha256:…`.
    pub fn by_digest(self, registry: &Registry) -> Result<String> {
        let digest = registry.digest(self.name(), "latest")?;
        Ok(format!("{}/{}@{digest}", registry.address(), self.name()))
    }
}

/// Builds the images on `daemon` and pushes them to `registry`, with the registry's credentials.
///
/// Layers stay uncompressed: the registry is on this machine, and packing would take longer than sending.
pub fn push_base_images(daemon: &Buildkitd, registry: &Registry, images: &[BaseImage]) -> Result<()> {
    let dockerfiles = workspace::root().join("xtask/images");
    for image in images {
        let mut build = daemon.buildctl()?;
        build
            .env("DOCKER_CONFIG", registry.docker_config())
            .args(["build", "--progress", "plain", "--frontend", "dockerfile.v0"])
            .arg("--local")
            .arg(format!("context={}", workspace::images_dir().display()))
            .arg("--local")
            .arg(format!("dockerfile={}", dockerfiles.display()))
            .args(["--opt", &format!("filename={}.Dockerfile", image.name())])
            .args(["--output", &format!(
                "type=image,name={},push=true,registry.insecure=true,compression=uncompressed,force-compression=true",
                image.reference(registry)
            )]);
        command::run(&mut build).with_context(|| format!("push the base image {}", image.name()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::parts::{Auth, Options, ScratchDir};

    /// A second daemon, which has never seen the layers, must pull them.
    fn push_and_pull(label: &str, auth: Auth) -> Result<Registry> {
        let scratch = ScratchDir::new(label)?;
        let registry = Registry::start(&scratch.join("r"), auth)?;
        let options = Options { plain_http: vec![registry.address().to_owned()], ..Options::default() };
        let pusher = Buildkitd::start(&scratch.join("a"), &options)?;
        push_base_images(&pusher, &registry, &[BaseImage::Busybox])?;
        drop(pusher);

        let puller = Buildkitd::start(&scratch.join("b"), &options)?;
        let context = scratch.dir("context")?;
        let base = BaseImage::Busybox.reference(&registry);
        fs::write(
            context.join("Dockerfile"),
            format!("FROM {base} AS run\nRUN echo hello >/out\nFROM scratch\nCOPY --from=run /out /\n"),
        )?;
        let build = |docker_config: &std::path::Path, out: &std::path::Path| {
            let mut build = puller.buildctl()?;
            build.env("DOCKER_CONFIG", docker_config).args(["build", "--frontend", "dockerfile.v0"]);
            build.arg("--local").arg(format!("context={}", context.display()));
            build.arg("--local").arg(format!("dockerfile={}", context.display()));
            build.arg("--output").arg(format!("type=local,dest={}", out.display()));
            command::run(&mut build)
        };
        if registry.needs_credentials() {
            let refused = build(&scratch.dir("no-config")?, &scratch.join("refused"));
            assert!(refused.is_err(), "pulled without credentials");
        }
        build(registry.docker_config(), &scratch.join("out"))?;
        assert_eq!(fs::read_to_string(scratch.join("out").join("out"))?, "hello\n");
        Ok(registry)
    }

    #[test]
    fn an_image_goes_through_an_open_registry() -> Result<()> {
        push_and_pull("open-test", Auth::None).map(drop)
    }

    #[test]
    fn an_image_goes_through_a_registry_with_basic_auth() -> Result<()> {
        push_and_pull("basic-test", Auth::Htpasswd { user: "ada".into(), password: "pa ss:wörd".into() })
            .map(drop)
    }

    #[test]
    fn an_image_goes_through_a_registry_with_token_auth() -> Result<()> {
        let registry =
            push_and_pull("token-test", Auth::Token { user: "ada".into(), password: "s3cret&=+".into() })?;
        let requests = registry.token_requests();
        assert!(
            requests.iter().any(|request| request.granted && request.scopes.contains("busybox")),
            "{requests:?}"
        );
        assert!(requests.iter().any(|request| !request.granted), "{requests:?}");
        Ok(())
    }
}
