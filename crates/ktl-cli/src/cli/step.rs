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
    /// Entitlement: network.host, security.insecure or device[=NAME], which the builder has to allow as well; or
    /// buildx.local.delete, with which mode=delete of an output replaces any directory (repeatable)
    #[arg(long, value_name = "ENTITLEMENT")]
    pub allow: Vec<String>,
    /// Which sources the build may use: BuildKit's source policy in JSON; exit 5 when the builder cannot keep to it
    /// [also: EXPERIMENTAL_BUILDKIT_SOURCE_POLICY]
    #[arg(long, value_name = "FILE")]
    pub source_policy_file: Option<PathBuf>,
    /// Program that may read the Dockerfile of a --hermetic build when a `# syntax=` line or BUILDKIT_SYNTAX names it; else only
    /// the builder's own frontend may (repeatable)
    #[arg(long, value_name = "IMAGE@DIGEST")]
    pub allow_frontend: Vec<String>,
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
    // As docker build had them before there was --resource.
    #[arg(short, long, hide = true, value_name = "BYTES")]
    pub memory: Option<String>,
    #[arg(long, hide = true, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory_swap: Option<String>,
    #[arg(short, long, hide = true, value_name = "SHARES")]
    pub cpu_shares: Option<String>,
    #[arg(long, hide = true, value_name = "PERIOD")]
    pub cpu_period: Option<String>,
    #[arg(long, hide = true, value_name = "QUOTA")]
    pub cpu_quota: Option<String>,
    #[arg(long, hide = true, value_name = "CPUS")]
    pub cpuset_cpus: Option<String>,
    #[arg(long, hide = true, value_name = "NODES")]
    pub cpuset_mems: Option<String>,
    /// Parent of the steps' control group
    #[arg(long, value_name = "CGROUP")]
    pub cgroup_parent: Option<String>,
}

impl StepFlags {
    /// All limits, those with flags of their own first: of several with one key the last counts.
    pub fn resources(&self) -> Vec<String> {
        let own = [
            ("memory", &self.memory),
            ("memory-swap", &self.memory_swap),
            ("cpu-shares", &self.cpu_shares),
            ("cpu-period", &self.cpu_period),
            ("cpu-quota", &self.cpu_quota),
            ("cpuset-cpus", &self.cpuset_cpus),
            ("cpuset-mems", &self.cpuset_mems),
        ];
        let own = own.into_iter().filter_map(|(key, value)| Some(format!("{key}={}", value.as_ref()?)));
        own.chain(self.resource.iter().cloned()).collect()
    }
}
