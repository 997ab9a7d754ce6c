//! How fast sending is. Prints and asserts nothing about time: `cargo test --release -p rooms --test write -- --ignored --nocapture`.

use std::time::Instant;

use rooms::{SendOptions, Sender};
use serde_json::json;

use crate::world::{World, raw};

const ROOMS: usize = 10;
const SENDERS: usize = 50;
const MESSAGES: usize = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints measurements"]
async fn sends_over_ten_rooms() {
    let world = World::new().await;
    let alice = world.user("alice");
    let mut rooms = Vec::new();
    for _ in 0..ROOMS {
        rooms.push(world.public_room(&alice).await);
    }
    for sender in 0..SENDERS {
        world.rooms.join(&world.user(&format!("user{sender}")), &rooms[sender % ROOMS], None).await.expect("joined");
    }
    let started = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for sender in 0..SENDERS {
        let (engine, room, user) =
            (world.rooms.clone(), rooms[sender % ROOMS].clone(), world.user(&format!("user{sender}")));
        tasks.spawn(async move {
            for number in 0..MESSAGES {
                let content = raw(json!({ "msgtype": "m.text", "body": format!("message {number}") }));
                let sender = Sender::user(&user);
                engine.send(&sender, &room, "m.room.message", content, SendOptions::default()).await.expect("sent");
            }
        });
    }
    tasks.join_all().await;
    let elapsed = started.elapsed();
    let sent = SENDERS * MESSAGES;
    println!("{sent} messages in {elapsed:?}: {:?} each", elapsed / u32::try_from(sent).expect("few"));
}
