//! Replication between stores in one process: what a master answers, what a replica makes of it, and of a master
//! that lies, stalls, or goes away.

mod backlog;
mod faults;
mod files;
mod follow;
mod manner;
mod mini;
mod modes;
mod partial;
mod polls;
mod positions;
mod relay;
mod rig;
mod stuck;
