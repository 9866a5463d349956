//! Which outputs a build has, and what of them has arrived.
//!
//! The daemon's word that a build succeeded is held against what this side received: an exporter that an old daemon did not
//! know of would otherwise be a success without a result.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;
use tonic::Status;

use super::{Output, Sink};
use crate::error::BuildError;
use crate::export::Receiver;

/// The outputs of a build and how far each has come.
#[derive(Debug)]
pub(super) struct Deliveries {
    outputs: Mutex<Vec<Option<Delivery>>>,
    /// Held by every receiver at work, so that its end can be awaited.
    working: Mutex<Option<mpsc::Sender<()>>>,
}

#[derive(Debug)]
struct Delivery {
    path: String,
    sink: Place,
    /// Calls that ended well.
    done: usize,
    failure: Option<io::Error>,
}

#[derive(Debug)]
pub(super) enum Place {
    /// `None` once a call has taken it.
    File(Option<std::fs::File>),
    Directory(Arc<Receiver>),
}

impl Deliveries {
    pub(super) fn new(outputs: Vec<Option<Output>>) -> (Arc<Deliveries>, mpsc::Receiver<()>) {
        let (working, handlers) = mpsc::channel(1);
        let delivery = |output: Output| Delivery {
            path: output.path,
            sink: match output.sink {
                Sink::File(file) => Place::File(Some(file)),
                Sink::Directory(receiver) => Place::Directory(receiver),
            },
            done: 0,
            failure: None,
        };
        let outputs = outputs.into_iter().map(|output| output.map(delivery)).collect();
        (Arc::new(Deliveries { outputs: Mutex::new(outputs), working: Mutex::new(Some(working)) }), handlers)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().iter().all(Option::is_none)
    }

    /// From now on no call is taken, and `handlers` ends with the last one at work.
    pub(super) fn stop_accepting(&self) {
        self.working.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// What arrived, once and for all.
    pub(super) fn take(&self) -> Delivered {
        Delivered(self.lock().drain(..).flatten().collect())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Option<Delivery>>> {
        self.outputs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the call for exporter `id` delivers, and the mark of a receiver at work.
    pub(super) fn accept(&self, id: usize) -> Result<(Place, mpsc::Sender<()>), Status> {
        let working = self.working.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let working = working.ok_or_else(|| Status::unavailable("the build has ended"))?;
        let mut outputs = self.lock();
        let delivery = outputs
            .get_mut(id)
            .and_then(Option::as_mut)
            .ok_or_else(|| Status::not_found(format!("exporter {id} has no output on this side")))?;
        let place = match &mut delivery.sink {
            Place::Directory(receiver) => Place::Directory(receiver.clone()),
            Place::File(file) => Place::File(Some(file.take().ok_or_else(|| {
                Status::failed_precondition(format!("exporter {id} has been delivered before"))
            })?)),
        };
        Ok((place, working))
    }

    pub(super) fn finish(&self, id: usize, end: Result<(), Option<io::Error>>) {
        if let Some(Some(delivery)) = self.lock().get_mut(id) {
            match end {
                Ok(()) => delivery.done += 1,
                Err(failure) => delivery.failure = delivery.failure.take().or(failure),
            }
        }
    }
}

/// What arrived of a build's outputs.
#[derive(Debug)]
pub(crate) struct Delivered(Vec<Delivery>);

impl Delivered {
    /// The first output that could not be written on this side.
    pub(crate) fn failure(self) -> Option<BuildError> {
        self.0.into_iter().find_map(|delivery| {
            let source = delivery.failure?;
            Some(BuildError::Output { operation: "write", path: delivery.path, source })
        })
    }

    /// Holds the daemon to its word: a build that succeeded has delivered every output.
    pub(crate) fn complete(self) -> Result<(), BuildError> {
        for delivery in self.0 {
            let source = match delivery.failure {
                Some(failure) => failure,
                None if delivery.done == 0 => {
                    io::Error::other("the builder reported success without sending it")
                }
                None => continue,
            };
            return Err(BuildError::Output { operation: "write", path: delivery.path, source });
        }
        Ok(())
    }
}
