//! Names as people write them and look for them: the one place that decides when two are alike.
//!
//! Case, width, ligatures, and marks above and below letters are ways to write the same name. Whatever isn't white space or
//! punctuation can be looked for: letters and digits of any script with the marks that belong to them, and symbols, each by
//! itself.

use caseless::Caseless;
use icu_properties::{
    CodePointMapData,
    props::{GeneralCategory, GeneralCategoryGroup},
};
use unicode_normalization::UnicodeNormalization;

/// The form in which names are compared: Unicode's compatibility caseless form (The Unicode Standard, section 3.13, D146)
/// without accents and without characters that aren't seen.
pub fn fold(text: &str) -> String {
    let folded = text.nfkd().default_case_fold().nfkd();
    folded.filter(|&c| !is_accent(c) && !is_unseen(c)).nfkc().collect()
}

/// The words of a text in the form of [`fold`].
pub fn words(folded: &str) -> Vec<String> {
    let categories = CodePointMapData::<GeneralCategory>::new();
    let mut words = Vec::new();
    let mut word = String::new();
    for c in folded.chars() {
        let category = categories.get(c);
        let is_mark = GeneralCategoryGroup::Mark.contains(category);
        if GeneralCategoryGroup::Letter.contains(category)
            || GeneralCategoryGroup::Number.contains(category)
            || (is_mark && !word.is_empty())
        {
            word.push(c);
            continue;
        }
        if !word.is_empty() {
            words.push(std::mem::take(&mut word));
        }
        if GeneralCategoryGroup::Symbol.contains(category) && !is_skin_tone(c) {
            words.push(c.to_string());
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// What somebody looks for in names.
#[derive(Clone, Debug)]
pub struct Search {
    folded: String,
    words: Vec<String>,
}

impl Search {
    /// Looks for every word of a text, in any order.
    pub fn new(text: &str) -> Self {
        let folded = fold(text.trim());
        Self { words: words(&folded), folded }
    }

    /// Whether it is found in a text in the form of [`fold`]. To look for nothing is to find it everywhere.
    pub fn finds(&self, folded: &str) -> bool {
        if self.words.is_empty() {
            return folded.contains(&self.folded);
        }
        self.words.iter().all(|word| folded.contains(word.as_str()))
    }
}

/// Combining diacritical marks: what is left of accents after decomposition. The marks of other scripts are vowels and the like.
fn is_accent(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36F}')
}

/// Joiners, selectors of a character's form, and other marks of formatting.
fn is_unseen(c: char) -> bool {
    matches!(c, '\u{FE00}'..='\u{FE0F}' | '\u{E0100}'..='\u{E01EF}')
        || CodePointMapData::<GeneralCategory>::new().get(c) == GeneralCategory::Format
}

/// Emoji modifiers: the same picture in another colour.
fn is_skin_tone(c: char) -> bool {
    matches!(c, '\u{1F3FB}'..='\u{1F3FF}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_take_for_the_same_name_is_the_same() {
        for alike in [
            ["ÉMILE Zola", "e\u{301}mile zola"],
            ["Straße", "STRASSE"],
            ["ὈΔΥΣΣΕΎΣ", "οδυσσευς"],
            ["ＡＢＣ１２", "abc12"],
            ["ﬁsh", "Fish"],
            ["İstanbul", "istanbul"],
            ["㍿", "株式会社"],
            ["ｶﾞ", "ガ"],
            ["한글", "\u{1112}\u{1161}\u{11AB}\u{1100}\u{1173}\u{11AF}"],
            ["a\u{AD}b\u{200D}c", "ABC"],
            ["❤\u{FE0F}", "❤"],
            ["Ёлка", "елка"],
        ] {
            assert_eq!(fold(alike[0]), fold(alike[1]));
        }
        for other in [["が", "か"], ["कि", "का"], ["a", "α"]] {
            assert_ne!(fold(other[0]), fold(other[1]));
        }
        // Folding what is folded changes nothing.
        for text in ["ÉMILE", "ΣΑΣ", "İ", "ᾳ", "ǆ", "ŉ", "\u{1F1}"] {
            assert_eq!(fold(&fold(text)), fold(text));
        }
    }

    #[test]
    fn words_are_of_any_script_and_symbols_stand_for_themselves() {
        let words = |text: &str| words(&fold(text));
        assert_eq!(words("Alice  Margatroid, (she)"), ["alice", "margatroid", "she"]);
        assert_eq!(words("bob.smith_2"), ["bob", "smith", "2"]);
        assert_eq!(words("हिन्दी भाषा"), ["हिन्दी", "भाषा"]);
        assert_eq!(words("山田🌊太郎"), ["山田", "🌊", "太郎"]);
        assert_eq!(words("👩🏽‍💻 C++"), ["👩", "💻", "c", "+", "+"]);
        assert_eq!(words("!?… \u{301}"), [""; 0]);
    }

    #[test]
    fn every_word_is_looked_for_in_any_order() {
        let text = fold("Café Müller — für alle 🌊");
        for term in ["cafe", "MULLER café", "üller", "🌊", "", "  ", "—", "fur alle"] {
            assert!(Search::new(term).finds(&text), "{term}");
        }
        for term in ["cafe berlin", "🔥", "#"] {
            assert!(!Search::new(term).finds(&text), "{term}");
        }
    }
}
