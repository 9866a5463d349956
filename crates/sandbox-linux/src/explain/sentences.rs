//! What nsjail does with each field of a policy, one sentence each.

use prost_reflect::Value;

pub(super) fn field(name: &str) -> &'static str {
    match name {
        "name" => "Names the policy for people; nothing else.",
        "description" => "Describes the policy for people; nothing else.",
        "mode" => {
            "ONCE runs the program under a supervisor, EXECVE becomes the program without one, RERUN repeats it, LISTEN runs it per connection."
        }
        "hostname" => "The host name that the program sees; at most 64 bytes.",
        "cwd" => "The directory inside in which the program starts; it must exist there.",
        "no_pivotroot" => {
            "Changes the root with chroot instead of pivot_root, which leaves the host's root mounted behind it."
        }
        "port" => "The port that LISTEN waits on.",
        "bindhost" => "The address that LISTEN waits on.",
        "max_conns" => "How many connections LISTEN serves at one time.",
        "max_conns_per_ip" => "How many connections LISTEN serves for one address.",
        "time_limit" => "Seconds after which the program is killed; 0 never, and 600 when unset.",
        "daemon" => "Puts nsjail into the background.",
        "max_cpus" => "Ties the program to this many processors; 0 is no limit.",
        "nice_level" => "Scheduling priority of the program, 19 (the least) when unset.",
        "log_fd" => "The descriptor that nsjail's own log goes to.",
        "log_file" => "The file that nsjail's own log goes to.",
        "log_level" => "How much nsjail says of itself.",
        "keep_env" => "Hands the caller's whole environment to the program.",
        "envar" => "Variables of the program: NAME=value, or NAME alone for the caller's value.",
        "keep_caps" => "Lets the program keep all capabilities of the jail's user namespace.",
        "cap" => "Capabilities that the program keeps.",
        "silent" => "Sends the program's three standard streams to /dev/null.",
        "skip_setsid" => "Leaves the program in the caller's session, with the caller's terminal.",
        "stderr_to_null" => "Sends the program's standard error to /dev/null.",
        "pass_fd" => "Open descriptors that the program gets besides 0, 1 and 2.",
        "disable_no_new_privs" => {
            "Lets the program gain rights by running set-user-ID files, unless a filter is installed."
        }
        "forward_signals" => "Passes signals on to the program instead of killing it.",
        "disable_tsc" => "Makes reading the processor's time stamp counter a crash.",
        "oom_score_adj" => "How readily the kernel kills the program when memory runs out.",
        "rlimit_as" => "Address space in MiB, 4096 when unset.",
        "rlimit_core" => "Size of core files in MiB, none when unset.",
        "rlimit_cpu" => "Processor time in seconds, 600 when unset.",
        "rlimit_fsize" => "Size of a written file in MiB, 1 when unset.",
        "rlimit_nofile" => "Number of open descriptors, 32 when unset.",
        "rlimit_nproc" => "Number of processes of the user, the caller's limit when unset.",
        "rlimit_stack" => "Size of the stack in MiB, the caller's limit when unset.",
        "rlimit_memlock" => "Locked memory in KiB, the caller's limit when unset.",
        "rlimit_rtprio" => "Highest real-time priority, the caller's limit when unset.",
        "rlimit_msgqueue" => "Bytes in message queues, the caller's limit when unset.",
        "rlimit_as_type"
        | "rlimit_core_type"
        | "rlimit_cpu_type"
        | "rlimit_fsize_type"
        | "rlimit_nofile_type"
        | "rlimit_nproc_type"
        | "rlimit_stack_type"
        | "rlimit_memlock_type"
        | "rlimit_rtprio_type"
        | "rlimit_msgqueue_type" => {
            "Where that limit comes from: VALUE is the number given, SOFT and HARD are the caller's limits, INF is none."
        }
        "disable_rl" => "Leaves all limits as the caller has them.",
        "persona_addr_compat_layout" => "Lays memory out as old kernels did, with less randomness.",
        "persona_mmap_page_zero" => "Maps memory at address 0, which makes null pointers usable.",
        "persona_read_implies_exec" => "Makes readable memory executable.",
        "persona_addr_limit_3gb" => "Limits addresses to 3 GiB, with less randomness.",
        "persona_addr_no_randomize" => "Turns address randomisation off.",
        "clone_newnet" => {
            "Gives the program a network of its own with nothing but a loopback in it; false shares the host's."
        }
        "clone_newuser" => "Gives the program user and group ids of its own; false needs root.",
        "clone_newns" => "Gives the program a mount tree of its own; false makes nsjail ignore all mounts.",
        "clone_newpid" => "Gives the program process ids of its own, so that it sees no host process.",
        "clone_newipc" => "Gives the program System V IPC and message queues of its own.",
        "clone_newuts" => "Gives the program a host name of its own.",
        "clone_newcgroup" => "Hides the names of the host's control groups.",
        "clone_newtime" => "Gives the program monotonic clocks of its own, in EXECVE mode only.",
        "uidmap" => "Which host user each user id inside is; the first entry is what the program runs as.",
        "gidmap" => "Which host group each group id inside is; the first entry is what the program runs as.",
        "mount_proc" => "Mounts a fresh, read-only /proc as the last mount.",
        "mount" => "One entry of the program's mount tree, made in order.",
        "seccomp_policy_file" => "A file with the system call filter, in Kafel's language.",
        "seccomp_string" => "The system call filter, in Kafel's language, line by line.",
        "seccomp_log" => "Has the kernel log what the filter refuses.",
        "seccomp_unotify" => "Records the paths and addresses that the program uses; refuses nothing.",
        "seccomp_unotify_report" => "The file that those records go to.",
        "use_core_scheduling" => "Keeps strangers off the program's sibling hardware threads.",
        "cgroup_mem_max" => "Bytes of memory that the program may use, enforced by a control group.",
        "cgroup_mem_memsw_max" => "Bytes of memory and swap together, enforced by a control group.",
        "cgroup_mem_swap_max" => "Bytes of swap, enforced by a control group; -1 is no limit.",
        "cgroup_mem_mount" => "Where the version 1 memory controller is mounted on the host.",
        "cgroup_mem_parent" => "The version 1 memory group that jails are made in; it must exist.",
        "cgroup_pids_max" => "Number of processes, enforced by a control group.",
        "cgroup_pids_mount" => "Where the version 1 process controller is mounted on the host.",
        "cgroup_pids_parent" => "The version 1 process group that jails are made in; it must exist.",
        "cgroup_net_cls_classid" => "A mark on the program's network packets, version 1 only.",
        "cgroup_net_cls_mount" => "Where the version 1 packet controller is mounted on the host.",
        "cgroup_net_cls_parent" => "The version 1 packet group that jails are made in; it must exist.",
        "cgroup_cpu_ms_per_sec" => "Milliseconds of processor time per second, enforced by a control group.",
        "cgroup_cpu_mount" => "Where the version 1 processor controller is mounted on the host.",
        "cgroup_cpu_parent" => "The version 1 processor group that jails are made in; it must exist.",
        "cgroupv2_mount" => "Where control groups of version 2 are mounted on the host.",
        "use_cgroupv2" => "Takes control groups of version 2.",
        "detect_cgroupv2" => "Takes control groups of version 2 where the host has them.",
        "iface_no_lo" => "Leaves the loopback of the own network down.",
        "iface_own" => "Moves interfaces of the host into the jail.",
        "macvlan_iface" => "Gives the jail an address of its own on this interface of the host.",
        "macvlan_vs_ip" => "Address of that interface inside.",
        "macvlan_vs_nm" => "Netmask of that interface inside.",
        "macvlan_vs_gw" => "Gateway of that interface inside.",
        "macvlan_vs_ma" => "Hardware address of that interface inside.",
        "macvlan_vs_mo" => "Mode of that interface.",
        "traffic_rule" => "Routing rules inside the own network; the last one listed is looked at first.",
        "user_net" => {
            "A network in user space; its rules say what may be reached, and what no rule matches is allowed."
        }
        "exec_bin" => "The program to run, whatever stands on the command line.",
        _ => "",
    }
}

/// One mount entry.
pub(super) fn mount(point: &Value) -> String {
    let Value::Message(point) = point else { return String::new() };
    let text = |name: &str| {
        let value = point.get_field_by_name(name);
        value.and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
    };
    let flag = |name: &str| point.get_field_by_name(name).and_then(|value| value.as_bool()).unwrap_or(false);
    let content = point.get_field_by_name("src_content").and_then(|value| value.as_bytes().map(|b| b.len()));
    let mut dst = text("dst");
    if !text("prefix_dst_env").is_empty() {
        dst = format!("${}{dst}", text("prefix_dst_env"));
    }
    let mut src = text("src");
    if !text("prefix_src_env").is_empty() {
        src = format!("${}{src}", text("prefix_src_env"));
    }
    let access = if flag("rw") { "writable" } else { "read-only" };
    let mut sentence = if flag("is_symlink") {
        return format!("Makes {dst} a symbolic link to {src}.");
    } else if content.is_some_and(|length| length > 0) {
        format!("Makes the file {dst} with {} bytes from the policy, {access}", content.unwrap_or_default())
    } else if flag("is_bind") {
        format!("Shows the host's {src} at {dst}, {access}")
    } else {
        format!("Mounts a {} on {dst}, {access}", text("fstype"))
    };
    if !text("options").is_empty() && !flag("is_bind") {
        sentence.push_str(&format!(", with {}", text("options")));
    }
    for name in ["nosuid", "nodev", "noexec"] {
        if flag(name) {
            sentence.push_str(&format!(", {name}"));
        }
    }
    if !flag("mandatory") {
        sentence.push_str("; the jail starts without it where it cannot be had");
    }
    sentence.push('.');
    sentence
}
