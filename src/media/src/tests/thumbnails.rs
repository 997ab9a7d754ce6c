//! Thumbnails: sizes, formats, orientation, animation, bombs, and what becomes of them with their originals.

use std::io::Cursor;

use futures_util::FutureExt;
use image::{
    AnimationDecoder, Delay, DynamicImage, Frame, ImageEncoder, ImageFormat, Rgb, RgbImage, Rgba, RgbaImage,
    codecs::{
        gif::{GifDecoder, GifEncoder},
        jpeg::JpegEncoder,
        png::PngEncoder,
    },
};
use proptest::prelude::*;
use testkit::plain_webp;

use super::{World, alice, bob, is_gone};
use crate::{Ask, Error, Media, Result, Thumbnail};

fn ask(width: u32, height: u32) -> Ask {
    Ask { width, height, crop: false, animated: false }
}

/// A picture whose left half is red and right half blue.
fn picture(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, _| if x < width / 2 { Rgb([255, 0, 0]) } else { Rgb([0, 0, 255]) })
}

fn png(image: impl Into<DynamicImage>) -> Vec<u8> {
    let mut bytes = Vec::new();
    image.into().write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png).expect("encodes");
    bytes
}

fn gif(frames: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = GifEncoder::new(&mut bytes);
    for frame in 0..frames {
        let image = RgbaImage::from_pixel(200, 100, Rgba([frame * 40, 0, 0, 255]));
        encoder.encode_frame(Frame::from_parts(image, 0, 0, Delay::from_numer_denom_ms(50, 1))).expect("encodes");
    }
    drop(encoder);
    bytes
}

/// The thumbnail's bytes and content type.
async fn thumbnail(media: &Media, id: &str, ask: Ask) -> Result<(Vec<u8>, String)> {
    let file = media.get(id).await?;
    match media.thumbnail("alice", &file, ask).await? {
        Thumbnail::Kept(file) => {
            let bytes = media.bytes(&file, 0..file.size).await?;
            Ok((bytes, file.content_type.unwrap_or_default()))
        }
        Thumbnail::Made { bytes, content_type } => Ok((bytes.to_vec(), content_type.to_owned())),
    }
}

async fn of(bytes: &[u8], ask: Ask) -> Result<(DynamicImage, String)> {
    let mut world = World::new();
    let media = world.open(|_| {}).await;
    let id = media.upload(alice(), bytes).await.expect("uploaded");
    let (bytes, content_type) = thumbnail(&media, &id, ask).await?;
    Ok((image::load_from_memory(&bytes).expect("an image"), content_type))
}

#[tokio::test]
async fn pictures_are_scaled_and_cut() {
    let (image, content_type) = of(&png(picture(1_024, 768)), ask(300, 200)).await.expect("made");
    assert_eq!((image.width(), image.height(), content_type.as_str()), (320, 240, "image/jpeg"));
    let cut = Ask { crop: true, ..ask(96, 96) };
    let (image, _) = of(&png(picture(1_024, 768)), cut).await.expect("made");
    assert_eq!((image.width(), image.height()), (96, 96));
    let image = image.to_rgb8();
    assert!(image.get_pixel(2, 50).0[0] > 200 && image.get_pixel(93, 50).0[2] > 200, "the middle is kept");

    let transparent = RgbaImage::from_pixel(500, 500, Rgba([0, 255, 0, 100]));
    let (image, content_type) = of(&png(transparent), ask(96, 96)).await.expect("made");
    assert_eq!((content_type.as_str(), image.to_rgba8().get_pixel(5, 5).0[3]), ("image/png", 100));

    for format in [ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Gif] {
        let mut bytes = Vec::new();
        DynamicImage::from(picture(700, 700)).write_to(&mut Cursor::new(&mut bytes), format).expect("encodes");
        let (image, _) = of(&bytes, ask(96, 96)).await.expect("made");
        assert_eq!((image.width(), image.height()), (96, 96), "{format:?}");
    }
}

#[tokio::test]
async fn small_and_huge_asks_are_answered_with_the_original() {
    let small = png(picture(50, 20));
    let mut world = World::new();
    let media = world.open(|_| {}).await;
    let id = media.upload(alice(), &small).await.expect("uploaded");
    for side in [96, 2_048, 2_049, u32::MAX] {
        let found = thumbnail(&media, &id, ask(side, side)).await.expect("the original");
        assert_eq!(found, (small.clone(), "image/png".to_owned()));
    }
    assert_eq!(world.on_disk().0.len(), 1);
}

#[tokio::test]
async fn orientation_is_applied_and_metadata_left_out() {
    // Exif with one entry: orientation 6, to be turned clockwise.
    let exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0 secret place";
    let mut bytes = Vec::new();
    let mut encoder = JpegEncoder::new(&mut bytes);
    encoder.set_exif_metadata(exif.to_vec()).expect("takes metadata");
    encoder.encode_image(&picture(800, 400)).expect("encodes");
    let mut world = World::new();
    let media = world.open(|_| {}).await;
    let id = media.upload(alice(), &bytes).await.expect("uploaded");
    let (thumbnail, _) = thumbnail(&media, &id, ask(96, 96)).await.expect("made");
    assert!(!thumbnail.windows(6).any(|window| window == b"secret"));
    let image = image::load_from_memory(&thumbnail).expect("an image").to_rgb8();
    assert_eq!((image.width(), image.height()), (96, 192));
    assert!(image.get_pixel(48, 5).0[0] > 200 && image.get_pixel(48, 186).0[2] > 200, "left became top");
}

#[tokio::test]
async fn animations_move_only_if_asked_to() {
    let mut world = World::new();
    let media = world.open(|_| {}).await;
    let id = media.upload(alice(), &gif(4)).await.expect("uploaded");
    let frames = |bytes: &[u8]| {
        let frames = GifDecoder::new(Cursor::new(bytes)).expect("a GIF").into_frames().collect_frames();
        frames.expect("frames")
    };
    let (moving, content_type) = thumbnail(&media, &id, Ask { animated: true, ..ask(32, 32) }).await.expect("made");
    assert_eq!(content_type, "image/gif");
    let moving = frames(&moving);
    assert_eq!((moving.len(), moving[0].buffer().dimensions()), (4, (64, 32)));
    let (still, content_type) = thumbnail(&media, &id, ask(32, 32)).await.expect("made");
    assert_eq!((content_type.as_str(), image::guess_format(&still).expect("known")), ("image/jpeg", ImageFormat::Jpeg));
    // Small enough to be its own thumbnail, were it not moving.
    let (still, _) = thumbnail(&media, &id, ask(800, 600)).await.expect("made");
    let still = image::load_from_memory(&still).expect("an image");
    assert_eq!((still.width(), still.height()), (200, 100));
    for side in [800, 5_000] {
        let original = thumbnail(&media, &id, Ask { animated: true, ..ask(side, side) }).await.expect("the original");
        assert_eq!(original, (gif(4), "image/gif".to_owned()));
    }
    // However much is asked for.
    let (still, _) = thumbnail(&media, &id, ask(5_000, 5_000)).await.expect("made");
    assert_eq!(image::guess_format(&still).expect("known"), ImageFormat::Jpeg);
}

#[tokio::test]
async fn a_thumbnail_whose_client_is_gone_is_made_to_its_end() {
    let mut world = World::new();
    let media = world.open(|_| {}).await;
    let id = media.upload(alice(), &png(picture(300, 300))).await.expect("uploaded");
    let file = media.get(&id).await.expect("there");
    for _ in 0..3 {
        // Polled once, so that it has begun, and dropped.
        assert!(media.thumbnail("alice", &file, ask(96, 96)).now_or_never().is_none());
    }
    let found = media.thumbnail("alice", &file, ask(96, 96)).await.expect("waits for the first");
    assert!(matches!(found, Thumbnail::Kept(_)));
    assert_eq!((world.on_disk().0.len(), world.on_disk().1.len()), (2, 0));
}

#[tokio::test]
async fn thumbnails_are_found_again_and_go_with_their_original() {
    let mut world = World::new();
    let media = world.open(|_| {}).await;
    let bytes = png(picture(1_000, 1_000));
    let first = media.upload(alice(), &bytes).await.expect("first");
    let second = media.upload(bob(), &bytes).await.expect("second");
    let made = thumbnail(&media, &first, ask(96, 96)).await.expect("made");
    thumbnail(&media, &first, ask(2_000, 2_000)).await.expect("the original");
    assert_eq!(world.on_disk().0.len(), 2);
    assert_eq!(thumbnail(&media, &second, ask(90, 90)).await.expect("found"), made);
    assert_eq!(world.on_disk().0.len(), 2, "one for both");
    let file = media.get(&first).await.expect("there");
    let asked = (0..6).map(|_| media.thumbnail("alice", &file, ask(320, 240)));
    let asked = futures_util::future::join_all(asked).await;
    assert_eq!(asked.iter().filter(|made| matches!(made, Ok(Thumbnail::Made { .. }))).count(), 1);
    assert!(asked.iter().all(Result::is_ok));
    assert_eq!(world.on_disk().0.len(), 3);
    media.remove(&first).await.expect("deleted");
    assert_eq!(thumbnail(&media, &second, ask(96, 96)).await.expect("found"), made);
    media.remove(&second).await.expect("deleted");
    assert_eq!(world.on_disk(), (Vec::new(), Vec::new()));
    is_gone(media.thumbnail("alice", &file, ask(500, 500)).await);
    assert_eq!(media.stored_bytes().await.expect("sum"), 0);
}

#[tokio::test]
async fn only_so_many_thumbnails_of_a_file_are_kept() {
    let mut world = World::new();
    let media = world.open(|_| {}).await;
    let id = media.upload(alice(), &png(picture(300, 300))).await.expect("uploaded");
    for side in 100..140 {
        let cut = Ask { crop: true, ..ask(side, side + 1) };
        let (bytes, _) = thumbnail(&media, &id, cut).await.expect("made");
        assert_eq!(image::load_from_memory(&bytes).expect("an image").width(), side);
    }
    assert_eq!(world.on_disk().0.len(), 33);
    media.remove(&id).await.expect("deleted");
    assert_eq!(world.on_disk().0.len(), 0);
}

/// A PNG whose header says this size, with a valid checksum and one row's worth of pixels.
fn png_of_size(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    PngEncoder::new(&mut bytes).write_image(&[0; 30], 10, 1, image::ExtendedColorType::Rgb8).expect("encodes");
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    let checksum = crc(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

/// CRC-32 as PNG has it.
fn crc(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { 0xEDB8_8320 ^ (crc >> 1) } else { crc >> 1 };
        }
    }
    !crc
}

#[tokio::test]
async fn bombs_are_refused_by_their_headers() {
    let mut world = World::new();
    let media = world.open(|_| {}).await;
    let mut wide_gif = gif(1);
    wide_gif[6..10].copy_from_slice(&[0xFF; 4]);
    let mut wide_jpeg = Vec::new();
    JpegEncoder::new(&mut wide_jpeg).encode_image(&picture(8, 8)).expect("encodes");
    let frame = wide_jpeg.windows(2).position(|marker| marker == [0xFF, 0xC0]).expect("a frame header");
    wide_jpeg[frame + 5..frame + 9].copy_from_slice(&[0xFF; 4]);
    let bombs = [png_of_size(100_000, 100_000), png_of_size(30_000, 30_000), wide_gif, wide_jpeg];
    for (at, bomb) in bombs.iter().enumerate() {
        let id = media.upload(alice(), bomb).await.expect("uploaded");
        let error = thumbnail(&media, &id, ask(96, 96)).await.map(drop);
        assert!(matches!(error, Err(Error::ImageTooLarge)), "bomb {at}: {error:?}");
        let error = thumbnail(&media, &id, ask(9_000, 9_000)).await.map(drop);
        assert!(matches!(error, Err(Error::ImageTooLarge)), "bomb {at} as large as it is: {error:?}");
    }
    // A row of pixels where a few thousand should be.
    let torn = media.upload(alice(), &png_of_size(10, 4_000)).await.expect("uploaded");
    assert!(matches!(thumbnail(&media, &torn, ask(5, 5)).await, Ok(_) | Err(Error::NotAnImage)));
    for bytes in [&b""[..], b"encrypted", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"BM not decoded"] {
        let id = media.upload(alice(), bytes).await.expect("uploaded");
        assert!(matches!(thumbnail(&media, &id, ask(96, 96)).await, Err(Error::NotAnImage)));
    }
}

#[tokio::test]
async fn a_tiny_file_of_a_huge_picture_is_refused_for_what_decoding_it_takes() {
    let (image, _) = of(&plain_webp(2_000, 1_000), ask(96, 96)).await.expect("made");
    assert_eq!((image.width(), image.height()), (192, 96));
    let huge = plain_webp(8_000, 8_000);
    assert!(huge.len() < 2_500);
    assert!(matches!(of(&huge, ask(96, 96)).await, Err(Error::ImageTooLarge)));

    // The size of a lossy picture within is known when it is decoded: its canvas may be said to be small.
    let mut lossy = b"RIFF\x24\0\0\0WEBPVP8X\x0A\0\0\0\0\0\0\0\x09\0\0\x09\0\0VP8 \x0A\0\0\0".to_vec();
    lossy.extend([0x10, 0, 0, 0x9D, 0x01, 0x2A, 0xFF, 0x3F, 0xFF, 0x3F]);
    assert!(matches!(of(&lossy, ask(5, 5)).await, Err(Error::ImageTooLarge)));
}

#[tokio::test]
async fn images_are_decoded_in_the_memory_for_it() {
    let picture = plain_webp(2_000, 2_000);
    let mut world = World::new();
    // Three bytes for each of its pixels, and five for its decoder, are 32 MB.
    let media = world.open(|config| config.decoding_bytes_max = 48 << 20).await;
    let id = media.upload(alice(), &picture).await.expect("uploaded");
    let file = media.get(&id).await.expect("there");
    let memory = &media.inner.renderers.memory;
    let held = memory.acquire_many(16 << 4).await.expect("open");
    let asks = [ask(96, 96), ask(320, 240), ask(640, 480)];
    let mut waiting = Box::pin(media.thumbnail("alice", &file, ask(32, 32)));
    // The rest isn't enough: it is set aside for the picture, which waits for more.
    while memory.available_permits() > 0 {
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
        tokio::task::yield_now().await;
    }
    drop(held);
    assert!(matches!(waiting.await, Ok(Thumbnail::Made { .. })));
    let made = futures_util::future::join_all(asks.map(|ask| media.thumbnail("alice", &file, ask))).await;
    assert!(made.iter().all(Result::is_ok));
    assert_eq!(memory.available_permits(), 48 << 4);
    drop(media);

    let media = world.open(|config| config.decoding_bytes_max = 40 << 20).await;
    assert!(matches!(thumbnail(&media, &id, ask(800, 600)).await, Err(Error::ImageTooLarge)), "the result counts too");
    thumbnail(&media, &id, Ask { crop: true, ..ask(96, 96) }).await.expect("made");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn damaged_images_do_no_harm(
        which in 0..4_usize, at: prop::sample::Index, byte: u8, cut: prop::sample::Index, animated: bool,
    ) {
        let webp = {
            let mut bytes = Vec::new();
            DynamicImage::from(picture(90, 60)).write_to(&mut Cursor::new(&mut bytes), ImageFormat::WebP).expect("encodes");
            bytes
        };
        let jpeg = {
            let mut bytes = Vec::new();
            JpegEncoder::new(&mut bytes).encode_image(&picture(90, 60)).expect("encodes");
            bytes
        };
        let mut bytes = vec![gif(3), png(picture(90, 60)), webp, jpeg].swap_remove(which);
        let place = at.index(bytes.len());
        bytes[place] = byte;
        bytes.truncate(bytes.len() - cut.index(bytes.len()) / 4);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let made = runtime.block_on(async {
            let mut world = World::new();
            let media = world.open(|_| {}).await;
            let id = media.upload(alice(), &bytes).await.expect("uploaded");
            thumbnail(&media, &id, Ask { animated, ..ask(40, 40) }).await.map(drop)
        });
        prop_assert!(matches!(made, Ok(()) | Err(Error::NotAnImage | Error::ImageTooLarge)), "{made:?}");
    }
}
