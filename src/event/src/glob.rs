//! Patterns with `*` and `?`.
//!
//! Specification: appendices, "Glob-style matching".
//!
//! Patterns come from users and are tried on text of others, so matching takes time in proportion
//! to the text whatever the pattern: all ways to match are followed at once, as bits of a number.

/// The literal characters and `?` that a pattern with wildcards may have. Longer ones never match.
pub const GLOB_LEN_MAX: usize = 255;

const WORDS: usize = (GLOB_LEN_MAX + 1) / 64;

/// A pattern, compiled; upper and lower case don't matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Glob {
    /// No wildcards: the pattern in lower case.
    Literal(Box<str>),
    /// With wildcards.
    Wild(Box<Wild>),
    /// Longer than anybody writes.
    TooLong,
}

/// A pattern as an automaton that has read some of its characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wild {
    /// The characters of the pattern that aren't `*`.
    tokens: usize,
    /// Bit `i` is set if token `i` is `?`.
    any: Bits,
    /// For each other character of the pattern, in ascending order, the tokens that accept it.
    accepting: Vec<(char, Bits)>,
    /// Bit `i` is set if a `*` follows after `i` tokens.
    stars: Bits,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bits([u64; WORDS]);

impl Bits {
    const NONE: Self = Self([0; WORDS]);

    fn set(&mut self, bit: usize) {
        self.0[bit / 64] |= 1 << (bit % 64);
    }

    fn has(&self, bit: usize) -> bool {
        self.0[bit / 64] & (1 << (bit % 64)) != 0
    }

    fn is_none(&self) -> bool {
        self.0 == [0; WORDS]
    }
}

impl Glob {
    /// Compiles a pattern.
    pub(crate) fn new(pattern: &str) -> Self {
        let pattern = pattern.to_lowercase();
        if !pattern.contains(['*', '?']) {
            return Self::Literal(pattern.into_boxed_str());
        }
        let mut wild = Wild { tokens: 0, any: Bits::NONE, accepting: Vec::new(), stars: Bits::NONE };
        for character in pattern.chars() {
            if character == '*' {
                wild.stars.set(wild.tokens);
                continue;
            }
            if wild.tokens == GLOB_LEN_MAX {
                return Self::TooLong;
            }
            wild.push(character);
        }
        wild.accept_any();
        Self::Wild(Box::new(wild))
    }

    /// Whether the pattern matches all of `text`, in any case.
    pub(crate) fn matches_all(&self, text: &str) -> bool {
        match self {
            // Nearly all text is ASCII and nearly all differs in length.
            Self::Literal(literal) if text.is_ascii() => literal.eq_ignore_ascii_case(text),
            Self::Literal(literal) => **literal == *text.to_lowercase(),
            Self::Wild(wild) => wild.matches_all(&text.to_lowercase()),
            Self::TooLong => false,
        }
    }

    /// Whether the pattern matches a part of `text`, which is in lower case, that starts and ends
    /// at a word boundary.
    pub(crate) fn matches_words(&self, text: &str) -> bool {
        match self {
            Self::Literal(literal) => contains_words(text, literal),
            Self::Wild(wild) => wild.matches_words(text),
            Self::TooLong => false,
        }
    }
}

impl Wild {
    /// Adds a token for one character or `?`.
    fn push(&mut self, character: char) {
        let token = self.tokens;
        self.tokens += 1;
        if character == '?' {
            self.any.set(token);
            return;
        }
        let place = self.accepting.binary_search_by_key(&character, |known| known.0);
        let index = place.unwrap_or_else(|index| {
            self.accepting.insert(index, (character, Bits::NONE));
            index
        });
        self.accepting[index].1.set(token);
    }

    /// Lets `?` accept the characters that stand in the pattern as well.
    fn accept_any(&mut self) {
        for (_, tokens) in &mut self.accepting {
            for (word, any) in tokens.0.iter_mut().zip(self.any.0) {
                *word |= any;
            }
        }
    }

    fn matches_all(&self, text: &str) -> bool {
        let mut reached = Bits::NONE;
        reached.set(0);
        for character in text.chars() {
            reached = self.step(reached, character);
            if reached.is_none() {
                return false;
            }
        }
        reached.has(self.tokens)
    }

    fn matches_words(&self, text: &str) -> bool {
        let mut reached = Bits::NONE;
        let mut before = None;
        for character in text.chars() {
            if is_boundary(before, Some(character)) {
                if reached.has(self.tokens) {
                    return true;
                }
                reached.set(0);
            }
            reached = self.step(reached, character);
            before = Some(character);
        }
        reached.has(self.tokens) || (text.is_empty() && self.tokens == 0)
    }

    /// What is reached by reading one more character.
    fn step(&self, reached: Bits, character: char) -> Bits {
        let known = self.accepting.binary_search_by_key(&character, |known| known.0);
        let accepting = known.map_or(self.any, |index| self.accepting[index].1);
        let mut next = Bits::NONE;
        let mut carried = 0;
        for word in 0..WORDS {
            let read = reached.0[word] & accepting.0[word];
            next.0[word] = (reached.0[word] & self.stars.0[word]) | (read << 1) | carried;
            carried = read >> 63;
        }
        next
    }
}

/// Whether `needle` stands in `text` with a word boundary on both sides. Both are in lower case.
pub(crate) fn contains_words(text: &str, needle: &str) -> bool {
    if needle.is_empty() {
        return text.is_empty();
    }
    // Nearly all text is done with here.
    if !text.contains(needle) {
        return false;
    }
    let mut before = None;
    for (start, character) in text.char_indices() {
        let found = is_boundary(before, Some(character)).then(|| text[start..].strip_prefix(needle)).flatten();
        if found.is_some_and(|rest| is_boundary(needle.chars().next_back(), rest.chars().next())) {
            return true;
        }
        before = Some(character);
    }
    false
}

/// A boundary is an end of the text, or beside a character that isn't part of a word.
fn is_boundary(before: Option<char>, after: Option<char>) -> bool {
    let in_word =
        |side: Option<char>| side.is_some_and(|character| character.is_ascii_alphanumeric() || character == '_');
    !in_word(before) || !in_word(after)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn all(pattern: &str, text: &str, expected: bool) {
        assert_eq!(Glob::new(pattern).matches_all(text), expected, "{pattern:?} on {text:?}");
    }

    #[track_caller]
    fn words(pattern: &str, text: &str, expected: bool) {
        let text = text.to_lowercase();
        assert_eq!(Glob::new(pattern).matches_words(&text), expected, "{pattern:?} on {text:?}");
    }

    #[test]
    fn whole_text() {
        all("lunc?*", "lunch plans", true);
        all("lunc?*", "lunch", true);
        all("lunc?*", " lunch", false);
        all("lunc?*", "lunc", false);
        all("", "", true);
        all("", "a", false);
        all("*", "", true);
        all("**?", "a", true);
        all("*.matrix.org", "matrix.org", false);
        all("*.matrix.org", "a.b.matrix.org", true);
        all("LUNCH", "lunch", true);
        all("lunch", "Lunch", true);
        all("ÄÖ", "äÖ", true);
        all("ÄÖ", "äöü", false);
        all("*.MATRIX.org", "A.matrix.ORG", true);
        all("a*b*c", "axxbxxcxxc", true);
        all("a*b*c", "axxbxxcxx", false);
        let long = "ab?c".repeat(63);
        all(&format!("{long}*xyz"), &format!("{}__xyz", "abcc".repeat(63)), true);
        all(&format!("{long}*xyz"), &format!("{}__xyz", "abca".repeat(63)), false);
        all(&"?".repeat(GLOB_LEN_MAX + 1), &"a".repeat(GLOB_LEN_MAX + 1), false);
    }

    #[test]
    fn parts_at_word_boundaries() {
        words("ex*ple", "An example event.", true);
        words("ex*ple", "exple", true);
        words("ex*ple", "An exciting triple-whammy", true);
        words("ex*ple", "An examples", false);
        words("tea", "time for tea", true);
        words("tea", "team tea", true);
        words("tea", "steam", false);
        words("tea", "tea_time", false);
        words("tea", "téa", false);
        words("日本", "私は日本語", true);
        words("@room", "hey @room!", true);
        words("a a", "ba a a", true);
        words("a a", "ba ab", false);
        words("", "anything", false);
        words("?", "", false);
        words("*", "", true);
    }

    proptest! {
        #[test]
        fn agrees_with_the_obvious_matcher(pattern in "[ab*?]{0,8}", text in "[ab]{0,10}") {
            let pattern_chars: Vec<char> = pattern.chars().collect();
            let text_chars: Vec<char> = text.chars().collect();
            prop_assert_eq!(
                Glob::new(&pattern).matches_all(&text),
                obvious(&pattern_chars, &text_chars)
            );
        }

        #[test]
        fn words_agree_with_trying_all_parts(pattern in "[ab*?é ]{1,5}", text in "[ab é]{0,8}") {
            prop_assert_eq!(Glob::new(&pattern).matches_words(&text), obvious_words(&pattern, &text));
        }

        #[test]
        fn literal_words_agree_with_trying_all_parts(pattern in "[ab é]{1,4}", text in "[ab é]{0,12}") {
            prop_assert_eq!(Glob::new(&pattern).matches_words(&text), obvious_words(&pattern, &text));
        }
    }

    fn obvious_words(pattern: &str, text: &str) -> bool {
        let chars: Vec<char> = text.chars().collect();
        let pattern: Vec<char> = pattern.chars().collect();
        let at = |index: usize| chars.get(index).copied();
        let boundary = |index: usize| is_boundary(index.checked_sub(1).and_then(at), at(index));
        let mut found = false;
        for start in 0..=chars.len() {
            for end in start..=chars.len() {
                let empty = start == end && !chars.is_empty();
                found |= !empty && boundary(start) && boundary(end) && obvious(&pattern, &chars[start..end]);
            }
        }
        found
    }

    fn obvious(pattern: &[char], text: &[char]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some(('*', rest)) => (0..=text.len()).any(|skip| obvious(rest, &text[skip..])),
            Some((wanted, rest)) => text
                .split_first()
                .is_some_and(|(first, text)| (*wanted == '?' || wanted == first) && obvious(rest, text)),
        }
    }
}
