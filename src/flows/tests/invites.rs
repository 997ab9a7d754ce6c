//! Invites, whatever they come by, and guests who join.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use event::{PduBuilder, SigningKey};
use flows::{Flows, FlowsError};
use reading::Reading;
use rooms::{
    CreateRoom, KeyAnswer, Membership, NeededKeys, NewState, NoFederation, Ports, Preset, PublishedKey, Reach, Rooms,
    SendOptions, Sender, Sent, ServerKeys,
};
use ruma::{OwnedServerName, RoomId, RoomVersionId, ServerName, UserId, room_id, serde::Base64, server_name, user_id};
use serde_json::{
    json,
    value::{RawValue, to_raw_value},
};
use store::Store;
use testkit::{ManualClock, SeededRandom};
use users::{Erasure, Kind, NewAccount, Origin, Users};

fn far() -> &'static ServerName {
    server_name!("far.test")
}

/// Knows the key of the other server.
struct Keys(SigningKey);

#[async_trait]
impl ServerKeys for Keys {
    async fn public_keys(&self, _: &NeededKeys, _: Reach) -> BTreeMap<OwnedServerName, KeyAnswer> {
        let key = Base64::new(self.0.public_key().to_vec());
        let published = PublishedKey { key, valid_until_ms: u64::MAX };
        BTreeMap::from([(far().to_owned(), KeyAnswer::Keys(BTreeMap::from([(self.0.id().to_owned(), published)])))])
    }
}

struct World {
    store: Store,
    rooms: Rooms,
    users: Users,
    flows: Flows,
    far_key: SigningKey,
}

impl World {
    async fn new() -> Self {
        let store =
            Store::in_memory(&[rooms::TABLES, reading::TABLES, users::TABLES, flows::TABLES]).await.expect("a store");
        let (clock, random) = (Arc::new(ManualClock::new()), Arc::new(SeededRandom::new(1)));
        let far_key = SigningKey::generate(&SeededRandom::new(2));
        let ports = Ports {
            remote: Arc::new(NoFederation),
            keys: Arc::new(Keys(far_key.clone())),
            policy: Arc::new(NoFederation),
        };
        let config = rooms::Config::new(server_name!("haima.test").to_owned());
        let rooms = Rooms::open(config, store.clone(), clock.clone(), random.clone(), ports).await.expect("rooms");
        let users = Users::open(users::Config::default(), store.clone(), clock.clone(), random).await.expect("users");
        let reading = Reading::new(rooms.clone(), store.clone(), clock, 1 << 20);
        let flows = Flows::new(store.clone(), users.clone(), reading);
        Self { store, rooms, users, flows, far_key }
    }

    async fn register(&self, user: &UserId) {
        let account = NewAccount {
            user_id: user.to_owned(),
            password: None,
            kind: Kind::User,
            admin: false,
            origin: Origin::Administrator,
            display_name: None,
            login: None,
        };
        self.users.create_account(account).await.expect("an account");
    }

    /// What comes of an invite of the other server.
    async fn invite(&self, room: &RoomId, target: &UserId) -> Result<Box<RawValue>, FlowsError> {
        let version = RoomVersionId::V11;
        let content = to_raw_value(&json!({ "membership": "invite" })).expect("JSON");
        let sender = user_id!("@xenia:far.test").to_owned();
        let mut invite = PduBuilder::new(sender, "m.room.member".to_owned(), content);
        invite.room_id = Some(room.to_owned());
        invite.state_key = Some(target.to_string());
        let rules = event::rules(&version).expect("rules");
        let invite = invite.build(rules, &self.far_key, far()).expect("an event");
        self.flows.receive_invite(far(), room, &version, invite.json(), &[]).await
    }

    async fn set(
        &self,
        sender: &UserId,
        room: &RoomId,
        key: (&str, &str),
        content: serde_json::Value,
    ) -> Result<Sent, FlowsError> {
        let state = NewState::new(key, to_raw_value(&content).expect("JSON")).expect("state");
        self.flows.send_state(&Sender::user(sender), room, state, SendOptions::default()).await
    }

    /// Has a user want no invites.
    async fn block_invites(&self, user: &UserId) {
        let blocking = to_raw_value(&json!({ "default_action": "block" })).expect("JSON");
        self.users.set_account_data(user, None, "m.invite_permission_config", &blocking).await.expect("set");
    }

    async fn membership(&self, room: &RoomId, user: &UserId) -> Option<Membership> {
        let row = self.rooms.membership(&self.store.view().await.unwrap(), user, room).await.expect("a read");
        row.map(|row| row.membership)
    }
}

#[tokio::test]
async fn only_who_is_here_and_lets_themselves_be_invited_is_invited_from_elsewhere() {
    let world = World::new().await;
    let room = room_id!("!room:far.test");
    let (alice, bob, carol) =
        (user_id!("@alice:haima.test"), user_id!("@bob:haima.test"), user_id!("@carol:haima.test"));
    let nobody = user_id!("@nobody:haima.test");
    for user in [alice, bob, carol] {
        world.register(user).await;
    }
    world.flows.deactivate(bob, Erasure::Keep).await.expect("deactivated");
    world.block_invites(carol).await;

    let refused = world.invite(room, nobody).await;
    assert!(matches!(refused, Err(FlowsError::Users(users::Error::UnknownUser))), "{refused:?}");
    let refused = world.invite(room, bob).await;
    assert!(matches!(refused, Err(FlowsError::Users(users::Error::Deactivated))), "{refused:?}");
    let refused = world.invite(room, carol).await;
    assert!(matches!(refused, Err(FlowsError::InviteBlocked)), "{refused:?}");
    for user in [nobody, bob, carol] {
        assert_eq!(world.membership(room, user).await, None, "{user}");
    }
    let signed = world.invite(room, alice).await.expect("signed");
    assert!(signed.get().contains("\"haima.test\""), "{signed}");
    assert_eq!(world.membership(room, alice).await, Some(Membership::Invite));
}

#[tokio::test]
async fn an_invite_or_a_join_by_a_state_event_is_held_to_what_holds_for_any_other() {
    let world = World::new().await;
    let (alice, bob, carol) =
        (user_id!("@alice:haima.test"), user_id!("@bob:haima.test"), user_id!("@carol:haima.test"));
    for user in [alice, bob, carol] {
        world.register(user).await;
    }
    world.block_invites(carol).await;
    let guest = &*world.users.create_guest(server_name!("haima.test"), None).await.expect("a guest").user_id;
    let mut request = CreateRoom::new(alice.to_owned());
    request.preset = Some(Preset::PublicChat);
    let room = &*world.flows.create_room(request).await.expect("a room");
    let member = async |sender: &UserId, target: &str, membership: &str| {
        world.set(sender, room, ("m.room.member", target), json!({ "membership": membership })).await
    };

    let refused = member(alice, carol.as_str(), "invite").await;
    assert!(matches!(refused, Err(FlowsError::InviteBlocked)), "{refused:?}");
    let refused = member(alice, "@nobody:haima.test", "invite").await;
    assert!(matches!(refused, Err(FlowsError::Users(users::Error::UnknownUser))), "{refused:?}");
    member(alice, bob.as_str(), "invite").await.expect("invited");
    assert_eq!(world.membership(room, bob).await, Some(Membership::Invite));

    let refused = [member(guest, guest.as_str(), "join").await.err(), world.flows.join(guest, room, None).await.err()];
    for refused in refused {
        assert!(matches!(refused, Some(FlowsError::GuestForbidden)), "{refused:?}");
    }
    assert_eq!(world.membership(room, guest).await, None);
    let access = json!({ "guest_access": "can_join" });
    world.set(alice, room, ("m.room.guest_access", ""), access).await.expect("set");
    member(guest, guest.as_str(), "join").await.expect("joined");
    assert_eq!(world.membership(room, guest).await, Some(Membership::Join));
}
