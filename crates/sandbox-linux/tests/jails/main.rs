//! Real jails, through the real nsjail and by the native runtime: as root when the tests run as root, and as a plain user in any case (root
//! starts this very program again under an unused id). One binary, because linking is what tests here cost most.

mod cgroups;
mod corpus;
mod corpus_rig;
mod escapes;
mod guest;
mod kafel;
#[cfg(target_arch = "x86_64")]
mod kafel_sample;
mod killed;
mod native;
mod parser;
mod plain;
mod programs;
mod properties;
mod rig;
mod root;
mod signals;
mod view;
mod written;
