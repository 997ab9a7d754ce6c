//! How much the pictures of previews take. Nobody uploaded them, so that they count for no user's quota; they have one of their own, of
//! which each user who asks for previews has a share.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use ruma::{OwnedUserId, UserId};
use store::{Range, View};

use crate::{Result, tables::PreviewPictures, usage::charge};

/// What one user's requests may take: this part of the whole.
const SHARE: u64 = 8;
/// Rows read at a time.
const PAGE_ROWS: usize = 5_000;

/// What the pictures of all previews take. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Pictures {
    counts: Arc<Mutex<Counts>>,
}

/// In bytes. Users for whom nothing is kept are not in here.
#[derive(Default)]
struct Counts {
    all: u64,
    users: HashMap<OwnedUserId, u64>,
}

impl Counts {
    fn add(&mut self, user: &UserId, bytes: u64) {
        self.all = self.all.saturating_add(bytes);
        let count = self.users.entry(user.to_owned()).or_default();
        *count = count.saturating_add(bytes);
    }

    fn subtract(&mut self, user: &UserId, bytes: u64) {
        self.all = self.all.saturating_sub(bytes);
        if let Some(count) = self.users.get_mut(user) {
            *count = count.saturating_sub(bytes);
            if *count == 0 {
                self.users.remove(user);
            }
        }
    }
}

/// Room for a picture; given back when dropped unless it was kept.
pub(crate) struct Room {
    pictures: Pictures,
    user: OwnedUserId,
    size: Option<u64>,
}

impl Room {
    /// The picture is stored: it stays counted.
    pub(crate) fn keep(mut self) {
        self.size = None;
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Some(size) = self.size {
            self.pictures.count_back(&self.user, size);
        }
    }
}

impl Pictures {
    /// Counts what is stored.
    pub(crate) async fn load(view: &View) -> Result<Self> {
        let mut counts = Counts::default();
        let mut next = Some(Range::<PreviewPictures>::all().limit(PAGE_ROWS));
        while let Some(range) = next {
            let page = view.scan(range).await?;
            for ((user, _), size) in &page.rows {
                counts.add(user, charge(*size));
            }
            next = page.next;
        }
        Ok(Self { counts: Arc::new(Mutex::new(counts)) })
    }

    /// Counts a picture of `size` bytes that `user` asked for; `None` if there is no room for it in `bytes_max` (0: no limit).
    pub(crate) fn reserve(&self, user: &UserId, size: u64, bytes_max: u64) -> Option<Room> {
        let bytes = charge(size);
        let mut counts = self.counts.lock();
        let own = counts.users.get(user).copied().unwrap_or(0);
        let fits = counts.all.saturating_add(bytes) <= bytes_max && own.saturating_add(bytes) <= bytes_max / SHARE;
        if bytes_max > 0 && !fits {
            return None;
        }
        counts.add(user, bytes);
        Some(Room { pictures: self.clone(), user: user.to_owned(), size: Some(size) })
    }

    /// Counts back a picture that was deleted.
    pub(crate) fn count_back(&self, user: &UserId, size: u64) {
        self.counts.lock().subtract(user, charge(size));
    }
}
