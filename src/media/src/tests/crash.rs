//! A process that ends between any two steps of an upload or a deletion leaves nothing behind, and loses nothing that
//! was acknowledged.

use store::Batch;

use super::{World, alice, bob, content};
use crate::{
    Media,
    files::{NewBlob, Target},
    receive::BUFFER_BYTES,
    tables::{FileKey, Files},
};

/// How far an upload comes.
#[derive(Copy, Clone, PartialEq, PartialOrd, Debug)]
enum Step {
    Receiving,
    Received,
    Placed,
    Committed,
    Done,
}

const STEPS: [Step; 5] = [Step::Receiving, Step::Received, Step::Placed, Step::Committed, Step::Done];

/// Uploads as far as `last`, then forgets everything without running what runs at the end of a scope.
async fn upload_until(media: &Media, bytes: &[u8], last: Step) -> String {
    let id = "theid".to_owned();
    let mut receiving = media.receive(alice()).expect("receives");
    receiving.write(bytes.to_vec().into()).await.expect("written");
    if last == Step::Receiving {
        std::mem::forget(receiving);
        return id;
    }
    let received = receiving.finish().await.expect("finished");
    if last >= Step::Placed {
        let view = media.view().await.unwrap();
        let mut batch = Batch::new();
        let mut blob = NewBlob::default();
        let target = Target { id: &id, user: Some(alice()), reserved: false, preview_for: None };
        media.prepare_file(&view, &mut batch, &target, &received, &Default::default()).await.expect("prepared");
        media.prepare_blob(&view, &mut batch, &received, &mut blob).await.expect("placed");
        if last >= Step::Committed {
            assert!(media.commit(batch).await.expect("committed"));
        }
        if last >= Step::Done {
            media.settle(blob, &Ok(true)).await;
        }
    }
    std::mem::forget(received);
    id
}

#[tokio::test]
async fn an_upload_that_ends_anywhere_leaves_all_or_nothing() {
    for len in [100, 2 * BUFFER_BYTES + 5] {
        for step in STEPS {
            let mut world = World::new();
            let bytes = content(7, len);
            let id = {
                let media = world.open(|_| {}).await;
                upload_until(&media, &bytes, step).await
            };
            let media = world.open(|_| {}).await;
            let there = step >= Step::Committed;
            let (blobs, temp) = world.on_disk();
            assert_eq!((blobs.len(), temp.len()), (usize::from(there), 0), "{step:?} with {len} bytes");
            match media.contents(&id).await {
                Ok(found) => assert!(there && found == bytes, "{step:?}"),
                Err(error) => assert!(!there, "{step:?}: {error}"),
            }
            // And it can be uploaded again.
            let again = media.upload(bob(), &bytes).await.expect("uploaded");
            assert_eq!(media.contents(&again).await.expect("read"), bytes);
            assert_eq!(world.on_disk().0.len(), 1);
        }
    }
}

#[tokio::test]
async fn a_deletion_that_ends_before_the_file_is_removed_is_finished_later() {
    let mut world = World::new();
    let bytes = content(7, 1_000);
    {
        let media = world.open(|_| {}).await;
        let id = media.upload(alice(), &bytes).await.expect("uploaded");
        let view = media.view().await.unwrap();
        let key = FileKey { server: &media.config().server_name, id: &id };
        let row = view.get::<Files>(&key).await.expect("read").expect("there").0;
        let mut batch = Batch::new();
        let digest = store::Fixed(row.digest.expect("uploaded"));
        media.prepare_release(&view, &mut batch, digest).await.expect("prepared");
        batch.delete::<Files>(&key);
        assert!(media.commit(batch).await.expect("committed"));
    }
    let media = world.open(|_| {}).await;
    // The same bytes come back before the old file is gone.
    let again = media.upload(bob(), &bytes).await.expect("uploaded");
    assert_eq!(world.on_disk().0.len(), 2);
    media.sweep().await.expect("swept");
    assert_eq!(world.on_disk().0.len(), 1);
    assert_eq!(media.contents(&again).await.expect("read"), bytes);
}
