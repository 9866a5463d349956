//! Policies for any program, taken at their word: what the two runtimes make of each field, as the program finds it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use sandbox_linux::{Caller, Jail, Outcome, Overrides, Policy, Runtime, Tenant};

use crate::rig::{Rig, bind, is_root, role};

mod daemon;
mod filters;
mod terminal;

/// Writes down what a policy decides, one `key: value` on a line.
const LOOK: &str = r#"
b=/ktl-bin/busybox; p=/proc/$$
streams="$($b stat -L -c %t:%T $p/fd/0 $p/fd/1 $p/fd/2)"
{
  for s in $streams; do case $s in 1:3) n="$n null";; *) n="$n inherited";; esac; done
  echo "streams:$n"
  $b grep -E '^(Cap|NoNewPrivs|Seccomp|Uid|Gid|Groups)' $p/status
  for f in uid_map gid_map; do echo "$f: $($b sed 's/  */ /g' $p/$f | $b tr '\n' ,)"; done
  echo "setgroups: $($b cat $p/setgroups)"
  echo "personality: $($b cat $p/personality)"
  for k in user mnt pid ipc uts cgroup net time; do echo "ns $k: $($b readlink $p/ns/$k)"; done
  set -- $($b cat $p/stat)
  [ $5 = $$ ] && echo "group: own" || echo "group: $5"
  [ $6 = $$ ] && echo "session: own" || echo "session: $6"
  echo "nice: ${19}"
  $b sed -n 's/^\(Max [a-z -]*[a-z]\)  */\1: /p' $p/limits
  $b tr '\0' '\n' < $p/environ | $b sed 's/^/env /;s/=/: /'
  echo "host name: $($b hostname)"
  echo "program: $($b tr '\0' ' ' < $p/cmdline | $b head -n1)"
  echo "devices: $($b ls /dev 2>/dev/null | $b wc -l)"
  $b unshare -U $b true 2>/dev/null && echo "nesting: yes" || echo "nesting: no"
  $b mount -t tmpfs none /tmp 2>/dev/null && echo "mounting: yes" || echo "mounting: no"
  (echo 99 > /proc/sys/user/max_ipc_namespaces) 2>/dev/null && echo "settings: yes" || echo "settings: no"
  echo "interfaces: $($b grep -c : /proc/net/dev)"
} >&10 2>&1
"#;

type Facts = BTreeMap<String, String>;

/// What may differ: native closes nested user namespaces where no capability is kept.
const STRICTER: &str = "nesting";

fn overrides(rig: &Rig) -> Overrides {
    let host = [("HOST_A", "from the host"), ("HOST_B", "b=c"), ("LAST", "host")];
    Overrides {
        tenant: Tenant::Program,
        host_env: host.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        ..rig.overrides()
    }
}

fn jail(rig: &Rig, text: &str) -> Jail {
    let policy = Policy::parse("p", format!("#\n{text} {TMP}").as_bytes()).unwrap();
    rig.jail(policy, overrides(rig))
}

/// A place to mount on, and one for what nobody wants to hear.
const TMP: &str = "mount { dst: \"/tmp\" fstype: \"tmpfs\" rw: true } \
                   mount { src: \"/dev/null\" dst: \"/dev/null\" is_bind: true rw: true }";

fn facts(rig: &Rig, text: &str) -> Facts {
    let run = rig.shell(&jail(rig, text), LOOK);
    assert_eq!(run.outcome, Outcome::Exited(0), "{} {text}: {run:#?}", rig.runtime);
    let host = |kind: &str| fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
    let line = |line: &str| {
        let (key, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.trim().to_owned();
        match key.strip_prefix("ns ") {
            Some(kind) if Path::new(&value) == host(kind) => (key.to_owned(), "host".to_owned()),
            Some(_) => (key.to_owned(), "own".to_owned()),
            None => (key.to_owned(), value),
        }
    };
    run.report.lines().map(line).collect()
}

/// The policy in each runtime: the same facts, those that are named among them, and a proof that agrees.
fn check(rigs: &[Rig], text: &str, wants: &[(&str, &str)], proof: &str) {
    let all: Vec<Facts> = rigs.iter().map(|rig| facts(rig, text)).collect();
    for (rig, facts) in rigs.iter().zip(&all) {
        for (key, want) in wants {
            let found = facts.get(*key).map(String::as_str);
            assert_eq!(found, Some(*want), "{} {text}: {key}: {facts:#?}", rig.runtime);
        }
        for (key, value) in facts {
            let other = all[0].get(key);
            assert!(other == Some(value) || key == STRICTER, "{text}: {key}: {other:?} and {value:?}");
        }
        let run = rig.guest(&jail(rig, text));
        assert_eq!(run.outcome, Outcome::Exited(0), "{} {text}: {run:#?}", rig.runtime);
        assert!(run.report.contains(proof), "{} {text}: {}", rig.runtime, run.report);
    }
}

const ALL: &str = "000001ffffffffff";
const NONE: &str = "0000000000000000";

fn caps(value: &str) -> [(&str, &str); 5] {
    ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(|set| (set, value))
}

#[test]
fn capabilities_are_in_the_same_five_sets() {
    let rigs = Rig::each();
    let some = "cap: \"CAP_NET_RAW\" cap: \"CAP_SYS_ADMIN\"";
    let root = "uidmap { inside_id: \"0\" } gidmap { inside_id: \"0\" }";
    let kernel = Caller::current().unwrap().capabilities;
    let all = format!("{kernel:016x}");
    assert!(all.as_str() >= ALL);
    check(&rigs, "#", &caps(NONE), "no capability, no new privileges, system call filter on");
    check(&rigs, root, &caps(NONE), "no capability");
    for ids in ["", root] {
        let proof = "all capabilities of its user namespace, no new privileges";
        check(&rigs, &format!("keep_caps: true {ids}"), &caps(&all), proof);
        check(
            &rigs,
            &format!("{some} {ids}"),
            &caps("0000000000202000"),
            "capabilities: NET_RAW SYS_ADMIN, ",
        );
    }
    for rig in rigs.iter().filter(|rig| rig.runtime == Runtime::Native) {
        // Init has no filter, so not even capabilities let the program into it.
        let script = "b=/ktl-bin/busybox; $b cat /proc/1/maps >&10 2>/dev/null; $b ls /proc/1/fd >&10 2>/dev/null; echo shut >&10";
        assert_eq!(rig.shell(&jail(rig, "keep_caps: true"), script).report, "shut\n");
        for (text, nesting) in [("#", "no"), ("cap: \"CAP_CHOWN\"", "yes")] {
            assert_eq!(facts(rig, text)["nesting"], nesting, "{text}");
        }
    }
}

#[test]
fn privileges_by_exec_stay_where_no_filter_is_asked_for() {
    let rigs = Rig::each();
    let none = [("NoNewPrivs", "0"), ("Seccomp", "0")];
    check(&rigs, "disable_no_new_privs: true", &none, "new privileges by exec, no system call filter");
    let on = [("NoNewPrivs", "1"), ("Seccomp", "2")];
    let both = "disable_no_new_privs: true seccomp_string: \"DEFAULT ALLOW\"";
    check(&rigs, both, &on, "no new privileges, system call filter on");
}

#[test]
fn the_process_starts_as_the_policy_says() {
    let rigs = Rig::each();
    let proof = "no capability";
    let stream = |fd: u8| match fs::read_link(format!("/proc/self/fd/{fd}")) {
        Ok(path) if path == Path::new("/dev/null") => "null",
        _ => "inherited",
    };
    let streams = [0, 1, 2].map(stream).join(" ");
    let no_stderr = format!("{} {} null", stream(0), stream(1));
    for (text, wants) in [
        ("#", vec![("nice", "19"), ("streams", streams.as_str()), ("session", "own")]),
        ("nice_level: 7", vec![("nice", "7")]),
        ("persona_addr_no_randomize: true", vec![("personality", "00040000")]),
        (
            "persona_addr_compat_layout: true persona_addr_limit_3gb: true persona_read_implies_exec: true \
             persona_mmap_page_zero: true",
            // An exec takes read_implies_exec away from a program whose file asks for no executable stack.
            vec![("personality", "08300000")],
        ),
        ("silent: true", vec![("streams", "null null null")]),
        ("stderr_to_null: true", vec![("streams", no_stderr.as_str())]),
        ("skip_setsid: true", vec![("session", "0"), ("group", "0")]),
        ("clone_newtime: true", vec![("ns time", "own")]),
        ("hostname: \"here\"", vec![("host name", "here"), ("ns time", "host")]),
        (
            "#",
            vec![
                ("Max cpu time", "600                  600                  seconds"),
                ("Max open files", "32                   32                   files"),
                ("Max file size", "1048576              1048576              bytes"),
                ("Max address space", "4294967296           4294967296           bytes"),
                ("Max core file size", "0                    0                    bytes"),
            ],
        ),
        ("rlimit_core: 2", vec![("Max core file size", "2097152              2097152              bytes")]),
        ("disable_rl: true", vec![]),
    ] {
        check(&rigs, text, &wants, proof);
    }
}

#[test]
fn host_values_enter_where_the_policy_asks() {
    let rigs = Rig::each();
    let one = "envar: \"HOST_A\" envar: \"NOT_SET\" envar: \"LAST=own\"";
    check(&rigs, one, &[("env HOST_A", "from the host"), ("env LAST", "own")], "no capability");
    let all = [("env HOST_A", "from the host"), ("env HOST_B", "b=c"), ("env LAST", "last")];
    check(&rigs, "keep_env: true envar: \"LAST=own\" envar: \"LAST=last\"", &all, "no capability");
    for rig in &rigs {
        let found = facts(rig, one);
        assert!(!found.contains_key("env HOST_B") && !found.contains_key("env NOT_SET"), "{found:#?}");
    }
}

#[test]
fn namespaces_are_shared_where_the_policy_says() {
    let rigs = Rig::each();
    for (kind, more) in
        [("pid", "; warning: processes may outlive"), ("ipc", ""), ("uts", ""), ("cgroup", "")]
    {
        let key = format!("ns {kind}");
        let text = format!("clone_new{kind}: false");
        check(&rigs, &text, &[(&key, "host"), ("ns user", "own"), ("ns net", "own")], more);
        check(&rigs, &text, &[], &format!("; the host's: {kind}; "));
    }
    check(&rigs, "clone_newnet: false", &[("ns net", "host")], "; the host's: net; ");
}

/// Without a process namespace nothing but the program is sure to end.
#[test]
fn the_clock_ends_a_program_of_the_hosts_processes() {
    for rig in Rig::each() {
        let jail = jail(&rig, "clone_newpid: false time_limit: 1");
        let run = rig.shell(&jail, "echo up >&10; exec /ktl-bin/busybox sleep 1000");
        // The report ends when nobody holds it any more.
        assert_eq!((run.outcome, run.report.as_str()), (Outcome::Signaled(9), "up\n"), "{}", rig.runtime);
    }
}

#[test]
fn the_policys_own_program_runs_by_its_name_and_descriptor() {
    for rig in Rig::each() {
        for (by_fd, path) in
            [(false, "/ktl-bin/busybox".to_owned()), (true, rig.path("busybox").display().to_string())]
        {
            let text = format!(
                "exec_bin {{ path: {path:?} arg0: \"sh\" arg: \"-c\" arg: \"echo ran $0 $1 >&10\" arg: \"a\" arg: \"b\" exec_fd: {by_fd} }}"
            );
            let jail = jail(&rig, &text);
            let named = jail.exec_bin().unwrap().clone();
            let args: Vec<&str> = named.args.iter().map(String::as_str).collect();
            let run = rig.run(&jail, named.path.to_str().unwrap(), &args);
            assert_eq!(
                (run.outcome.clone(), run.report.as_str()),
                (Outcome::Exited(0), "ran a b\n"),
                "{run:#?}"
            );
            // Another program is run all the same.
            let other = rig.run(&jail_of_both(&rig, &text), "/ktl-bin/guest", &["--list"]);
            assert_eq!(other.outcome, Outcome::Exited(0), "{other:#?}");
        }
    }
}

fn jail_of_both(rig: &Rig, text: &str) -> Jail {
    jail(rig, &format!("silent: true {text}"))
}

#[test]
fn the_counter_can_be_forbidden() {
    if !cfg!(target_arch = "x86_64") {
        return;
    }
    let counter = fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    if counter.is_ok_and(|source| source.trim() != "tsc") {
        eprintln!("skipped: the clock does not read the counter");
        return;
    }
    // This program, which times its tests.
    let ends: Vec<[Outcome; 2]> = Rig::each()
        .iter()
        .map(|rig| {
            ["", "disable_tsc: true"]
                .map(|text| rig.run(&jail(rig, text), "/ktl-bin/guest", &["none"]).outcome)
        })
        .collect();
    assert!(ends.iter().all(|end| *end == [Outcome::Exited(0), Outcome::Signaled(11)]), "{ends:?}");
}

#[test]
fn sockets_enter_by_explicit_binds_only() {
    for rig in Rig::each() {
        let socket = rig.path("docker.sock");
        let _listener = UnixListener::bind(&socket).unwrap();
        let dir = rig.dir.path();
        let text = format!(
            "mount {{ src: {socket:?} dst: \"/policy.sock\" is_bind: true }} \
             mount {{ src: {dir:?} dst: \"/policy.dir\" is_bind: true }} {TMP}"
        );
        let mut overrides = overrides(&rig);
        overrides.binds.push(bind(&socket, "/own.sock"));
        let jail = rig.jail(Policy::parse("p", text.as_bytes()).unwrap(), overrides);
        let run = rig.shell(&jail, "b=/ktl-bin/busybox; $b ls -d /policy* /own.sock >&10 2>/dev/null; [ -S /own.sock ] && echo socket >&10");
        assert_eq!(run.report, "/own.sock\nsocket\n", "{run:#?}");
        let left: Vec<&str> = jail.corrections().iter().map(|c| c.now.as_str()).collect();
        assert_eq!(left.iter().filter(|now| **now == "left out").count(), 2, "{:?}", jail.corrections());
    }
}

#[test]
fn dev_stays_as_written() {
    let dev = "mount { src: \"/dev\" dst: \"/dev\" is_bind: true rw: true }";
    let rigs = Rig::each();
    check(&rigs, dev, &[], "no capability");
    for rig in &rigs {
        assert!(facts(rig, dev)["devices"].parse::<u32>().unwrap() > 10);
        let run =
            rig.shell(&jail(rig, dev), "/ktl-bin/busybox head -c3 /dev/zero | /ktl-bin/busybox wc -c >&10");
        assert_eq!(run.report, "3\n", "{run:#?}");
    }
}

#[test]
fn without_a_user_namespace_the_id_is_another_and_nobody_gains() {
    if !is_root() {
        return eprintln!("skipped: this takes root");
    }
    let rigs = Rig::each();
    let ids = "uidmap { inside_id: \"1879048193\" } gidmap { inside_id: \"1879048194\" }";
    let wants = [
        ("ns user", "host"),
        ("Uid", "1879048193\t1879048193\t1879048193\t1879048193"),
        ("Groups", ""),
        ("settings", "no"),
    ];
    check(&rigs, &format!("clone_newuser: false {ids}"), &wants, "; the host's: user; ");
    check(&rigs, "clone_newuser: false", &caps(NONE), "no capability, no new privileges");
    for rig in &rigs {
        let found = facts(rig, "clone_newuser: false");
        assert!(!found["Uid"].split('\t').any(|id| id == "0"), "{found:#?}");
    }
    // The host's setting is nobody's to write.
    assert_ne!(fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap().trim(), "0");
}

/// Called for the plain user by its suite.
#[test]
fn a_users_jails_are_the_same() {
    if role().is_some_and(|role| role == "plain writer") {
        capabilities_are_in_the_same_five_sets();
        privileges_by_exec_stay_where_no_filter_is_asked_for();
        the_process_starts_as_the_policy_says();
        host_values_enter_where_the_policy_asks();
        namespaces_are_shared_where_the_policy_says();
        the_policys_own_program_runs_by_its_name_and_descriptor();
        sockets_enter_by_explicit_binds_only();
        dev_stays_as_written();
        return;
    }
    if !is_root() {
        return;
    }
    let Some(rig) = Rig::with(Runtime::Native) else { return };
    let status = Command::new("setpriv")
        .args(["--reuid", "54321", "--regid", "54321", "--clear-groups"])
        .arg(rig.path("guest"))
        .args(["--exact", "written::a_users_jails_are_the_same", "--nocapture"])
        .env("KTL_TEST_ROLE", "plain writer")
        .current_dir("/")
        .status();
    match status {
        Ok(status) => assert!(status.success(), "{status}"),
        Err(error) => eprintln!("skipped: setpriv: {error}"),
    }
}
