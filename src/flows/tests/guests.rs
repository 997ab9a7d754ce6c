//! Guests in rooms that close themselves to guests while nobody looks.

use std::sync::Arc;

use event::Clock;
use flows::Flows;
use reading::Reading;
use rooms::{CreateRoom, Membership, NewState, Ports, Preset, Rooms, SendOptions, Sender};
use ruma::{OwnedRoomId, UserId, server_name, user_id};
use serde_json::{json, value::to_raw_value};
use store::{MemoryDisk, Options, Position, Store};
use testkit::{ManualClock, SeededRandom};
use users::{Kind, NewAccount, Origin, Users};

fn alice() -> &'static UserId {
    user_id!("@alice:haima.test")
}

fn guest() -> &'static UserId {
    user_id!("@1:haima.test")
}

struct World {
    disk: MemoryDisk,
    store: Store,
    clock: Arc<ManualClock>,
    rooms: Rooms,
    users: Users,
}

impl World {
    async fn new() -> Self {
        let world = Self::open(MemoryDisk::new(), Arc::new(ManualClock::new())).await;
        for (user, kind) in [(alice(), Kind::User), (guest(), Kind::Guest)] {
            world.register(user, kind).await;
        }
        world
    }

    async fn open(disk: MemoryDisk, clock: Arc<ManualClock>) -> Self {
        let tables = [rooms::TABLES, reading::TABLES, users::TABLES, flows::TABLES];
        let store = Store::open_memory(&disk, &Options::default(), &tables).await.expect("a store");
        let random = Arc::new(SeededRandom::new(store.boot_id()));
        let config = rooms::Config::new(server_name!("haima.test").to_owned());
        let time: Arc<dyn Clock> = clock.clone();
        let rooms = Rooms::open(config, store.clone(), time.clone(), random.clone(), Ports::no_federation()).await;
        let users = Users::open(users::Config::default(), store.clone(), time, random).await.expect("users");
        Self { disk, store, clock, rooms: rooms.expect("rooms"), users }
    }

    async fn restart(self) -> Self {
        self.store.close().await;
        Self::open(self.disk.clone(), self.clock.clone()).await
    }

    async fn register(&self, user: &UserId, kind: Kind) {
        let account = NewAccount {
            user_id: user.to_owned(),
            password: None,
            kind,
            admin: false,
            origin: Origin::Administrator,
            display_name: None,
            login: None,
        };
        self.users.create_account(account).await.expect("an account");
    }

    /// A room that lets guests in and has one.
    async fn room(&self) -> OwnedRoomId {
        self.clock.advance(1);
        let mut request = CreateRoom::new(alice().to_owned());
        request.preset = Some(Preset::PublicChat);
        let room = self.rooms.create(&request).await.expect("a room");
        self.set_access(&room, "can_join").await;
        self.rooms.join(guest(), &room, None).await.expect("joined");
        room
    }

    async fn set_access(&self, room: &OwnedRoomId, access: &str) {
        let content = to_raw_value(&json!({ "guest_access": access })).expect("JSON");
        let state = NewState::new(("m.room.guest_access", ""), content).expect("state");
        let sender = Sender::user(alice());
        self.rooms.send_state(&sender, room, state, SendOptions::default()).await.expect("set");
    }

    /// Flows, when they have done what was to be done.
    async fn flows(&self) -> Flows {
        let reading = Reading::new(self.rooms.clone(), self.store.clone(), self.clock.clone(), 1 << 20);
        let flows = Flows::new(self.store.clone(), self.users.clone(), reading);
        flows.finish_jobs().await;
        flows
    }

    async fn is_in(&self, user: &UserId, room: &OwnedRoomId) -> bool {
        let row = self.rooms.membership(&self.store.view().await.unwrap(), user, room).await.expect("a read");
        row.is_some_and(|row| row.membership == Membership::Join)
    }
}

#[tokio::test]
async fn a_room_that_closed_before_a_restart_loses_its_guests_after_it() {
    for trimmed in [false, true] {
        let mut world = World::new().await;
        let (open, closed) = (world.room().await, world.room().await);
        drop(world.flows().await);
        world.set_access(&closed, "forbidden").await;
        if trimmed {
            // So that the tables alone tell.
            world.store.trim_log(Position::MAX).await.expect("trimmed");
        }
        world = world.restart().await;
        let _flows = world.flows().await;
        for (user, room, is_in) in
            [(guest(), &open, true), (guest(), &closed, false), (alice(), &open, true), (alice(), &closed, true)]
        {
            assert_eq!(world.is_in(user, room).await, is_in, "{user} in {room}");
        }
    }
}
