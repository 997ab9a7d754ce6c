//! The conditions of push rules, compiled.

use std::ops::RangeBounds;

use ruma::push::{PushCondition, RoomMemberCountIs, ScalarJsonValue};
use ruma::{RoomId, UInt, UserId};
use serde_json::Value;

use crate::auth::PowerLevel;
use crate::glob::{Glob, contains_words};

use super::PushContext;
use super::event::{Property, PushEvent};

/// The keys that lead to a property of an event.
type Path = Vec<Box<str>>;

/// One condition.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Condition {
    /// The property matches a pattern as a whole.
    Match(Path, Pattern),
    /// A part of `content.body` between word boundaries matches.
    Body(Glob),
    /// The property is exactly this.
    Is(Path, Scalar),
    /// The property is a list with exactly this in it.
    Contains(Path, Scalar),
    /// `content.body` has the user's display name in it.
    DisplayName,
    /// So many are joined.
    MemberCount(RoomMemberCountIs),
    /// The sender has the power for notifications of this kind.
    SenderMay(Box<str>),
    /// A condition that this server doesn't know; it never holds.
    Unknown,
}

/// What a text is compared to.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Pattern {
    /// The id of the user whose rule it is.
    Owner,
    Glob(Glob),
}

/// What a value is compared to.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Scalar {
    /// The id of the user whose rule it is.
    Owner,
    Value(Value),
}

impl Condition {
    /// Compiles a condition of a rule of `owner`.
    #[expect(deprecated, reason = "users still have rules that look for the display name")]
    pub(super) fn new(condition: &PushCondition, owner: &UserId) -> Self {
        match condition {
            PushCondition::EventMatch(data) if data.key == "content.body" => Self::body(&data.pattern),
            PushCondition::EventMatch(data) => Self::Match(parse_path(&data.key), Pattern::new(&data.pattern, owner)),
            PushCondition::EventPropertyIs(data) => Self::Is(parse_path(&data.key), Scalar::new(&data.value, owner)),
            PushCondition::EventPropertyContains(data) => {
                Self::Contains(parse_path(&data.key), Scalar::new(&data.value, owner))
            }
            PushCondition::ContainsDisplayName => Self::DisplayName,
            PushCondition::RoomMemberCount(data) => Self::MemberCount(data.is),
            PushCondition::SenderNotificationPermission(data) => Self::SenderMay(data.key.as_str().into()),
            _ => Self::Unknown,
        }
    }

    /// The condition of a content rule.
    pub(super) fn body(pattern: &str) -> Self {
        Self::Body(Glob::new(pattern))
    }

    /// The condition of a room rule.
    pub(super) fn room(room_id: &RoomId) -> Self {
        Self::Is(vec!["room_id".into()], Scalar::Value(room_id.as_str().into()))
    }

    /// The condition of a sender rule.
    pub(super) fn sender(sender: &UserId, owner: &UserId) -> Self {
        let sender = ScalarJsonValue::String(sender.as_str().to_owned());
        Self::Is(vec!["sender".into()], Scalar::new(&sender, owner))
    }

    /// Whether the condition holds for an event.
    pub(super) fn holds(&self, event: &PushEvent<'_>, context: &PushContext<'_>) -> bool {
        match self {
            Self::Match(path, pattern) => {
                let text = event.property(path).and_then(Property::as_str);
                text.is_some_and(|text| pattern.matches(text, context))
            }
            Self::Body(glob) => event.lowercase_body().is_some_and(|body| glob.matches_words(body)),
            Self::Is(path, wanted) => event.property(path).is_some_and(|found| wanted.is(found, context)),
            Self::Contains(path, wanted) => match event.property(path) {
                Some(Property::Json(Value::Array(list))) => {
                    list.iter().any(|found| wanted.is(Property::Json(found), context))
                }
                _ => false,
            },
            Self::DisplayName => match (event.lowercase_body(), context.display_name) {
                (Some(body), Some(name)) if !name.is_empty() => contains_words(body, &name.to_lowercase()),
                _ => false,
            },
            Self::MemberCount(is) => UInt::new(context.member_count).is_some_and(|count| is.contains(&count)),
            Self::SenderMay(kind) => context
                .power_levels
                .is_some_and(|levels| levels.user(event.sender()) >= PowerLevel::from(levels.for_notification(kind))),
            Self::Unknown => false,
        }
    }
}

impl Pattern {
    fn new(pattern: &str, owner: &UserId) -> Self {
        if pattern == owner.as_str() { Self::Owner } else { Self::Glob(Glob::new(pattern)) }
    }

    fn matches(&self, text: &str, context: &PushContext<'_>) -> bool {
        match self {
            Self::Owner => text.eq_ignore_ascii_case(context.user.as_str()),
            Self::Glob(glob) => glob.matches_all(text),
        }
    }
}

impl Scalar {
    fn new(value: &ScalarJsonValue, owner: &UserId) -> Self {
        match value {
            ScalarJsonValue::String(text) if text == owner.as_str() => Self::Owner,
            ScalarJsonValue::String(text) => Self::Value(text.as_str().into()),
            ScalarJsonValue::Integer(number) => Self::Value(i64::from(*number).into()),
            ScalarJsonValue::Bool(value) => Self::Value((*value).into()),
            ScalarJsonValue::Null => Self::Value(Value::Null),
        }
    }

    fn is(&self, found: Property<'_>, context: &PushContext<'_>) -> bool {
        let wanted = match self {
            Self::Owner => return found.as_str() == Some(context.user.as_str()),
            Self::Value(wanted) => wanted,
        };
        match found {
            Property::Text(text) => wanted.as_str() == Some(text),
            Property::Number(number) => wanted.as_u64() == Some(number),
            Property::Json(value) => wanted == value,
        }
    }
}

/// Splits a path at its dots, of which those after a backslash belong to the key.
///
/// Specification: appendices, "Dot-separated property paths".
fn parse_path(text: &str) -> Path {
    let mut path = Vec::new();
    let mut key = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '.' => path.push(std::mem::take(&mut key).into_boxed_str()),
            '\\' => match characters.next() {
                Some(escaped @ ('.' | '\\')) => key.push(escaped),
                // Any other backslash is kept as it is.
                Some(other) => key.extend(['\\', other]),
                None => key.push('\\'),
            },
            character => key.push(character),
        }
    }
    path.push(key.into_boxed_str());
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_specification() {
        let check = |text: &str, expected: &[&str]| {
            let path = parse_path(text);
            assert_eq!(path.iter().map(|key| &**key).collect::<Vec<_>>(), expected, "{text}");
        };
        check("content.body", &["content", "body"]);
        check(r"content.m\.relates_to.rel_type", &["content", "m.relates_to", "rel_type"]);
        check(r"m\\foo", &[r"m\foo"]);
        check(r"m\\.foo", &[r"m\", "foo"]);
        check(r"m\x", &[r"m\x"]);
        check("", &[""]);
    }
}
