//! Removing what a private daemon kept.
//!
//! Root may remove it as it lies. Of a plain user's daemon, most files belong to subordinate ids, which the user is nobody to:
//! they are removed where they were made, in a jail with the daemon's ids.

use std::ffi::OsStr;
use std::fs;
use std::io;

use super::ids::Ids;
use super::room::{Room, STATE};
use super::{Lock, Place, stop};
use crate::env::Env;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::launch;
use crate::log::Log;
use crate::plan;
use crate::ui::Ui;

/// Stops the daemon at `place` and removes all that is there.
pub fn remove(place: &Place, env: &Env, ui: &Ui) -> Result<(), Failure> {
    let fail = |error: io::Error| Failure::new(Exit::Unmet, format!("{place}: failed to remove it: {error}"));
    let _alone = Lock::exclusive(&place.start_lock()).map_err(fail)?;
    stop::stop(place)?;
    clear(place, env, ui)
}

/// Removes all that is at `place`, where no daemon runs any more.
pub fn clear(place: &Place, env: &Env, ui: &Ui) -> Result<(), Failure> {
    let fail = |error: io::Error| Failure::new(Exit::Unmet, format!("{place}: failed to remove it: {error}"));
    if !nix::unistd::geteuid().is_root() {
        empty(place, env, ui)?;
    }
    fs::remove_dir_all(place.dir()).map_err(fail)?;
    // The directory of the name, unless the other network's daemon is still in it.
    if let Some(name) = place.dir().parent() {
        let _ = fs::remove_dir(name);
    }
    Ok(())
}

fn empty(place: &Place, env: &Env, ui: &Ui) -> Result<(), Failure> {
    let facts = crate::commands::build::facts(env)?;
    let sandbox = plan::sandbox_plan(&Default::default(), false, env, &facts)?;
    let cache = plan::cache_dir(env, &facts)?;
    let ids = Ids::of(place, env)?;
    let programs = [OsStr::new("find")];
    let room = Room {
        place,
        ids: &ids,
        sandbox: &sandbox,
        cache: &cache,
        limits: "",
        programs: &programs,
        egress: None,
    };
    let arguments = [STATE, "-mindepth", "1", "-delete"].map(Into::into).into();
    let log = Log::off(ui);
    let quiet = Ui { quiet: !ui.verbose, ..*ui };
    let (prepared, plan, _) = room.prepare(arguments, &log, &quiet)?;
    match launch::exec(prepared, &plan, Vec::new(), ui, || Ok(()))? {
        Exit::Ok => Ok(()),
        other => Err(Failure::new(
            Exit::Unmet,
            format!("{place}: its files could not be removed: find ended with code {}", other.code()),
        )),
    }
}
