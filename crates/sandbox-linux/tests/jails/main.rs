//! Real jails, through the real nsjail and by the native runtime: as root when the tests run as root, and as a plain user in any case (root
//! starts this very program again under an unused id). One binary, because linking is what tests here cost most.

mod cgroups;
mod escapes;
mod guest;
mod kafel;
mod killed;
mod native;
mod plain;
mod programs;
mod rig;
mod root;
mod signals;
mod views;
mod written;
