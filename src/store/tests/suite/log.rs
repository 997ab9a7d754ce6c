//! The log, and reading it.

use store::{Batch, FollowError, Position, Store};

use crate::{
    backend::{Backend, run},
    model::Note,
};

pub async fn note(store: &Store, text: &str) -> Position {
    let mut batch = Batch::new();
    let _ = batch.log(&Note(text.as_bytes().to_vec()));
    store.commit(batch).await.unwrap()
}

pub fn stored_records_are_read_then_live_ones(backend: &impl Backend) {
    run(async {
        let store = backend.open(&[]).await;
        let first = note(&store, "before the restart").await;
        store.close().await;

        let store = backend.open(&[]).await;
        let mut reader = store.read_log(Position::ZERO);
        let records = reader.next().await.unwrap();
        assert_eq!(records[0].position, first);
        assert_eq!(records[0].decode::<Note>().unwrap(), Some(Note(b"before the restart".to_vec())));
        assert!(reader.try_next().await.unwrap().is_empty());

        let waiting = tokio::spawn(async move { reader.next().await.unwrap() });
        tokio::task::yield_now().await;
        let second = note(&store, "live").await;
        assert_eq!(waiting.await.unwrap()[0].position, second);
        assert!(second > first);
        store.close().await;
    });
}

pub fn who_is_behind_the_tail_reads_from_the_disk(backend: &impl Backend) {
    run(async {
        let store = backend.open(&[]).await;
        // More than the tail in memory holds.
        let text = "x".repeat(64 * 1024);
        let mut positions = Vec::new();
        for _ in 0..(store.budget().log_tail_bytes / text.len() + 4) {
            positions.push(note(&store, &text).await);
        }
        let mut reader = store.read_log(Position::ZERO);
        let mut seen = Vec::new();
        while seen.len() < positions.len() {
            let records = reader.next().await.unwrap();
            seen.extend(records.iter().map(|record| record.position));
        }
        assert_eq!(seen, positions);
        store.close().await;
    });
}

pub fn who_is_behind_a_trimmed_log_is_told(backend: &impl Backend) {
    run(async {
        let store = backend.open(&[]).await;
        let first = note(&store, "one").await;
        let second = note(&store, "two").await;
        let third = note(&store, "three").await;
        store.trim_log(third).await.unwrap();
        store.close().await;

        let store = backend.open(&[]).await;
        for behind in [Position::ZERO, first] {
            match store.read_log(behind).next().await {
                Err(FollowError::TooOld { oldest }) => assert_eq!(oldest, third),
                other => panic!("{other:?}"),
            }
        }
        let records = store.read_log(second).next().await.unwrap();
        assert_eq!(records[0].position, third);
        // Trimming less, or more than there is, does no harm.
        store.trim_log(first).await.unwrap();
        store.trim_log(Position::MAX).await.unwrap();
        let fourth = note(&store, "four").await;
        assert_eq!(store.read_log(store.published()).try_next().await.unwrap(), []);
        let before_fourth = Position::from_u64(fourth.get() - 1);
        assert_eq!(store.read_log(before_fourth).next().await.unwrap()[0].position, fourth);
        store.close().await;
    });
}

pub fn reading_ends_when_the_store_closes(backend: &impl Backend) {
    run(async {
        let store = backend.open(&[]).await;
        let mut reader = store.read_log(store.published());
        let waiting = tokio::spawn(async move { reader.next().await });
        tokio::task::yield_now().await;
        store.close().await;
        assert!(matches!(waiting.await.unwrap(), Err(FollowError::Closed)));
    });
}

pub fn cursor_moves_with_the_batch(backend: &impl Backend) {
    run(async {
        let store = backend.open(&[]).await;
        assert_eq!(store.cursor("push").await.unwrap(), None);
        let position = note(&store, "one").await;
        let mut batch = Batch::new();
        batch.relaxed();
        batch.move_cursor("push", position);
        assert_eq!(store.commit(batch).await.unwrap(), position, "moving a cursor takes no position");
        store.close().await;

        let store = backend.open(&[]).await;
        assert_eq!(store.cursor("push").await.unwrap(), Some(position));
        assert_eq!(store.cursor("search").await.unwrap(), None);
        store.close().await;
    });
}
