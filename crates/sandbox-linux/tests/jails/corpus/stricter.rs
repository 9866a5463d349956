//! Where native shows less than nsjail, and why.

/// A difference that is meant: policy (`*` for each), probe, the key's beginning, what nsjail and what native shows, and why
/// native is stricter.
pub struct Stricter {
    pub policy: &'static str,
    pub probe: u8,
    pub key: &'static str,
    pub nsjail: &'static str,
    pub native: &'static str,
    pub why: &'static str,
}

const fn stricter(
    policy: &'static str,
    probe: u8,
    key: &'static str,
    nsjail: &'static str,
    native: &'static str,
    why: &'static str,
) -> Stricter {
    Stricter { policy, probe, key, nsjail, native, why }
}

pub const STRICTER: &[Stricter] = &[
    stricter(
        "*",
        9,
        "is the first process",
        "true",
        "false",
        "native has an init, so that signals act on the program as anywhere and nothing is left unreaped",
    ),
    stricter("*", 9, "environment of the first process", "yes", "errno 13", INIT),
    stricter("*", 9, "root of the first process", "yes", "errno 13", INIT),
    stricter("*", 3, "/proc/1/root/etc/shadow", "hidden", "unreachable (permission denied)", INIT),
    stricter(
        "*",
        23,
        "call x32",
        "errno 38",
        "signal 31",
        "a list of refused calls does not name them by their x32 numbers, so native lets none of those through",
    ),
    stricter(
        "*",
        28,
        "call user namespace",
        "returns 0",
        "errno 28",
        "a nested user namespace gives every capability to attack the kernel with; the namespace's own limit is 0",
    ),
    stricter(
        "*",
        17,
        "the host's abstract socket",
        "yes",
        "errno 1",
        "Landlock keeps the host's abstract sockets out of reach where a policy shares its network",
    ),
    stricter(
        "devices.cfg",
        4,
        "/dev/zero",
        "yes",
        "errno 13",
        "read-only: the mount alone does not stop a write to a device, Landlock does",
    ),
];

/// Root stages what it binds, with these flags for either runtime.
pub const OF_A_USER: &[Stricter] = &[
    stricter("*", 2, "* nosuid", "no", "yes", HOST_FILES),
    stricter("*", 2, "* nodev", "no", "yes", HOST_FILES),
];

/// Where the caller's session has a keyring, which not every host gives it.
pub const WITH_A_SESSION: &[Stricter] = &[stricter(
    "*",
    27,
    "the caller's session keyring",
    "in sight",
    "hidden",
    "a session's keys may be credentials; native joins a keyring of its own",
)];

const HOST_FILES: &str = "set-user-ID programs and device nodes of the host are of no use inside";
const INIT: &str = "nothing of native's init can be looked into";

impl Stricter {
    pub fn fits(&self, policy: &str, key: &str, nsjail: &str, native: &str) -> bool {
        let (probe, rest) = key.split_once(' ').unwrap_or_default();
        let like = |pattern: &str, text: &str| match pattern.strip_prefix('*') {
            Some(end) => text.ends_with(end),
            None => text == pattern,
        };
        (self.policy == "*" || self.policy == policy)
            && probe == self.probe.to_string()
            && like(self.key, rest)
            && like(self.nsjail, nsjail)
            && like(self.native, native)
    }
}
