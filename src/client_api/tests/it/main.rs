//! The client-server API through its router, with every domain in memory behind it.

mod accounts;
mod content_repo;
mod encryption;
mod room_flows;
mod rooms;
mod uia;
mod user_data;
mod world;
