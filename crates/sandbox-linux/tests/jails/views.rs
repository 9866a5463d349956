//! One policy, two runtimes, one view: the guest writes down what it sees, and the lists are compared line by line.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::UdpSocket;
use std::os::unix::fs::MetadataExt as _;

use rustix::fs::{Access, AtFlags, CWD};
use sandbox_linux::{Bind, Builtin, Outcome, Policy, Runtime, take_fd};

use crate::rig::{PROMISES, REPORT, Rig, bind, nsjail};

/// Policies written for this comparison, each about one thing.
const SMALL: &[(&str, &str)] = &[
    ("silent", "#"),
    (
        "root",
        "mount { dst: \"/\" fstype: \"tmpfs\" rw: true options: \"size=3M,mode=0750\" nosuid: true nodev: true }",
    ),
    (
        "nested",
        "mount { dst: \"/a/b/c\" fstype: \"tmpfs\" options: \"size=1M\" } \
         mount { dst: \"/a/b/c/d/e\" fstype: \"tmpfs\" rw: true noexec: true options: \"size=64k,mode=700\" }",
    ),
    (
        "files",
        "mount { dst: \"/etc/motd\" src_content: \"read\\nme\" } \
         mount { dst: \"/etc/open\" src_content: \"write me\" rw: true noexec: true } \
         mount { dst: \"/etc/link\" src: \"motd\" is_symlink: true } \
         mount { dst: \"/deep/er/link\" src: \"/etc/motd\" is_symlink: true }",
    ),
    (
        "binds",
        "mount { src: \"/usr/share\" dst: \"/usr/share\" is_bind: true nosuid: true } \
         mount { src: \"/etc/passwd\" dst: \"/etc/passwd\" is_bind: true noexec: true nodev: true } \
         mount { src: \"/no/such\" dst: \"/none\" is_bind: true mandatory: false } \
         mount { dst: \"/optional/l\" src: \"x\" is_symlink: true mandatory: false }",
    ),
    (
        "masks",
        "mount { dst: \"/proc\" fstype: \"proc\" nosuid: true nodev: true noexec: true } \
         mount { src: \"/dev/null\" dst: \"/proc/cpuinfo\" is_bind: true } \
         mount { dst: \"/proc/sys\" fstype: \"tmpfs\" options: \"size=4k\" }",
    ),
    ("ids", "uidmap { inside_id: \"0\" } gidmap { inside_id: \"7\" }"),
    (
        "limits",
        "rlimit_as: 1000 rlimit_cpu: 100 rlimit_fsize: 5 rlimit_nofile: 50 rlimit_nproc_type: HARD \
         rlimit_stack: 4 rlimit_stack_type: VALUE rlimit_memlock: 32 rlimit_memlock_type: VALUE \
         rlimit_msgqueue: 1000 rlimit_msgqueue_type: VALUE",
    ),
    (
        "soft",
        "rlimit_as_type: SOFT rlimit_fsize_type: SOFT rlimit_nofile_type: SOFT rlimit_rtprio_type: HARD",
    ),
    ("place", "hostname: \"elsewhere\" cwd: \"/tmp/x\" mount { dst: \"/tmp/x\" fstype: \"tmpfs\" rw: true }"),
    ("environment", "envar: \"A=1\" envar: \"B=two words\" envar: \"A=3\" envar: \"EMPTY=\""),
    ("course", "nice_level: 5 max_cpus: 1"),
    ("network", "clone_newnet: false"),
    ("loopback", "iface_no_lo: false"),
    ("filter", "seccomp_string: \"ERRNO(13) { socket }\" seccomp_string: \"DEFAULT ALLOW\""),
];

/// Where native is meant to be stricter.
fn stricter(nsjail: &str, native: &str) -> bool {
    // Set-uid files and device nodes of the host are of no use inside: native never has them on a bind.
    let (Some(theirs), Some(ours)) = (nsjail.strip_prefix("mount "), native.strip_prefix("mount ")) else {
        return false;
    };
    ours.replace(" nosuid", "").replace(" nodev", "") == theirs.replace(" nosuid", "").replace(" nodev", "")
        && ours.contains(" host")
        && [" nosuid", " nodev"].iter().all(|flag| ours.contains(flag) || !theirs.contains(flag))
}

#[test]
fn both_runtimes_show_the_same() {
    compare();
}

/// Called for the plain user by its suite.
pub fn compare() {
    let Some(nsjail) = nsjail() else { return };
    let (Some(theirs), Some(ours)) = (Rig::with(Runtime::Nsjail(nsjail)), Rig::with(Runtime::Native)) else {
        return;
    };
    let builtin = Builtin::ALL.map(|which| (which.file_name(), which.text()));
    let mut differences = String::new();
    for (name, text) in builtin.iter().chain(SMALL) {
        let [theirs, ours] = [&theirs, &ours].map(|rig| view(rig, text));
        let lines = |view: &str| view.lines().map(str::to_owned).collect::<Vec<_>>();
        let (theirs, ours) = (lines(&theirs), lines(&ours));
        assert!(ours.len() > 40, "{name}: {ours:#?}");
        let keyed = |lines: &[String]| -> BTreeMap<String, String> {
            let key = |line: &String| line.split(": ").next().unwrap_or_default().to_owned();
            lines.iter().map(|line| (key(line), line.clone())).collect()
        };
        let (theirs, ours) = (keyed(&theirs), keyed(&ours));
        let keys: std::collections::BTreeSet<&String> = theirs.keys().chain(ours.keys()).collect();
        for key in keys {
            let none = "nothing".to_owned();
            let (a, b) = (theirs.get(key).unwrap_or(&none), ours.get(key).unwrap_or(&none));
            if a != b && !stricter(a, b) {
                writeln!(differences, "{name}:\n  nsjail {a}\n  native {b}").unwrap();
            }
        }
    }
    assert!(differences.is_empty(), "{differences}");
}

fn view(rig: &Rig, text: &str) -> String {
    let mut overrides = rig.overrides();
    // The rigs lie at different places on the host, and a bind shows where it comes from only by its flags.
    overrides.env[0].1 = "view".to_owned();
    overrides.pass_fds = vec![REPORT, PROMISES];
    overrides.cwd = "".into();
    let odd = Bind { rw: true, ..bind(rig.dir.path(), "/odd: \"name\"") };
    overrides.binds.push(odd);
    let jail = rig.jail(Policy::parse("p", text.as_bytes()).unwrap(), overrides);
    let run = rig.guest(&jail);
    assert_eq!(run.outcome, Outcome::Exited(0), "{text}: {run:#?}");
    run.report
}

/// The guest's half.
pub fn tell() {
    let mut report = fs::File::from(take_fd(REPORT).unwrap());
    report.write_all(look().as_bytes()).unwrap();
}

fn look() -> String {
    let mut out = String::new();
    let mut say = |key: &str, value: &str| writeln!(out, "{key}: {}", value.replace('\n', "\\n")).unwrap();
    let read = |path: &str| fs::read_to_string(path).unwrap_or_else(|error| error.to_string());
    // Of several mounts on one point the last is in sight.
    let mut points = Vec::new();
    for line in read("/proc/self/mountinfo").lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let after = fields.iter().position(|field| *field == "-").unwrap();
        let fstype = fields[after + 1];
        let point = fields[4];
        let flags: Vec<&str> = ["ro", "nosuid", "nodev", "noexec"]
            .into_iter()
            .filter(|f| fields[5].split(',').any(|o| o == *f))
            .collect();
        let from = if fields[3] == "/" { "" } else { " host" };
        say(
            &format!("mount {point}"),
            &format!("{fstype} {}{from}", flags.iter().map(|f| format!(" {f}")).collect::<String>()),
        );
        points.push(point.replace("\\040", " "));
    }
    points.sort();
    for point in &points {
        let Ok(found) = rustix::fs::statvfs(point) else { continue };
        say(&format!("size {point}"), &format!("{}", found.f_blocks * found.f_frsize));
        for dir in std::path::Path::new(point).ancestors().skip(1) {
            let dir = dir.to_str().unwrap();
            if let Ok(m) = fs::metadata(dir) {
                say(&format!("directory {dir}"), &format!("{:o} {} {}", m.mode(), m.uid(), m.gid()));
            }
        }
    }
    for path in [
        "/",
        "/tmp",
        "/proc",
        "/etc",
        "/dev",
        "/dev/null",
        "/dev/zero",
        "/etc/motd",
        "/etc/open",
        "/etc/link",
        "/deep/er/link",
        "/usr/share",
        "/etc/passwd",
        "/none",
        "/optional/l",
        "/a/b/c",
        "/a/b/c/d",
        "/a/b/c/d/e",
        "/proc/cpuinfo",
        "/proc/sys",
        "/odd: \"name\"",
        "/tmp/x",
        "/ktl-bin",
    ] {
        let found = match fs::symlink_metadata(path) {
            Ok(m) => {
                let writable = rustix::fs::accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS).is_ok();
                let link = fs::read_link(path).map(|to| to.display().to_string()).unwrap_or_default();
                format!("{:o} {} {} writable {writable} {link}", m.mode(), m.uid(), m.gid())
            }
            Err(error) => error.to_string(),
        };
        say(&format!("path {path}"), &found);
    }
    for file in ["/etc/motd", "/etc/open"] {
        say(&format!("content {file}"), &read(file));
    }
    for dir in ["/", "/etc", "/dev", "/odd: \"name\""] {
        let mut names: Vec<String> = fs::read_dir(dir)
            .map(|entries| entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect())
            .unwrap_or_default();
        names.sort();
        say(&format!("names in {dir}"), &names.join(" "));
    }
    // Of this thread: the harness's main one may be busy with starting it, all signals blocked.
    for line in read("/proc/thread-self/status").lines() {
        let name = line.split(':').next().unwrap_or_default();
        let kept = [
            "Uid",
            "Gid",
            "Groups",
            "NoNewPrivs",
            "Seccomp",
            "Seccomp_filters",
            "Cpus_allowed",
            "Umask",
            "SigBlk",
            "SigIgn",
        ];
        if kept.contains(&name) || name.starts_with("Cap") {
            // Which processor it is may vary, how many may not; and the harness ignores SIGPIPE itself.
            let value = line[name.len() + 1..].trim();
            let value = if name == "Cpus_allowed" { value.replace('2', "1") } else { value.to_owned() };
            say(&format!("status {name}"), &value);
        }
    }
    for line in read("/proc/self/limits").lines().skip(1) {
        let (name, values) = line.split_at(26.min(line.len()));
        say(&format!("limit {}", name.trim()), values.trim());
    }
    for file in ["uid_map", "gid_map", "setgroups", "oom_score_adj", "cgroup"] {
        say(file, read(&format!("/proc/self/{file}")).trim());
    }
    let stat = read("/proc/self/stat");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    // Process id, group and session are one; the terminal is none; nice is the sixteenth after the name.
    let own = std::process::id().to_string();
    say("leads its session", &format!("{} {}", fields[2] == own, fields[3] == own));
    say("terminal", fields[4]);
    say("nice", fields[16]);
    say("host name", &read("/proc/sys/kernel/hostname"));
    say("domain name", &read("/proc/sys/kernel/domainname"));
    say("working directory", &format!("{:?}", std::env::current_dir()));
    let environ = read("/proc/self/environ");
    let mut env: Vec<&str> = environ.split('\0').collect();
    env.sort_unstable();
    say("environment", &env.join(" "));
    say("arguments", &read("/proc/self/cmdline").replace('\0', " "));
    say("program", &format!("{:?}", fs::read_link("/proc/self/exe")));
    let mut fds: Vec<String> = fs::read_dir("/proc/self/fd")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    fds.sort();
    say("descriptors", &fds.join(" "));
    let interfaces = read("/proc/self/net/dev");
    let names: Vec<&str> = interfaces.lines().filter_map(|l| Some(l.split_once(':')?.0.trim())).collect();
    say("interfaces", &names.join(" "));
    let send = || UdpSocket::bind("127.0.0.1:0")?.send_to(b"x", "127.0.0.1:9");
    say("loopback", &format!("{:?}", send().map_err(|error| error.kind())));
    out
}
