//! What a page says about itself: OpenGraph, and what stands in for it. The page's tokens are read one after the other;
//! no tree is built, so that depth and disorder cost nothing.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
};

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252, X_USER_DEFINED};
use html5ever::{
    Attribute,
    tendril::StrTendril,
    tokenizer::{
        BufferQueue, Tag, TagKind, Token, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts, states::RawKind,
    },
};

/// Properties that are kept.
const PROPERTIES_MAX: usize = 40;
/// Bytes that the names and values of all of them may have.
const PROPERTIES_BYTES_MAX: usize = 16 * 1_024;
/// Longest name of one, in bytes.
const NAME_BYTES_MAX: usize = 64;
/// Longest value of one, in bytes.
const VALUE_BYTES_MAX: usize = 2_000;
/// Longest description that is made of a page's text, in bytes.
const TEXT_BYTES_MAX: usize = 400;
/// Bytes that the tokenizer takes at a time.
const PIECE_BYTES: usize = 1_024;
/// Comparisons of attributes, about. The tokenizer compares each with all before it in the same tag, so that one tag that fills the
/// page would cost the square of its length. No page that is meant to be read comes near; the rest of one that does is left out.
const COMPARISONS_MAX: u64 = 100_000_000;
/// Where the declaration of a character encoding is looked for, in bytes.
const DECLARATION_BYTES: usize = 1_024;
/// How much of a page its encoding is guessed from where nothing declares it, in bytes.
const GUESSED_BYTES: usize = 512 * 1_024;

/// A page.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(super) struct Page {
    /// OpenGraph properties without those of images, by name.
    pub(super) properties: BTreeMap<String, String>,
    /// The URL of its picture.
    pub(super) image: Option<String>,
    /// The URL of an oEmbed document about it.
    pub(super) oembed: Option<String>,
}

/// Reads a page of a host.
pub(super) fn read(body: &[u8], content_type: &str, host: Option<&str>) -> Page {
    let (text, _, _) = encoding(body, content_type, host).decode(body);
    let queue = BufferQueue::default();
    let tokenizer = Tokenizer::new(Sink::default(), TokenizerOpts::default());
    let (mut rest, mut attributes, mut comparisons) = (&*text, 0_u64, 0_u64);
    while !rest.is_empty() && comparisons <= COMPARISONS_MAX {
        let (piece, after) = rest.split_at(rest.floor_char_boundary(PIECE_BYTES));
        rest = after;
        let tokens = tokenizer.sink.tokens.get();
        queue.push_back(StrTendril::from_slice(piece));
        // The tokenizer pauses where a script would run; none does.
        while let html5ever::TokenizerResult::Script(()) = tokenizer.feed(&queue) {}
        if tokenizer.sink.tokens.get() > tokens {
            attributes = 0;
        } else {
            // It is within a tag or a comment all the time: at least one of these stands between two attributes.
            let between = |byte: &u8| matches!(byte, b'/' | b'"' | b'\'') || byte.is_ascii_whitespace();
            let more = piece.bytes().filter(between).count() as u64;
            attributes += more;
            comparisons += more * attributes;
        }
    }
    tokenizer.end();
    tokenizer.sink.found.into_inner().finish()
}

/// The encoding of a byte order mark, else of the header, else of the page's own declaration, else the likeliest one, as browsers have
/// it (HTML, "Determining the character encoding").
fn encoding(body: &[u8], content_type: &str, host: Option<&str>) -> &'static Encoding {
    let head = String::from_utf8_lossy(&body[..body.len().min(DECLARATION_BYTES)]).to_ascii_lowercase();
    let named = |text: &str| {
        let (_, rest) = text.split_once("charset=")?;
        let name = rest.trim_start_matches(['"', '\'', ' ']);
        let name = name.split(['"', '\'', ' ', ';', '>', '/']).next()?;
        Encoding::for_label(name.as_bytes())
    };
    Encoding::for_bom(body)
        .map(|(encoding, _)| encoding)
        .or_else(|| named(&content_type.to_ascii_lowercase()))
        .or_else(|| named(&head).map(readable))
        .unwrap_or_else(|| guessed(body, host))
}

/// What a declaration within a page means: it could not be read in any encoding that isn't much like ASCII.
fn readable(declared: &'static Encoding) -> &'static Encoding {
    if declared == UTF_16LE || declared == UTF_16BE {
        UTF_8
    } else if declared == X_USER_DEFINED {
        WINDOWS_1252
    } else {
        declared
    }
}

/// The likeliest encoding of a page that declares none. What pages of its top-level domain are mostly written in weighs in.
fn guessed(body: &[u8], host: Option<&str>) -> &'static Encoding {
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Deny);
    // Not the end of the text, so that a page that was cut within a letter may still be UTF-8.
    detector.feed(&body[..body.len().min(GUESSED_BYTES)], false);
    let labels = host.into_iter().flat_map(|host| host.rsplit('.')).find(|label| !label.is_empty());
    // The detector takes no others.
    let plain = |label: &&str| label.bytes().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase());
    detector.guess(labels.filter(plain).map(str::as_bytes), Utf8Detection::Allow)
}

#[derive(Default)]
struct Sink {
    found: RefCell<Found>,
    /// Tags, pieces of text and comments so far.
    tokens: Cell<u64>,
}

/// Which text is read just now.
#[derive(Copy, Clone, Default, PartialEq, Eq)]
enum Reading {
    #[default]
    Nothing,
    Title,
    Paragraph,
}

#[derive(Default)]
struct Found {
    page: Page,
    /// What its properties take, in bytes.
    bytes: usize,
    /// Values that stand in for missing ones, by the property's name.
    fallback: BTreeMap<&'static str, String>,
    fallback_image: Option<String>,
    title: String,
    text: String,
    reading: Reading,
}

impl TokenSink for Sink {
    type Handle = ();

    fn process_token(&self, token: Token, _: u64) -> TokenSinkResult<()> {
        let mut found = self.found.borrow_mut();
        if !matches!(token, Token::ParseError(_)) {
            self.tokens.set(self.tokens.get() + 1);
        }
        match token {
            Token::TagToken(tag) if tag.kind == TagKind::StartTag => found.start(&tag),
            Token::TagToken(tag) => {
                if matches!(&*tag.name, "title" | "p") {
                    found.reading = Reading::Nothing;
                }
                TokenSinkResult::Continue
            }
            Token::CharacterTokens(text) => {
                found.take_text(&text);
                TokenSinkResult::Continue
            }
            _ => TokenSinkResult::Continue,
        }
    }
}

impl Found {
    fn start(&mut self, tag: &Tag) -> TokenSinkResult<()> {
        match &*tag.name {
            "meta" => self.meta(&tag.attrs),
            "link" => self.link(&tag.attrs),
            "title" if self.title.is_empty() => {
                self.reading = Reading::Title;
                return TokenSinkResult::RawData(RawKind::Rcdata);
            }
            "p" => self.reading = Reading::Paragraph,
            // What isn't text must not be read as such.
            "script" => return TokenSinkResult::RawData(RawKind::ScriptData),
            "style" | "noscript" | "iframe" | "noembed" | "noframes" | "xmp" => {
                return TokenSinkResult::RawData(RawKind::Rawtext);
            }
            "textarea" | "title" => return TokenSinkResult::RawData(RawKind::Rcdata),
            _ => {}
        }
        TokenSinkResult::Continue
    }

    fn meta(&mut self, attributes: &[Attribute]) {
        let name = attribute(attributes, "property").or_else(|| attribute(attributes, "name"));
        let (Some(name), Some(content)) = (name, attribute(attributes, "content")) else { return };
        let content = content.trim();
        if content.is_empty() {
            return;
        }
        let value = cut(content, VALUE_BYTES_MAX);
        let name = name.trim().to_ascii_lowercase();
        match name.as_str() {
            "og:image" | "og:image:url" | "og:image:secure_url" => {
                self.page.image.get_or_insert(value);
            }
            "twitter:image" | "twitter:image:src" => {
                self.fallback_image.get_or_insert(value);
            }
            "twitter:title" => drop(self.fallback.entry("og:title").or_insert(value)),
            "description" | "twitter:description" => drop(self.fallback.entry("og:description").or_insert(value)),
            _ => {
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'_' | b'-');
                let kept = name.starts_with("og:") && !name.starts_with("og:image") && name.bytes().all(plain);
                let bytes = self.bytes + name.len() + value.len();
                let fits = self.page.properties.len() < PROPERTIES_MAX && bytes <= PROPERTIES_BYTES_MAX;
                if kept && fits && name.len() <= NAME_BYTES_MAX && !self.page.properties.contains_key(&name) {
                    self.bytes = bytes;
                    self.page.properties.insert(name, value);
                }
            }
        }
    }

    fn link(&mut self, attributes: &[Attribute]) {
        let (Some(rel), Some(href)) = (attribute(attributes, "rel"), attribute(attributes, "href")) else { return };
        let href = cut(href.trim(), VALUE_BYTES_MAX);
        if rel.eq_ignore_ascii_case("image_src") {
            self.fallback_image.get_or_insert(href);
        } else if rel.eq_ignore_ascii_case("alternate")
            && attribute(attributes, "type").is_some_and(|kind| kind.eq_ignore_ascii_case("application/json+oembed"))
        {
            self.page.oembed.get_or_insert(href);
        }
    }

    fn take_text(&mut self, text: &str) {
        let (into, bytes_max) = match self.reading {
            Reading::Nothing => return,
            Reading::Title => (&mut self.title, VALUE_BYTES_MAX),
            Reading::Paragraph => (&mut self.text, TEXT_BYTES_MAX),
        };
        let room = bytes_max.saturating_sub(into.len());
        into.push_str(&cut(text, room));
    }

    fn finish(mut self) -> Page {
        let spaced = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let (title, text) = (spaced(&self.title), spaced(&self.text));
        let mut stand_in = |name: &str, value: String| {
            if !value.is_empty() {
                self.page.properties.entry(name.to_owned()).or_insert(value);
            }
        };
        for (name, value) in std::mem::take(&mut self.fallback) {
            stand_in(name, value);
        }
        stand_in("og:title", title);
        stand_in("og:description", text);
        self.page.image = self.page.image.or(self.fallback_image);
        self.page
    }
}

fn attribute<'a>(attributes: &'a [Attribute], name: &str) -> Option<&'a str> {
    attributes.iter().find(|attribute| &*attribute.name.local == name).map(|attribute| &*attribute.value)
}

pub(super) fn cut(text: &str, bytes_max: usize) -> String {
    text[..text.floor_char_boundary(bytes_max)].to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(body: &[u8], content_type: &str) -> Page {
        super::read(body, content_type, None)
    }

    fn property<'p>(page: &'p Page, name: &str) -> Option<&'p str> {
        page.properties.get(name).map(String::as_str)
    }

    #[test]
    fn opengraph_is_read() {
        let page = read(
            br#"<!doctype html><html><head><TITLE>Not this</TITLE>
            <meta property="og:title" content="A &amp; B"><meta property="og:title" content="second">
            <meta name='og:site_name' content=Site><meta property="og:image:width" content="9">
            <meta property="og:image" content="/a.png"><meta property="og:<b>" content="x">
            <link rel="alternate" type="application/json+oembed" href="/oembed?x=1&amp;y=2">
            <script>document.write('<meta property="og:type" content="evil">')</script>"#,
            "text/html",
        );
        assert_eq!(property(&page, "og:title"), Some("A & B"));
        assert_eq!(property(&page, "og:site_name"), Some("Site"));
        assert_eq!((property(&page, "og:type"), property(&page, "og:image:width")), (None, None));
        assert_eq!(page.properties.len(), 2);
        assert_eq!(page.image.as_deref(), Some("/a.png"));
        assert_eq!(page.oembed.as_deref(), Some("/oembed?x=1&y=2"));
    }

    #[test]
    fn other_parts_stand_in() {
        let page = read(
            b"<title> A\n title </title><body><style>p { x }</style><p>One <b>two</b></p> no <p>three</p>\
            <link rel=image_src href=b.png>",
            "text/html",
        );
        assert_eq!(property(&page, "og:title"), Some("A title"));
        assert_eq!(property(&page, "og:description"), Some("One twothree"));
        assert_eq!(page.image.as_deref(), Some("b.png"));
        let page = read(b"<meta name=description content=D><p>text", "text/html");
        assert_eq!(property(&page, "og:description"), Some("D"));
    }

    #[test]
    fn encodings_are_those_declared() {
        let title = |body: &[u8], content_type| read(body, content_type).properties.remove("og:title");
        let gbk = b"<title>\xBA\xA3\xC2\xED</title>";
        assert_eq!(title(gbk, "text/html; charset=GBK").as_deref(), Some("海马"));
        let declared = [b"<meta charset=\"gbk\">", &gbk[..]].concat();
        assert_eq!(title(&declared, "text/html").as_deref(), Some("海马"));
        assert_eq!(title("<title>海马</title>".as_bytes(), "text/html").as_deref(), Some("海马"));
    }

    #[test]
    fn encodings_that_nothing_declares_are_guessed() {
        let title = |body: &[u8], host| super::read(body, "text/html", host).properties.remove("og:title");
        let page = |text: &str| format!("<title>{text}</title><p>{}", "ascii only ".repeat(50));
        let texts = [
            ("windows-1252", "Un café déjà vu à la crème brûlée — “garçon”"),
            ("windows-1251", "Морской конёк — рыба семейства игловых"),
            ("windows-1253", "Ο ιππόκαμπος είναι ένα γένος ψαριών"),
            ("shift_jis", "タツノオトシゴは海に住んでいる魚です"),
            ("euc-kr", "해마는 바다에 사는 물고기의 한 종류이다"),
            ("gbk", "海马是一种生活在海洋中的小型鱼类，用背鳍游泳"),
            ("utf-8", "Seepferdchen schwimmen über Wälder — 海马"),
        ];
        for (label, text) in texts {
            let (bytes, _, lossy) = Encoding::for_label(label.as_bytes()).expect("known").encode(text);
            assert!(!lossy);
            let body = [b"<title>", &bytes[..], b"</title><p>", &[b'x'; 500]].concat();
            assert_eq!(title(&body, None).as_deref(), Some(text), "{label}");
            assert_eq!(title(&body, Some("www.example.org.")).as_deref(), Some(text), "{label}");
        }
        let whole = page("Über Wälder") + "海";
        assert_eq!(title(&whole.as_bytes()[..whole.len() - 1], None).as_deref(), Some("Über Wälder"), "a cut page");
        assert_eq!(title(page("plain").as_bytes(), Some("example.RU")).as_deref(), Some("plain"));
        // Who can read the declaration knows that it is wrong.
        let declared = "<meta charset=utf-16le>".to_owned() + &page("Über");
        assert_eq!(title(declared.as_bytes(), None).as_deref(), Some("Über"));
    }

    #[test]
    fn bounds_hold() {
        let deep = "<div>".repeat(50_000) + "<title>deep</title>";
        assert_eq!(property(&read(deep.as_bytes(), ""), "og:title"), Some("deep"));
        let many: String = (0..500).map(|n| format!("<meta property=og:x{n} content={}>", "y".repeat(3_000))).collect();
        let page = read(many.as_bytes(), "");
        assert_eq!(page.properties.len(), PROPERTIES_BYTES_MAX / (VALUE_BYTES_MAX + "og:x0".len()));
        assert!(page.properties.values().all(|value| value.len() == VALUE_BYTES_MAX));
        let short: String = (0..500).map(|n| format!("<meta property=og:x{n} content=y>")).collect();
        assert_eq!(read(short.as_bytes(), "").properties.len(), PROPERTIES_MAX);
    }

    #[test]
    fn a_tag_of_endless_attributes_ends_the_page() {
        let head = "<title>before</title><link ";
        let attributes: String = (0..2_000_000).map(|n| format!("{n:x} ")).collect();
        let page = read((head.to_owned() + &attributes + "><meta property=og:type content=x>").as_bytes(), "");
        assert_eq!((property(&page, "og:title"), property(&page, "og:type")), (Some("before"), None));
        // What a page may well have: data in a tag, a long comment, and much text.
        let long = format!("<img src='data:,{}'><!--{}-->", "0123456789abcdef+/".repeat(10_000), "a b".repeat(5_000));
        let page = read((long + &"<p>a b ".repeat(100_000) + "<title>after</title>").as_bytes(), "");
        assert_eq!(property(&page, "og:title"), Some("after"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(body: Vec<u8>, pieces in proptest::collection::vec(
            prop::sample::select(&["<", ">", "<meta", " content=", "\"", "og:title", "<p>", "</", "<script>", "&#", "<!--"][..]),
            0..40,
        )) {
            read(&body, "text/html");
            read(pieces.concat().as_bytes(), "text/html; charset=");
        }
    }
}
