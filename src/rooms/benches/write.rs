//! What writing to rooms costs on RocksDB, without HTTP: durable sends by many at once, and a state event in a room with
//! very many members.

use std::{path::Path, sync::Arc};

use event::{SystemClock, SystemRandom};
use rooms::{CreateRoom, NewState, Ports, Preset, Rooms, SendOptions, Sender};
use ruma::{OwnedRoomId, OwnedUserId, UserId, server_name};
use serde_json::{json, value::to_raw_value};
use store::{Options, Store};
use testkit::Stopwatch;

type Failure = Box<dyn std::error::Error + Send + Sync>;

const SENDERS: usize = 50;
const ROOMS: usize = 10;
const MESSAGES_PER_SENDER: usize = 400;
const MEMBERS: usize = 100_000;
const JOINS_AT_ONCE: usize = 50;
const TOPICS: usize = 100;

async fn open(path: &Path) -> Result<(Store, Rooms), Failure> {
    let store = Store::open_rocksdb(path, &Options::default(), &[rooms::TABLES]).await?;
    let config = rooms::Config::new(server_name!("example.org").to_owned());
    let (clock, random) = (Arc::new(SystemClock), Arc::new(SystemRandom));
    let rooms = Rooms::open(config, store.clone(), clock, random, Ports::no_federation()).await?;
    Ok((store, rooms))
}

fn user(number: usize) -> OwnedUserId {
    UserId::parse(format!("@user{number}:example.org")).expect("a user id")
}

async fn public_room(rooms: &Rooms) -> Result<OwnedRoomId, Failure> {
    let mut request = CreateRoom::new(user(0));
    request.preset = Some(Preset::PublicChat);
    Ok(rooms.create(&request).await?)
}

async fn sends(rooms: &Rooms) -> Result<(), Failure> {
    let mut ids = Vec::new();
    for _ in 0..ROOMS {
        let room = public_room(rooms).await?;
        for number in 1..SENDERS {
            rooms.join(&user(number), &room, None).await?;
        }
        ids.push(room);
    }
    let stopwatch = Stopwatch::start();
    let mut senders = Vec::new();
    for number in 0..SENDERS {
        let (rooms, room) = (rooms.clone(), ids[number % ROOMS].clone());
        senders.push(tokio::spawn(async move {
            for _ in 0..MESSAGES_PER_SENDER {
                let content = to_raw_value(&json!({ "msgtype": "m.text", "body": "The tide comes in at nine." }))?;
                let sender = user(number);
                rooms.send(&Sender::user(&sender), &room, "m.room.message", content, SendOptions::default()).await?;
            }
            Ok::<_, Failure>(())
        }));
    }
    for sender in senders {
        sender.await??;
    }
    stopwatch.report("a durable send, 50 at once", SENDERS * MESSAGES_PER_SENDER);
    Ok(())
}

async fn big_room(rooms: &Rooms) -> Result<(), Failure> {
    let room = public_room(rooms).await?;
    let stopwatch = Stopwatch::start();
    let mut joins = Vec::new();
    for first in 0..JOINS_AT_ONCE {
        let (rooms, room) = (rooms.clone(), room.clone());
        joins.push(tokio::spawn(async move {
            for number in (1..MEMBERS).skip(first).step_by(JOINS_AT_ONCE) {
                rooms.join(&user(number), &room, None).await?;
            }
            Ok::<_, Failure>(())
        }));
    }
    for join in joins {
        join.await??;
    }
    stopwatch.report("a join, 50 at once, of a room that grows to 100,000", MEMBERS);
    let stopwatch = Stopwatch::start();
    let sender = user(0);
    for number in 0..TOPICS {
        let content = to_raw_value(&json!({ "topic": number.to_string() }))?;
        let options = SendOptions::default();
        rooms.send_state(&Sender::user(&sender), &room, NewState::new(("m.room.topic", ""), content)?, options).await?;
    }
    stopwatch.report("a state event in a room of 100,000", TOPICS);
    Ok(())
}

fn main() -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let directory = tempfile::tempdir()?;
    runtime.block_on(async {
        let (store, rooms) = open(directory.path()).await?;
        sends(&rooms).await?;
        big_room(&rooms).await?;
        store.close().await;
        Ok(())
    })
}
