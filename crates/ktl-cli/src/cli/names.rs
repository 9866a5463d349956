//! Flags of the commands that read which names a Dockerfile holds. They are those of `ktl build`, and mean the same.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
#[command(next_help_heading = "Dockerfile")]
pub struct NamesFlags {
    /// Path of the Dockerfile [default: PATH/Dockerfile]
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Further context, as for the build; an image of that name in the Dockerfile is then not fetched (repeatable)
    #[arg(long, value_name = "NAME=VALUE")]
    pub build_context: Vec<String>,
    /// Stage that is built. The names of all stages are read nevertheless
    #[arg(long, value_name = "STAGE")]
    pub target: Option<String>,
    /// Build-time variable, as for the build (repeatable)
    #[arg(long, value_name = "KEY[=VALUE]")]
    pub build_arg: Vec<String>,
    /// Target platforms, such as linux/amd64,linux/arm64 [default: that of this machine] (repeatable)
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_delimiter = ',')]
    pub platform: Vec<String>,
    /// The lock [default: ktl.lock beside the Dockerfile; NAME.ktl.lock for a Dockerfile of another NAME]
    #[arg(long, value_name = "FILE")]
    pub lock: Option<PathBuf>,
    /// Let this server be asked although its address is not public: loopback, link-local, private. Registries that you are logged in
    /// to need no naming (repeatable)
    #[arg(long, value_name = "HOST[:PORT]")]
    pub allow_host: Vec<String>,
}
