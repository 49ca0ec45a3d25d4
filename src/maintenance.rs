//! Work on a whole server folder: taken out as an export, made from one, and checked.

pub mod export;
pub mod import;
pub mod progress;
#[cfg(test)]
mod scenes;
mod spool;
pub mod verify;
