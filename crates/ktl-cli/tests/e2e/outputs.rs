//! Where a builder's files may land, how much of them, and whether they are what the builder says.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::ktl::{World, names};

const FILES: &str = "FROM scratch\nCOPY . /\n";

#[test]
fn places_that_matter_want_a_word() {
    let world = World::with_dockerfile(FILES);
    for (output, said) in [
        ("home", "is your home directory"),
        ("home/.config/app", "is among the settings of your home directory"),
        ("type=tar,dest=home/.bashrc", "is among the settings of your home directory"),
        ("/", "is the root directory"),
    ] {
        world.build(&["-o", output]).ends_with(2).says(said).says("--output-force");
    }
    assert!(names(&world.path("home")).iter().all(|name| name.starts_with(".cache")));
    world.build(&["-o", "home/.config/app", "--output-force"]).ok();
    assert!(world.path("home/.config/app/Dockerfile").exists());
    world.build(&["-o", "home/out"]).ok();
}

#[test]
fn deleting_needs_a_mark_of_ktls_own() {
    let world = World::with_dockerfile(FILES);
    world.write("mine/precious", "precious");
    let refused = world.build(&["-o", "type=local,dest=mine,mode=delete"]).ends_with(2);
    refused.says("which ktl did not put there");
    world.write("ctx/old", "");
    world.build(&["-o", "type=local,dest=out,mode=delete"]).ok();
    fs::remove_file(world.path("ctx/old")).unwrap();
    world.write("ctx/new", "");
    world.build(&["-o", "type=local,dest=out,mode=delete"]).ok();
    assert_eq!(names(&world.path("out")), [".ktl-mirror", "Dockerfile", "new"]);
    assert_eq!(world.read("mine/precious"), "precious");
}

#[test]
fn an_output_has_a_size_and_ordinary_modes() {
    let world = World::with_dockerfile(FILES);
    // Nothing that a layer's compression could make small.
    let noise = |n: u32| (n.wrapping_mul(2_654_435_761).rotate_left(n % 31) >> 11) as u8;
    world.write("ctx/big", (0..300_000).map(noise).collect::<Vec<u8>>());
    let su = world.write("ctx/su", "x");
    fs::set_permissions(&su, fs::Permissions::from_mode(0o4755)).unwrap();
    for output in ["out", "type=tar,dest=out.tar", "type=oci,dest=oci.tar"] {
        let ran = world.build(&["-o", output, "--output-limit", "100k"]).ends_with(1);
        ran.says("is larger than the 102400 bytes").says("--output-limit");
    }
    assert!(["out", "out.tar", "oci.tar"].iter().all(|name| !world.path(name).exists()));
    world.build(&["-o", "out", "--output-limit", "1m"]).ok().says("1 files of the output have lost");
    world.build(&["-o", "as-it-is", "--output-privileged"]).ok().says_not("have lost");
    let mode = |name: &str| fs::metadata(world.path(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("out/su"), mode("as-it-is/su")), (0o755, 0o4755));
}

#[test]
fn image_archives_are_what_the_builder_says() {
    let world = World::with_dockerfile("FROM BUSYBOX\nCOPY . /ctx\n");
    for args in [
        &["-o", "type=oci,dest=a.tar"][..],
        &["-o", "type=docker,dest=b.tar"],
        &["-o", "type=oci,dest=c.tar", "--provenance=mode=max"],
        &["-o", "type=oci,dest=d.tar", "-o", "type=docker,dest=e.tar", "-o", "out"],
        &["-o", "type=oci,dest=f.tar,compression=zstd,oci-mediatypes=true"],
        &["-o", "type=oci,dest=g.tar", "--platform", "linux/amd64,linux/arm64"],
    ] {
        world.build(args).ok();
    }
}
