//! Writing JSON.

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::RoomsError;

/// The JSON of a value. Fails only for what JSON can't express, which this server never makes.
pub fn to_json(value: &impl Serialize) -> Result<Box<RawValue>, RoomsError> {
    to_raw_value(value).map_err(|error| RoomsError::corrupt(format!("JSON: {error}")))
}
