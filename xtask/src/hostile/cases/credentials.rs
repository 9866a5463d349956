//! Logins and secrets.

use std::sync::atomic::Ordering;

use tonic::Code;

use crate::hostile::case::{Case, End, over};
use crate::hostile::visit::Visit;
use crate::hostile::wire::moby::buildkit::secrets::v1::GetSecretRequest;
use crate::hostile::wire::moby::buildkit::secrets::v1::secrets_client::SecretsClient;
use crate::hostile::wire::moby::filesync::v1::auth_client::AuthClient;
use crate::hostile::wire::moby::filesync::v1::{
    CredentialsRequest, FetchTokenRequest, GetTokenAuthorityRequest, VerifyTokenAuthorityRequest,
};

pub const CASES: &[Case] = &[
    Case::new(
        "credentials/other-hosts",
        "asks for logins of registries that the build does not name",
        |visit| {
            let hosts =
                ["other.example", "OTHER.example", "other.example:443", "docker.io", "", "*", "\u{1b}[2J"];
            Box::pin(logins(visit, hosts.map(str::to_owned).to_vec()))
        },
    ),
    Case::new("credentials/password", "asks for the password of a registry that gives tokens", |visit| {
        let host = visit.ground.ears.registry().to_owned();
        Box::pin(logins(visit, vec![host]))
    }),
    Case::new("credentials/foreign-realm", "names a token server of its own", |visit| {
        let ears = &visit.ground.ears;
        let realms =
            vec![format!("http://{}/token", ears.foreign()), format!("https://{}/token", ears.foreign())];
        let host = ears.registry().to_owned();
        Box::pin(tokens(visit, host, realms, vec!["repository:base:pull"]))
    }),
    Case::new(
        "credentials/foreign-host",
        "asks for tokens of another registry, from its own server",
        |visit| {
            let realm = format!("http://{}/token", visit.ground.ears.foreign());
            Box::pin(tokens(visit, "other.example".to_owned(), vec![realm], vec!["repository:base:pull"]))
        },
    ),
    Case::new("credentials/redirect", "has the registry's token server redirect to its own", |visit| {
        Box::pin(redirect(visit))
    }),
    Case::new("credentials/odd-realms", "names token servers that are none", |visit| {
        Box::pin(odd_realms(visit))
    }),
    Case::new(
        "credentials/wider-scopes",
        "asks for tokens with rights that the build does not need",
        |visit| {
            let (host, realm) = own(&visit);
            let scopes =
                vec!["registry:catalog:*", "repository:base:pull,push,delete", "repository:foreign/app:push"];
            Box::pin(tokens(visit, host, vec![realm], scopes))
        },
    ),
    Case::new("credentials/any-payload", "has any bytes signed by the token authority", |visit| {
        Box::pin(any_payload(visit))
    }),
    Case::new("credentials/flood", "asks for 2000 logins", |visit| {
        Box::pin(logins(visit, (0..2000).map(|number| format!("host{number}.example")).collect()))
    }),
    Case::new("secrets/other-ids", "asks for secrets that the build does not have", |visit| {
        let given = visit.ground.path("home/.ssh/id_ed25519").display().to_string();
        let ids = ["", "GIVEN", "given ", "given\0", "../given", "HOME", "PATH", "GIT_AUTH_TOKEN", &given];
        Box::pin(secrets(visit, ids.map(str::to_owned).to_vec()))
    }),
    Case::new("secrets/flood", "asks for 10 000 secrets", |visit| {
        Box::pin(secrets(visit, (0..10_000).map(|number| format!("guess-{number}")).collect()))
    })
    .says(&["guess-0"]),
    Case::new("secrets/huge-ids", "asks for secrets with names of 1 MiB", |visit| {
        Box::pin(secrets(visit, vec!["n".repeat(1 << 20); 50]))
    }),
];

/// The registry that the build names, and its token server.
fn own(visit: &Visit) -> (String, String) {
    let host = visit.ground.ears.registry().to_owned();
    let realm = format!("http://{host}/token");
    (host, realm)
}

async fn fetch(visit: &Visit, host: &str, realm: &str, scope: &str) {
    let request = FetchTokenRequest {
        client_id: "buildkit-client".to_owned(),
        host: host.to_owned(),
        realm: realm.to_owned(),
        service: "hostile".to_owned(),
        scopes: vec![scope.to_owned()],
    };
    match AuthClient::new(visit.session("Auth").await).fetch_token(request).await {
        Ok(answer) => visit.record().got(&format!("a token {scope}"), answer.into_inner().token.as_bytes()),
        Err(status) => visit.record().told(format!("a token {scope}: {}", status.message())),
    }
}

/// The token that the build needs.
async fn honest(visit: &Visit) {
    let (host, realm) = own(visit);
    visit.ground.ears.redirects.store(false, Ordering::Relaxed);
    fetch(visit, &host, &realm, "repository:base:pull").await;
}

async fn logins(visit: Visit, hosts: Vec<String>) -> End {
    for host in hosts {
        let request = CredentialsRequest { host: host.clone() };
        if let Ok(answer) = AuthClient::new(visit.session("Auth").await).credentials(request).await {
            let answer = answer.into_inner();
            visit.record().got(&format!("the login of {host:?}"), answer.secret.as_bytes());
        }
    }
    honest(&visit).await;
    over()
}

async fn tokens(visit: Visit, host: String, realms: Vec<String>, scopes: Vec<&'static str>) -> End {
    for realm in realms {
        for scope in &scopes {
            fetch(&visit, &host, &realm, scope).await;
        }
    }
    honest(&visit).await;
    over()
}

async fn redirect(visit: Visit) -> End {
    let (host, realm) = own(&visit);
    visit.ground.ears.redirects.store(true, Ordering::Relaxed);
    fetch(&visit, &host, &realm, "repository:base:pull").await;
    honest(&visit).await;
    over()
}

async fn odd_realms(visit: Visit) -> End {
    let (host, _) = own(&visit);
    let foreign = visit.ground.ears.foreign().to_owned();
    let long = format!("http://{foreign}/{}", "a".repeat(100_000));
    for realm in [
        &format!("http://{host}@{foreign}/token"),
        &format!("http://{host}\\@{foreign}/token"),
        &format!("http://{foreign}/?x=http://{host}/token"),
        &format!("HTTP://{foreign}/token#{host}"),
        &format!("http://{foreign}/token\r\nX: y"),
        "file:///etc/passwd",
        "http:///token",
        "",
        &long,
    ] {
        fetch(&visit, &host, realm, "repository:base:pull").await;
    }
    honest(&visit).await;
    over()
}

async fn any_payload(visit: Visit) -> End {
    let (host, _) = own(&visit);
    for host in [host.as_str(), "other.example"] {
        for payload in [&b"CANARY payload"[..], &[b'C'; 4096], b"", &b"CANARY-31-bytes-and-not-32-here"[..]] {
            let request = VerifyTokenAuthorityRequest {
                host: host.to_owned(),
                payload: payload.to_vec().into(),
                salt: vec![1; 32].into(),
            };
            match AuthClient::new(visit.session("Auth").await).verify_token_authority(request).await {
                Ok(answer) if answer.get_ref().signed.len() > 64 && payload.len() != 32 => {
                    visit.record().leak(format!("{} bytes signed for {host}", payload.len()));
                }
                Ok(_) => {}
                Err(status) => visit.record().told(status.message()),
            }
        }
        for salt in [&[][..], &[1; 31], &[1; 5000]] {
            let request = GetTokenAuthorityRequest { host: host.to_owned(), salt: salt.to_vec().into() };
            let _ = AuthClient::new(visit.session("Auth").await).get_token_authority(request).await;
        }
    }
    honest(&visit).await;
    over()
}

async fn secrets(visit: Visit, ids: Vec<String>) -> End {
    let ask = async |id: &str| {
        let request = GetSecretRequest { id: id.to_owned(), ..GetSecretRequest::default() };
        SecretsClient::new(visit.session("Secrets").await).get_secret(request).await
    };
    let mut reached = false;
    match ask("given").await {
        Ok(answer) => {
            visit.record().got("given", &answer.into_inner().data);
            reached = true;
        }
        Err(status) => visit.record().told(format!("given: {}", status.message())),
    }
    for id in ids {
        match ask(&id).await {
            Ok(_) => visit.record().leak(format!("there is a secret {id:?}")),
            Err(status) if status.code() != Code::NotFound && reached => {
                visit.record().told(format!("{:?}: {}", status.code(), status.message()));
            }
            Err(_) => {}
        }
    }
    over()
}
