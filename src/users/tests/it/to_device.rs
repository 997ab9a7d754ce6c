//! Messages to devices: sending, order, repetition, limits, acknowledgement.

use std::collections::VecDeque;

use proptest::prelude::*;
use ruma::{DeviceId, OwnedUserId, UserId};
use serde_json::value::RawValue;
use store::Position;
use users::{
    Error, TO_DEVICE_MESSAGE_BYTES_MAX, TO_DEVICE_MESSAGES_PER_REQUEST_MAX, TO_DEVICE_PER_SYNC_MAX,
    TO_DEVICE_SENDER_BYTES_MAX, TO_DEVICE_TXN_KEPT_MS, ToDeviceMessage, ToDeviceRequest, ToDeviceSent,
};

use crate::world::{World, another, config, user, world, world_with};

fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap()
}

fn request<'a>(sender: &'a UserId, txn_id: &'a str) -> ToDeviceRequest<'a> {
    ToDeviceRequest { sender, device: "PHONE".into(), txn_id, event_type: "m.test" }
}

/// `None` is every device.
async fn send(
    world: &World,
    sender: &UserId,
    txn: &str,
    to: &[(&UserId, Option<&str>, &str)],
) -> Result<ToDeviceSent, Error> {
    let contents: Vec<_> = to.iter().map(|(_, _, content)| raw(content)).collect();
    let messages: Vec<_> = to
        .iter()
        .zip(&contents)
        .map(|((user, device, _), content)| ToDeviceMessage { user, device: device.map(<&DeviceId>::from), content })
        .collect();
    world.users.send_to_device(&request(sender, txn), &messages).await
}

/// The contents that wait for a device after a position, and the position of the last.
async fn queue(world: &World, user: &UserId, device: &str, after: Position) -> (Vec<String>, Option<Position>) {
    let page = world.users.to_device_messages(user, device.into(), after, Position::MAX).await.unwrap();
    let mut contents = Vec::new();
    for event in page.events {
        let event: serde_json::Value = serde_json::from_str(event.get()).unwrap();
        assert_eq!(event["type"], "m.test");
        assert!(event["sender"].is_string());
        contents.push(event["content"].to_string());
    }
    (contents, page.last)
}

async fn waiting(world: &World, user: &UserId, device: &str) -> Vec<String> {
    queue(world, user, device, Position::ZERO).await.0
}

async fn alice_with_devices(world: &World, devices: &[&str]) -> OwnedUserId {
    let alice = world.register("alice").await;
    for device in devices {
        world.login(&alice, device).await;
    }
    alice
}

#[tokio::test]
async fn messages_wait_in_order_for_the_devices_that_are_meant() {
    let world = world().await;
    let alice = alice_with_devices(&world, &["ONE", "TWO"]).await;
    let bob = world.register("bob").await;
    world.login(&bob, "PHONE").await;
    send(&world, &bob, "1", &[(&alice, Some("ONE"), r#"{"n":1}"#)]).await.unwrap();
    // A message to a device goes before one to all.
    let both = [(&*alice, Some("ONE"), r#"{"n":2}"#), (&*alice, None, r#"{"n":3}"#), (&*bob, None, r#"{"n":4}"#)];
    assert_eq!(send(&world, &bob, "2", &both).await.unwrap(), ToDeviceSent { queued: 3, refused: 0 });
    assert_eq!(waiting(&world, &alice, "ONE").await, [r#"{"n":1}"#, r#"{"n":2}"#]);
    assert_eq!(waiting(&world, &alice, "TWO").await, [r#"{"n":3}"#]);
    assert_eq!(waiting(&world, &bob, "PHONE").await, [r#"{"n":4}"#]);
}

#[tokio::test]
async fn who_is_not_there_is_passed_over() {
    let world = world().await;
    let alice = alice_with_devices(&world, &["ONE"]).await;
    let nobody = user("nobody");
    let to = [(&*nobody, Some("X"), "{}"), (&*nobody, None, "{}"), (&*alice, Some("NONE"), "{}")];
    assert_eq!(send(&world, &alice, "1", &to).await.unwrap(), ToDeviceSent::default());
    assert_eq!(send(&world, &alice, "2", &[]).await.unwrap(), ToDeviceSent::default());
    assert!(waiting(&world, &alice, "ONE").await.is_empty());
}

#[tokio::test]
async fn a_repeated_request_sends_once() {
    let world = world().await;
    let alice = alice_with_devices(&world, &["ONE"]).await;
    let to = [(&*alice, Some("ONE"), r#"{"n":1}"#)];
    send(&world, &alice, "same", &to).await.unwrap();
    send(&world, &alice, "same", &to).await.unwrap();
    // Also for a server that has just started, and at once.
    let users = another(&world.store, &world.clock, config()).await;
    let content = raw(r#"{"n":1}"#);
    let message = [ToDeviceMessage { user: &alice, device: Some("ONE".into()), content: &content }];
    users.send_to_device(&request(&alice, "same"), &message).await.unwrap();
    let new = request(&alice, "new");
    let (one, other) = tokio::join!(users.send_to_device(&new, &message), users.send_to_device(&new, &message));
    assert_eq!(one.unwrap().queued + other.unwrap().queued, 1);
    assert_eq!(waiting(&world, &alice, "ONE").await.len(), 2);
    // Another type or device is another request.
    let other_type = ToDeviceRequest { event_type: "m.test", device: "TABLET".into(), ..new };
    users.send_to_device(&other_type, &message).await.unwrap();
    assert_eq!(waiting(&world, &alice, "ONE").await.len(), 3);
    world.pass_ms(TO_DEVICE_TXN_KEPT_MS + 1);
    send(&world, &alice, "same", &to).await.unwrap();
    assert_eq!(waiting(&world, &alice, "ONE").await.len(), 4);
    assert_eq!(world.users.sweep_expired().await.unwrap(), 2);
    send(&world, &alice, "same", &to).await.unwrap();
    assert_eq!(waiting(&world, &alice, "ONE").await.len(), 4);
}

#[tokio::test]
async fn a_repeated_request_is_not_for_devices_that_came_since() {
    let world = world().await;
    let alice = alice_with_devices(&world, &["ONE"]).await;
    let to = [(&*alice, None, "{}")];
    assert_eq!(send(&world, &alice, "1", &to).await.unwrap().queued, 1);
    world.login(&alice, "TWO").await;
    assert_eq!(send(&world, &alice, "1", &to).await.unwrap().queued, 0);
    assert!(waiting(&world, &alice, "TWO").await.is_empty());
}

#[tokio::test]
async fn transaction_ids_of_any_length_are_forgotten() {
    const REQUESTS: usize = 400;
    let world = world().await;
    let alice = alice_with_devices(&world, &["ONE"]).await;
    let content = raw("{}");
    let message = [ToDeviceMessage { user: &alice, device: Some("ONE".into()), content: &content }];
    // The longest there are, of the character that takes most room in a key.
    let (device, event_type) = ("\0".repeat(255), "\0".repeat(255));
    for number in 0..REQUESTS {
        let txn_id = format!("{number:\0>255}");
        let request = ToDeviceRequest {
            sender: &alice,
            device: device.as_str().into(),
            txn_id: &txn_id,
            event_type: &event_type,
        };
        world.users.send_to_device(&request, &message).await.unwrap();
    }
    world.pass_ms(TO_DEVICE_TXN_KEPT_MS + 1);
    assert_eq!(world.users.sweep_expired().await.unwrap(), REQUESTS);
}

#[tokio::test]
async fn a_large_request_is_written_whole_and_once() {
    let world = world().await;
    let devices: Vec<String> = (0..40).map(|n| format!("D{n:02}")).collect();
    let devices: Vec<&str> = devices.iter().map(String::as_str).collect();
    let alice = alice_with_devices(&world, &devices).await;
    let content = format!(r#"{{"text":"{}"}}"#, "x".repeat(60_000));
    let before = world.view().await.position();
    let to = [(&*alice, None, content.as_str())];
    assert_eq!(send(&world, &alice, "1", &to).await.unwrap().queued, 40);
    // More than one batch holds, so more than one log entry.
    assert!(world.view().await.position().get() - before.get() > 1);
    assert_eq!(send(&world, &alice, "1", &to).await.unwrap().queued, 0);
    for device in devices {
        assert_eq!(waiting(&world, &alice, device).await.len(), 1);
    }
}

#[tokio::test]
async fn a_request_that_broke_off_goes_on_where_it_ended() {
    let mut world = world().await;
    let devices: Vec<String> = (0..40).map(|n| format!("D{n:02}")).collect();
    let devices: Vec<&str> = devices.iter().map(String::as_str).collect();
    let alice = alice_with_devices(&world, &devices).await;
    let content = format!(r#"{{"text":"{}"}}"#, "x".repeat(60_000));
    let to = [(&*alice, None, content.as_str())];
    let mut published = world.store.subscribe();
    published.mark_unchanged();
    // Given up after the first of its batches, as by a crash.
    tokio::select! {
        biased;
        _ = published.changed() => {}
        _ = send(&world, &alice, "1", &to) => {}
    }
    world.users = another(&world.store, &world.clock, config()).await;
    assert!(send(&world, &alice, "1", &to).await.unwrap().queued < 40);
    for device in devices {
        assert_eq!(waiting(&world, &alice, device).await.len(), 1, "{device}");
    }
}

#[tokio::test]
async fn what_is_too_large_or_no_object_is_refused() {
    let world = world().await;
    let alice = alice_with_devices(&world, &["ONE"]).await;
    let fits = format!(r#"{{"t":"{}"}}"#, "x".repeat(TO_DEVICE_MESSAGE_BYTES_MAX - 8));
    assert_eq!(fits.len(), TO_DEVICE_MESSAGE_BYTES_MAX);
    send(&world, &alice, "1", &[(&alice, None, &fits)]).await.unwrap();
    let large = format!("{fits} ");
    let error = send(&world, &alice, "2", &[(&alice, None, &large)]).await;
    // Blanks at the end are not part of the value.
    assert!(error.is_ok());
    let large = fits.replace(r#""t""#, r#""tt""#);
    let error = send(&world, &alice, "3", &[(&alice, None, &large)]).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }));
    let error = send(&world, &alice, "4", &[(&alice, None, "[]")]).await.unwrap_err();
    assert!(matches!(error, Error::NotAnObject));
    let error = send(&world, &alice, &"t".repeat(256), &[]).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }));
    let many = vec![(&*alice, None, "{}"); TO_DEVICE_MESSAGES_PER_REQUEST_MAX + 1];
    let error = send(&world, &alice, "5", &many).await.unwrap_err();
    assert!(matches!(error, Error::TooMany(_)));
}

#[tokio::test]
async fn who_fills_a_queue_harms_neither_its_device_nor_others() {
    let mut world = world().await;
    let alice = alice_with_devices(&world, &["FULL", "OTHER"]).await;
    let (mallory, bob) = (world.register("mallory").await, world.register("bob").await);
    let content = format!(r#"{{"t":"{}"}}"#, "x".repeat(60_000));
    let to = [(&*alice, Some("FULL"), content.as_str())];
    let mut sent = 0;
    while send(&world, &mallory, &sent.to_string(), &to).await.unwrap().refused == 0 {
        sent += 1;
    }
    let bytes = sent as u64 * 60_000;
    assert!((TO_DEVICE_SENDER_BYTES_MAX / 2..2 * TO_DEVICE_SENDER_BYTES_MAX).contains(&bytes), "{bytes}");
    let both = [(&*alice, Some("FULL"), "{}"), (&*alice, Some("OTHER"), "{}")];
    assert_eq!(send(&world, &mallory, "both", &both).await.unwrap(), ToDeviceSent { queued: 1, refused: 1 });
    assert_eq!(waiting(&world, &alice, "OTHER").await, ["{}"]);
    for n in 0..10 {
        assert_eq!(send(&world, &bob, &n.to_string(), &to).await.unwrap(), ToDeviceSent { queued: 1, refused: 0 });
    }
    // A server that was just started doesn't know at once, but soon.
    world.users = another(&world.store, &world.clock, config()).await;
    let mut more = 0;
    while send(&world, &mallory, &format!("more{more}"), &to).await.unwrap().refused == 0 {
        more += 1;
    }
    assert!(more as u64 * 60_000 < 2 * TO_DEVICE_SENDER_BYTES_MAX, "{more}");
    assert_eq!(send(&world, &bob, "more", &to).await.unwrap(), ToDeviceSent { queued: 1, refused: 0 });

    // Whoever fetches gets more, also of that sender.
    let (mut token, mut got) = (Position::ZERO, 0);
    while got < sent + more + 11 {
        let (contents, last) = queue(&world, &alice, "FULL", token).await;
        got += contents.len();
        token = last.unwrap();
        world.users.acknowledge_to_device(&alice, "FULL".into(), token).await.unwrap();
    }
    assert_eq!(send(&world, &mallory, "again", &to).await.unwrap(), ToDeviceSent { queued: 1, refused: 0 });
    assert_eq!(waiting(&world, &alice, "FULL").await.len(), 1);
}

#[tokio::test]
async fn what_waits_of_a_sender_is_known_whatever_comes_and_goes() {
    const BYTES_MAX: u64 = 300_000;
    let config = || users::Config { to_device_sender_bytes_max: BYTES_MAX, ..config() };
    let mut world = world_with(config()).await;
    let alice = alice_with_devices(&world, &["ONE", "TWO", "THREE"]).await;
    let (mallory, bob) = (world.register("mallory").await, world.register("bob").await);
    let content = format!(r#"{{"t":"{}"}}"#, "x".repeat(60_000));
    // Sends to one device after the other until that is refused; how many were sent.
    let fill = async |world: &World, txn: &str| {
        for count in 0.. {
            let device = ["ONE", "TWO", "THREE"][count % 3];
            let to = [(&*alice, Some(device), content.as_str())];
            let sent = send(world, &mallory, &format!("{txn}{count}"), &to).await.unwrap();
            if sent.refused > 0 {
                return count;
            }
        }
        unreachable!("a loop without an end")
    };
    assert_eq!(fill(&world, "a").await, 5);
    let small = [(&*alice, Some("THREE"), "{}")];
    assert_eq!(send(&world, &bob, "1", &small).await.unwrap().refused, 0, "others are not concerned");
    world.users = another(&world.store, &world.clock, config()).await;
    world.settle().await;
    assert_eq!(fill(&world, "b").await, 0, "nor does a restart help");

    // What a client takes makes room, however often it says so.
    let (_, last) = queue(&world, &alice, "ONE", Position::ZERO).await;
    let take = || world.users.acknowledge_to_device(&alice, "ONE".into(), last.unwrap());
    let (first, second) = tokio::join!(take(), take());
    first.unwrap();
    second.unwrap();
    assert_eq!(fill(&world, "c").await, 2);
    // So does the deletion of a device, which had three.
    world.users.delete_devices(&alice, &["TWO".into()]).await.unwrap();
    world.settle().await;
    world.login(&alice, "TWO").await;
    assert_eq!(fill(&world, "d").await, 3);
    world.users.delete_all_devices(&alice).await.unwrap();
    world.settle().await;
    assert_eq!(world.store.held_bytes(), 0, "nothing is kept of whom nothing waits");
}

#[tokio::test]
async fn a_device_takes_its_messages_with_it() {
    let world = world().await;
    let alice = alice_with_devices(&world, &["ONE", "TWO"]).await;
    send(&world, &alice, "1", &[(&alice, None, "{}")]).await.unwrap();
    world.users.delete_devices(&alice, &["ONE".into()]).await.unwrap();
    world.login(&alice, "ONE").await;
    assert!(waiting(&world, &alice, "ONE").await.is_empty());
    assert_eq!(waiting(&world, &alice, "TWO").await.len(), 1);
    // Logging in again on a device keeps them.
    world.login(&alice, "TWO").await;
    assert_eq!(waiting(&world, &alice, "TWO").await.len(), 1);
    world.users.delete_all_devices(&alice).await.unwrap();
    world.login(&alice, "TWO").await;
    assert!(waiting(&world, &alice, "TWO").await.is_empty());
}

#[tokio::test]
async fn a_new_device_may_use_the_transaction_ids_of_one_that_is_gone() {
    let world = world().await;
    let alice = alice_with_devices(&world, &["PHONE", "OTHER"]).await;
    let to = [(&*alice, Some("OTHER"), "{}")];
    send(&world, &alice, "1", &to).await.unwrap();
    world.users.delete_devices(&alice, &["PHONE".into()]).await.unwrap();
    world.login(&alice, "PHONE").await;
    send(&world, &alice, "1", &to).await.unwrap();
    assert_eq!(waiting(&world, &alice, "OTHER").await.len(), 2);
}

/// What happens to a device.
#[derive(Clone, Debug)]
enum Step {
    Send(usize),
    /// The client asks with its token; whether it gets the answer.
    Fetch(bool),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1usize..150).prop_map(Step::Send),
        4 => any::<bool>().prop_map(Step::Fetch),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 0..25)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    /// A client that loses answers, comes back after restarts and acknowledges with its token gets each message once and in order.
    #[test]
    fn each_message_comes_once_and_in_order(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = world().await;
            let alice = alice_with_devices(&world, &["ONE"]).await;
            let mut expected = VecDeque::new();
            let (mut sent, mut token) = (0, Position::ZERO);
            let steps = steps.into_iter().chain((0..40).map(|_| Step::Fetch(true)));
            for step in steps {
                match step {
                    Step::Send(count) => {
                        for _ in 0..count {
                            let content = format!(r#"{{"n":{sent}}}"#);
                            send(&world, &alice, &sent.to_string(), &[(&alice, Some("ONE"), &content)]).await.unwrap();
                            expected.push_back(content);
                            sent += 1;
                        }
                    }
                    Step::Fetch(arrives) => {
                        world.users.acknowledge_to_device(&alice, "ONE".into(), token).await.unwrap();
                        let (contents, last) = queue(&world, &alice, "ONE", token).await;
                        assert!(contents.len() <= TO_DEVICE_PER_SYNC_MAX);
                        if arrives {
                            for content in contents {
                                assert_eq!(Some(content), expected.pop_front());
                            }
                            token = last.unwrap_or(token);
                        }
                    }
                    Step::Restart => world.users = another(&world.store, &world.clock, config()).await,
                }
            }
            assert!(expected.is_empty());
            world.users.acknowledge_to_device(&alice, "ONE".into(), token).await.unwrap();
            // Nobody waits for the deletion, but whatever is written next comes after it.
            world.login(&alice, "TWO").await;
            assert!(waiting(&world, &alice, "ONE").await.is_empty());
        });
    }
}
