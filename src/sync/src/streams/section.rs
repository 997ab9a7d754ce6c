//! What a user's way into and out of a room means for a sync.

use ::rooms::{EventNum, Membership};
use store::Position;

/// A change of a user's membership of one room.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Step {
    /// When.
    pub(crate) position: Position,
    /// What it became.
    pub(crate) membership: Membership,
    /// The member event, where this server holds it.
    pub(crate) event: Option<EventNum>,
}

/// How a room stands to a user at the end of a range of the log.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) enum Section {
    /// The user is in the room.
    Joined {
        /// The client knows nothing of the room: it wasn't joined at the start of the range.
        fresh: bool,
    },
    /// The user is invited.
    Invited(Step),
    /// The user knocks.
    Knocked(Step),
    /// The user was in the room during the range and is no more.
    Left {
        /// Where the user left last.
        end: Position,
        /// The client knew nothing of the room at the start.
        fresh: bool,
        /// The last change, which may come after that (a ban after a leave).
        last: Step,
    },
    /// The user isn't in the room and wasn't during the range; what ended (an invite, a knock, the hope to come back) is told
    /// by the member event alone.
    Refused(Step),
}

/// Judges the changes of one room in a range, oldest first, given the membership before them. `None` if there is nothing to say.
///
/// A step that leaves the membership as it was (a new profile, an invite that is repeated) is no change.
pub(crate) fn section(before: Membership, steps: &[Step]) -> Option<Section> {
    let mut now = before;
    let mut last = None;
    let mut end = None;
    for step in steps {
        if step.membership == now {
            continue;
        }
        if now == Membership::Join {
            end = Some(step.position);
        }
        now = step.membership;
        last = Some(*step);
    }
    let fresh = before != Membership::Join;
    if now == Membership::Join {
        return Some(Section::Joined { fresh });
    }
    let last = last?;
    Some(match (now, end) {
        (Membership::Invite, _) => Section::Invited(last),
        (Membership::Knock, _) => Section::Knocked(last),
        (_, Some(end)) => Section::Left { end, fresh, last },
        (_, None) => Section::Refused(last),
    })
}

#[cfg(test)]
mod tests {
    use Membership::{Ban, Invite, Join, Knock, Leave};

    use super::*;

    fn steps(memberships: &[Membership]) -> Vec<Step> {
        let step = |(at, membership): (usize, &Membership)| Step {
            position: Position::from_u64(at as u64 + 1),
            membership: *membership,
            event: None,
        };
        memberships.iter().enumerate().map(step).collect()
    }

    fn check(before: Membership, path: &[Membership], expected: impl Fn(Step) -> Section) {
        let steps = steps(path);
        let last = *steps.last().unwrap();
        assert_eq!(section(before, &steps), Some(expected(last)), "{before:?} {path:?}");
    }

    #[test]
    fn every_way_in_and_out_is_told_apart() {
        let end = Position::from_u64;
        assert_eq!(section(Leave, &[]), None);
        assert_eq!(section(Invite, &steps(&[Invite])), None);
        check(Join, &[Join], |_| Section::Joined { fresh: false });
        check(Leave, &[Join], |_| Section::Joined { fresh: true });
        check(Invite, &[Join], |_| Section::Joined { fresh: true });
        check(Join, &[Leave, Join], |_| Section::Joined { fresh: false });
        check(Leave, &[Invite], Section::Invited);
        check(Join, &[Leave, Invite], Section::Invited);
        check(Leave, &[Knock], Section::Knocked);
        check(Invite, &[Leave], Section::Refused);
        check(Leave, &[Ban], Section::Refused);
        check(Leave, &[Invite, Leave], Section::Refused);
        check(Join, &[Leave], |last| Section::Left { end: end(1), fresh: false, last });
        check(Join, &[Leave, Ban], |last| Section::Left { end: end(1), fresh: false, last });
        check(Leave, &[Join, Ban], |last| Section::Left { end: end(2), fresh: true, last });
        check(Join, &[Leave, Join, Leave], |last| Section::Left { end: end(3), fresh: false, last });
    }
}
