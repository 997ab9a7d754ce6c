//! Keeping, reading and deleting files; quotas, retention, quarantine.

use ruma::server_name;
use settings::{Days, Mebibytes};

use super::{World, alice, bob, content, is_gone, now_ms};
use crate::{Details, Error, RECEIVING_PER_USER_MAX, disk::blocking, receive::BUFFER_BYTES};

#[tokio::test]
async fn files_come_back_as_they_were() {
    let mut world = World::new();
    let media = world.open(|_| {}).await;
    for len in [0, 1, 1_000, BUFFER_BYTES - 1, BUFFER_BYTES, BUFFER_BYTES + 1, 3 * BUFFER_BYTES + 17] {
        let bytes = content(1, len);
        let details = Details {
            content_type: Some("image/png".into()),
            file_name: Some("a picture.png".into()),
            expires_ms: None,
        };
        let received = media.take(&bytes).await.expect("taken");
        let id = media.add(Some(alice()), received, details).await.expect("added");
        let file = media.get(&id).await.expect("found");
        assert_eq!((file.size, file.content_type.as_deref()), (len as u64, Some("image/png")));
        assert_eq!((file.file_name.as_deref(), file.uploader.as_deref()), (Some("a picture.png"), Some(alice())));
        assert_eq!(media.contents(&id).await.expect("read"), bytes);
        for (from, to) in [(0, len / 2), (len / 2, len), (len / 3, len / 3)] {
            let part = media.bytes(&file, from as u64..to as u64).await.expect("read");
            assert_eq!(part, bytes[from..to], "{from}..{to} of {len}");
        }
    }
    assert_eq!(world.on_disk().1, Vec::<String>::new());
}

#[tokio::test]
async fn what_is_too_large_leaves_nothing() {
    let mut world = World::new();
    let media = world.open(|config| config.max_request_size = 3 * BUFFER_BYTES as u64).await;
    assert!(media.upload(alice(), &content(1, 3 * BUFFER_BYTES)).await.is_ok());
    let error = media.upload(alice(), &content(2, 3 * BUFFER_BYTES + 1)).await;
    assert!(matches!(error, Err(Error::TooLarge { .. })));
    // The temporary file is removed where the last handle to it goes.
    blocking(|| Ok(())).await.expect("done");
    let (blobs, temp) = world.on_disk();
    assert_eq!((blobs.len(), temp.len()), (1, 0));
}

#[tokio::test]
async fn what_an_uploader_says_is_kept_within_reason() {
    let mut world = World::new();
    let media = world.open(|_| {}).await;
    let details = Details {
        content_type: Some("text/html\r\nX-Evil: 1".into()),
        file_name: Some("海".repeat(1_000)),
        expires_ms: None,
    };
    let id = media.add(Some(alice()), media.take(b"x").await.expect("taken"), details).await.expect("added");
    let file = media.get(&id).await.expect("found");
    assert_eq!(file.content_type, None);
    assert_eq!(file.file_name, Some("海".repeat(341)));
}

#[tokio::test]
async fn a_file_that_was_removed_by_hand_comes_back_with_the_next_upload() {
    let mut world = World::new();
    let media = world.open(|_| {}).await;
    let bytes = content(1, 1_000);
    let first = media.upload(alice(), &bytes).await.expect("uploaded");
    let name = world.on_disk().0.remove(0);
    std::fs::remove_dir_all(world.directory.path().join("blobs").join(&name[..2])).expect("removed");
    is_gone(media.contents(&first).await);
    let second = media.upload(bob(), &bytes).await.expect("uploaded");
    assert_eq!(media.contents(&first).await.expect("read"), bytes);
    assert_eq!(media.contents(&second).await.expect("read"), bytes);
}

#[tokio::test]
async fn a_file_that_was_cut_is_replaced() {
    let mut world = World::new();
    let media = world.open(|_| {}).await;
    let bytes = content(1, 1_000);
    let first = media.upload(alice(), &bytes).await.expect("uploaded");
    let cut = world.on_disk().0.remove(0);
    std::fs::write(world.directory.path().join("blobs").join(&cut[..2]).join(&cut), b"less").expect("written");
    media.upload(bob(), &bytes).await.expect("uploaded");
    assert_eq!(media.contents(&first).await.expect("read"), bytes);
    media.sweep().await.expect("swept");
    let (blobs, temp) = world.on_disk();
    assert_eq!((blobs.len(), blobs.contains(&cut), temp.len()), (1, false, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_files_that_come_while_the_last_one_goes_are_kept() {
    let mut world = World::new();
    let media = world.open(|config| config.media_retention_days = Days::from_ms(1_000)).await;
    let bytes = content(1, 1_000);
    let mut old = media.upload(alice(), &bytes).await.expect("uploaded");
    for _ in 0..30 {
        world.clock.advance(2_000);
        let (first, second, swept) =
            tokio::join!(media.upload(alice(), &bytes), media.upload(bob(), &bytes), media.sweep());
        swept.expect("swept");
        let (first, second) = (first.expect("uploaded"), second.expect("uploaded"));
        for id in [&first, &second] {
            assert_eq!(media.contents(id).await.expect("read"), bytes);
        }
        media.sweep().await.expect("swept");
        is_gone(media.get(&old).await);
        media.remove(&second).await.expect("deleted");
        old = first;
    }
    assert_eq!((world.on_disk().0.len(), world.on_disk().1.len()), (1, 0));
}

#[tokio::test]
async fn quotas_bound_the_number_of_files_and_hold_for_uploads_at_once() {
    let mut world = World::new();
    let media = world.open(|config| config.media_user_quota_mb = Mebibytes::from_bytes(10 * 1_024)).await;
    for n in 0..10 {
        media.upload(alice(), &[n]).await.expect("fits");
    }
    assert!(matches!(media.upload(alice(), b"x").await, Err(Error::QuotaExceeded { .. })));
    assert!(matches!(media.check_quota(alice(), 0).await, Err(Error::QuotaExceeded { .. })));
    let contents: Vec<_> = (0..8).map(|seed| content(seed, 3_000)).collect();
    let asked = contents.iter().map(|bytes| media.upload(bob(), bytes));
    let got = futures_util::future::join_all(asked).await;
    assert_eq!(got.iter().filter(|id| id.is_ok()).count(), 3);
    assert_eq!(world.on_disk().1, Vec::<String>::new());
}

#[tokio::test]
async fn an_upload_that_ends_in_the_middle_leaves_nothing() {
    let mut world = World::new();
    let media = world.open(|_| {}).await;
    let mut receiving = media.receive(alice()).expect("receives");
    receiving.write(content(1, 3 * BUFFER_BYTES).into()).await.expect("written");
    assert_eq!(world.on_disk().1.len(), 1);
    drop(receiving);
    assert_eq!(world.on_disk(), (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn a_user_has_so_many_uploads_until_they_are_kept() {
    let mut world = World::new();
    let media = world.open(|_| {}).await;
    let received = media.take(b"received").await.expect("taken");
    let receiving: Vec<_> = (1..RECEIVING_PER_USER_MAX).map(|_| media.receive(alice()).expect("free")).collect();
    assert!(matches!(media.receive(alice()), Err(Error::Busy)));
    media.receive(bob()).map(drop).expect("has his own");
    media.add(Some(alice()), received, Details::default()).await.expect("kept");
    media.receive(alice()).map(drop).expect("free again");
    drop(receiving);
}

#[tokio::test]
async fn what_is_not_ours_is_left_alone() {
    let mut world = World::new();
    let id = world.open(|_| {}).await.upload(alice(), b"kept").await.expect("uploaded");
    let temp = world.directory.path().join("temp");
    for directory in ["lost+found", "odd.part"] {
        std::fs::create_dir(temp.join(directory)).expect("made");
    }
    for name in ["readme", "x-y", "0123-gen"] {
        std::fs::write(temp.join(name), b"not ours").expect("written");
    }
    std::fs::write(temp.join("ours.part"), b"left behind").expect("written");
    let media = world.open(|_| {}).await;
    let mut left = world.on_disk().1;
    left.sort();
    assert_eq!(left, ["0123-gen", "lost+found", "odd.part", "readme", "x-y"]);
    assert_eq!(media.contents(&id).await.expect("read"), b"kept");
}

#[tokio::test]
async fn quotas_count_what_is_stored() {
    let mut world = World::new();
    let media = world.open(|config| config.media_user_quota_mb = Mebibytes::from_bytes(10_000)).await;
    let first = media.upload(alice(), &content(1, 6_000)).await.expect("fits");
    assert!(matches!(media.upload(alice(), &content(2, 4_001)).await, Err(Error::QuotaExceeded { .. })));
    assert!(matches!(media.check_quota(alice(), 4_001).await, Err(Error::QuotaExceeded { .. })));
    media.check_quota(alice(), 4_000).await.expect("fits");
    let second = media.upload(alice(), &content(3, 4_000)).await.expect("fits");
    media.upload(bob(), &content(4, 10_000)).await.expect("has his own");
    media.remove(&first).await.expect("deleted");
    assert_eq!(media.usage(alice()).await.expect("usage"), 4_000);
    media.upload(alice(), &content(5, 6_000)).await.expect("fits again");
    drop(media);

    let media = world.open(|config| config.media_user_quota_mb = Mebibytes::from_bytes(10_000)).await;
    assert!(matches!(media.upload(alice(), b"x").await, Err(Error::QuotaExceeded { .. })), "counted from the tables");
    media.remove(&second).await.expect("deleted");
    media.upload(alice(), b"x").await.expect("fits");
}

#[tokio::test]
async fn quarantine_takes_content_out_whatever_its_name() {
    let mut world = World::new();
    let media = world.open(|_| {}).await;
    let bytes = content(1, 100);
    let (first, second) =
        (media.upload(alice(), &bytes).await.expect("first"), media.upload(bob(), &bytes).await.expect("second"));
    let other = media.upload(bob(), b"other").await.expect("other");
    media.set_quarantined(server_name!("example.org"), &first, true).await.expect("quarantined");
    let third = media.upload(bob(), &bytes).await.expect("third");
    for id in [&first, &second, &third] {
        assert!(matches!(media.get(id).await, Err(Error::Quarantined)));
    }
    media.get(&other).await.expect("there");
    media.set_quarantined(server_name!("example.org"), &third, false).await.expect("released");
    assert_eq!(media.contents(&first).await.expect("back"), bytes);
    is_gone(media.set_quarantined(server_name!("example.org"), "none", true).await);
}

#[tokio::test]
async fn the_sweep_removes_what_has_had_its_time() {
    let mut world = World::new();
    let media = world.open(|_| {}).await;
    let expires_ms = Some(now_ms(&world) + 1_000);
    let details = Details { expires_ms, ..Details::default() };
    let expiring = media.add(None, media.take(b"soon gone").await.expect("taken"), details).await.expect("added");
    let reserved = media.reserve_id(alice()).await.expect("reserved");
    let old = media.upload(alice(), &content(1, 1_000)).await.expect("old");
    world.clock.advance(1_000);
    assert_eq!(media.sweep().await.expect("swept").deleted, 1);
    is_gone(media.get(&expiring).await);
    assert!(matches!(media.get(&reserved.id).await, Err(Error::NotYetUploaded)));
    world.clock.advance(media.config().media_create_unused_expiration_time.ms());
    is_gone(media.get(&reserved.id).await);
    assert_eq!(media.sweep().await.expect("swept").deleted, 1);
    let middle = media.upload(alice(), &content(2, 1_000)).await.expect("middle");
    world.clock.advance(1_000);
    let new = media.upload(alice(), &content(3, 1_000)).await.expect("new");
    drop(media);

    let media = world.open(|config| config.media_retention_days = Days::from_ms(5_000)).await;
    assert_eq!(media.sweep().await.expect("swept").deleted, 1);
    is_gone(media.get(&old).await);
    drop(media);

    let media = world.open(|config| config.media_retention_mb = Mebibytes::from_bytes(1_500)).await;
    assert_eq!(media.stored_bytes().await.expect("sum"), 2_000);
    assert_eq!(media.sweep().await.expect("swept").deleted, 1);
    is_gone(media.get(&middle).await);
    media.get(&new).await.expect("kept");
    assert_eq!(world.on_disk().0.len(), 1);
}
