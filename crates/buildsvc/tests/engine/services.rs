//! What the daemon asks of the host side: secrets, an ssh agent, registry credentials.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;

use xtask::parts::{Auth, Options, Registry, ScratchDir};

use crate::fixture::{BUSYBOX, Engine, Job, Memory, export};

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_given_or_are_not_there() {
    let engine = Engine::shared();
    let client = engine.client().await;
    let steps = |options: &str| {
        format!(
            "{BUSYBOX}RUN --mount=type=secret,id=token{options} \
             if [ -e /run/secrets/token ]; then tr a-z A-Z </run/secrets/token; else echo no secret; fi\n"
        )
    };
    let host =
        |secret: Vec<u8>| Memory { secrets: [("token".to_owned(), secret)].into(), ..Memory::default() };

    let context = engine.context("secret", &steps(",required=true"), &[]);
    let report = Job::new(&context).attr("no-cache", "").host(host(b"hidden".to_vec())).run(&client).await;
    report.result();
    assert!(report.log().contains("HIDDEN"));
    let without = Job::new(&context).attr("no-cache", "").run(&client).await;
    assert!(without.failure().message.contains("token"), "{}", without.failure().message);
    let too_large =
        Job::new(&context).attr("no-cache", "").host(host(vec![b'x'; 500 * 1024 + 1])).run(&client).await;
    assert!(too_large.failure().message.contains("larger than"), "{}", too_large.failure().message);

    let optional = engine.context("optional-secret", &steps(""), &[]);
    let other = Memory { secrets: [("other".to_owned(), Vec::new())].into(), ..Memory::default() };
    let report = Job::new(&optional).attr("no-cache", "").host(other).run(&client).await;
    report.result();
    assert!(report.log().contains("no secret"));
}

/// Asked for its identities, an agent of ours has one word to say.
const QUESTION: &[u8] = b"identities?";
const ANSWER: &[u8] = b"none, but a good day";

/// Not a test: what the step below runs, this very program, in its container.
#[test]
#[ignore = "runs inside of a build step"]
fn ask_the_agent() {
    let socket = xtask::workspace::variable("SSH_AUTH_SOCK").expect("the step mounts an agent");
    let mut agent = UnixStream::connect(socket).unwrap();
    agent.write_all(QUESTION).unwrap();
    agent.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    agent.read_to_string(&mut answer).unwrap();
    println!("the agent says: {answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_reaches_the_agent() {
    let engine = Engine::shared();
    let client = engine.client().await;
    let dockerfile = "FROM scratch\nCOPY probe /probe\n\
        RUN --mount=type=ssh,required=true [\"/probe\", \"--ignored\", \"--exact\", \"services::ask_the_agent\", \"--nocapture\"]\n";
    let context = engine.context("ssh", dockerfile, &[]);
    std::fs::copy(std::env::current_exe().unwrap(), context.join("probe")).unwrap();

    let (ours, mut agent) = UnixStream::pair().unwrap();
    let answering = std::thread::spawn(move || {
        let mut question = Vec::new();
        agent.read_to_end(&mut question).unwrap();
        agent.write_all(ANSWER).unwrap();
        question
    });
    let host =
        Memory { agents: [("default".to_owned(), Mutex::new(Some(ours)))].into(), ..Memory::default() };
    let report = Job::new(&context).attr("no-cache", "").host(host).run(&client).await;
    report.result();
    assert!(report.log().contains("the agent says: none, but a good day"), "{}", report.log());
    assert_eq!(answering.join().unwrap(), QUESTION);

    let without = Job::new(&context).attr("no-cache", "").run(&client).await;
    without.failure();
}

async fn push(auth: Auth, password: &str) -> (crate::fixture::Report, Registry, ScratchDir) {
    let scratch = ScratchDir::new("push").unwrap();
    let registry = Registry::start(&scratch.join("registry"), auth).unwrap();
    let options = Options { plain_http: vec![registry.address().to_owned()], ..Options::default() };
    let engine = Engine::start("pusher", &options);
    let context = engine.context("pushed", "FROM scratch\nCOPY busybox /\n", &[]);
    let name = format!("{}/app:dev", registry.address());
    let attrs = [("name", name.as_str()), ("push", "true"), ("registry.insecure", "true")];
    let host = Memory {
        registries: [(registry.address().to_owned(), ("me".to_owned(), password.to_owned()))].into(),
        ..Memory::default()
    };
    let job = Job::new(&context).host(host).output(export("image", &attrs), None);
    (job.run(&engine.client().await).await, registry, scratch)
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_open_a_registry() {
    let account = || ("me".to_owned(), "secret".to_owned());
    let (user, password) = account();
    let (report, registry, _scratch) = push(Auth::Htpasswd { user, password }, "secret").await;
    report.result();
    assert!(registry.log_text().contains("/v2/app/manifests/dev"), "{}", registry.log_text());

    let (user, password) = account();
    let (report, registry, _scratch) = push(Auth::Token { user, password }, "secret").await;
    report.result();
    assert!(!registry.token_requests().is_empty());

    let (user, password) = account();
    let (report, _registry, _scratch) = push(Auth::Htpasswd { user, password }, "wrong").await;
    let message = &report.failure().message;
    assert!(message.contains("401"), "{message}");
}
