//! Files that the server can't read.

use matrix_sdk::{
    attachment::{AttachmentConfig, AttachmentInfo, BaseImageInfo, Thumbnail},
    media::{MediaFormat, MediaRequestParameters, MediaThumbnailSettings},
    ruma::events::{
        AnySyncMessageLikeEvent, AnySyncTimelineEvent,
        room::{
            MediaSource,
            message::{ImageMessageEventContent, MessageType},
        },
    },
};

use super::{encrypted_room, usual};
use crate::{
    sdk::{register, sync},
    support::Server,
};

/// Bytes that are no image, of every value.
fn bytes(count: usize, seed: u32) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(&mut next).take(count).collect()
}

fn image(event: AnySyncTimelineEvent) -> ImageMessageEventContent {
    let AnySyncTimelineEvent::MessageLike(AnySyncMessageLikeEvent::RoomMessage(message)) = event else {
        panic!("a message: {event:?}");
    };
    match message.as_original().expect("not redacted").content.msgtype.clone() {
        MessageType::Image(image) => image,
        other => panic!("an image: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_image_and_its_thumbnail_come_whole() {
    let mut server = Server::start();
    let (alice, bob) = (register(&server, "alice").await, register(&server, "bob").await);
    let room = encrypted_room(&alice, &bob, usual()).await;
    let (data, small) = (bytes(1_000_003, 1), bytes(4_099, 2));
    let thumbnail = Thumbnail {
        data: small.clone(),
        content_type: "image/jpeg".parse().expect("a type"),
        height: 30u32.into(),
        width: 40u32.into(),
        size: 4_099u32.into(),
    };
    let info = BaseImageInfo { size: Some(1_000_003u32.into()), ..Default::default() };
    let config = AttachmentConfig::new().thumbnail(Some(thumbnail)).info(AttachmentInfo::Image(info));
    let content_type = "image/png".parse().expect("a type");
    let sent = alice
        .get_room(&room)
        .expect("room")
        .send_attachment("reef.png", &content_type, data.clone(), config)
        .await
        .expect("send");
    server.kill();
    server.restart();
    sync(&bob).await;
    let event = bob.get_room(&room).expect("room").event(&sent.event_id, None).await.expect("event");
    let image = image(event.raw().deserialize().expect("an event"));
    assert_eq!(bob.media().get_file(&image, false).await.expect("download").expect("a file"), data);
    let settings = MediaThumbnailSettings::new(40u32.into(), 30u32.into());
    let thumbnail = bob.media().get_thumbnail(&image, settings, false).await.expect("download");
    assert_eq!(thumbnail.expect("a thumbnail"), small);

    // What the server has of it is something else, of the same length.
    let MediaSource::Encrypted(file) = image.source else { panic!("encrypted") };
    let plain = MediaRequestParameters { source: MediaSource::Plain(file.url), format: MediaFormat::File };
    let stored = bob.media().get_media_content(&plain, false).await.expect("download");
    assert!(stored != data && stored.len() == data.len());
}
