//! `cargo xtask attack`: a hostile daemon, and how ktl, buildctl and buildx fare with it.

use std::fmt::Write;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::hostile::case::Case;
use crate::hostile::client::Client;
use crate::hostile::ground::Ground;
use crate::hostile::judge::{MEMORY_MIB, Verdict};
use crate::hostile::run::{self, Played};
use crate::hostile::{self, serve};
use crate::parts::ScratchDir;
use crate::setup;
use crate::workspace::{self, Profile};

/// What `cargo xtask attack` was asked for.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Print JSON instead of the table.
    pub json: bool,
    /// Names of clients to run; empty for all.
    pub clients: Vec<String>,
    /// Names of cases or groups; empty for all.
    pub cases: Vec<String>,
}

/// Clients at once.
const WORKERS: usize = 2;
/// Of a detail below the table.
const DETAIL: usize = 110;

/// One client in one case.
#[derive(Debug)]
struct Cell {
    case: &'static str,
    client: Client,
    word: String,
    detail: String,
    peak_mib: u64,
    safe: bool,
}

/// Plays all cases, prints the scoreboard on stdout, and says whether ktl was safe in each.
pub fn run(request: &Request) -> Result<bool> {
    let cases = chosen(&request.cases)?;
    let names = |client: &Client| client.name().to_owned();
    if let Some(unknown) =
        request.clients.iter().find(|name| !Client::ALL.iter().map(names).any(|n| n == **name))
    {
        bail!("--clients: {unknown:?} is none of ktl, ktl-unjailed, ktl-nsjail, buildctl, buildx");
    }
    let wanted = |client: &Client| request.clients.is_empty() || request.clients.contains(&names(client));
    let clients: Vec<Client> = Client::ALL.into_iter().filter(wanted).collect();
    setup::run()?;
    let ktl = workspace::build_ktl(Profile::Dev)?;
    let scratch = ScratchDir::new("attack")?;
    let jobs: Vec<(Case, Client)> =
        cases.iter().flat_map(|case| clients.iter().map(|client| (*case, *client))).collect();
    let cells = Mutex::new(Vec::new());
    run::play_all(&jobs, WORKERS, &ktl, scratch.path(), |case, client, played| {
        let cell = cell(case, client, played);
        eprintln!("attack: {} {}: {}", case.name, client.name(), cell.word);
        cells.lock().unwrap_or_else(PoisonError::into_inner).push(cell);
    });
    let cells = cells.into_inner().unwrap_or_else(PoisonError::into_inner);
    let safe = cells.iter().all(|cell| cell.safe || !cell.client.is_ktl());
    print!("{}", if request.json { json_board(&cases, &cells) } else { board(&cases, &clients, &cells) });
    Ok(safe)
}

/// `cargo xtask hostile`: one case's daemon in the foreground.
pub fn listen(arguments: &[String]) -> Result<()> {
    let [name, rest @ ..] = arguments else {
        for case in hostile::all() {
            println!("{:<32} {}", case.name, case.about);
        }
        return Ok(());
    };
    let [option, address] = rest else { bail!("hostile CASE --listen unix:PATH") };
    let socket = address.strip_prefix("unix:").map(|path| path.trim_start_matches("//"));
    let (true, Some(socket)) = (option == "--listen", socket) else {
        bail!("hostile CASE --listen unix:PATH")
    };
    let case = hostile::all().into_iter().find(|case| case.name == name);
    let case = case.with_context(|| format!("no case {name:?}; `cargo xtask hostile` lists them"))?;
    let scratch = ScratchDir::new("hostile")?;
    let ground = Ground::new(scratch.path())?;
    let _listening = serve(&case, &ground, format!("/{}", socket.trim_start_matches('/')).as_ref())?;
    println!("{}: {}\na context with canaries: {}", case.name, case.about, ground.path("ctx").display());
    let (mut leaks, mut told) = (0, String::new());
    loop {
        std::thread::sleep(std::time::Duration::from_millis(200));
        for leak in ground.record.leaks().into_iter().skip(leaks) {
            leaks += 1;
            println!("LEAKED {leak}");
        }
        let story = ground.record.story();
        if story != told {
            println!("{}", story.strip_prefix(&told).unwrap_or(&story).trim());
            told = story;
        }
    }
}

fn chosen(wanted: &[String]) -> Result<Vec<Case>> {
    let all = hostile::all();
    let fits = |case: &Case, name: &str| case.name == name || case.group() == name;
    if let Some(unknown) = wanted.iter().find(|name| !all.iter().any(|case| fits(case, name))) {
        bail!("--cases: {unknown:?} is no case and no group; `cargo xtask hostile` lists them");
    }
    Ok(all
        .into_iter()
        .filter(|case| wanted.is_empty() || wanted.iter().any(|name| fits(case, name)))
        .collect())
}

fn cell(case: &Case, client: Client, played: Result<Played>) -> Cell {
    let failed = |detail: String| Cell {
        case: case.name,
        client,
        word: "error".to_owned(),
        detail,
        peak_mib: 0,
        safe: false,
    };
    let played = match played {
        Ok(played) => played,
        Err(error) => return failed(format!("{error:#}")),
    };
    let fault = client.is_ktl().then(|| played.fault(case)).flatten();
    let (word, detail) = match (&played.verdict, &fault) {
        (Verdict::Safe, Some(fault)) => ("wrong".to_owned(), fault.clone()),
        (Verdict::Safe, None) if !played.honest => ("unheard".to_owned(), String::new()),
        (verdict, _) => (verdict.word(), verdict.detail().to_owned()),
    };
    let safe = played.verdict == Verdict::Safe && fault.is_none();
    Cell { case: case.name, client, word, detail, peak_mib: played.run.peak_kib >> 10, safe }
}

fn board(cases: &[Case], clients: &[Client], cells: &[Cell]) -> String {
    let mut text = format!("{:<32}", "case");
    for client in clients {
        let _fits = write!(text, " {:<18}", client.name());
    }
    text.push('\n');
    for case in cases {
        let _fits = write!(text, "{:<32}", case.name);
        for client in clients {
            let cell = cells.iter().find(|cell| cell.case == case.name && cell.client == *client);
            let shown = cell.map_or(String::new(), |cell| format!("{} ({} MiB)", cell.word, cell.peak_mib));
            let _fits = write!(text, " {shown:<18}");
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    for client in clients {
        let own = cells.iter().filter(|cell| cell.client == *client);
        let (safe, all) = (own.clone().filter(|cell| cell.safe).count(), own.count());
        let _fits = writeln!(text, "{}: {safe} of {all} safe", client.name());
    }
    let _fits = writeln!(
        text,
        "\nMiB: the most of all processes of the client; more than {MEMORY_MIB} is not safe.\n\
         LEAKED: the daemon got, changed or showed what it must not. hang: still there when the case's time was over."
    );
    for cell in cells.iter().filter(|cell| !cell.detail.is_empty()) {
        let line: String =
            cell.detail.chars().map(|c| if c.is_control() { ' ' } else { c }).take(DETAIL).collect();
        let _fits = writeln!(text, "  {} {}: {line}", cell.case, cell.client.name());
    }
    text
}

fn json_board(cases: &[Case], cells: &[Cell]) -> String {
    let rows: Vec<_> = cases
        .iter()
        .map(|case| {
            let clients: serde_json::Map<_, _> = cells
                .iter()
                .filter(|cell| cell.case == case.name)
                .map(|cell| {
                    let row = json!({
                        "verdict": cell.word,
                        "safe": cell.safe,
                        "peak_mib": cell.peak_mib,
                        "detail": cell.detail,
                    });
                    (cell.client.name().to_owned(), row)
                })
                .collect();
            json!({ "case": case.name, "about": case.about, "clients": clients })
        })
        .collect();
    format!("{:#}\n", json!({ "memory_limit_mib": MEMORY_MIB, "cases": rows }))
}
