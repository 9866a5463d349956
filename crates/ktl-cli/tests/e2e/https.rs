//! Steps that speak TLS: the builder's proxy ends it with a certificate of its own authority, and asks about each URL, path and
//! all.

use xtask::parts::{Buildkitd, Options, ScratchDir, certificates};

use crate::egress::{claim, hex};
use crate::host_tools::bring;
use crate::ktl::World;
use crate::mirror::{Mirror, files};
use crate::private::BUSYBOX;

const BUNDLE: &str = "etc/ssl/certs/ca-certificates.crt";

#[test]
fn paths_of_one_server_are_told_apart() {
    let scratch = ScratchDir::new("https").unwrap();
    certificates::make(&scratch.join("c")).unwrap();
    let authority = std::fs::read(scratch.join("c/ca.pem")).unwrap();
    let mirror =
        Mirror::secure(&scratch.join("c/server"), files(&[("/good/a", "it is a"), ("/secret", "s")]));
    let at = &mirror.address;
    // The proxy is a client of the mirror, and must know its authority.
    let trusted = ("SSL_CERT_FILE".to_owned(), scratch.join("c/ca.pem").display().to_string());
    let options = Options { environment: vec![trusted], ..Options::default() };
    let daemon = Buildkitd::start(&scratch.join("d"), &options).unwrap();

    let steps = format!(
        "fetch() {{ printf 'GET %s HTTP/1.1\\r\\nHost: {at}\\r\\nConnection: close\\r\\n\\r\\n' $1 | openssl s_client -quiet \
             -verify_return_error -verify_ip 127.0.0.1 -CAfile $2 -proxy ${{HTTPS_PROXY#http://}} -connect {at} 2>&1; }}\n\
         fetch /good/a /{BUNDLE} | grep -q 'it is a' && echo reached a\n\
         fetch /good/a /authority | grep -q 'verify error' && echo the mirror itself is not seen\n\
         fetch /secret /{BUNDLE} | grep -q '403 Forbidden' && echo secret not reached\n\
         fetch /good/../secret /{BUNDLE} | grep -q '403 Forbidden' && echo dots not reached\n"
    );
    let world = World::with_dockerfile(&format!("{BUSYBOX}COPY root steps /\nRUN sh /steps\n"));
    world.write("ctx/steps", steps);
    world.write("ctx/root/authority", &authority);
    world.write(&format!("ctx/root/{BUNDLE}"), &authority);
    bring(&world.path("ctx/root"), &[xtask::tools::openssl().unwrap()]);
    std::fs::copy(xtask::tools::busybox().unwrap(), world.path("ctx/busybox")).unwrap();
    let rule = format!("https://{at}/good");
    let builder = daemon.address();
    let args = ["--builder", &builder, "--egress", &rule, "--report", "r", "-o", "out", "--progress=plain"];
    let ran = world.build(&args).ok().says("reached a").says("the mirror itself is not seen");
    ran.says("secret not reached")
        .says("dots not reached")
        .says(&format!("[egress] denied https://{at}/secret by"));
    assert!(mirror.was_asked("/good/a") && !mirror.was_asked("/secret"));

    let report: serde_json::Value = serde_json::from_str(&world.read("r")).unwrap();
    assert_eq!(claim(&report, "RUN reaches only the list")["state"], "held", "{report}");
    let requests = report["egress"]["requests"].as_array().unwrap();
    let of = |path: &str| {
        let url = format!("https://{at}{path}");
        requests.iter().find(|line| line["url"] == *url).unwrap_or_else(|| panic!("no {url}: {report}"))
    };
    let allowed = of("/good/a");
    assert_eq!((&allowed["verdict"], &allowed["status"]), (&"allowed".into(), &200.into()), "{report}");
    assert_eq!(allowed["sha256"], hex(b"it is a"));
    assert!(allowed["step"].as_str().unwrap().contains("RUN sh /steps"), "{report}");
    assert_eq!(of("/secret")["verdict"], "denied");
    assert!(of("/secret")["step"].as_str().unwrap().contains("RUN sh /steps"), "{report}");
    // The builder's authority was in the image for the step alone.
    assert_eq!(std::fs::read(world.path(format!("out/{BUNDLE}"))).unwrap(), authority);
}
