//! Daemons that let their clients wait.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use crate::hostile::case::{Case, End, Honest, Script, over};
use crate::hostile::ground::Ground;
use crate::hostile::progress::{Update, log, step};
use crate::hostile::raw::Connection;
use crate::hostile::visit::Visit;

/// For an answer, for silence and for the last words, in seconds: a test need not wait as long as a user.
const PATIENCE: &[(&str, &str)] = &[("KTL_PATIENCE", "2,3,7")];

const fn waiting(name: &'static str, about: &'static str, script: Script) -> Case {
    let case = Case::new(name, about, script).ends(&[3]).honest(Honest::Visited).env(PATIENCE);
    Case { limit: Duration::from_secs(90), ..case }
}

pub const CASES: &[Case] = &[
    waiting("time/silent-handshake", "takes the connection and says nothing", |visit| Box::pin(never(visit)))
        .talk(|stream, ground| Box::pin(deaf(stream, ground)))
        .says(&["no answer within 2 s"]),
    waiting("time/silent-session", "does not answer when the session is opened", |visit| {
        Box::pin(never(visit))
    })
    .silent("session")
    .says(&["no answer within 2 s"]),
    waiting("time/no-trailers", "begins an answer and does not end it", |visit| Box::pin(never(visit)))
        .talk(|stream, ground| Box::pin(no_trailers(stream, ground)))
        .says(&["lost the connection"]),
    waiting("time/torn-frame", "stops in the middle of a frame", |visit| Box::pin(never(visit)))
        .talk(|stream, ground| Box::pin(torn_frame(stream, ground)))
        .says(&["lost the connection"]),
    waiting("time/half-closed", "closes its half of the connection and listens on", |visit| {
        Box::pin(never(visit))
    })
    .talk(|stream, ground| Box::pin(half_closed(stream, ground)))
    .says(&["lost the connection"]),
    waiting("time/silent-build", "says nothing once the build has begun", |visit| Box::pin(never(visit)))
        .says(&["nothing came from the builder for 3 s"]),
    waiting("time/silent-after-progress", "reports some progress, then says nothing", |visit| {
        Box::pin(some_progress(visit))
    })
    .says(&["nothing came from the builder for 3 s"]),
    waiting("time/endless-progress", "goes on with progress after the build's end", |visit| {
        Box::pin(endless_progress(visit))
    })
    .says(&["after the build's end"]),
    waiting("time/endless-logs", "prints without end, after the build's end as well", |visit| {
        Box::pin(endless_logs(visit))
    })
    .says(&["after the build's end"]),
    waiting("time/silent-status", "ends the build and leaves its progress open", |visit| {
        Box::pin(silent_status(visit))
    })
    .ends(&[1]),
];

async fn never(visit: Visit) -> End {
    let _visit = visit;
    std::future::pending().await
}

/// Reads all and answers nothing.
async fn deaf(mut stream: UnixStream, ground: Arc<Ground>) {
    ground.record.visited();
    let mut nothing = [0; 4096];
    while let Ok(1..) = stream.read(&mut nothing).await {}
}

async fn no_trailers(stream: UnixStream, ground: Arc<Ground>) {
    let Some(mut connection) = Connection::accept(stream).await else { return };
    ground.record.visited();
    connection.open_answer().await;
    connection.listen().await;
}

async fn torn_frame(stream: UnixStream, ground: Arc<Ground>) {
    let Some(mut connection) = Connection::accept(stream).await else { return };
    ground.record.visited();
    connection.open_answer().await;
    connection.torn_frame().await;
    connection.listen().await;
}

async fn half_closed(stream: UnixStream, ground: Arc<Ground>) {
    let Some(mut connection) = Connection::accept(stream).await else { return };
    ground.record.visited();
    connection.half_close().await;
    connection.listen().await;
}

async fn some_progress(visit: Visit) -> End {
    visit.say(Update::of_vertexes(vec![step("sha256:a", "[1/1] RUN x")])).await;
    never(visit).await
}

async fn endless_progress(visit: Visit) -> End {
    tokio::spawn(async move {
        while visit.say(Update::of_vertexes(vec![step("sha256:a", "[1/1] RUN x")])).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    over()
}

async fn endless_logs(visit: Visit) -> End {
    visit.say(Update::of_vertexes(vec![step("sha256:a", "[1/1] RUN x")])).await;
    tokio::spawn(async move {
        while visit.say(Update::of_logs(vec![log("sha256:a", "and on\n")])).await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    over()
}

async fn silent_status(visit: Visit) -> End {
    visit.say(Update::of_vertexes(vec![step("sha256:a", "[1/1] RUN x")])).await;
    tokio::spawn(never(visit));
    over()
}
