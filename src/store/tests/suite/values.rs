//! The forms of values, pages, limits, and batches on their way together.

use std::{
    pin::pin,
    task::{Context, Poll, Waker},
};

use serde::{Deserialize, Serialize};
use store::{
    BATCH_BYTES_MAX, BATCH_ENTRIES_MAX, Batch, Bytes, CommitError, DecodeError, Json, NoPrevious, Position, Range,
    Record, SCAN_BYTES_MAX, SCAN_LIMIT, StoreError, TableInfo, Text, Value, Versioned, View, encode_value_to_vec,
};

use crate::{
    backend::{Backend, Disk, Files, in_bulk, run},
    model::Note,
};

mod old {
    use super::*;

    #[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
    pub struct Profile {
        pub name: String,
    }

    impl Versioned for Profile {
        const VERSION: u8 = 1;
        type Previous = NoPrevious;

        fn upgrade(previous: NoPrevious) -> Profile {
            match previous {}
        }
    }
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Profile {
    names: Vec<String>,
}

impl Versioned for Profile {
    const VERSION: u8 = 2;
    type Previous = old::Profile;

    fn upgrade(previous: old::Profile) -> Profile {
        Profile { names: vec![previous.name] }
    }
}

store::table! {
    /// Rows to page through.
    pub Numbers = 320, Ranges: (u8, u64) => u64;
    /// Kept in blob files.
    pub Bodies = 321, Large: u64 => Bytes;
    /// Values as JSON.
    pub Documents = 322, Points: Text<std::net::IpAddr> => Json<serde_json::Value>;
    /// Versioned values.
    pub Profiles = 323, Points: Option<u64> => Record<Profile>;
    /// Nothing but the key.
    pub Marks = 324, Points: (Position,) => ();
    /// Text that may be empty.
    pub Names = 325, Points: u64 => String
}

const TABLES: &[TableInfo] = &[
    TableInfo::of::<Numbers>(),
    TableInfo::of::<Bodies>(),
    TableInfo::of::<Documents>(),
    TableInfo::of::<Profiles>(),
    TableInfo::of::<Marks>(),
    TableInfo::of::<Names>(),
];

pub fn all_forms_are_kept(backend: &impl Backend) {
    run(async {
        let store = backend.open(TABLES).await;
        let body = Bytes::from(vec![7; 100_000]);
        let json = Json(serde_json::json!({ "a": [1, null] }));
        let profile = Record(Profile { names: vec!["a".to_owned()] });
        let mut batch = Batch::new();
        let stamp = batch.log(&Note(b"x".to_vec()));
        batch.put::<Bodies>(&1, &body);
        batch.put::<Documents>(&"127.0.0.1", &json);
        batch.put::<Profiles>(&Some(1), &profile);
        batch.put::<Marks>(&(stamp,), &());
        let position = store.commit(batch).await.unwrap();
        store.close().await;

        let store = backend.open(TABLES).await;
        let view = store.view().await.unwrap();
        assert_eq!(view.get::<Bodies>(&1).await.unwrap(), Some(body));
        assert_eq!(view.get::<Documents>(&"127.0.0.1").await.unwrap(), Some(json));
        assert_eq!(view.get::<Profiles>(&Some(1)).await.unwrap(), Some(profile));
        assert_eq!(view.get::<Profiles>(&None::<u64>).await.unwrap(), None);
        assert!(view.contains::<Marks>(&(position,)).await.unwrap());
        let rows = view.scan_all(Range::<Documents>::prefix(&("127.0.0.1",))).await.unwrap();
        assert_eq!(rows[0].0.to_string(), "127.0.0.1");
        drop(view);
        store.close().await;
    });
}

#[test]
fn records_are_upgraded_and_newer_ones_refused() {
    let stored = encode_value_to_vec(&Record(old::Profile { name: "a".to_owned() }));
    let read = Record::<Profile>::decode_value(&stored).unwrap();
    assert_eq!(read.0, Profile { names: vec!["a".to_owned()] });

    let newer = Record::<old::Profile>::decode_value(&encode_value_to_vec(&read));
    assert!(matches!(newer, Err(DecodeError::Newer { stored: 2, known: 1 })));
    assert!(Record::<old::Profile>::decode_value(&[0, 1]).is_err());
    assert!(Record::<old::Profile>::decode_value(&[]).is_err());
}

pub fn large_scans_are_paged(backend: &impl Backend) {
    const ROWS: u64 = 12_000;
    run(async {
        let store = backend.open(TABLES).await;
        for start in (0..ROWS).step_by(1000) {
            let mut batch = Batch::new();
            batch.relaxed();
            for number in start..start + 1000 {
                batch.put::<Numbers>(&(1, number), &(number * 2));
            }
            batch.put::<Numbers>(&(0, start), &0);
            batch.put::<Numbers>(&(2, start), &0);
            store.commit(batch).await.unwrap();
        }
        let view = store.view().await.unwrap();
        let expected = |number: u64| ((1, number), number * 2);
        for limit in [0, 1, 255, 256, 257, 1023, 1024, 1025, 5000, SCAN_LIMIT] {
            let rows = view.scan(Range::<Numbers>::prefix(&(1,)).limit(limit)).await.unwrap().rows;
            assert!(rows.into_iter().eq((0..limit as u64).map(expected)), "{limit} forwards");
            let rows = view.scan(Range::<Numbers>::prefix(&(1,)).limit(limit).reverse()).await.unwrap().rows;
            let numbers = (0..ROWS).rev().take(limit);
            assert!(rows.into_iter().eq(numbers.map(expected)), "{limit} backwards");
        }
        let all = Range::<Numbers>::prefix(&(1,)).limit(usize::MAX);
        assert_eq!(view.scan(all.clone()).await.unwrap().rows.len(), SCAN_LIMIT);
        assert!(view.scan_all(all).await.unwrap().into_iter().eq((0..ROWS).map(expected)));
        let keys: Vec<_> = (0..2 * ROWS).rev().map(|number| (1, number)).collect();
        let values = view.get_many::<Numbers>(&keys).await.unwrap();
        let stored = |number: u64| (number < ROWS).then_some(number * 2);
        assert!(values.into_iter().eq((0..2 * ROWS).rev().map(stored)));
        let rest = Range::<Numbers>::between(&(1, ROWS - 2), &(2,)).after(&(1, ROWS - 2));
        assert_eq!(view.scan(rest).await.unwrap().rows, [expected(ROWS - 1)]);
        let nothing = Range::<Numbers>::between(&(2,), &(1,));
        let nothing = view.scan(nothing).await.unwrap();
        assert!(nothing.rows.is_empty() && nothing.next.is_none());
        drop(view);
        store.close().await;
    });
}

/// A page ends with its bytes, too, and says where it goes on.
pub fn pages_of_large_rows_go_on(backend: &impl Backend) {
    const ROWS: u64 = 120;
    const ROW_BYTES: usize = 300_000;
    run(async {
        let store = backend.open(TABLES).await;
        for number in 0..ROWS {
            let mut batch = Batch::new();
            batch.relaxed();
            batch.put::<Bodies>(&number, &Bytes::from(vec![number as u8; ROW_BYTES]));
            store.commit(batch).await.unwrap();
        }
        let pages_least = ROWS as usize * ROW_BYTES / (SCAN_BYTES_MAX + ROW_BYTES);
        let view = store.view().await.unwrap();
        for reverse in [false, true] {
            for (range, wanted) in [(Range::<Bodies>::all(), 0..ROWS), (Range::all().after(&(9,)).limit(50), 10..ROWS)]
            {
                let range = if reverse { range.reverse() } else { range };
                let limit = if wanted.start == 0 { SCAN_LIMIT } else { 50 };
                let mut next = Some(range.clone());
                let (mut found, mut pages) = (Vec::new(), 0);
                while let Some(rest) = next {
                    let page = view.scan(rest.clone()).await.unwrap();
                    assert_eq!(in_bulk(&view, rest).await, page.rows);
                    let bytes: usize = page.rows.iter().map(|(_, body)| body.len()).sum();
                    assert!(page.rows.len() <= limit && bytes < SCAN_BYTES_MAX + ROW_BYTES);
                    assert!(page.next.is_none() || !page.rows.is_empty());
                    found.extend(page.rows.into_iter().map(|(number, body)| (number, body[0])));
                    (next, pages) = (page.next, pages + 1);
                }
                assert!(pages >= pages_least);
                let mut wanted: Vec<_> = wanted.map(|number| (number, number as u8)).collect();
                if reverse {
                    wanted.reverse();
                }
                assert_eq!(found, wanted);
                assert_eq!(view.scan_all(range).await.unwrap().len(), wanted.len());
            }
        }
        drop(view);
        store.close().await;
    });
}

/// What a table may hold says nothing about whether a row is there.
pub fn values_without_content_are_there(backend: &impl Backend) {
    run(async {
        let store = backend.open(TABLES).await;
        let mut batch = Batch::new();
        let stamp = batch.log(&Note(Vec::new()));
        batch.put::<Marks>(&(stamp,), &());
        batch.put::<Bodies>(&1, &Bytes::new());
        batch.put::<Names>(&1, &String::new());
        let position = store.commit(batch).await.unwrap();
        store.close().await;

        let store = backend.open(TABLES).await;
        let view = store.view().await.unwrap();
        assert_eq!(view.get::<Marks>(&(position,)).await.unwrap(), Some(()));
        assert_eq!(view.get_many::<Bodies>(&[1, 2]).await.unwrap(), [Some(Bytes::new()), None]);
        assert_eq!(view.get::<Names>(&1).await.unwrap(), Some(String::new()));
        assert!(view.contains::<Names>(&1).await.unwrap() && !view.contains::<Names>(&2).await.unwrap());
        let mut batch = Batch::new();
        batch.expect::<Names>(&1, Some(&String::new()));
        batch.expect::<Names>(&2, None);
        batch.delete::<Names>(&1);
        store.commit(batch).await.unwrap();
        drop(view);
        store.close().await;
    });
}

pub fn refused_batches_write_nothing(backend: &impl Backend) {
    run(async {
        let store = backend.open(TABLES).await;
        let mut large = Batch::new();
        large.put::<Numbers>(&(1, 1), &1);
        large.put::<Bodies>(&1, &Bytes::from(vec![0; BATCH_BYTES_MAX]));
        assert!(!large.is_empty());
        assert!(matches!(store.commit(large).await, Err(CommitError::TooLarge)));

        let mut talkative = Batch::new();
        for _ in 0..=BATCH_ENTRIES_MAX {
            let _ = talkative.log(&Note(Vec::new()));
        }
        assert!(matches!(store.commit(talkative).await, Err(CommitError::TooLarge)));

        let stamp = Batch::new().log(&Note(Vec::new()));
        let mut foreign = Batch::new();
        foreign.put::<Marks>(&(stamp,), &());
        assert!(matches!(store.commit(foreign).await, Err(CommitError::Invalid(_))));

        assert!(store.view().await.unwrap().first(Range::<Numbers>::all()).await.unwrap().is_none());
        assert_eq!(store.commit(Batch::new()).await.unwrap(), store.published());

        // A value that the table can't hold is an error, not an absence.
        let mut batch = Batch::new();
        batch.put::<Bodies>(&1, &Bytes::from_static(b"x"));
        store.commit(batch).await.unwrap();
        assert!(matches!(
            store.view().await.unwrap().get::<Wrong>(&1).await,
            Err(StoreError::Decode { table: "Wrong", .. })
        ));
        store.close().await;
    });
}

/// [`Bodies`] seen with another type.
struct Wrong;

impl store::Table for Wrong {
    const ID: u16 = 321;
    const NAME: &'static str = "Wrong";
    const FAMILY: store::Family = store::Family::Large;
    type Key = u64;
    type Value = u64;
}

pub fn pipelined_batches_see_each_other(backend: &impl Backend) {
    run(async {
        let store = backend.open(TABLES).await;
        let mut pending = Vec::new();
        for number in 0..200_u64 {
            let mut batch = Batch::new();
            batch.expect::<Numbers>(&(1, 0), number.checked_sub(1).as_ref());
            batch.put::<Numbers>(&(1, 0), &number);
            if number % 50 == 49 {
                batch.delete_prefix::<Numbers>(&(1,));
                batch.put::<Numbers>(&(1, 0), &number);
            }
            let _ = batch.log(&Note(Vec::new()));
            pending.push(store.submit(batch).await.unwrap());
        }
        let mut last = Position::ZERO;
        for answer in pending {
            let position = answer.await.unwrap();
            assert!(position > last);
            last = position;
        }
        let mut stale = Batch::new();
        stale.expect::<Numbers>(&(1, 0), Some(&7));
        assert!(matches!(store.commit(stale).await, Err(CommitError::Conflict)));
        let mut holds = Batch::new();
        holds.expect::<Numbers>(&(1, 0), Some(&199));
        assert_eq!(store.commit(holds).await.unwrap(), last);
        store.close().await;
    });
}

/// What a future gives without being waited for.
fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// How many of five reads of what is in memory are answered without waiting.
fn answered_at_once(backend: &impl Backend) -> usize {
    run(async {
        let store = backend.open(TABLES).await;
        let mut batch = Batch::new();
        batch.put::<Numbers>(&(1, 0), &7);
        store.commit(batch).await.unwrap();
        let view = store.view().await.unwrap();
        let answered = [
            at_once(store.view()).is_some(),
            at_once(view.get::<Numbers>(&(1, 0))).is_some_and(|value| value.unwrap() == Some(7)),
            at_once(view.contains::<Numbers>(&(1, 1))).is_some_and(|found| !found.unwrap()),
            at_once(view.get_many::<Numbers>(&[(1, 1), (1, 0)]))
                .is_some_and(|values| values.unwrap() == [None, Some(7)]),
            at_once(view.scan(Range::<Numbers>::all())).is_some_and(|page| page.unwrap().rows.len() == 1),
        ];
        drop(view);
        store.close().await;
        answered.into_iter().filter(|answered| *answered).count()
    })
}

#[test]
fn what_is_at_hand_is_given_at_once() {
    assert_eq!(answered_at_once(&Disk::<false>::create()), 5);
    assert_eq!(answered_at_once(&Files::create()), 5);
    assert_eq!(answered_at_once(&Disk::<true>::create()), 0);
}

async fn breaks(_: View) {
    std::panic::resume_unwind(Box::new("broken"));
}

/// What work that reads much gives, and its panic, come to who waits for it.
pub fn bulk_work_reads_its_view_and_gives_what_it_made(backend: &impl Backend) {
    run(async {
        let store = backend.open(TABLES).await;
        let write = |value: u64| {
            let mut batch = Batch::new();
            batch.put::<Numbers>(&(1, 0), &value);
            store.commit(batch)
        };
        write(1).await.unwrap();
        let view = store.view().await.unwrap();
        write(2).await.unwrap();
        let position = view.position();
        let read = |view: View| async move { (view.position(), view.get::<Numbers>(&(1, 0)).await.unwrap()) };
        assert_eq!(view.bulk(read).await.unwrap(), (position, Some(1)));
        // More at once than are done at the same time; each has a turn.
        let begin = |number: u64| {
            let view = view.clone();
            tokio::spawn(async move { view.bulk(move |_| async move { number }).await.unwrap() })
        };
        let begun: Vec<_> = (0..100).map(begin).collect();
        for (number, work) in begun.into_iter().enumerate() {
            assert_eq!(work.await.unwrap(), number as u64);
        }
        let panicking = view.clone();
        let outcome = tokio::spawn(async move { panicking.bulk(breaks).await });
        assert_eq!(*outcome.await.unwrap_err().into_panic().downcast::<&str>().unwrap(), "broken");
        drop(view);
        store.close().await;
    });
}

/// Futures of the store can be spawned.
#[test]
fn futures_are_send() {
    fn send<T: Send>(value: T) -> T {
        value
    }
    run(async {
        let store = send(store::Store::in_memory(&[TABLES])).await.unwrap();
        let view = send(store.view()).await.unwrap();
        send(view.bulk(|view| async move { view.contains::<Documents>(&"::1").await })).await.unwrap().unwrap();
        send(view.get::<Documents>(&"::1")).await.unwrap();
        send(view.get_many::<Numbers>(&[(1, 1)])).await.unwrap();
        assert!(send(view.scan(Range::<Numbers>::all())).await.unwrap().rows.is_empty());
        send(store.commit(Batch::new())).await.unwrap();
        let mut follower = store.read_log(Position::ZERO);
        send(follower.try_next()).await.unwrap();
    });
}
