//! One annotation by a user for each event, type and key.
//!
//! Specification: client-server API, "Avoiding duplicate annotations".

use ruma::{OwnedEventId, UserId};
use serde::Deserialize;
use serde_json::value::RawValue;
use state_tree::EventNum;
use store::Fixed;

use crate::{
    RoomsError,
    engine::{append::Draft, turn::Turn},
    tables::Annotations,
};

/// An annotation that a user of this server sends.
pub(crate) struct Annotation {
    parent: EventNum,
    key: Fixed<32>,
}

#[derive(Deserialize)]
struct Content {
    #[serde(rename = "m.relates_to")]
    relates_to: Relation,
}

#[derive(Deserialize)]
struct Relation {
    rel_type: String,
    event_id: OwnedEventId,
    key: String,
}

impl Turn {
    /// Refuses the draft of an annotation that its sender has made already and not redacted; `None` if it is none.
    pub(crate) async fn check_annotation(&mut self, draft: &Draft) -> Result<Option<Annotation>, RoomsError> {
        let Some((parent, key)) = annotated(&draft.event_type, &draft.content) else { return Ok(None) };
        let Some(parent) = self.rooms.num(&self.view, &parent).await? else { return Ok(None) };
        let annotation = Annotation { parent, key };
        self.claim_annotation(&annotation, &draft.sender).await?;
        Ok(Some(annotation))
    }

    /// Refuses an annotation that its sender has made already and not redacted, now or until the batch is written.
    pub(crate) async fn claim_annotation(
        &mut self,
        annotation: &Annotation,
        sender: &UserId,
    ) -> Result<(), RoomsError> {
        let row = annotation.row(sender);
        let earlier = self.view.get::<Annotations>(&row).await?;
        if let Some(earlier) = earlier
            && self.meta(earlier).await?.redacted_by.is_none()
        {
            return Err(RoomsError::DuplicateAnnotation);
        }
        self.batch.expect::<Annotations>(&row, earlier.as_ref());
        Ok(())
    }

    /// Notes the event that an annotation became.
    pub(crate) fn store_annotation(&mut self, annotation: &Annotation, sender: &UserId, event: EventNum) {
        self.batch.put::<Annotations>(&annotation.row(sender), &event);
    }
}

impl Annotation {
    fn row<'a>(&'a self, sender: &'a UserId) -> (EventNum, &'a UserId, &'a Fixed<32>) {
        (self.parent, sender, &self.key)
    }
}

/// What an event with this content annotates, and a hash of its type and key, which can be long.
fn annotated(event_type: &str, content: &RawValue) -> Option<(OwnedEventId, Fixed<32>)> {
    // Anything else in the content is no annotation, whatever it is.
    let Ok(Content { relates_to }) = serde_json::from_str::<Content>(content.get()) else { return None };
    if relates_to.rel_type != "m.annotation" {
        return None;
    }
    let mut hash = blake3::Hasher::new();
    hash.update(&event_type.len().to_le_bytes()).update(event_type.as_bytes()).update(relates_to.key.as_bytes());
    Some((relates_to.event_id, Fixed(*hash.finalize().as_bytes())))
}
