//! What was read through a published view, kept for the others who are told the same.
//!
//! A message to a room wakes all its members at once, and they all read from the same view. What it says of an event that may
//! change is read by the first of them only, and the room's news are put together once for all who are told the same. A memo ends with
//! its view, so it can't be out of date.

use std::{any::Any, collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use reading::{AGE_SHARED_MS, ClientEvent, TimelineToken};
use rooms::{EventMeta, EventNum};
use store::Position;

/// Events that one memo holds; of more, only the first are kept.
const EVENTS_MAX: usize = 4_096;

/// News of rooms that one memo holds; of more, only the first are kept.
const NEWS_MAX: usize = 1_024;

/// See the module.
#[derive(Default)]
pub(crate) struct Memo {
    metas: Mutex<HashMap<EventNum, EventMeta>>,
    news: Mutex<HashMap<NewsKey, SharedNews>>,
}

/// The newest events of a room, and in which form they are asked for.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct NewsKey {
    /// The room's number.
    pub(crate) room: u32,
    /// The position of the first event.
    pub(crate) first: Position,
    /// Whether the state at the end is wanted.
    pub(crate) after: bool,
    /// What else is asked for: the address of [`SharedNews::_form`].
    pub(crate) form: usize,
}

/// A room's news for everybody who has been in it all the time, sent none of the events, ignores nobody, and asks for the same form.
#[derive(Clone)]
pub(crate) struct SharedNews {
    /// What is asked for. Kept, so that nothing else gets its address.
    pub(crate) _form: Arc<dyn Any + Send + Sync>,
    /// When they were put together, in Unix milliseconds: events say how old they are.
    pub(crate) at_ms: u64,
    /// The timeline's events, as clients get them.
    pub(crate) timeline: Vec<ClientEvent>,
    /// Where the timeline starts.
    pub(crate) start: TimelineToken,
    /// Members that lazy loading asks for, unless the client has them.
    pub(crate) members: Vec<EventNum>,
    /// Whether anything happened that they may see, shown or not.
    pub(crate) eventful: bool,
}

impl Memo {
    /// The metas of these events, if all are known.
    pub(crate) fn metas(&self, nums: &[EventNum]) -> Option<Vec<EventMeta>> {
        let known = self.metas.lock();
        nums.iter().map(|num| known.get(num).cloned()).collect()
    }

    /// Keeps what the view said.
    pub(crate) fn keep(&self, nums: &[EventNum], metas: &[EventMeta]) {
        let mut known = self.metas.lock();
        for (num, meta) in nums.iter().zip(metas) {
            if known.len() < EVENTS_MAX {
                known.insert(*num, meta.clone());
            }
        }
    }

    /// A room's news, if they were put together of late.
    pub(crate) fn news(&self, key: NewsKey, now_ms: u64) -> Option<SharedNews> {
        let known = self.news.lock();
        known.get(&key).filter(|news| now_ms.abs_diff(news.at_ms) <= AGE_SHARED_MS).cloned()
    }

    /// Keeps a room's news.
    pub(crate) fn keep_news(&self, key: NewsKey, news: SharedNews) {
        let mut known = self.news.lock();
        if known.len() < NEWS_MAX || known.contains_key(&key) {
            known.insert(key, news);
        }
    }
}
