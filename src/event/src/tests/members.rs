//! Authorisation rules about membership, in every room version.

use ruma::CanonicalJsonObject;
use serde_json::{Value, json};

use super::room::{ALICE, BOB, CAROL, Room, key, number, user};
use crate::canonical::{Numbers, parse_object};
use crate::{RoomVersionRules, SUPPORTED_ROOM_VERSIONS, SigningKey};

fn with_join_rule(room: &Room, rule: &str) -> Room {
    let mut room = room.clone();
    room.send(ALICE, "m.room.join_rules", Some(""), json!({"join_rule": rule}));
    room
}

/// Alice at 100 or above, Bob at 50, Carol at 0, all joined.
fn with_levels(version: &ruma::RoomVersionId) -> Room {
    let mut room = Room::new(version);
    room.member(BOB, BOB, "join");
    room.member(CAROL, CAROL, "join");
    room.send(ALICE, "m.room.power_levels", Some(""), json!({"users": room.users(&[(BOB, 50)])}));
    room
}

#[test]
fn joining_by_join_rule() {
    for version in SUPPORTED_ROOM_VERSIONS {
        let room = Room::new(&version);
        assert!(room.allows_member(BOB, BOB, "join"), "public");
        assert!(!room.allows_member(ALICE, BOB, "join"), "for somebody else");
        for rule in ["invite", "private", "knock", "restricted", "knock_restricted", "org.example"] {
            let mut room = with_join_rule(&room, rule);
            assert!(!room.allows_member(BOB, BOB, "join"), "{rule}");
            room.member(ALICE, BOB, "invite");
            let understood = match rule {
                "invite" => 1,
                "knock" => 7,
                "restricted" => 8,
                "knock_restricted" => 10,
                _ => u8::MAX,
            };
            let allowed = number(&version) >= understood;
            assert_eq!(room.allows_member(BOB, BOB, "join"), allowed, "{rule} in room version {version}");
        }
    }
}

#[test]
fn first_join_needs_no_rule() {
    for version in SUPPORTED_ROOM_VERSIONS {
        let room = Room::created(&version, json!({}));
        assert!(room.allows_member(ALICE, ALICE, "join"));
        assert!(!room.allows_member(BOB, BOB, "join"));
        assert!(!room.allows_member("@amy:a.org", "@amy:a.org", "join"));
    }
}

#[test]
fn banned_users_stay_out() {
    for version in SUPPORTED_ROOM_VERSIONS {
        let mut room = Room::new(&version);
        room.member(ALICE, BOB, "ban");
        assert!(!room.allows_member(BOB, BOB, "join"));
        assert!(!room.allows_member(BOB, BOB, "leave"));
        assert!(!room.allows_member(ALICE, BOB, "invite"));
        assert!(!with_join_rule(&room, "knock").allows_member(BOB, BOB, "knock"));
        room.member(ALICE, BOB, "leave");
        assert!(room.allows_member(BOB, BOB, "join"));
    }
}

#[test]
fn knocking() {
    for version in SUPPORTED_ROOM_VERSIONS {
        let room = Room::new(&version);
        assert!(!room.allows_member(BOB, BOB, "knock"), "not in a public room");
        let knock = with_join_rule(&room, "knock");
        assert_eq!(knock.allows_member(BOB, BOB, "knock"), number(&version) >= 7);
        let restricted = with_join_rule(&room, "knock_restricted");
        assert_eq!(restricted.allows_member(BOB, BOB, "knock"), number(&version) >= 10);
        assert!(!knock.allows_member(ALICE, BOB, "knock"), "for somebody else");
        if number(&version) >= 7 {
            let mut knock = knock;
            knock.member(BOB, BOB, "knock");
            assert!(knock.allows_member(BOB, BOB, "knock"), "again");
            assert!(knock.allows_member(BOB, BOB, "leave"), "taken back");
            assert!(knock.allows_member(ALICE, BOB, "leave"), "refused");
            assert!(!knock.allows_member(BOB, BOB, "join"));
            knock.member(ALICE, BOB, "invite");
            assert!(!knock.allows_member(BOB, BOB, "knock"), "when invited");
            knock.member(BOB, BOB, "join");
            assert!(!knock.allows_member(BOB, BOB, "knock"), "when joined");
        }
    }
}

#[test]
fn restricted_joins() {
    for version in SUPPORTED_ROOM_VERSIONS {
        for (rule, since) in [("restricted", 8), ("knock_restricted", 10)] {
            let mut room = with_levels(&version);
            room.member(ALICE, "@dave:b.org", "ban");
            let levels = json!({"users": room.users(&[(BOB, 50)]), "invite": 50});
            room.send(ALICE, "m.room.power_levels", Some(""), levels);
            let room = with_join_rule(&room, rule);
            let understood = number(&version) >= since;
            let eve = "@eve:b.org";
            let allows = |user: &str, via: Value| {
                let content = json!({"membership": "join", "join_authorised_via_users_server": via});
                room.allows(user, "m.room.member", Some(user), content)
            };
            assert_eq!(allows(eve, json!(BOB)), understood, "{rule} in room version {version}");
            assert_eq!(allows(eve, json!(ALICE)), understood);
            assert!(!allows(eve, json!(CAROL)), "has no power to invite");
            assert!(!allows(eve, json!("@nobody:b.org")), "isn't joined");
            assert!(!allows(eve, json!("nonsense")));
            assert!(!room.allows_member(eve, eve, "join"), "via nobody");
            assert!(!allows("@dave:b.org", json!(BOB)), "banned");
            assert_eq!(room.allows_member(CAROL, CAROL, "join"), understood, "joined already");
        }
    }
}

#[test]
fn inviting() {
    for version in SUPPORTED_ROOM_VERSIONS {
        let mut room = with_levels(&version);
        let eve = "@eve:b.org";
        assert!(room.allows_member(CAROL, eve, "invite"), "the invite level is 0");
        assert!(!room.allows_member(eve, "@x:b.org", "invite"), "isn't joined");
        assert!(!room.allows_member(ALICE, BOB, "invite"), "is joined");
        let levels = json!({"users": room.users(&[(BOB, 50)]), "invite": 50});
        room.send(ALICE, "m.room.power_levels", Some(""), levels);
        assert!(!room.allows_member(CAROL, eve, "invite"));
        assert!(room.allows_member(BOB, eve, "invite"));
        room.member(BOB, eve, "invite");
        assert!(room.allows_member(eve, eve, "leave"), "refused");
        assert!(room.allows_member(BOB, eve, "leave"), "taken back");
    }
}

#[test]
fn kicking_and_banning() {
    for version in SUPPORTED_ROOM_VERSIONS {
        let mut room = with_levels(&version);
        for membership in ["leave", "ban"] {
            assert!(room.allows_member(ALICE, BOB, membership));
            assert!(room.allows_member(BOB, CAROL, membership));
            assert!(!room.allows_member(BOB, ALICE, membership), "stronger");
            assert!(!room.allows_member(CAROL, BOB, membership));
            assert!(!room.allows_member("@eve:b.org", CAROL, membership), "isn't joined");
        }
        assert!(room.allows_member(CAROL, CAROL, "leave"));
        assert!(!room.allows_member("@eve:b.org", "@eve:b.org", "leave"), "wasn't there");
        assert!(!room.allows_member(CAROL, CAROL, "ban"), "weaker than the ban level");
        assert!(room.allows_member(BOB, "@eve:b.org", "ban"), "in advance");
        assert!(!room.allows(CAROL, "m.room.member", Some(CAROL), json!({})), "no membership");
        assert!(!room.allows(CAROL, "m.room.member", Some(CAROL), json!({"membership": "admin"})));
        assert!(!room.allows(CAROL, "m.room.member", Some("carol"), json!({"membership": "join"})));

        // Unbanning needs the levels to kick and to ban.
        room.member(ALICE, CAROL, "ban");
        let levels = json!({"users": room.users(&[(BOB, 50)]), "ban": 51});
        assert!(room.allows_member(BOB, CAROL, "leave"));
        room.send(ALICE, "m.room.power_levels", Some(""), levels);
        assert!(!room.allows_member(BOB, CAROL, "leave"));
        assert!(room.allows_member(ALICE, CAROL, "leave"));
    }
}

#[test]
fn third_party_invites() {
    let identity = SigningKey::from_seed(&[9; 32], "0").expect("valid version");
    let signed = |mxid: &str, token: &str, signer: &SigningKey| -> CanonicalJsonObject {
        let text = json!({"mxid": mxid, "token": token}).to_string();
        let mut object = parse_object(text.as_bytes(), Numbers::Strict).expect("canonical JSON");
        signer.sign_json(user("@x:id.org").server_name(), &mut object).expect("signed");
        object
    };
    for version in SUPPORTED_ROOM_VERSIONS {
        let mut room = with_levels(&version);
        let invitation = json!({"display_name": "b", "public_key": identity.public_key_base64(),
            "public_keys": [{"public_key": key().public_key_base64()}]});
        room.send(ALICE, "m.room.third_party_invite", Some("t"), invitation.clone());
        let allows = |sender: &str, target: &str, signed: &Value| {
            let content = json!({"membership": "invite", "third_party_invite": {"signed": signed}});
            room.allows(sender, "m.room.member", Some(target), content)
        };
        let dave = "@dave:b.org";
        let good = json!(signed(dave, "t", &identity));
        assert!(allows(ALICE, dave, &good), "room version {version}");
        assert!(allows(ALICE, dave, &json!(signed(dave, "t", &key()))), "by the other key");
        assert!(!allows(BOB, dave, &good), "didn't send the invitation");
        assert!(!allows(ALICE, "@eve:b.org", &good), "for somebody else");
        assert!(!allows(ALICE, dave, &json!(signed(dave, "u", &identity))), "no such token");
        let stranger = SigningKey::from_seed(&[3; 32], "0").expect("valid version");
        assert!(!allows(ALICE, dave, &json!(signed(dave, "t", &stranger))));
        assert!(!allows(ALICE, dave, &json!({"mxid": dave, "token": "t"})), "not signed");
        assert!(!allows(ALICE, dave, &json!({"mxid": dave})));
        assert!(!allows(ALICE, dave, &json!(null)));
        let levels = json!({"users": room.users(&[(BOB, 50)]), "invite": 60});
        room.send(ALICE, "m.room.power_levels", Some(""), levels);
        assert!(!room.allows(BOB, "m.room.third_party_invite", Some("v"), invitation));
    }
}

#[test]
fn rules_are_those_of_their_version() {
    // The order of the list that the tests iterate is that of the rules.
    for version in SUPPORTED_ROOM_VERSIONS {
        let rules: &RoomVersionRules = crate::rules(&version).expect("supported");
        assert_eq!(rules.authorization.knocking, number(&version) >= 7);
        assert_eq!(rules.enforce_key_validity, number(&version) >= 5);
        assert_eq!(rules.authorization.integer_power_levels, number(&version) >= 10);
    }
}
