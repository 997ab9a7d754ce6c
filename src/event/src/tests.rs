//! Tests that need a room, and those with the specification's examples.

mod auth;
mod format;
mod members;
mod panics;
mod power_levels;
mod push;
mod redaction;
mod resolution;
mod room;
mod signing;
mod visibility;
