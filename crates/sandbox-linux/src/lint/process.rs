//! Supervision, namespaces, ids, privileges and limits.

use super::Report;
use crate::proto::{IdMap, Mode, NsJailConfig, RLimit};

pub(super) fn look(config: &NsJailConfig, report: &mut Report<'_>) {
    mode(config, report);
    namespaces(config, report);
    ids("uidmap", &config.uidmap, report);
    ids("gidmap", &config.gidmap, report);
    privileges(config, report);
    environment(config, report);
    limits(config, report);
}

fn mode(config: &NsJailConfig, report: &mut Report<'_>) {
    match config.mode() {
        Mode::Execve => report.open(
            "mode",
            "EXECVE",
            "without a supervisor the program stays in the host's process namespace and may signal every process of its user; \
             nobody enforces the time limit, and root cannot start it together with clone_newuser",
            "mode: ONCE",
        ),
        Mode::Listen => report.open(
            "mode",
            "LISTEN",
            "whoever connects to the port gets a process in the jail, from every address unless bindhost says otherwise",
            "mode: ONCE",
        ),
        Mode::Rerun => report.weak("mode", "RERUN", "the program is started again for ever", "mode: ONCE"),
        Mode::Once => {}
    }
    if config.daemon() {
        report.weak("daemon", "true", "a jail in the background has nobody who waits for it", "leave it out");
    }
    if config.no_pivotroot() {
        report.weak(
            "no_pivotroot",
            "true",
            "the host's root stays mounted behind a chroot, which a process with capabilities can leave",
            "leave it out",
        );
    }
    if config.skip_setsid() {
        report.weak(
            "skip_setsid",
            "true",
            "the program keeps the caller's terminal and may type commands into it (TIOCSTI)",
            "leave it out",
        );
    }
    if config.time_limit.is_none() && config.mode() != Mode::Execve {
        report.note(
            "time_limit",
            "unset, so 600",
            "nsjail kills the program after ten minutes, finished or not",
            "time_limit: 0, or as many seconds as you mean",
        );
    }
    if let Some(exe) = &config.exec_bin {
        report.note(
            "exec_bin",
            exe.path.clone(),
            "nsjail runs this file even if another command stands after --",
            "leave it out where the command line names the program",
        );
    }
    if !config.pass_fd.is_empty() {
        let numbers: Vec<String> = config.pass_fd.iter().map(i32::to_string).collect();
        report.weak(
            "pass_fd",
            numbers.join(" "),
            "an open descriptor reaches whatever it was opened on, from inside any wall",
            "leave it out, or be sure what the caller has open there",
        );
    }
}

fn namespaces(config: &NsJailConfig, report: &mut Report<'_>) {
    let own = "leave it out; true is the default";
    if !config.clone_newns() {
        report.open(
            "clone_newns",
            "false",
            "nsjail then ignores every mount entry, and the program sees the host's files",
            own,
        );
    }
    if !config.clone_newuser() {
        report.open(
            "clone_newuser",
            "false",
            "the program has the caller's real ids, and only root can start it: host files are protected by their modes alone",
            own,
        );
    }
    if !config.clone_newpid() {
        report.open(
            "clone_newpid",
            "false",
            "host processes of the same user can be seen and signalled",
            own,
        );
    }
    for (field, shared, why) in [
        (
            "clone_newipc",
            !config.clone_newipc(),
            "the host's System V shared memory and message queues are in reach",
        ),
        ("clone_newuts", !config.clone_newuts(), "the host's name shows"),
        ("clone_newcgroup", !config.clone_newcgroup(), "the host's control group names show"),
    ] {
        if shared {
            report.weak(field, "false", why, own);
        }
    }
}

fn ids(field: &str, map: &[IdMap], report: &mut Report<'_>) {
    let host_zero = |id: &str| id == "root" || (!id.is_empty() && id.bytes().all(|b| b == b'0' || b == b'x'));
    for (index, entry) in map.iter().enumerate() {
        let field = format!("{field}[{index}]");
        if host_zero(entry.outside_id()) {
            report.open(
                &field,
                format!("{} is the host's id 0", entry.inside_id()),
                "files and device nodes of root need no capability to be opened, only root's id",
                "map to an outside id that owns nothing, as 100000",
            );
        } else if entry.outside_id().is_empty() {
            report.weak(
                &field,
                format!("{} is the caller's own id", entry.inside_id()),
                "started by root, that is the host's id 0",
                "name an outside id that owns nothing",
            );
        }
        if entry.use_newidmap() && map.iter().any(|other| !other.use_newidmap()) {
            report.note(
                &field,
                "use_newidmap beside direct entries",
                "an id map can be written once, so the jail does not start",
                "use_newidmap for all entries or for none",
            );
        }
    }
    if map.is_empty() {
        report.weak(
            field,
            "unset",
            "the program has the caller's own id; started by root, that is the host's id 0",
            "map to an outside id that owns nothing, or start it as a plain user (ktl fills this in)",
        );
    }
}

fn privileges(config: &NsJailConfig, report: &mut Report<'_>) {
    if config.keep_caps() {
        report.open(
            "keep_caps",
            "true",
            "with all capabilities the program can mount, and make what was read-only writable again",
            "leave it out, or name the one that is needed with cap",
        );
    }
    for (index, name) in config.cap.iter().enumerate() {
        let field = format!("cap[{index}]");
        let heavy = ["SYS_ADMIN", "SYS_PTRACE", "SYS_MODULE", "SYS_RAWIO", "DAC_READ_SEARCH", "BPF", "MKNOD"];
        let bare = name.strip_prefix("CAP_").unwrap_or(name);
        if !config.clone_newuser() || heavy.contains(&bare) {
            report.open(
                &field,
                name.clone(),
                if config.clone_newuser() {
                    "it opens kernel code, the mount tree among it, that the jail's walls are made of"
                } else {
                    "without a user namespace it holds for the whole host"
                },
                "leave it out",
            );
        } else {
            report.weak(
                &field,
                name.clone(),
                "it holds for everything that the jail's user namespace owns",
                "leave it out unless the program fails without",
            );
        }
    }
    if config.disable_no_new_privs() {
        let filtered = config.seccomp_policy_file.is_some() || !config.seccomp_string.is_empty();
        if filtered {
            report.note(
                "disable_no_new_privs",
                "true, without effect",
                "a system call filter forces no_new_privs on",
                "leave it out",
            );
        } else {
            report.open(
                "disable_no_new_privs",
                "true",
                "a set-user-ID program in a bound directory gives its owner's rights to the guest",
                "leave it out",
            );
        }
    }
    for (field, set, why) in [
        ("persona_addr_no_randomize", config.persona_addr_no_randomize(), "addresses can be foretold"),
        ("persona_read_implies_exec", config.persona_read_implies_exec(), "data can be executed"),
        ("persona_mmap_page_zero", config.persona_mmap_page_zero(), "a null pointer can be used"),
        ("persona_addr_compat_layout", config.persona_addr_compat_layout(), "addresses are less random"),
        ("persona_addr_limit_3gb", config.persona_addr_limit_3gb(), "addresses are less random"),
    ] {
        if set {
            report.weak(
                field,
                "true",
                &format!("{why}, which makes bugs of the program usable"),
                "leave it out",
            );
        }
    }
}

fn environment(config: &NsJailConfig, report: &mut Report<'_>) {
    if config.keep_env() {
        report.open(
            "keep_env",
            "true",
            "tokens, passwords and the names of agent sockets in the caller's environment come along",
            "leave it out, and name what is needed with envar",
        );
    }
    for (index, entry) in config.envar.iter().enumerate().filter(|(_, entry)| !entry.contains('=')) {
        let field = format!("envar[{index}]");
        let words = ["TOKEN", "SECRET", "PASSW", "KEY", "CREDENTIAL", "AUTH", "AWS_", "DOCKER_"];
        if words.iter().any(|word| entry.to_ascii_uppercase().contains(word)) {
            report.weak(
                &field,
                entry.clone(),
                "its value is taken from the caller, and by its name it is a secret",
                "hand secrets in as files or not at all",
            );
        } else {
            report.note(
                &field,
                entry.clone(),
                "its value is taken from the caller, so the jail differs from host to host",
                "write NAME=value",
            );
        }
    }
}

fn limits(config: &NsJailConfig, report: &mut Report<'_>) {
    if config.disable_rl() {
        report.weak(
            "disable_rl",
            "true",
            "the program has the caller's limits, whatever they are",
            "set limits",
        );
    } else {
        for (field, unset, what, why) in [
            (
                "rlimit_fsize",
                config.rlimit_fsize.is_none() && config.rlimit_fsize_type.is_none(),
                "unset, so 1 MiB",
                "every file that grows beyond it ends the program with SIGXFSZ; image layers do",
            ),
            (
                "rlimit_nofile",
                config.rlimit_nofile.is_none() && config.rlimit_nofile_type.is_none(),
                "unset, so 32",
                "a build client or a language runtime has more files and sockets open",
            ),
            (
                "rlimit_as",
                config.rlimit_as.is_none() && config.rlimit_as_type.is_none(),
                "unset, so 4 GiB",
                "runtimes reserve more address space than they use, and fail at the start",
            ),
            (
                "rlimit_cpu",
                config.rlimit_cpu.is_none() && config.rlimit_cpu_type.is_none(),
                "unset, so 600 s",
                "a long build is killed in its middle",
            ),
        ] {
            if unset {
                report.note(field, what, why, &format!("{field}_type: HARD, or a number that you mean"));
            }
        }
        if config.clone_newuser() {
            for (field, kind) in limit_kinds(config) {
                if kind == RLimit::Inf {
                    report.note(
                        field,
                        "INF",
                        "a process in a user namespace cannot raise a finite hard limit, so the jail does not start where there is one",
                        &format!("{field}: HARD"),
                    );
                }
            }
        }
    }
    let memory = config.cgroup_mem_max() > 0;
    let address_space = !config.disable_rl() && config.rlimit_as_type() == RLimit::Value;
    if !memory && !address_space {
        report.weak(
            "cgroup_mem_max",
            "unset, and rlimit_as is no number",
            "nothing keeps the program from using up the host's memory",
            "cgroup_mem_max where control groups can be had, else a number for rlimit_as",
        );
    }
    let processes =
        !config.disable_rl() && config.rlimit_nproc.is_some() && config.rlimit_nproc_type() == RLimit::Value;
    if config.cgroup_pids_max() == 0 && !processes {
        report.weak(
            "cgroup_pids_max",
            "unset, and rlimit_nproc is no number",
            "a fork bomb inside is one outside",
            "cgroup_pids_max where control groups can be had, else rlimit_nproc with rlimit_nproc_type: VALUE",
        );
    }
}

fn limit_kinds(config: &NsJailConfig) -> [(&'static str, RLimit); 10] {
    [
        ("rlimit_as_type", config.rlimit_as_type()),
        ("rlimit_core_type", config.rlimit_core_type()),
        ("rlimit_cpu_type", config.rlimit_cpu_type()),
        ("rlimit_fsize_type", config.rlimit_fsize_type()),
        ("rlimit_nofile_type", config.rlimit_nofile_type()),
        ("rlimit_nproc_type", config.rlimit_nproc_type()),
        ("rlimit_stack_type", config.rlimit_stack_type()),
        ("rlimit_memlock_type", config.rlimit_memlock_type()),
        ("rlimit_rtprio_type", config.rlimit_rtprio_type()),
        ("rlimit_msgqueue_type", config.rlimit_msgqueue_type()),
    ]
}
