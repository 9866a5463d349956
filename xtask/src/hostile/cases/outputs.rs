//! Results that do harm where they are written.

use crate::hostile::case::{Case, End, Output, over};
use crate::hostile::delivery::{Delivery, dir, file, symlink};
use crate::hostile::visit::{Visit, mode};
use crate::hostile::wire::fsutil::types::Stat;

const fn local(name: &'static str, about: &'static str, script: crate::hostile::case::Script) -> Case {
    // Some of it is taken as it is harmless once it is beneath the destination.
    Case::new(name, about, script).output(Output::Local).ends(&[0, 1])
}

pub const CASES: &[Case] = &[
    local("outputs/dot-dot", "delivers files whose names lead out", |visit| {
        let names = ["../escaped", "../outside/victim", "a/../../escaped", "..", "./../escaped", "sub/.."];
        Box::pin(each(visit, names.iter().map(|name| vec![file(name)]).collect()))
    }),
    local("outputs/absolute", "delivers files with absolute names", |visit| {
        let victim = visit.ground.path("outside/victim").display().to_string();
        let lists = vec![vec![file(&victim)], vec![file("/escaped")], vec![file(&format!("//{victim}"))]];
        Box::pin(each(visit, lists))
    }),
    local(
        "outputs/symlink-then-write",
        "delivers a symlink that leads out, then writes through it",
        |visit| {
            let lists = vec![
                vec![symlink("a", "../outside"), file("a/victim")],
                vec![symlink("b", "../outside/victim"), file("b")],
                // Each stream by itself is in order.
                vec![symlink("c", "../outside")],
                vec![dir("c"), file("c/victim")],
                vec![symlink("d", "../outside/victim")],
                vec![file("d")],
                vec![dir("e"), symlink("e/f", "../../outside")],
                vec![dir("e"), dir("e/f"), file("e/f/victim")],
            ];
            Box::pin(each(visit, lists))
        },
    ),
    local("outputs/hard-link-out", "delivers hard links to files outside", |visit| {
        let victim = visit.ground.path("outside/victim").display().to_string();
        let link = |target: &str| Stat { linkname: target.to_owned().into(), ..file("link") };
        let targets = ["../outside/victim", &victim, "a", "", ".", "link"];
        Box::pin(each(
            visit,
            targets.iter().map(|target| vec![symlink("a", "../outside/victim"), link(target)]).collect(),
        ))
    }),
    local("outputs/devices", "delivers devices", |visit| {
        let device = |name: &str, kind, major, minor| Stat {
            mode: kind | 0o666,
            devmajor: major,
            devminor: minor,
            ..file(name)
        };
        let lists = vec![
            vec![device("null", mode::DEVICE | mode::CHAR_DEVICE, 1, 3)],
            vec![device("disk", mode::DEVICE, 7, 0)],
            vec![device("whiteout", mode::DEVICE | mode::CHAR_DEVICE, 0, 0)],
        ];
        Box::pin(each(visit, lists))
    }),
    local("outputs/setuid", "delivers programs that run as their owner", |visit| {
        let program = |name: &str, bits| Stat { mode: bits | 0o755, ..file(name) };
        let lists = vec![vec![program("setgid", 1 << 22), program("setuid", mode::SETUID)]];
        Box::pin(each(visit, lists))
    }),
    local("outputs/foreign-owner", "delivers files of somebody else", |visit| {
        Box::pin(each(visit, vec![vec![Stat { uid: 12345, gid: 54321, ..file("theirs") }]]))
    }),
    local("outputs/wrong-order", "delivers files out of order, twice, and beneath files", |visit| {
        let lists = vec![
            vec![file("b"), file("a")],
            vec![file("a"), file("a")],
            vec![file("a"), file("a/b")],
            vec![file("no/parent")],
            vec![dir("d"), file("e"), file("d/late")],
        ];
        Box::pin(each(visit, lists))
    }),
    local("outputs/odd-names", "delivers names that are none", |visit| {
        let long = "n".repeat(5000);
        let names = ["", ".", "a//b", "a/", "a\0b", &long, "a/./b"];
        Box::pin(each(visit, names.iter().map(|name| vec![file(name)]).collect()))
    }),
    local("outputs/odd-modes", "delivers entries of several kinds at once", |visit| {
        let odd = |bits: u32| vec![Stat { mode: bits, linkname: "../outside/victim".into(), ..file("odd") }];
        let kinds = [mode::DIR | mode::SYMLINK, mode::SYMLINK | mode::DEVICE, 1 << 24, 1 << 19, u32::MAX];
        Box::pin(each(visit, kinds.map(odd).to_vec()))
    }),
    local("outputs/content-unasked", "sends contents that were not requested", |visit| {
        Box::pin(unasked_content(visit))
    }),
    local("outputs/unasked-exporter", "delivers for exporters that the build does not have", |visit| {
        Box::pin(unasked_exporter(visit))
    }),
    Case::new("outputs/no-output", "delivers to a build that has no output", |visit| {
        Box::pin(no_output(visit))
    }),
    local("outputs/tar-for-directory", "delivers an archive where a directory was asked for", |visit| {
        Box::pin(tar_for_directory(visit))
    }),
    Case::new("outputs/twice", "delivers an archive twice", |visit| Box::pin(twice(visit)))
        .output(Output::Tar)
        .ends(&[0, 1]),
    local("outputs/late", "delivers after the build's end", |visit| Box::pin(late(visit))),
    local("outputs/endless-list", "lists a million files with long names", |visit| {
        Box::pin(endless_list(visit))
    }),
    local("outputs/many-attributes", "lists files with extended attributes without end", |visit| {
        Box::pin(many_attributes(visit))
    }),
    local("outputs/many-streams", "delivers 300 times at once", |visit| Box::pin(many_streams(visit))),
];

/// One good delivery, then each list in a delivery of its own.
async fn each(visit: Visit, lists: Vec<Vec<Stat>>) -> End {
    honest(&visit).await;
    for list in lists {
        deliver(&visit, None, &list).await;
    }
    Ok(Default::default())
}

async fn honest(visit: &Visit) {
    if deliver(visit, None, &[file("honest.txt")]).await {
        visit.record().honest();
    }
}

/// Whether the client took it to the end.
async fn deliver(visit: &Visit, exporter: Option<&str>, list: &[Stat]) -> bool {
    let mut delivery = Delivery::open(visit, exporter).await;
    for entry in list {
        delivery.entry(entry.clone()).await;
    }
    match delivery.finish(b"written by a hostile daemon\n").await {
        Ok(()) => true,
        Err(status) => {
            visit.record().told(format!("{:?}: {}", status.code(), status.message()));
            false
        }
    }
}

async fn unasked_content(visit: Visit) -> End {
    honest(&visit).await;
    for id in [0, 1, u32::MAX] {
        let mut delivery = Delivery::open(&visit, None).await;
        delivery.entry(symlink("a", "../outside/victim")).await;
        for _ in 0..1000 {
            delivery.data(id, &[b'x'; 1024]).await;
        }
        let _ = delivery.finish(b"").await;
    }
    Ok(Default::default())
}

async fn unasked_exporter(visit: Visit) -> End {
    honest(&visit).await;
    for id in ["1", "99", "18446744073709551615", "4294967296"] {
        if deliver(&visit, Some(id), &[file("CANARY-unasked")]).await {
            visit.record().leak(format!("took a result of exporter {id}"));
        }
    }
    Ok(Default::default())
}

async fn no_output(visit: Visit) -> End {
    if deliver(&visit, Some("0"), &[file("CANARY-unasked")]).await {
        visit.record().leak("took a result that was not asked for");
    }
    visit.honest().await;
    over()
}

async fn tar_for_directory(visit: Visit) -> End {
    honest(&visit).await;
    let mut delivery = Delivery::open(&visit, None).await;
    // A `BytesMessage`: field 1 as bytes, where a packet has a number.
    delivery.bytes(&[b"\x0a\x80\x04"[..].to_vec(), vec![b'x'; 512]].concat()).await;
    let _ = delivery.finish(b"").await;
    Ok(Default::default())
}

async fn twice(visit: Visit) -> End {
    for round in 0..2 {
        let mut delivery = Delivery::open(&visit, None).await;
        delivery.bytes(&[b"\x0a\x80\x08"[..].to_vec(), vec![b'0' + round; 1024]].concat()).await;
        match delivery.close().await {
            Ok(()) if round == 0 => visit.record().honest(),
            Ok(()) => visit.record().leak("took the archive twice"),
            Err(status) => visit.record().told(status.message()),
        }
    }
    Ok(Default::default())
}

async fn late(visit: Visit) -> End {
    honest(&visit).await;
    tokio::spawn(async move {
        for number in 0..100 {
            deliver(&visit, None, &[file(&format!("late{number}"))]).await;
        }
    });
    Ok(Default::default())
}

async fn endless_list(visit: Visit) -> End {
    honest(&visit).await;
    let mut delivery = Delivery::open(&visit, None).await;
    let tail = "n".repeat(240);
    for number in 0..1_000_000 {
        if !delivery.entry(file(&format!("{number:08}{tail}"))).await {
            break;
        }
    }
    delivery.abandon();
    Ok(Default::default())
}

async fn many_attributes(visit: Visit) -> End {
    use crate::hostile::wire::fsutil::types::Xattr;
    honest(&visit).await;
    let mut delivery = Delivery::open(&visit, None).await;
    let xattr = Xattr { key: "user.flood".into(), value: vec![b'x'; 60 << 10].into() };
    for number in 0..10_000 {
        let entry = Stat { xattrs: vec![xattr.clone(); 4], ..file(&format!("{number:08}")) };
        if !delivery.entry(entry).await {
            break;
        }
    }
    delivery.abandon();
    Ok(Default::default())
}

async fn many_streams(visit: Visit) -> End {
    honest(&visit).await;
    let mut deliveries = Vec::new();
    for number in 0..300 {
        let mut delivery = Delivery::open(&visit, None).await;
        delivery.entry(file(&format!("f{number:04}"))).await;
        deliveries.push(delivery);
    }
    for delivery in deliveries {
        let _ = delivery.finish(b"x").await;
    }
    Ok(Default::default())
}
