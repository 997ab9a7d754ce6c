//! Reading rooms, through the public interface, on a store in memory.

mod directory;
mod events;
mod members;
mod pages;
mod random;
mod receipts;
mod relations;
mod unread;
mod visibility;
mod world;
