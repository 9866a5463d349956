//! Generated wire types. They stay inside this crate: everything public speaks domain types.

#![allow(missing_debug_implementations, clippy::all, clippy::pedantic)]

pub mod fsutil {
    pub mod types {
        tonic::include_proto!("fsutil.types");
    }
}
