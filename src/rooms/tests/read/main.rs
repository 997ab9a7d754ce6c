//! Reading rooms, through the public interface, on a store in memory.

mod directory;
mod events;
mod members;
mod pages;
mod receipts;
mod relations;
mod unread;
mod visibility;
mod world;
