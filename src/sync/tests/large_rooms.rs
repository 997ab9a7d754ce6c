//! Rooms with everybody in them: what they carry, and that it costs no more than there are members.

mod world;

use std::time::Duration;

use rooms::{NewReceipt, ReceiptType};
use ruma::{OwnedRoomId, OwnedUserId, UserId};
use serde_json::{Value, json};
use tokio::time::Instant;
use users::PresenceState;
use world::{World, client::*, user};

/// Rooms with more members are large in these tests.
const LARGE: usize = 20;

/// So long after a change in a large room of these tests it has been routed.
const LATE: Duration = Duration::from_secs(3);

/// Seconds that the clock of tokio passes at once.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::sleep(time).await;
    tokio::time::resume();
}

struct Crowd {
    world: World,
    room: OwnedRoomId,
    clients: Vec<Client>,
}

impl Crowd {
    /// A room with so many members, all of whom have synced.
    async fn new(count: usize) -> Self {
        let config = sync::Config { large_room_members: LARGE, ..sync::Config::default() };
        let world = World::configured(config, 1).await;
        let members: Vec<OwnedUserId> = (0..count).map(|number| user(&format!("m{number:04}"))).collect();
        let room = world.room(&members[0]).await;
        let mut clients = Vec::new();
        for member in &members {
            world.register(member).await;
            if *member != members[0] {
                world.join(member, &room).await;
            }
            let filter = json!({ "room": { "state": { "lazy_load_members": true }, "timeline": { "limit": 1 } } });
            clients.push(Client::new(member, "X").with_filter(filter));
        }
        let mut crowd = Self { world, room, clients };
        crowd.sync().await;
        crowd
    }

    /// Lets all clients sync, and says how many bytes of news they got.
    async fn sync(&mut self) -> usize {
        let mut bytes = 0;
        for client in &mut self.clients {
            let mut body = client.ask(&self.world, 0, false).await;
            client.since = Some(text(&body, "next_batch"));
            // Its length depends on how much happened before.
            body["next_batch"] = Value::Null;
            bytes += body.to_string().len();
        }
        bytes
    }

    /// Lets each member do the same, and says how many changes were routed and how many bytes answered for each.
    async fn cost(&mut self, act: impl AsyncFn(&World, &OwnedRoomId, &UserId)) -> (u64, usize) {
        let routed = self.world.sync.changes_routed();
        for client in &self.clients {
            act(&self.world, &self.room, &client.user).await;
        }
        pass(LATE).await;
        let bytes = self.sync().await;
        let routed = self.world.sync.changes_routed() - routed;
        assert!(self.sync().await <= bytes);
        let count = self.clients.len();
        assert_eq!(routed % count as u64, 0, "each has as much as the others");
        (routed / count as u64, bytes / count)
    }
}

#[tokio::test]
async fn what_all_members_do_costs_each_the_same_however_many_they_are() {
    let mut costs = Vec::new();
    for count in [60, 160] {
        let mut crowd = Crowd::new(count).await;
        let event = crowd.world.send(&crowd.clients[0].user, &crowd.room, "hello").await;
        crowd.sync().await;
        let online = crowd.cost(async |world, _, member| {
            world.users.presence().set(member, "X".into(), PresenceState::Online, None).await.unwrap();
        });
        let online = online.await;
        let typing = crowd.cost(async |world, room, member| world.rooms.typing().start(room, member, 60_000)).await;
        let keys = crowd.cost(async |world, _, member| drop(world.log_in(member, "NEW").await)).await;
        let reading = crowd.cost(async |world, room, member| {
            let (user, receipt_type) = (member, ReceiptType::Read);
            let receipt = NewReceipt { user, room, receipt_type, event: &event, thread: None };
            world.rooms.set_receipt(receipt).await.unwrap();
        });
        let reading = reading.await;
        costs.push([online, typing, keys, reading]);
    }
    assert_eq!(
        costs[0], costs[1],
        "for each member: changes routed and bytes answered, online, typing, with new keys, reading"
    );
    // Of oneself; once of all who type; of one's own new device and of its keys; and of oneself again.
    let routed = costs[0].map(|(routed, _)| routed);
    assert_eq!(routed, [1, 1, 2, 1]);
}

#[tokio::test]
async fn presence_is_told_where_two_are_in_a_smaller_room() {
    let mut crowd = Crowd::new(LARGE + 1).await;
    let world = &crowd.world;
    let [alice, bob] = [0, 1].map(|number| crowd.clients[number].user.clone());
    let status = async |text| {
        let presence = world.users.presence();
        presence.set(&bob, "X".into(), PresenceState::Online, Some(text)).await.unwrap();
    };
    let client = &mut crowd.clients[0];
    let told = |body: &Value| list(&body["presence"]["events"]).len();
    status("tea").await;
    assert_eq!(told(&client.sync(world, 0).await), 0);
    assert_eq!(told(&Client::new(&alice, "A2").sync(world, 0).await), 0);

    let small = world.room(&alice).await;
    world.join(&bob, &small).await;
    assert_eq!(told(&client.sync(world, 0).await), 1);
    status("cake").await;
    assert_eq!(told(&client.sync(world, 0).await), 1);
    assert_eq!(told(&Client::new(&alice, "A2").sync(world, 0).await), 1);

    // Somebody goes, and the room is large no more.
    world.leave(&bob, &small).await;
    client.sync(world, 0).await;
    world.leave(&crowd.clients[2].user, &crowd.room).await;
    status("sleep").await;
    assert_eq!(told(&crowd.clients[0].sync(world, 0).await), 1);
}

#[tokio::test]
async fn who_types_is_told_late_and_once_for_many() {
    let mut crowd = Crowd::new(LARGE + 1).await;
    let (world, room) = (&crowd.world, &crowd.room);
    let typing = |body: &Value| {
        let events = list(&body["rooms"]["join"][room.as_str()]["ephemeral"]["events"]);
        events.first().map(|event| list(&event["content"]["user_ids"]).len())
    };
    let all: Vec<OwnedUserId> = crowd.clients.iter().map(|client| client.user.clone()).collect();
    let client = &mut crowd.clients[0];
    for member in &all[1..15] {
        world.rooms.typing().start(room, member, 60_000);
    }
    assert_eq!(typing(&client.sync(world, 0).await), None);
    tokio::time::pause();
    let begin = Instant::now();
    let body = client.sync(world, 30_000).await;
    assert_eq!(typing(&body), Some(10), "no longer list is of use");
    assert!(begin.elapsed() <= LATE);
    for member in &all[1..15] {
        world.rooms.typing().stop(room, member);
    }
    assert_eq!(typing(&client.sync(world, 30_000).await), Some(0));
    let begin = Instant::now();
    client.sync(world, 30_000).await;
    assert_eq!(begin.elapsed().as_secs(), 30);
}

#[tokio::test]
async fn keys_are_told_in_a_large_room_once_it_is_encrypted() {
    let mut crowd = Crowd::new(LARGE + 1).await;
    let (world, room) = (&crowd.world, &crowd.room);
    let [alice, bob] = [0, 1].map(|number| crowd.clients[number].user.clone());
    let changed = |body: &Value| list(&body["device_lists"]["changed"]).len();
    let client = &mut crowd.clients[0];
    world.log_in(&bob, "B").await;
    assert_eq!(changed(&client.sync(world, 0).await), 0);
    // Neither are those who come.
    let late = user("late");
    world.join(&late, room).await;
    assert_eq!(changed(&client.sync(world, 0).await), 0);

    world.set(&alice, room, "m.room.encryption", json!({ "algorithm": "m.megolm.v1.aes-sha2" })).await;
    assert_eq!(changed(&client.sync(world, 0).await), LARGE + 1);
    world.log_in(&bob, "B2").await;
    assert_eq!(changed(&client.sync(world, 0).await), 1);
    let later = user("later");
    world.join(&later, room).await;
    assert_eq!(changed(&client.sync(world, 0).await), 1);
}

#[tokio::test]
async fn receipts_of_others_come_with_other_news() {
    let mut crowd = Crowd::new(LARGE + 1).await;
    let (world, room) = (&crowd.world, &crowd.room);
    let members: Vec<OwnedUserId> = crowd.clients.iter().map(|client| client.user.clone()).collect();
    let event = world.send(&members[0], room, "hello").await;
    let read = async |user: &UserId| {
        let receipt = NewReceipt { user, room, receipt_type: ReceiptType::Read, event: &event, thread: None };
        world.rooms.set_receipt(receipt).await.unwrap();
    };
    let told = |body: &Value| {
        let events = list(&body["rooms"]["join"][room.as_str()]["ephemeral"]["events"]);
        events.first().map_or(0, |receipts| object(&receipts["content"][event.as_str()]["m.read"]).len())
    };
    let client = &mut crowd.clients[0];
    client.sync(world, 0).await;
    read(&members[1]).await;
    read(&members[2]).await;
    tokio::time::pause();
    let begin = Instant::now();
    assert_eq!(told(&client.sync(world, 30_000).await), 2);
    assert_eq!(begin.elapsed().as_secs(), 30);
    tokio::time::resume();
    read(&members[3]).await;
    world.set(&members[0], &world.room(&members[0]).await, "m.room.topic", json!({ "topic": "else" })).await;
    assert_eq!(told(&client.sync(world, 30_000).await), 1);
    assert_eq!(told(&client.sync(world, 0).await), 0);
    read(&members[0]).await;
    assert_eq!(told(&client.sync(world, 30_000).await), 1);
}
