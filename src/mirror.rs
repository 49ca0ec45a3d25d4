//! Mirrors: indexes that show what another server has, and keep what was asked for.

pub mod parse;
