//! What can be asked for from inside a jail, and how it is written on a command line.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One question about the world that a process sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Probe {
    /// An absolute path: is there anything?
    Path(PathBuf),
    /// Can a connection be made?
    Tcp { host: String, port: u16 },
    /// Does a unix socket answer? `@NAME` is an abstract one, which no mount can hide.
    Unix(String),
    /// Is a capability in any of the five sets? Without the `CAP_` prefix, upper case.
    Cap(String),
    /// Is a variable in the environment?
    Env(String),
}

/// The kernel's capabilities by bit number, capabilities(7).
pub(crate) const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

impl Probe {
    /// `path`, `tcp`, `unix`, `cap` or `env`.
    pub fn kind(&self) -> &'static str {
        match self {
            Probe::Path(_) => "path",
            Probe::Tcp { .. } => "tcp",
            Probe::Unix(_) => "unix",
            Probe::Cap(_) => "cap",
            Probe::Env(_) => "env",
        }
    }
}

impl FromStr for Probe {
    type Err = String;

    /// Reads `PATH|HOST:PORT|unix:SOCKET|cap:NAME|env:NAME`. A path is absolute, so the forms cannot be confused.
    fn from_str(text: &str) -> Result<Probe, String> {
        let wrong = |why: String| {
            Err(format!("{why}; targets are PATH, HOST:PORT, unix:SOCKET, cap:NAME or env:NAME"))
        };
        if text.contains('\0') {
            return wrong("a target holds no NUL byte".to_owned());
        }
        if text.starts_with('/') {
            return Ok(Probe::Path(text.into()));
        }
        if let Some(socket) = text.strip_prefix("unix:") {
            let socket = if socket.starts_with("///") { &socket[2..] } else { socket };
            return match socket.as_bytes() {
                [b'/', _, ..] | [b'@', _, ..] => Ok(Probe::Unix(socket.to_owned())),
                _ => wrong(format!("`{text}` needs an absolute path, or @NAME for an abstract socket")),
            };
        }
        if let Some(name) = text.strip_prefix("cap:") {
            let upper = name.to_ascii_uppercase();
            let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
            return if CAPABILITIES.contains(&bare) {
                Ok(Probe::Cap(bare.to_owned()))
            } else {
                wrong(format!("there is no capability `{name}`"))
            };
        }
        if let Some(name) = text.strip_prefix("env:") {
            return if name.is_empty() || name.contains('=') {
                wrong(format!("`{name}` cannot be a variable"))
            } else {
                Ok(Probe::Env(name.to_owned()))
            };
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return wrong(format!("`{text}` is no absolute path"));
        };
        let Ok(port) = port.parse::<u16>() else {
            return wrong(format!("`{port}` in `{text}` is no port number"));
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() || port == 0 || host.contains(['/', '@', ' ', '[', ']']) {
            return wrong(format!("`{text}` is not of the form HOST:PORT"));
        }
        Ok(Probe::Tcp { host: host.to_owned(), port })
    }
}

impl fmt::Display for Probe {
    /// As [`Probe::from_str`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Probe::Path(path) => write!(f, "{}", path.display()),
            Probe::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Probe::Tcp { host, port } => write!(f, "{host}:{port}"),
            Probe::Unix(socket) => write!(f, "unix:{socket}"),
            Probe::Cap(name) => write!(f, "cap:{name}"),
            Probe::Env(name) => write!(f, "env:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_and_written() {
        for (text, kind, written) in [
            ("/etc/shadow", "path", "/etc/shadow"),
            ("/a:80", "path", "/a:80"),
            ("10.0.0.1:80", "tcp", "10.0.0.1:80"),
            ("[::1]:80", "tcp", "[::1]:80"),
            ("::1:80", "tcp", "[::1]:80"),
            ("localhost:1", "tcp", "localhost:1"),
            ("unix:/run/docker.sock", "unix", "unix:/run/docker.sock"),
            ("unix:///run/docker.sock", "unix", "unix:/run/docker.sock"),
            ("unix:@name", "unix", "unix:@name"),
            ("cap:sys_admin", "cap", "cap:SYS_ADMIN"),
            ("cap:CAP_BPF", "cap", "cap:BPF"),
            ("env:HOME", "env", "env:HOME"),
        ] {
            let probe: Probe = text.parse().unwrap();
            assert_eq!((probe.kind(), probe.to_string().as_str()), (kind, written), "{text}");
            assert_eq!(probe.to_string().parse::<Probe>().unwrap(), probe, "{text}");
        }
        for (text, part) in [
            ("", "no absolute path"),
            ("etc/shadow", "no absolute path"),
            ("host:http", "no port number"),
            ("host:0", "HOST:PORT"),
            (":1", "HOST:PORT"),
            ("http://h:1", "HOST:PORT"),
            ("unix:run.sock", "absolute path"),
            ("unix:", "absolute path"),
            ("cap:ALL", "no capability"),
            ("env:A=1", "variable"),
            ("env:", "variable"),
        ] {
            let error = text.parse::<Probe>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
