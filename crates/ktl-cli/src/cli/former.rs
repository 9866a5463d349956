//! Flags of docker's builder before BuildKit, which docker buildx still takes and which mean nothing to it.

use clap::Args;

#[derive(Debug, Default, Args)]
pub struct FormerFlags {
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    compress: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    rm: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    force_rm: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    squash: Option<String>,
    #[arg(long, hide = true)]
    isolation: Option<String>,
    #[arg(long, hide = true, value_delimiter = ',')]
    security_opt: Vec<String>,
}

impl FormerFlags {
    /// One warning for each that was given.
    pub fn warnings(&self) -> Vec<String> {
        let given = [
            ("--compress", self.compress.is_some(), "what is sent of a context is compressed by no BuildKit"),
            ("--rm", self.rm.is_some(), "BuildKit leaves no containers behind"),
            ("--force-rm", self.force_rm.is_some(), "BuildKit leaves no containers behind"),
            (
                "--squash",
                self.squash.is_some(),
                "BuildKit has no such thing; copy the files into a stage FROM scratch",
            ),
            ("--isolation", self.isolation.is_some(), "BuildKit has no such thing"),
            ("--security-opt", !self.security_opt.is_empty(), "RUN --security=insecure takes its place"),
        ];
        let given = given.into_iter().filter(|(_, given, _)| *given);
        given.map(|(flag, _, why)| format!("{flag} has no effect: {why}")).collect()
    }
}
