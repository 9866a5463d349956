//! What the table passes and refuses.

use hyper::Method;

use super::rules::{Kind, judge};

fn passes(method: &str, path: &str, query: &str) -> Option<(&'static str, String)> {
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    judge(&method, path, query).ok().map(|call| (call.rule.name, call.target))
}

#[test]
fn what_a_build_calls_passes() {
    for (method, path, query, name, target) in [
        ("HEAD", "/_ping", "", "GET /_ping", "/_ping"),
        ("GET", "/v1.41/version", "", "GET /version", "/v1.41/version"),
        ("GET", "/v1.55/info", "", "GET /info", "/v1.55/info"),
        ("POST", "/grpc", "", "POST /grpc", "/grpc"),
        ("POST", "/v1.41/session", "", "POST /session", "/v1.41/session"),
        (
            "POST",
            "/v1.41/build",
            "t=a:1&t=b&networkmode=host&version=2&remote=client-session&cgroupparent=&outputs=[]",
            "POST /build",
            "/v1.41/build?t=a%3A1&t=b&networkmode=host&version=2&remote=client-session&cgroupparent=&outputs=%5B%5D",
        ),
        (
            "POST",
            "/build",
            "remote=https://example.org/repo.git%23main",
            "POST /build",
            "/build?remote=https%3A%2F%2Fexample.org%2Frepo.git%23main",
        ),
        ("POST", "/build/cancel", "id=abc", "POST /build/cancel", "/build/cancel?id=abc"),
        ("POST", "/v1.41/images/load", "quiet=1", "POST /images/load", "/v1.41/images/load?quiet=1"),
        ("GET", "/images/json", "all=1", "GET /images/json", "/images/json?all=1"),
        ("GET", "/images/a/b:1/json", "", "GET /images/NAME/json", "/images/a/b:1/json"),
        (
            "POST",
            "/v1.41/images/127.0.0.1:5000/a/push",
            "tag=1",
            "POST /images/NAME/push",
            "/v1.41/images/127.0.0.1:5000/a/push?tag=1",
        ),
        ("GET", "/distribution/a/b/json", "", "GET /distribution/NAME/json", "/distribution/a/b/json"),
    ] {
        let call = passes(method, path, query);
        assert_eq!(call, Some((name, target.to_owned())), "{method} {path}?{query}");
    }
}

#[test]
fn all_else_is_refused() {
    for (method, path, query) in [
        ("POST", "/containers/create", ""),
        ("POST", "/v1.41/containers/create", "name=x"),
        ("GET", "/containers/json", ""),
        ("POST", "/containers/x/start", ""),
        ("POST", "/containers/x/exec", ""),
        ("PUT", "/containers/x/archive", "path=/"),
        ("POST", "/exec/x/start", ""),
        ("POST", "/volumes/create", ""),
        ("GET", "/networks", ""),
        ("POST", "/plugins/pull", ""),
        ("GET", "/swarm", ""),
        ("GET", "/secrets", ""),
        ("GET", "/events", ""),
        ("GET", "/system/df", ""),
        ("POST", "/auth", ""),
        ("POST", "/commit", "container=x"),
        ("POST", "/images/create", "fromImage=x"),
        ("GET", "/images/x/push", ""),
        ("POST", "/images/x/tag", "repo=y"),
        ("DELETE", "/images/x", ""),
        ("GET", "/images/x/get", ""),
        ("GET", "/images/get", "names=x"),
        ("GET", "/images/search", "term=x"),
        ("POST", "/images/prune", ""),
        ("POST", "/build/prune", ""),
        // The right path with another method, or written differently.
        ("GET", "/build", ""),
        ("PUT", "/build", ""),
        ("post", "/build", ""),
        ("HEAD", "/version", ""),
        ("GET", "/grpc", ""),
        ("POST", "/BUILD", ""),
        ("POST", "/build/", ""),
        ("POST", "//build", ""),
        ("GET", "/images/../containers/json", ""),
        ("GET", "/images//json", ""),
        ("POST", "/v1.41/v1.41/build", ""),
        ("POST", "/v2/build", ""),
        // The right call with what it must not ask for.
        ("POST", "/build", "networkmode=container:abc"),
        ("POST", "/build", "networkmode=somebodys"),
        ("POST", "/build", "networkmode=none&networkmode=container:abc"),
        ("POST", "/build", "cgroupparent=/system.slice"),
        ("POST", "/build", "securityopt=[]"),
        ("POST", "/build", "isolation=hyperv"),
        ("POST", "/build", "remote=/etc"),
        ("POST", "/build", "remote=file:///etc"),
        ("POST", "/build", "version=3"),
        ("POST", "/build", "volumes=/:/host"),
        ("GET", "/version", "x=1"),
        ("POST", "/grpc", "x=1"),
    ] {
        assert_eq!(passes(method, path, query), None, "{method} {path}?{query}");
    }
}

#[test]
fn a_refusal_says_what_to_do() {
    for (path, words) in [
        ("/containers/create", "POST /containers/create is not part of it (run it outside of the jail"),
        ("/auth", "docker login outside of the jail"),
        ("/images/create", "the build itself pulls"),
        ("/build/prune", "clear the build cache outside"),
    ] {
        let refusal = judge(&Method::POST, path, "").unwrap_err();
        assert!(
            refusal.reason.starts_with("ktl: the gate passes what a build needs; "),
            "{}",
            refusal.reason
        );
        assert!(refusal.reason.contains(words), "{}", refusal.reason);
    }
}

#[test]
fn only_the_two_hijacks_become_something_else_than_http() {
    let kind = |path: &str| judge(&Method::POST, path, "").unwrap().rule.kind;
    assert_eq!(kind("/grpc"), Kind::Grpc);
    assert_eq!(kind("/session"), Kind::Session);
    assert_eq!(kind("/build"), Kind::Plain);
}
