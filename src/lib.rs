//! twinpi: a private Python package index that replicates.

pub mod api;
pub mod cli;
pub mod config;
pub mod deadline;
pub mod digest;
pub mod error;
pub mod http;
pub mod maintenance;
pub mod mirror;
pub mod model;
pub mod names;
pub mod nodeinfo;
pub mod pages;
pub mod password;
pub mod replication;
pub mod search;
pub mod secret;
pub mod serial;
pub mod server;
pub mod stop;
pub mod store;
pub mod sync;
pub mod transfer;
