//! The domain: users own indexes; an index is a stage, which takes uploads, or a mirror; a stage holds projects, a
//! project versions, a version links to files. Nothing here knows HTTP or replication: functions take a transaction
//! and values.

pub mod acl;
pub mod attach;
pub mod changes;
pub mod delete;
pub mod docs;
pub mod files;
pub mod index;
pub mod links;
pub mod metadata;
pub mod mirror_delete;
pub mod mirrored;
pub mod overview;
pub mod push;
pub mod release;
pub mod results;
#[cfg(test)]
mod scenes;
pub mod settings;
pub mod setup;
pub mod stage;
pub mod time;
pub mod tokens;
pub mod upload;
pub mod user;
pub mod walk;
