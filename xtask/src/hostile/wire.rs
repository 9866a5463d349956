//! Generated wire types, one module for each level of their protobuf packages.

#![allow(missing_debug_implementations, unused_qualifications, dead_code, clippy::all, clippy::pedantic)]

tonic::include_proto!("wire");
