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
use crate::export::archive::{ArchiveError, Contents, Inspector};
use crate::status::bounded;

/// Of what a daemon calls a digest, in a message.
const MAX_WORD: usize = 256;

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
    /// Calls that may still come.
    calls: usize,
    /// The digest of the image that the daemon named with it.
    word: Option<String>,
    /// What the archive holds, where that was looked at.
    contents: Option<Contents>,
    /// Calls that ended well.
    done: usize,
    failure: Option<io::Error>,
}

#[derive(Debug)]
pub(super) enum Place {
    /// `None` once a call has taken it.
    File(Option<Box<Writing>>),
    Directory(Arc<Receiver>),
}

/// An archive on its way to its place.
#[derive(Debug)]
pub(super) struct Writing {
    pub file: std::fs::File,
    pub inspector: Option<Inspector>,
    pub most: u64,
}

impl Deliveries {
    pub(super) fn new(outputs: Vec<Option<Output>>) -> (Arc<Deliveries>, mpsc::Receiver<()>) {
        let (working, handlers) = mpsc::channel(1);
        let delivery = |output: Output| Delivery {
            path: output.path,
            sink: match output.sink {
                Sink::File(file) => {
                    Place::File(Some(Box::new(Writing { file, inspector: None, most: output.most })))
                }
                Sink::Image(file) => {
                    let inspector = Some(Inspector::default());
                    Place::File(Some(Box::new(Writing { file, inspector, most: output.most })))
                }
                Sink::Directory(receiver) => Place::Directory(receiver),
            },
            calls: output.calls,
            word: None,
            contents: None,
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

    /// Where the call for exporter `id` delivers, and the mark of a receiver at work. `word` is the digest of the image that
    /// it says it brings.
    pub(super) fn accept(
        &self,
        id: usize,
        word: Option<String>,
    ) -> Result<(Place, mpsc::Sender<()>), Status> {
        let working = self.working.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let working = working.ok_or_else(|| Status::unavailable("the build has ended"))?;
        let mut outputs = self.lock();
        let delivery = outputs
            .get_mut(id)
            .and_then(Option::as_mut)
            .ok_or_else(|| Status::not_found(format!("exporter {id} has no output on this side")))?;
        let delivered = || Status::failed_precondition(format!("exporter {id} has been delivered before"));
        let place = match &mut delivery.sink {
            Place::Directory(receiver) => {
                delivery.calls = delivery.calls.checked_sub(1).ok_or_else(delivered)?;
                Place::Directory(receiver.clone())
            }
            Place::File(file) => {
                let writing = file.take().ok_or_else(delivered)?;
                delivery.word = word;
                Place::File(Some(writing))
            }
        };
        Ok((place, working))
    }

    /// How a call ended, and what was seen in what it brought.
    pub(super) fn finish(&self, id: usize, end: Result<Option<Contents>, Option<io::Error>>) {
        if let Some(Some(delivery)) = self.lock().get_mut(id) {
            match end {
                Ok(contents) => {
                    delivery.done += 1;
                    delivery.contents = contents;
                }
                Err(failure) => delivery.failure = delivery.failure.take().or(failure),
            }
        }
    }
}

/// What arrived of a build's outputs.
#[derive(Debug)]
pub(crate) struct Delivered(Vec<Delivery>);

impl Delivered {
    /// The first output that could not be written on this side, or was not what it said it was.
    pub(crate) fn failure(self) -> Option<BuildError> {
        self.0.into_iter().find_map(|delivery| Some(undelivered(delivery.path, delivery.failure?)))
    }

    /// Holds the daemon to its word: a build that succeeded has delivered every output, and an archive is of the image that
    /// was named with it. `image` is the digest of the image that it says it exported, where it exported but one.
    pub(crate) fn complete(self, image: Option<&str>) -> Result<(), BuildError> {
        for delivery in self.0 {
            match delivery.failure {
                Some(failure) => return Err(undelivered(delivery.path, failure)),
                None if delivery.done == 0 => {
                    let source = io::Error::other("the builder reported success without sending it");
                    return Err(undelivered(delivery.path, source));
                }
                None => {}
            }
            let Some(contents) = delivery.contents else { continue };
            for image in [image, delivery.word.as_deref()].into_iter().flatten() {
                if !contents.images.iter().any(|found| found.as_str() == image) {
                    let found =
                        contents.images.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                    let image = bounded(image.to_owned(), MAX_WORD);
                    let what = format!("it holds the image {found}, and the builder spoke of {image}");
                    return Err(BuildError::Mismatch { path: delivery.path, what });
                }
            }
        }
        Ok(())
    }
}

fn undelivered(path: String, source: io::Error) -> BuildError {
    match source.get_ref().and_then(|inner| inner.downcast_ref::<ArchiveError>()) {
        Some(damage) => BuildError::Mismatch { path, what: damage.to_string() },
        None => BuildError::Output { operation: "write", path, source },
    }
}
