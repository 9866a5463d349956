//! The policy's fields about the process: supervision, namespaces, privileges, filter. One table of what ktl does
//! not leave to a policy for a build client, with the reason that the user reads. What holds for every program as well
//! ([`program`](super::program)) stands in functions of its own.

use super::{Correction, JailError};
use crate::proto::{Mode, NsJailConfig};

pub(super) fn settle(
    config: &mut NsJailConfig,
    no_network: bool,
    corrections: &mut Vec<Correction>,
) -> Result<(), JailError> {
    refuse(config)?;
    settle_mode(config, corrections);
    let mut correct = |field: &str, was: &str, now: &str, why: &str| {
        corrections.push(Correction::new(field, was, now, why));
    };
    for (field, value, why) in [
        (
            "clone_newuser",
            &mut config.clone_newuser,
            "the guest's id would be the caller's, with all it may do",
        ),
        (
            "clone_newns",
            &mut config.clone_newns,
            "nsjail would ignore every mount and leave the host's files in sight",
        ),
        ("clone_newpid", &mut config.clone_newpid, "the guest could signal and inspect host processes"),
        (
            "clone_newipc",
            &mut config.clone_newipc,
            "the guest could reach the host's System V IPC and message queues",
        ),
        ("clone_newuts", &mut config.clone_newuts, "the host's name would show"),
        ("clone_newcgroup", &mut config.clone_newcgroup, "the host's control groups would show"),
    ] {
        if *value == Some(false) {
            correct(field, "false", "true", why);
            *value = Some(true);
        }
    }
    for (field, value, why) in [
        ("keep_env", &mut config.keep_env, "the environment is an allow-list"),
        ("keep_caps", &mut config.keep_caps, "the guest needs no capability"),
        (
            "disable_no_new_privs",
            &mut config.disable_no_new_privs,
            "the guest may not gain privileges by exec",
        ),
        ("no_pivotroot", &mut config.no_pivotroot, NO_PIVOTROOT),
        ("skip_setsid", &mut config.skip_setsid, "the guest could type into the caller's terminal"),
        ("forward_signals", &mut config.forward_signals, FORWARD_SIGNALS),
        ("disable_tsc", &mut config.disable_tsc, "the guest's clock reads the counter"),
        ("silent", &mut config.silent, "the guest prints the build's progress"),
        ("stderr_to_null", &mut config.stderr_to_null, "the guest prints the build's progress"),
        ("seccomp_unotify", &mut config.seccomp_unotify, "it only records, and slows the start"),
        ("clone_newtime", &mut config.clone_newtime, "nsjail supports it in EXECVE mode only"),
        (
            "persona_addr_compat_layout",
            &mut config.persona_addr_compat_layout,
            "it weakens address randomisation",
        ),
        ("persona_mmap_page_zero", &mut config.persona_mmap_page_zero, "it makes null pointers usable"),
        ("persona_read_implies_exec", &mut config.persona_read_implies_exec, "it makes data executable"),
        ("persona_addr_limit_3gb", &mut config.persona_addr_limit_3gb, "it weakens address randomisation"),
        (
            "persona_addr_no_randomize",
            &mut config.persona_addr_no_randomize,
            "it turns address randomisation off",
        ),
    ] {
        if *value == Some(true) {
            correct(field, "true", "false", why);
        }
        *value = None;
    }
    if !config.cap.is_empty() {
        let was = config.cap.join(" ");
        correct("cap", &was, "none", "the guest needs no capability");
        config.cap.clear();
    }
    if !config.pass_fd.is_empty() {
        correct("pass_fd", "a list", "ktl's own", "only the plan, the connection and the broker are passed");
        config.pass_fd.clear();
    }
    if let Some(exe) = config.exec_bin.take() {
        correct("exec_bin", &exe.path, "ktl's own program", "the jail is for the build client");
    }
    config.seccomp_unotify_report = None;
    config.time_limit.get_or_insert(0);
    config.nice_level.get_or_insert(0);

    // Names without a value would take nsjail's own environment, which is empty.
    let bare: Vec<String> = config.envar.extract_if(.., |entry| !entry.contains('=')).collect();
    if !bare.is_empty() {
        correct("envar", &bare.join(" "), "left out", "host values do not enter; write NAME=value");
    }
    settle_reports(config, corrections);
    settle_seccomp(config, corrections)?;
    if no_network {
        settle_no_network(config, corrections);
    }
    Ok(())
}

/// Why a field is always off.
pub(super) const NO_PIVOTROOT: &str = "the host's root would stay mounted behind the guest's";
pub(super) const FORWARD_SIGNALS: &str = "nsjail hangs on a guest without handlers; ktl stops it by itself";

pub(super) fn settle_mode(config: &mut NsJailConfig, corrections: &mut Vec<Correction>) {
    if config.mode() == Mode::Execve {
        let why =
            "without a supervisor the guest stays in the host's process namespace, and root cannot start it";
        corrections.push(Correction::new("mode", "EXECVE", "ONCE", why));
    }
    config.mode = Some(Mode::Once.into());
}

/// The log, and what belongs to modes that no jail has.
pub(super) fn settle_reports(config: &mut NsJailConfig, corrections: &mut Vec<Correction>) {
    if config.log_fd.take().is_some() | config.log_file.take().is_some() {
        let why = "the log tells a jail failure from a build failure";
        corrections.push(Correction::new("log_fd, log_file", "set", "a pipe to ktl", why));
    }
    config.log_level = None;
    (config.port, config.bindhost) = (None, None);
    (config.max_conns, config.max_conns_per_ip) = (None, None);
}

pub(super) fn refuse(config: &NsJailConfig) -> Result<(), JailError> {
    let refused = |field: &'static str, why: &'static str| Err(JailError::refused(field, why));
    match config.mode() {
        Mode::Listen => {
            return refused("mode", "LISTEN starts a jail per network connection; ktl's are run ONCE");
        }
        Mode::Rerun => return refused("mode", "RERUN starts over for ever; ktl's jails are run ONCE"),
        Mode::Once | Mode::Execve => {}
    }
    if config.daemon() {
        return refused("daemon", "a jail in the background cannot be supervised");
    }
    if config.hostname().len() > 64 {
        return refused("hostname", "is longer than the kernel's 64 bytes");
    }
    Ok(())
}

pub(super) fn settle_seccomp(
    config: &mut NsJailConfig,
    corrections: &mut Vec<Correction>,
) -> Result<(), JailError> {
    let filled = config.seccomp_string.iter().any(|line| !line.trim().is_empty());
    if let Some(file) = config.seccomp_policy_file.take().filter(|file| !file.is_empty()) {
        if filled {
            return Err(JailError::refused(
                "seccomp_policy_file",
                "stands beside seccomp_string; nsjail takes one",
            ));
        }
        if !file.starts_with('/') {
            return Err(JailError::refused("seccomp_policy_file", "is not an absolute path"));
        }
        // Read here: nsjail would open it after the host's tree was covered.
        let text = super::read_bounded(file.as_ref()).map_err(|source| JailError::Source {
            field: "seccomp_policy_file".to_owned(),
            path: file.into(),
            source,
        })?;
        let text =
            String::from_utf8(text).map_err(|_| JailError::refused("seccomp_policy_file", "is not UTF-8"))?;
        config.seccomp_string = vec![text];
    } else if !filled && !config.disable_no_new_privs() {
        corrections.push(Correction::new(
            "seccomp_string",
            "unset",
            "DEFAULT ALLOW",
            "a filter shuts out system calls of other ABIs and cannot be taken off again",
        ));
        config.seccomp_string = vec!["DEFAULT ALLOW".to_owned()];
    }
    Ok(())
}

pub(super) fn settle_no_network(config: &mut NsJailConfig, corrections: &mut Vec<Correction>) {
    let mut correct = |field: &str, was: &str, now: &str| {
        corrections.push(Correction::new(
            field,
            was,
            now,
            "the guest needs none: its connection to the builder is handed in",
        ));
    };
    if !config.clone_newnet() {
        correct("clone_newnet", "false", "true");
    }
    config.clone_newnet = Some(true);
    if config.user_net.take().is_some() {
        correct("user_net", "set", "none");
    }
    if config.macvlan_iface.take().is_some_and(|name| !name.is_empty()) {
        correct("macvlan_iface", "set", "none");
    }
    if !std::mem::take(&mut config.iface_own).is_empty() {
        correct("iface_own", "set", "none");
    }
    config.traffic_rule.clear();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Policy;

    fn settled(text: &str, no_network: bool) -> Result<(NsJailConfig, Vec<Correction>), JailError> {
        let mut config = Policy::parse("p", text.as_bytes()).unwrap().into_config();
        let mut corrections = Vec::new();
        settle(&mut config, no_network, &mut corrections)?;
        Ok((config, corrections))
    }

    #[test]
    fn corrects_what_a_policy_may_not_decide() {
        let filter = "seccomp_string: \"DEFAULT ALLOW\"";
        for (text, fields) in [
            ("", "seccomp_string"),
            ("mode: EXECVE", "mode seccomp_string"),
            ("clone_newpid: false clone_newuser: false", "clone_newuser clone_newpid seccomp_string"),
            ("keep_env: true keep_caps: true cap: \"CAP_CHOWN\"", "keep_env keep_caps cap seccomp_string"),
            ("exec_bin { path: \"/bin/sh\" } pass_fd: 3", "pass_fd exec_bin seccomp_string"),
            ("envar: \"HOME\" envar: \"LANG=C\"", "envar seccomp_string"),
            ("log_fd: 2 log_level: DEBUG", "log_fd, log_file seccomp_string"),
            ("persona_addr_no_randomize: true", "persona_addr_no_randomize seccomp_string"),
        ] {
            let (config, corrections) = settled(&format!("#\n{text}"), false).unwrap();
            let got: Vec<&str> = corrections.iter().map(|c| c.field.as_str()).collect();
            assert_eq!(got.join(" "), fields, "{text}");
            assert_eq!(config.mode(), Mode::Once);
            assert!(config.clone_newuser() && config.clone_newpid() && !config.keep_env());
            assert!(config.cap.is_empty() && config.exec_bin.is_none());
        }
        assert!(settled(filter, false).unwrap().1.is_empty());
    }

    #[test]
    fn refuses_what_cannot_be_corrected() {
        for (text, field) in [
            ("mode: LISTEN", "mode"),
            ("mode: RERUN", "mode"),
            ("daemon: true", "daemon"),
            ("seccomp_policy_file: \"x\"", "seccomp_policy_file"),
            ("seccomp_policy_file: \"/x\" seccomp_string: \"DEFAULT ALLOW\"", "seccomp_policy_file"),
            ("seccomp_policy_file: \"/nonexistent/x\"", "seccomp_policy_file"),
        ] {
            match settled(text, false).unwrap_err() {
                JailError::Refused { field: got, .. } | JailError::Source { field: got, .. } => {
                    assert_eq!(got, field, "{text}");
                }
                other => panic!("{text}: {other}"),
            }
        }
        let long = format!("hostname: \"{}\"", "x".repeat(65));
        assert!(settled(&long, false).is_err());
    }

    #[test]
    fn no_network_wins_over_the_policy() {
        let text = "clone_newnet: false user_net {} macvlan_iface: \"e\" iface_own: \"x\" seccomp_string: \"DEFAULT ALLOW\"";
        let (config, corrections) = settled(text, true).unwrap();
        assert!(config.clone_newnet() && config.user_net.is_none() && config.iface_own.is_empty());
        assert_eq!(corrections.len(), 4);
        assert!(!settled(text, false).unwrap().0.clone_newnet());
    }
}
