//! The policy's fields about the process when the jail is for any program: what the policy says is done, as nsjail
//! would do it. Corrected or refused is only what leaves the host open by the way nsjail does it.
//!
//! Of the privileges: capabilities count in the jail's user namespace only, so without one there are none; there, too, a
//! set-user-ID program of the host would be root on the host. A policy that says nothing about system calls gets
//! `DEFAULT ALLOW`, which takes new privileges away as well; one that wants to keep these (`disable_no_new_privs`) has
//! no filter, as in nsjail.

use std::path::PathBuf;

use super::process::{self, FORWARD_SIGNALS, NO_PIVOTROOT};
use super::{Correction, JailError, Overrides};
use crate::caller::Caller;
use crate::probe::CAPABILITIES;
use crate::proto::NsJailConfig;

/// The program that a policy names. A command with this path is started as the policy says: by this name for itself, and by
/// descriptor where it says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecBin {
    /// Path inside the jail; with `by_fd`, on the host.
    pub path: PathBuf,
    /// Arguments after the name.
    pub args: Vec<String>,
    /// What the program is told as its name; `None` for the path.
    pub arg0: Option<String>,
    /// The file is opened on the host and executed by its descriptor, so that it need not be seen inside.
    pub by_fd: bool,
}

/// What the settled policy comes to.
#[derive(Debug)]
pub(super) struct Settled {
    pub exec_bin: Option<ExecBin>,
    /// What each capability set holds.
    pub capabilities: u64,
    pub no_new_privs: bool,
    pub filters: u32,
}

impl Settled {
    /// A build client's: no privileges.
    pub(super) fn client() -> Settled {
        Settled { exec_bin: None, capabilities: 0, no_new_privs: true, filters: 1 }
    }
}

pub(super) fn settle(
    config: &mut NsJailConfig,
    overrides: &Overrides,
    caller: &Caller,
    corrections: &mut Vec<Correction>,
) -> Result<Settled, JailError> {
    process::refuse(config)?;
    refuse(config, caller)?;
    process::settle_mode(config, corrections);
    for (field, value, why) in [
        ("no_pivotroot", &mut config.no_pivotroot, NO_PIVOTROOT),
        ("forward_signals", &mut config.forward_signals, FORWARD_SIGNALS),
    ] {
        if value.take() == Some(true) {
            corrections.push(Correction::new(field, "true", "false", why));
        }
    }
    if config.skip_setsid() {
        let why = "the program keeps the caller's terminal and may type into it (TIOCSTI)";
        corrections.push(Correction::new("skip_setsid", "true", "kept", why));
    }
    let unasked: Vec<String> = config
        .pass_fd
        .iter()
        .filter(|number| !overrides.pass_fds.contains(number))
        .map(ToString::to_string)
        .collect();
    if !unasked.is_empty() {
        let why = "whoever starts the jail has no such descriptor to pass";
        corrections.push(Correction::new("pass_fd", &unasked.join(" "), "left out", why));
    }
    process::settle_reports(config, corrections);
    if !config.clone_newuser() && config.disable_no_new_privs() {
        let why = "without a user namespace a set-user-ID program would be root on the host";
        corrections.push(Correction::new("disable_no_new_privs", "true", "false", why));
        config.disable_no_new_privs = None;
    }
    process::settle_seccomp(config, corrections)?;
    let filtered = !config.seccomp_string.is_empty() || config.seccomp_unotify();
    if filtered && config.disable_no_new_privs() {
        let why = "the kernel takes a filter only from a process without new privileges";
        corrections.push(Correction::new("disable_no_new_privs", "true", "false", why));
        config.disable_no_new_privs = None;
    }
    if overrides.no_network {
        process::settle_no_network(config, corrections);
    }
    let exec_bin = config.exec_bin.take().map(|exe| ExecBin {
        path: exe.path.clone().into(),
        by_fd: exe.exec_fd(),
        args: exe.arg,
        arg0: exe.arg0,
    });
    if exec_bin.as_ref().is_some_and(|exe| !exe.path.is_absolute()) {
        return Err(JailError::refused("exec_bin", "is not an absolute path, and nsjail searches no PATH"));
    }
    Ok(Settled {
        exec_bin,
        capabilities: settle_capabilities(config, caller, corrections)?,
        no_new_privs: !config.disable_no_new_privs(),
        filters: u32::from(!config.seccomp_string.is_empty()) + u32::from(config.seccomp_unotify()),
    })
}

fn refuse(config: &NsJailConfig, caller: &Caller) -> Result<(), JailError> {
    let refused = |field: &str, why: &str| Err(JailError::refused(field, why));
    if !config.clone_newns() {
        return refused(
            "clone_newns",
            "without an own mount namespace nsjail ignores every mount, and the host's files stay in sight",
        );
    }
    if config.clone_newuser() {
        return Ok(());
    }
    if !caller.is_root() {
        return refused("clone_newuser", "only root makes a jail without a user namespace");
    }
    for (asked, field) in [(config.keep_caps(), "keep_caps"), (!config.cap.is_empty(), "cap")] {
        if asked {
            return refused(field, "without a user namespace the capabilities would be the host's");
        }
    }
    if config.gidmap.len() > 1 {
        return refused(
            "gidmap",
            "without a user namespace the further entries would be supplementary groups of the host",
        );
    }
    Ok(())
}

/// Leaves names out that no kernel has, as nsjail does. The bits of the rest.
fn settle_capabilities(
    config: &mut NsJailConfig,
    caller: &Caller,
    corrections: &mut Vec<Correction>,
) -> Result<u64, JailError> {
    let mut unknown = Vec::new();
    let mut bits = 0_u64;
    config.cap.retain(|name| {
        let known = name.strip_prefix("CAP_").and_then(|n| CAPABILITIES.iter().position(|known| *known == n));
        match known {
            Some(number) => bits |= 1 << number,
            None => unknown.push(name.clone()),
        }
        known.is_some()
    });
    if !unknown.is_empty() {
        let why = "is no capability; names begin with CAP_";
        corrections.push(Correction::new("cap", &unknown.join(" "), "left out", why));
    }
    if bits & !caller.capabilities != 0 {
        return Err(JailError::refused("cap", "names a capability that this kernel does not have"));
    }
    Ok(if config.keep_caps() { caller.capabilities } else { bits })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Policy;
    use crate::jail::tests::caller;

    fn settled(text: &str, uid: u32) -> Result<(NsJailConfig, Settled, Vec<Correction>), JailError> {
        let mut config = Policy::parse("p", format!("#\n{text}").as_bytes()).unwrap().into_config();
        let mut corrections = Vec::new();
        let overrides = Overrides { pass_fds: vec![7], ..Overrides::default() };
        let settled = settle(&mut config, &overrides, &caller(uid), &mut corrections)?;
        Ok((config, settled, corrections))
    }

    #[test]
    fn the_policys_word_counts() {
        let text = "keep_env: true silent: true stderr_to_null: true skip_setsid: true disable_tsc: true \
            persona_addr_no_randomize: true clone_newtime: true clone_newpid: false clone_newipc: false \
            clone_newuts: false clone_newcgroup: false clone_newnet: false seccomp_string: \"DEFAULT ALLOW\" \
            seccomp_unotify: true pass_fd: 7";
        let (config, settled, corrections) = settled(text, 1001).unwrap();
        let shown: Vec<&str> = corrections.iter().map(|c| c.field.as_str()).collect();
        assert_eq!(shown, ["skip_setsid"], "kept, and said");
        assert!(config.keep_env() && config.silent() && config.stderr_to_null() && config.skip_setsid());
        assert!(config.disable_tsc() && config.persona_addr_no_randomize() && config.clone_newtime());
        assert!(!config.clone_newpid() && !config.clone_newipc() && !config.clone_newuts());
        assert!(!config.clone_newcgroup() && !config.clone_newnet());
        assert_eq!((config.time_limit(), config.nice_level()), (600, 19));
        assert_eq!((settled.capabilities, settled.no_new_privs, settled.filters), (0, true, 2));
    }

    #[test]
    fn corrects_what_opens_the_host() {
        for (text, uid, fields) in [
            ("", 1001, "seccomp_string"),
            ("mode: EXECVE no_pivotroot: true", 1001, "mode no_pivotroot seccomp_string"),
            ("forward_signals: true log_fd: 2", 1001, "forward_signals log_fd, log_file seccomp_string"),
            ("pass_fd: 5 pass_fd: 7", 1001, "pass_fd seccomp_string"),
            ("disable_no_new_privs: true", 1001, ""),
            ("disable_no_new_privs: true seccomp_string: \"DEFAULT ALLOW\"", 1001, "disable_no_new_privs"),
            ("disable_no_new_privs: true clone_newuser: false", 0, "disable_no_new_privs seccomp_string"),
            ("cap: \"CAP_CHOWN\" cap: \"CHOWN\" cap: \"CAP_X\"", 1001, "seccomp_string cap"),
        ] {
            let (_, settled, corrections) = settled(text, uid).unwrap();
            let got: Vec<&str> = corrections.iter().map(|c| c.field.as_str()).collect();
            assert_eq!(got.join(" "), fields, "{text}");
            assert_eq!(settled.no_new_privs, settled.filters > 0, "{text}");
        }
    }

    #[test]
    fn refuses_by_name() {
        for (text, uid, field) in [
            ("mode: LISTEN", 0, "mode"),
            ("mode: RERUN", 0, "mode"),
            ("daemon: true", 0, "daemon"),
            ("clone_newns: false", 0, "clone_newns"),
            ("clone_newuser: false", 1001, "clone_newuser"),
            ("clone_newuser: false keep_caps: true", 0, "keep_caps"),
            ("clone_newuser: false cap: \"CAP_KILL\"", 0, "cap"),
            ("clone_newuser: false gidmap {} gidmap {}", 0, "gidmap"),
            ("exec_bin { path: \"sh\" }", 0, "exec_bin"),
        ] {
            match settled(text, uid).unwrap_err() {
                JailError::Refused { field: got, .. } => assert_eq!(got, field, "{text}"),
                other => panic!("{text}: {other}"),
            }
        }
    }

    #[test]
    fn capabilities_are_bits() {
        for (text, bits) in [
            ("cap: \"CAP_CHOWN\" cap: \"CAP_SYS_ADMIN\" cap: \"CAP_CHOWN\"", 1 | 1 << 21),
            ("keep_caps: true cap: \"CAP_CHOWN\"", caller(0).capabilities),
        ] {
            assert_eq!(settled(text, 1001).unwrap().1.capabilities, bits);
        }
        let mut old = caller(1001);
        old.capabilities = 1;
        let mut config = Policy::parse("p", b"cap: \"CAP_BPF\"").unwrap().into_config();
        assert!(settle(&mut config, &Overrides::default(), &old, &mut Vec::new()).is_err());
    }

    #[test]
    fn the_named_program_is_told() {
        let (config, settled, _) =
            settled("exec_bin { path: \"/b\" arg: \"x\" arg0: \"n\" exec_fd: true }", 1001).unwrap();
        let want = ExecBin {
            path: "/b".into(),
            args: vec!["x".to_owned()],
            arg0: Some("n".to_owned()),
            by_fd: true,
        };
        assert_eq!((settled.exec_bin, config.exec_bin), (Some(want), None));
    }
}
