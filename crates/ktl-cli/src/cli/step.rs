//! Flags for what RUN steps run with, and for what a build may do beyond the ordinary.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Steps")]
pub struct StepFlags {
    /// Network of RUN: default, none, or host (which also allows network.host)
    #[arg(long, value_name = "MODE")]
    pub network: Option<String>,
    /// Name in the steps' /etc/hosts, HOST=IP; host-gateway stands for the address of the builder's host (repeatable)
    #[arg(long, value_name = "HOST=IP")]
    pub add_host: Vec<String>,
    /// Entitlement: network.host, security.insecure or device[=NAME]; the builder has to allow it as well (repeatable)
    #[arg(long, value_name = "ENTITLEMENT")]
    pub allow: Vec<String>,
    /// Which sources the build may use: BuildKit's source policy in JSON; exit 5 when the builder cannot keep to it
    /// [also: EXPERIMENTAL_BUILDKIT_SOURCE_POLICY]
    #[arg(long, value_name = "FILE")]
    pub source_policy_file: Option<PathBuf>,
    /// Size of /dev/shm, such as 64m
    #[arg(long, value_name = "BYTES")]
    pub shm_size: Option<String>,
    /// Limit of setrlimit(2), NAME=SOFT[:HARD] (repeatable)
    #[arg(long, value_name = "LIMIT")]
    pub ulimit: Vec<String>,
    /// Limit of the steps' control group, KEY=VALUE; keys are memory, memory-swap, cpu-shares, cpu-period, cpu-quota,
    /// cpuset-cpus and cpuset-mems (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    pub resource: Vec<String>,
    /// Parent of the steps' control group
    #[arg(long, value_name = "CGROUP")]
    pub cgroup_parent: Option<String>,
}
