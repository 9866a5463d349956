//! The conversation with the builder: the broker's end stays here, the other goes to whoever holds it.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::{asked, rules};
use crate::attested;
use crate::audit;
use crate::broker::Desk;
use crate::cancel::Cancel;
use crate::dial::Connection;
use crate::env::Env;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::guest::{self, Ends, GuestResult};
use crate::launch::{self, Handed};
use crate::log::Log;
use crate::outputs::Opened;
use crate::piped;
use crate::plan::{BuildPlan, GuestOutput, HostPlan};
use crate::ui::Ui;

/// Runs the conversation in the jail, or here when that was the user's choice.
pub fn hold(
    plan: &mut BuildPlan,
    host: &HostPlan,
    connection: Connection,
    opened: &mut [Opened],
    env: &Env,
    log: &Log,
    ui: &Ui,
) -> Result<(Exit, Option<GuestResult>), Failure> {
    let Connection { stream, relay, .. } = connection;
    let (desk_end, guest_end) = UnixStream::pair()
        .map_err(|error| Failure::internal(format!("failed to make the broker's socket: {error}")))?;
    let rules = rules::rules(plan, host, env, ui)?;
    let upload = plan.upload.as_ref().map(|_| piped::stdin()).transpose();
    let upload =
        upload.map_err(|error| Failure::internal(format!("failed to duplicate standard input: {error}")))?;
    let mut desk = None;
    let serve = || {
        if let Some(relay) = relay {
            // The guest sees the end of its stream and says so; a second message would be noise.
            std::thread::spawn(move || drop(relay.run()));
        }
        let thread = Desk::new(rules).serve(desk_end);
        desk =
            Some(thread.map_err(|error| Failure::internal(format!("failed to start the broker: {error}")))?);
        Ok(())
    };
    let outcome = match &host.sandbox {
        Some(sandbox) => {
            let prepared = launch::prepare(plan, host, sandbox, opened, log, ui)?;
            let outputs = opened.iter_mut().map(Opened::descriptor).collect::<Result<Vec<_>, _>>()?;
            let handed = Handed { connection: stream, broker: guest_end.into(), outputs, upload };
            launch::run(prepared, plan, handed, ui, serve)
        }
        None => {
            attested::no_jail(&mut plan.build.frontend_attrs);
            serve()?;
            let mut outputs: Vec<(i32, OwnedFd)> = Vec::new();
            for (index, output) in opened.iter_mut().enumerate() {
                let number = i32::try_from(index).unwrap_or(i32::MAX);
                plan.outputs[index] = match (output.staging().map(Path::to_owned), output.descriptor()?) {
                    (Some(staging), _) => GuestOutput::Directory(staging),
                    (None, Some(fd)) => {
                        outputs.push((number, fd));
                        GuestOutput::Descriptor { number, name: output.descriptor_name().unwrap_or_default() }
                    }
                    (None, None) => GuestOutput::None,
                };
            }
            let ends = Ends {
                connection: stream,
                broker: guest_end.into(),
                cancel: Cancel::Signals,
                outputs,
                upload,
            };
            Ok(guest::run(plan, ends, Vec::new()))
        }
    };
    if let Some(record) = desk.and_then(|thread| thread.join().ok()) {
        log.broker(&record);
        asked::tell(&record, ui);
        audit::signatures(&host.audit, &record);
    }
    outcome
}
