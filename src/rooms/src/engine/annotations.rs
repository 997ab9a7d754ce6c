//! One annotation by a user for each event, type and key.
//!
//! Specification: client-server API, "Avoiding duplicate annotations".

use ruma::UserId;
use state_tree::EventNum;
use store::Fixed;

use crate::{
    RoomsError,
    engine::{append::Draft, turn::Turn},
    relations::ANNOTATION,
    rows::AnnotationKey,
    tables::Annotations,
};

/// An annotation that a user of this server sends.
pub(crate) struct Annotation {
    parent: EventNum,
    hash: Fixed<32>,
}

impl Turn {
    /// Refuses the draft of an annotation that its sender has made already and not redacted; `None` if it is none.
    pub(crate) async fn check_annotation(&mut self, draft: &Draft) -> Result<Option<Annotation>, RoomsError> {
        let Some(relation) = draft.relation.as_ref().filter(|relation| relation.rel_type == ANNOTATION) else {
            return Ok(None);
        };
        // Anything else in the content is no annotation, whatever it is.
        let Some(key) = &relation.key else { return Ok(None) };
        let Some(parent) = self.rooms.num(&self.view, &relation.parent).await? else { return Ok(None) };
        let annotation = Annotation { parent, hash: hash(&draft.event_type, key) };
        self.claim_annotation(&annotation, &draft.sender).await?;
        Ok(Some(annotation))
    }

    /// Refuses an annotation that its sender has made already and not redacted, now or until the batch is written.
    pub(crate) async fn claim_annotation(
        &mut self,
        annotation: &Annotation,
        sender: &UserId,
    ) -> Result<(), RoomsError> {
        let key = annotation.key(sender);
        let earlier = self.view.get::<Annotations>(&key).await?;
        if let Some(earlier) = earlier
            && self.meta(earlier).await?.redacted_by.is_none()
        {
            return Err(RoomsError::DuplicateAnnotation);
        }
        self.batch.expect::<Annotations>(&key, earlier.as_ref());
        Ok(())
    }

    /// Notes the event that an annotation became.
    pub(crate) fn store_annotation(&mut self, annotation: &Annotation, sender: &UserId, event: EventNum) {
        self.batch.put::<Annotations>(&annotation.key(sender), &event);
    }
}

impl Annotation {
    fn key<'a>(&self, sender: &'a UserId) -> AnnotationKey<&'a UserId> {
        AnnotationKey { parent: self.parent, user: sender, hash: self.hash }
    }
}

/// Stands for the type and key of an annotation, which can be long.
fn hash(event_type: &str, key: &str) -> Fixed<32> {
    let mut hash = blake3::Hasher::new();
    hash.update(&event_type.len().to_le_bytes()).update(event_type.as_bytes()).update(key.as_bytes());
    Fixed(*hash.finalize().as_bytes())
}
