//! Numbers that the file has in the units that admins think in.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A time that the file has in seconds.
pub type Seconds = Time<1_000>;
/// A time that the file has in days.
pub type Days = Time<{ 24 * 60 * 60 * 1_000 }>;

/// A time that the file has as a number of units of so many milliseconds.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Debug, Serialize, Deserialize)]
#[serde(from = "u64", into = "u64")]
pub struct Time<const UNIT_MS: u64> {
    ms: u64,
}

impl<const UNIT_MS: u64> Time<UNIT_MS> {
    /// So many units.
    pub const fn of(units: u64) -> Self {
        Self { ms: units.saturating_mul(UNIT_MS) }
    }

    /// So many milliseconds, which the file may have no number for.
    pub const fn from_ms(ms: u64) -> Self {
        Self { ms }
    }

    /// The time in milliseconds.
    pub const fn ms(self) -> u64 {
        self.ms
    }

    /// The time.
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.ms)
    }

    /// Whether it is no time at all.
    pub const fn is_zero(self) -> bool {
        self.ms == 0
    }
}

impl<const UNIT_MS: u64> From<u64> for Time<UNIT_MS> {
    fn from(units: u64) -> Self {
        Self::of(units)
    }
}

impl<const UNIT_MS: u64> From<Time<UNIT_MS>> for u64 {
    fn from(time: Time<UNIT_MS>) -> Self {
        time.ms / UNIT_MS
    }
}

/// A number of bytes that the file has in MiB.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Debug, Serialize, Deserialize)]
#[serde(from = "u64", into = "u64")]
pub struct Mebibytes {
    bytes: u64,
}

impl Mebibytes {
    /// So many MiB.
    pub const fn of(mebibytes: u64) -> Self {
        Self { bytes: mebibytes.saturating_mul(1 << 20) }
    }

    /// So many bytes, which the file may have no number for.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self { bytes }
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.bytes
    }
}

impl From<u64> for Mebibytes {
    fn from(mebibytes: u64) -> Self {
        Self::of(mebibytes)
    }
}

impl From<Mebibytes> for u64 {
    fn from(size: Mebibytes) -> Self {
        size.bytes >> 20
    }
}
