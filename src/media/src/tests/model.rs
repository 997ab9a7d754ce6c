//! Random uploads, deletions and restarts against a map.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{World, alice, bob, content, is_gone};

#[derive(Clone, Debug)]
enum Action {
    /// One of few contents, so that many are equal.
    Upload(u8),
    /// The upload at this place, counted around.
    Delete(usize),
    /// The same content several times at once.
    UploadAtOnce(u8),
    Restart,
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let action = prop_oneof![
        6 => (0..4_u8).prop_map(Action::Upload),
        5 => any::<usize>().prop_map(Action::Delete),
        1 => (0..4_u8).prop_map(Action::UploadAtOnce),
        1 => Just(Action::Restart),
    ];
    proptest::collection::vec(action, 1..40)
}

async fn run(actions: Vec<Action>) {
    let mut world = World::new();
    let mut media = world.open(|_| {}).await;
    let mut model: BTreeMap<String, u8> = BTreeMap::new();
    let bytes = |seed: u8| content(seed, 500 + usize::from(seed));
    for action in actions {
        match action {
            Action::Upload(seed) => {
                let id = media.upload(alice(), &bytes(seed)).await.expect("uploaded");
                model.insert(id, seed);
            }
            Action::UploadAtOnce(seed) => {
                let content = bytes(seed);
                let uploads = (0..4).map(|_| media.upload(bob(), &content));
                for id in futures_util::future::join_all(uploads).await {
                    model.insert(id.expect("uploaded"), seed);
                }
            }
            Action::Delete(place) => {
                let Some(id) = model.keys().nth(place % model.len().max(1)).cloned() else { continue };
                media.remove(&id).await.expect("deleted");
                model.remove(&id);
                is_gone(media.get(&id).await);
            }
            Action::Restart => {
                drop(media);
                media = world.open(|_| {}).await;
            }
        }
        let mut seeds: Vec<_> = model.values().collect();
        seeds.sort_unstable();
        seeds.dedup();
        let (blobs, temp) = world.on_disk();
        assert_eq!(blobs.len(), seeds.len(), "one blob for each content that is there");
        assert_eq!(temp, Vec::<String>::new());
        for (id, seed) in &model {
            assert_eq!(media.contents(id).await.expect("read"), bytes(*seed));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn equal_files_share_a_blob_that_goes_with_the_last(actions in actions()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(run(actions));
    }
}
