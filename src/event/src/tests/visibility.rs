//! Who sees what: the table of the specification.

use ruma::RoomVersionId;
use ruma::events::room::history_visibility::HistoryVisibility;
use ruma::events::room::member::MembershipState;
use serde_json::json;

use super::room::{ALICE, BOB, CAROL, Room, user};
use crate::Pdu;
use crate::visibility::{Viewing, Visibility, for_server, for_user, history_visibility, membership};

const HISTORIES: [&str; 4] = ["world_readable", "shared", "invited", "joined"];
const MEMBERSHIPS: [&str; 5] = ["join", "invite", "leave", "ban", "knock"];

fn sees(event: &Pdu, viewer: &str, history: &str, membership: &str, joined_later: bool) -> bool {
    let viewing = Viewing {
        user: &user(viewer),
        history: history.into(),
        membership: membership.into(),
        joined_later,
        ignores_sender: false,
        sender_erased: false,
    };
    for_user(event, &viewing) == Visibility::Visible
}

#[test]
fn messages() {
    let room = Room::new(&RoomVersionId::V11);
    let message = room.event(ALICE, "m.room.message", None, json!({}));
    for history in HISTORIES {
        for membership in MEMBERSHIPS {
            for joined_later in [false, true] {
                let expected = match (history, membership) {
                    ("world_readable", _) | (_, "join") | ("invited", "invite") => true,
                    ("shared", _) => joined_later,
                    _ => false,
                };
                let found = sees(&message, BOB, history, membership, joined_later);
                assert_eq!(found, expected, "{history} {membership} {joined_later}");
            }
        }
    }
}

#[test]
fn events_that_change_what_they_are_judged_by() {
    let room = Room::new(&RoomVersionId::V11);
    let opened =
        room.event(ALICE, "m.room.history_visibility", Some(""), json!({"history_visibility": "world_readable"}));
    assert!(sees(&opened, BOB, "joined", "leave", false));
    let closed = room.event(ALICE, "m.room.history_visibility", Some(""), json!({"history_visibility": "joined"}));
    assert!(sees(&closed, BOB, "world_readable", "leave", false));
    assert!(!sees(&closed, BOB, "shared", "leave", false));
    let elsewhere =
        room.event(ALICE, "m.room.history_visibility", Some("x"), json!({"history_visibility": "world_readable"}));
    assert!(!sees(&elsewhere, BOB, "joined", "leave", false));

    let join = room.event(BOB, "m.room.member", Some(BOB), json!({"membership": "join"}));
    assert!(sees(&join, BOB, "joined", "leave", false));
    assert!(!sees(&join, CAROL, "joined", "leave", false));
    let kick = room.event(ALICE, "m.room.member", Some(BOB), json!({"membership": "leave"}));
    assert!(sees(&kick, BOB, "joined", "join", false));
    assert!(!sees(&kick, BOB, "joined", "invite", false));
    let invite = room.event(ALICE, "m.room.member", Some(BOB), json!({"membership": "invite"}));
    assert!(sees(&invite, BOB, "invited", "leave", false));
    assert!(!sees(&invite, BOB, "joined", "leave", false));
}

#[test]
fn ignored_and_erased_senders() {
    let room = Room::new(&RoomVersionId::V11);
    let message = room.event(ALICE, "m.room.message", None, json!({}));
    let topic = room.event(ALICE, "m.room.topic", Some(""), json!({}));
    let (alice, bob) = (user(ALICE), user(BOB));
    let viewing = |user, membership: &str, ignores_sender, sender_erased| Viewing {
        user,
        history: HistoryVisibility::Shared,
        membership: membership.into(),
        joined_later: true,
        ignores_sender,
        sender_erased,
    };
    assert_eq!(for_user(&message, &viewing(&bob, "join", true, false)), Visibility::Hidden);
    assert_eq!(for_user(&topic, &viewing(&bob, "join", true, false)), Visibility::Visible);
    assert_eq!(for_user(&message, &viewing(&alice, "join", true, false)), Visibility::Visible);
    assert_eq!(for_user(&message, &viewing(&bob, "join", false, true)), Visibility::Visible);
    assert_eq!(for_user(&message, &viewing(&bob, "leave", false, true)), Visibility::Redacted);
}

#[test]
fn servers() {
    let room = Room::new(&RoomVersionId::V11);
    let message = room.event(ALICE, "m.room.message", None, json!({}));
    let bob = user(BOB);
    let sees = |event: &Pdu, history: &str, memberships: &[&str], erased: bool| {
        let memberships: Vec<MembershipState> = memberships.iter().map(|text| (*text).into()).collect();
        for_server(event, bob.server_name(), &history.into(), &memberships, erased) == Visibility::Visible
    };
    for history in HISTORIES {
        let open = history == "world_readable" || history == "shared";
        assert!(sees(&message, history, &["leave", "join"], true));
        assert_eq!(sees(&message, history, &["leave"], false), open);
        assert_eq!(sees(&message, history, &["invite"], false), open || history == "invited");
        assert!(!sees(&message, history, &["leave"], true), "erased");
    }
    let own = room.event(BOB, "m.room.message", None, json!({}));
    assert!(sees(&own, "joined", &[], false));
    let invite = |target: &str| room.event(ALICE, "m.room.member", Some(target), json!({"membership": "invite"}));
    assert!(sees(&invite(BOB), "invited", &[], false));
    assert!(!sees(&invite(CAROL), "invited", &[], false));
    let opened = room.event(ALICE, "m.room.history_visibility", Some(""), json!({"history_visibility": "shared"}));
    assert!(sees(&opened, "joined", &[], false));
}

#[test]
fn what_is_missing_or_unknown() {
    let room = Room::new(&RoomVersionId::V11);
    assert_eq!(history_visibility(None), HistoryVisibility::Shared);
    for content in [json!({}), json!({"history_visibility": "secret"}), json!({"history_visibility": 5})] {
        let event = room.event(ALICE, "m.room.history_visibility", Some(""), content);
        assert_eq!(history_visibility(Some(&event)), HistoryVisibility::Shared);
    }
    assert_eq!(membership(None), MembershipState::Leave);
    let odd = room.event(BOB, "m.room.member", Some(BOB), json!({"membership": 5}));
    assert_eq!(membership(Some(&odd)), MembershipState::Leave);
}
