//! The write side of rooms through its public interface, on the memory engine.

mod appending;
mod creating;
mod entering;
mod forks;
mod hostile;
mod logged;
mod members;
mod receiving;
mod redacting;
mod residents;
mod serving;
mod upgrading;
mod world;
