//! What tests of several crates need: time and chance under control, events made by hand, and a network that misbehaves by plan.
//!
//! Nothing here sleeps, reads a clock or draws real random numbers: a test that fails with a seed fails with it again. The
//! exceptions are what benches measure with, and buckets: requests to S3 are signed with the time.

mod clock;
mod events;
mod images;
mod network;
mod random;
#[cfg(feature = "s3")]
pub mod s3;
mod stopwatch;

pub use self::{
    clock::ManualClock,
    events::EventFactory,
    images::plain_webp,
    network::{Delivery, Faults, Network},
    random::{SeededRandom, seeds},
    stopwatch::{Stopwatch, processor_ns},
};
