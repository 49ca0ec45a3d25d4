//! Pages as pure functions of values.

pub mod simple;
