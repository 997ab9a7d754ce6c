//! Names that are set aside, and waiting for their uploads.

use std::time::Duration;

use ruma::server_name;

use super::{World, alice, bob, is_gone};
use crate::{Details, Error};

#[tokio::test]
async fn a_name_is_uploaded_to_once_by_whom_it_belongs_to_and_in_time() {
    let mut world = World::new();
    let media = world.open(|_| {}).await;
    let reserved = media.reserve_id(alice()).await.expect("reserved");
    let put = async |user, id: &str| {
        let received = media.take(b"content").await.expect("taken");
        media.add_reserved(user, id, received, Details::default()).await
    };
    is_gone(put(alice(), "nonsense").await);
    assert!(matches!(put(bob(), &reserved.id).await, Err(Error::NotYours)));
    put(alice(), &reserved.id).await.expect("uploaded");
    assert!(matches!(put(alice(), &reserved.id).await, Err(Error::AlreadyUploaded)));
    assert_eq!(media.contents(&reserved.id).await.expect("read"), b"content");
    let plain = media.upload(alice(), b"plain").await.expect("uploaded");
    assert!(matches!(put(alice(), &plain).await, Err(Error::AlreadyUploaded)));

    let late = media.reserve_id(alice()).await.expect("reserved");
    world.clock.set(late.expires_ms);
    is_gone(put(alice(), &late.id).await);
    media.sweep().await.expect("swept");
    assert_eq!(media.contents(&reserved.id).await.expect("stays"), b"content");
}

#[tokio::test]
async fn of_uploads_to_one_name_at_once_one_succeeds_and_the_others_leave_nothing() {
    let mut world = World::new();
    let media = world.open(|_| {}).await;
    for round in 0..5_u8 {
        let reserved = media.reserve_id(alice()).await.expect("reserved");
        let put = async |n: u8| {
            let received = media.take(&[round, n]).await.expect("taken");
            media.add_reserved(alice(), &reserved.id, received, Details::default()).await
        };
        let done = futures_util::future::join_all((0..4).map(put)).await;
        assert_eq!(done.iter().filter(|done| done.is_ok()).count(), 1);
        let refused = done.iter().filter(|done| matches!(done, Err(Error::AlreadyUploaded))).count();
        assert_eq!(refused, 3);
        let (blobs, temp) = world.on_disk();
        assert_eq!((blobs.len(), temp.len()), (usize::from(round) + 1, 0));
    }
}

#[tokio::test]
async fn only_so_many_names_wait() {
    let mut world = World::new();
    let media = world.open(|config| config.max_pending_media_uploads = 2).await;
    let first = media.reserve_id(alice()).await.expect("first");
    media.reserve_id(alice()).await.expect("second");
    assert!(matches!(media.reserve_id(alice()).await, Err(Error::TooManyPending)));
    media.reserve_id(bob()).await.expect("has his own");
    let received = media.take(b"x").await.expect("taken");
    media.add_reserved(alice(), &first.id, received, Details::default()).await.expect("uploaded");
    let third = media.reserve_id(alice()).await.expect("third");
    assert!(matches!(media.reserve_id(alice()).await, Err(Error::TooManyPending)));
    world.clock.set(third.expires_ms);
    media.reserve_id(alice()).await.expect("the others have expired");
}

#[tokio::test]
async fn names_reserved_at_once_are_counted() {
    let mut world = World::new();
    let media = world.open(|config| config.max_pending_media_uploads = 3).await;
    let asked = (0..8).map(|_| media.reserve_id(alice()));
    let got = futures_util::future::join_all(asked).await;
    assert_eq!(got.iter().filter(|reserved| reserved.is_ok()).count(), 3);
}

#[tokio::test]
async fn a_reader_waits_for_the_upload() {
    let mut world = World::new();
    let media = world.open(|_| {}).await;
    let reserved = media.reserve_id(alice()).await.expect("reserved");
    let late = media.find(server_name!("example.org"), &reserved.id, Duration::ZERO).await;
    assert!(matches!(late, Err(Error::NotYetUploaded)));
    let reading = {
        let (media, id) = (media.clone(), reserved.id.clone());
        tokio::spawn(async move { media.find(server_name!("example.org"), &id, Duration::from_secs(20)).await })
    };
    tokio::task::yield_now().await;
    let received = media.take(b"here").await.expect("taken");
    media.add_reserved(alice(), &reserved.id, received, Details::default()).await.expect("uploaded");
    assert_eq!(reading.await.expect("a task").expect("found").size, 4);
}
