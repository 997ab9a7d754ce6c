//! The user directory: finding local users by parts of their names.
//!
//! Every word of a localpart or display name is indexed with its tails, so that a part from anywhere in a
//! word is a prefix of a row. Text without spaces between words (Chinese, Japanese) is found by any part of
//! it this way. A row is a hint; the user's present names decide.

use std::collections::BTreeSet;

use event::names;
use ruma::{OwnedUserId, UserId};
use store::{Batch, Range, Text, View};

use crate::{Error, Result, Users, tables};

/// The greatest number of users that one search looks at.
pub const DIRECTORY_CANDIDATES_MAX: usize = 1_000;

/// The greatest number of characters of an indexed word; what follows isn't found.
const WORD_CHARS_MAX: usize = 32;
/// The greatest number of rows of one name.
const WORDS_PER_NAME_MAX: usize = 64;
/// The shortest tail of a word of letters of an alphabet.
const TAIL_CHARS_MIN: usize = 3;
/// The greatest number of words of a search that are looked at.
const SEARCH_WORDS_MAX: usize = 8;
/// Rows that are read at once.
const PAGE_ROWS: usize = 200;
/// The greatest number of rows that one search reads: a user has several.
const ROWS_MAX: usize = 10 * DIRECTORY_CANDIDATES_MAX;

/// A user who was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryMatch {
    /// The user.
    pub user_id: OwnedUserId,
    /// The display name.
    pub display_name: Option<String>,
    /// The `mxc:` address of the avatar.
    pub avatar_url: Option<String>,
}

impl DirectoryMatch {
    fn has_no_profile(&self) -> bool {
        self.display_name.is_none() && self.avatar_url.is_none()
    }
}

/// What a search found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DirectoryResults {
    /// The users, best matches first, and of those equally good the ones with a profile first.
    pub matches: Vec<DirectoryMatch>,
    /// Whether there may be more.
    pub limited: bool,
}

/// Letters of scripts that don't put spaces between words.
fn is_unspaced(c: char) -> bool {
    matches!(c, '\u{0E00}'..='\u{0EFF}' | '\u{1000}'..='\u{109F}' | '\u{1780}'..='\u{17FF}'
        | '\u{3040}'..='\u{30FF}' | '\u{3400}'..='\u{4DBF}' | '\u{4E00}'..='\u{9FFF}'
        | '\u{AC00}'..='\u{D7AF}' | '\u{F900}'..='\u{FAFF}' | '\u{20000}'..='\u{3FFFF}')
}

/// The words of a text in the form of [`names::fold`], as far as they are indexed.
fn words(folded: &str) -> impl Iterator<Item = Vec<char>> {
    names::words(folded).into_iter().map(|word| word.chars().take(WORD_CHARS_MAX).collect())
}

/// What is indexed of a text: each word and its tails.
fn indexed(text: &str) -> BTreeSet<String> {
    let mut rows = BTreeSet::new();
    for word in words(&names::fold(text)) {
        for start in 0..word.len() {
            if rows.len() >= WORDS_PER_NAME_MAX {
                return rows;
            }
            let tail = &word[start..];
            let short = tail.len() < TAIL_CHARS_MIN && !is_unspaced(tail[0]);
            if start == 0 || !short {
                rows.insert(tail.iter().collect());
            }
        }
    }
    rows
}

fn all_indexed(user: &UserId, display_name: Option<&str>) -> BTreeSet<String> {
    let mut rows = indexed(user.localpart());
    if let Some(name) = display_name {
        rows.extend(indexed(name));
    }
    rows
}

pub(crate) fn index(batch: &mut Batch, user: &UserId, display_name: Option<&str>) {
    for word in all_indexed(user, display_name) {
        batch.put::<tables::DirectoryWords>(&(word, user), &());
    }
}

pub(crate) fn unindex(batch: &mut Batch, user: &UserId, display_name: Option<&str>) {
    for word in all_indexed(user, display_name) {
        batch.delete::<tables::DirectoryWords>(&(word, user));
    }
}

/// How well a name fits: 0 for a whole localpart or display name, 1 for its start, 2 for any other place;
/// none if a word of the search isn't in it.
fn rank(search: &str, wanted: &[String], user: &UserId, display_name: Option<&str>) -> Option<u8> {
    let rows = all_indexed(user, display_name);
    for word in wanted {
        let next = rows.range(word.clone()..).next();
        if !next.is_some_and(|row| row.starts_with(word.as_str())) {
            return None;
        }
    }
    let name = names::fold(display_name.unwrap_or_default());
    let localpart = names::fold(user.localpart());
    if name == search || localpart == search {
        return Some(0);
    }
    if name.starts_with(search) || localpart.starts_with(search) {
        return Some(1);
    }
    Some(2)
}

/// What to look for in the directory: `@alice:example.org` is as good as `alice`.
fn search_text(term: &str) -> String {
    let term = names::fold(term.trim());
    let Some(id) = term.strip_prefix('@') else {
        return term;
    };
    match id.split_once(':') {
        Some((localpart, _)) => localpart.to_owned(),
        None => id.to_owned(),
    }
}

impl Users {
    /// Active local users whose localpart or display name contains every word of `term`, as far as
    /// `visible` allows: at most `limit`, best first, of the first [`DIRECTORY_CANDIDATES_MAX`] that match.
    /// Without a word in `term` nobody is found.
    ///
    /// `visible` says whether the searcher may find a user (shares a room with them or they are in a public
    /// one).
    ///
    /// # Errors
    ///
    /// What `visible` fails with; otherwise fails only if the store does.
    pub async fn search_directory<V, F, E>(
        &self,
        view: &View,
        term: &str,
        limit: usize,
        mut visible: V,
    ) -> Result<DirectoryResults, E>
    where
        V: FnMut(OwnedUserId) -> F,
        F: Future<Output = Result<bool, E>>,
        E: From<Error>,
    {
        let search = search_text(term);
        let (mut ranked, mut limited) = self.directory_candidates(view, &search).await?;
        ranked.sort_by(|(a, found_a), (b, found_b)| {
            let (no_profile_a, no_profile_b) = (found_a.has_no_profile(), found_b.has_no_profile());
            (a, no_profile_a, &found_a.user_id).cmp(&(b, no_profile_b, &found_b.user_id))
        });
        let mut matches = Vec::new();
        for (_, found) in ranked {
            if !visible(found.user_id.clone()).await? {
                continue;
            }
            if matches.len() == limit {
                limited = true;
                break;
            }
            matches.push(found);
        }
        Ok(DirectoryResults { matches, limited })
    }

    /// Matches with their ranks, and whether the search stopped at a limit.
    async fn directory_candidates(&self, view: &View, search: &str) -> Result<(Vec<(u8, DirectoryMatch)>, bool)> {
        let wanted: Vec<String> = words(search).take(SEARCH_WORDS_MAX).map(|word| word.into_iter().collect()).collect();
        // The longest word has the fewest rows.
        let Some(driver) = wanted.iter().max_by_key(|word| word.len()) else {
            return Ok((Vec::new(), false));
        };
        let end = format!("{driver}{}", char::MAX);
        let mut seen = BTreeSet::new();
        let mut found = Vec::new();
        let mut rows = 0;
        let mut next = Some(Range::<tables::DirectoryWords>::between(&(driver,), &(&end,)).limit(PAGE_ROWS));
        while let Some(range) = next {
            let page = view.scan(range).await?;
            rows += page.rows.len();
            for ((_, Text(user)), ()) in page.rows {
                if !seen.insert(user.clone()) {
                    continue;
                }
                let profile = self.profile(view, &user).await?;
                let display_name = profile.display_name();
                if let Some(rank) = rank(search, &wanted, &user, display_name.as_deref()) {
                    let avatar_url = profile.avatar_url();
                    found.push((rank, DirectoryMatch { user_id: user, display_name, avatar_url }));
                }
            }
            next = page.next;
            if next.is_some() && (seen.len() >= DIRECTORY_CANDIDATES_MAX || rows >= ROWS_MAX) {
                return Ok((found, true));
            }
        }
        Ok((found, false))
    }
}
