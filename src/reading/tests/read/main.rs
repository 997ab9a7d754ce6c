//! Reading rooms, through the public interface, on a store in memory.

mod directory;
mod events;
mod members;
mod notified;
mod pages;
mod random;
mod receipts;
mod redacted;
mod relations;
mod unread;
mod visibility;
mod world;
