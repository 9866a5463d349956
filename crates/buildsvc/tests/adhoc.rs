#[path = "engine/fixture.rs"]
#[allow(dead_code)]
mod fixture;
use buildsvc::session::{Output, Sink};
use fixture::*;
use std::io::Read;
use std::time::Instant;
use xtask::parts::Options;

fn rss() -> String {
    std::fs::read_to_string("/proc/self/status")
        .unwrap()
        .lines()
        .filter(|l| l.starts_with("VmHWM") || l.starts_with("VmRSS"))
        .collect::<Vec<_>>()
        .join(" ")
}
fn cpu() -> f64 {
    let s = std::fs::read_to_string("/proc/self/stat").unwrap();
    let f: Vec<&str> = s.rsplit(')').next().unwrap().split_whitespace().collect();
    (f[11].parse::<f64>().unwrap() + f[12].parse::<f64>().unwrap()) / 100.0
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_pipe() {
    let engine = Engine::shared();
    let context = engine.context("slow", "FROM scratch\nCOPY big /\n", &[]);
    std::process::Command::new("dd")
        .args(["if=/dev/urandom", "bs=1M", "count=300"])
        .arg(format!("of={}", context.join("big").display()))
        .status()
        .unwrap();
    let (mut r, w) = std::os::unix::net::UnixStream::pair().unwrap();
    let file = std::fs::File::from(std::os::fd::OwnedFd::from(w));
    let reader = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_secs(50));
        let mut n = 0usize;
        let mut b = vec![0; 1 << 20];
        loop {
            let k = r.read(&mut b).unwrap();
            if k == 0 {
                return n;
            }
            n += k;
        }
    });
    let t = Instant::now();
    let rep = Job::new(&context)
        .output(export("tar", &[]), Some(Output { path: "p".into(), sink: Sink::File(file) }))
        .run(&engine.client().await)
        .await;
    println!("slow pipe: {:?} {:?} bytes {} {}", rep.end.is_ok(), t.elapsed(), reader.join().unwrap(), rss());
    rep.result();
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_time() {
    let engine = Engine::start("killed", &Options::default());
    let context = engine.context("killed", &format!("{BUSYBOX}RUN echo ready; sleep 1000\n"), &[]);
    let client = engine.client().await;
    let mut at = None;
    let report = Job::new(&context)
        .run_watched(&client, |event| {
            if prints(event, "ready") {
                engine.daemon.kill().unwrap();
                at = Some(Instant::now());
            }
        })
        .await;
    println!("lost after {:?}: {:?}", at.unwrap().elapsed(), report.end);
    let mut engine = Engine::start("stopped", &Options::default());
    let context = engine.context("killed", &format!("{BUSYBOX}RUN echo ready; sleep 1000\n"), &[]);
    let client = engine.client().await;
    let mut at = None;
    let d = &mut engine.daemon;
    let report = Job::new(&context)
        .run_watched(&client, |event| {
            if prints(event, "ready") {
                at = Some(Instant::now());
                tokio::task::block_in_place(|| d.stop());
            }
        })
        .await;
    println!("stopped, lost after {:?}: {:?}", at.unwrap().elapsed(), report.end);
}

#[tokio::test(flavor = "multi_thread")]
async fn big() {
    let engine = Engine::shared();
    let context = engine.context("bigctx", "FROM scratch\nCOPY big /\n", &[]);
    std::process::Command::new("dd")
        .args(["if=/dev/urandom", "bs=1M", "count=1000"])
        .arg(format!("of={}", context.join("big").display()))
        .status()
        .unwrap();
    std::process::Command::new("sync").status().unwrap();
    let client = engine.client().await;
    let (t, c) = (Instant::now(), cpu());
    Job::new(&context).run(&client).await.result();
    println!("context 1 GB: {:?} cpu {:.2} {}", t.elapsed(), cpu() - c, rss());
    let out = engine.scratch.join("big.tar");
    let (t, c) = (Instant::now(), cpu());
    Job::new(&context).output(export("tar", &[]), file_output(&out)).run(&client).await.result();
    println!("tar 1 GB: {:?} cpu {:.2} {}", t.elapsed(), cpu() - c, rss());
    let out = engine.scratch.join("big.out");
    let (t, c) = (Instant::now(), cpu());
    Job::new(&context).output(export("local", &[]), directory_output(&out)).run(&client).await.result();
    println!("local 1 GB: {:?} cpu {:.2} {}", t.elapsed(), cpu() - c, rss());
    // buildctl
    std::process::Command::new("dd")
        .args(["if=/dev/urandom", "bs=1M", "count=1000"])
        .arg(format!("of={}", context.join("big").display()))
        .status()
        .unwrap();
    let bc = |extra: &[&str]| {
        let mut c = std::process::Command::new("/usr/bin/time");
        let d = engine.daemon.buildctl().unwrap();
        c.args(["-f", "%e s wall %U+%S cpu %M KB"])
            .arg(d.get_program())
            .args(d.get_args())
            .args(["build", "--progress", "quiet", "--frontend", "dockerfile.v0", "--local"])
            .arg(format!("context={}", context.display()))
            .arg("--local")
            .arg(format!("dockerfile={}", context.display()))
            .args(extra);
        let o = c.output();
        println!("buildctl: {:?}", o.map(|o| String::from_utf8_lossy(&o.stderr).into_owned()));
    };
    bc(&[]);
    bc(&["-o", "type=tar,dest=/var/tmp/adhoc.tar"]);
    bc(&["-o", "type=local,dest=/var/tmp/adhoc.out"]);
    let _ = std::fs::remove_dir_all("/var/tmp/adhoc.out");
    let _ = std::fs::remove_file("/var/tmp/adhoc.tar");
}

#[tokio::test(flavor = "multi_thread")]
async fn many() {
    let engine = Engine::shared();
    let context = engine.context("manyctx", "FROM scratch\nCOPY . /\n", &[]);
    for d in 0..500 { let p = context.join(format!("d{d}")); std::fs::create_dir(&p).unwrap(); for f in 0..100 { std::fs::write(p.join(format!("f{f}")), format!("{d} {f} ").repeat(500)).unwrap(); } }
    let client = engine.client().await;
    for what in ["cold", "noop", "noop2"] {
        let (t, c) = (Instant::now(), cpu());
        Job::new(&context).run(&client).await.result();
        println!("ktl 50k {what}: {:?} cpu {:.2} {}", t.elapsed(), cpu() - c, rss());
    }
    let out = engine.scratch.join("many.out");
    let (t, c) = (Instant::now(), cpu());
    Job::new(&context).output(export("local", &[]), directory_output(&out)).run(&client).await.result();
    println!("ktl local 50k: {:?} cpu {:.2} {}", t.elapsed(), cpu() - c, rss());
    let bc = |extra: &[&str]| {
        let mut c = std::process::Command::new("/usr/bin/time"); let d = engine.daemon.buildctl().unwrap();
        c.args(["-f", "%e s wall %U+%S cpu %M KB"]).arg(d.get_program()).args(d.get_args()).args(["build", "--progress", "quiet", "--frontend", "dockerfile.v0", "--local"]).arg(format!("context={}", context.display())).arg("--local").arg(format!("dockerfile={}", context.display())).args(extra);
        let o = c.output(); println!("buildctl: {:?}", o.map(|o| String::from_utf8_lossy(&o.stderr).into_owned()));
    };
    bc(&[]); bc(&[]); bc(&["-o", "type=local,dest=/var/tmp/adhoc.out"]);
    let _ = std::fs::remove_dir_all("/var/tmp/adhoc.out");
}

#[tokio::test(flavor = "multi_thread")]
async fn small() {
    let engine = Engine::shared();
    let context = engine.context("smallctx", &format!("{BUSYBOX}RUN true\n"), &[]);
    let client = engine.client().await;
    for _ in 0..5 {
        let (t, c) = (Instant::now(), cpu());
        Job::new(&context).run(&client).await.result();
        println!("ktl small: {:?} cpu {:.2} {}", t.elapsed(), cpu() - c, rss());
    }
    let bc = |extra: &[&str]| {
        let mut c = std::process::Command::new("/usr/bin/time"); let d = engine.daemon.buildctl().unwrap();
        c.args(["-f", "%e s wall %U+%S cpu %M KB"]).arg(d.get_program()).args(d.get_args()).args(["build", "--progress", "quiet", "--frontend", "dockerfile.v0", "--local"]).arg(format!("context={}", context.display())).arg("--local").arg(format!("dockerfile={}", context.display())).args(extra);
        let o = c.output(); println!("buildctl: {:?}", o.map(|o| String::from_utf8_lossy(&o.stderr).into_owned()));
    };
    bc(&[]); bc(&[]);
}
