//! Decoding, scaling and encoding images, within bounds that are checked from the header before anything is decoded.

use std::io::Cursor;

use bytes::Bytes;
use image::{
    AnimationDecoder, ColorType, DynamicImage, Frame, Frames, ImageDecoder, ImageError, ImageFormat, ImageResult,
    Limits,
    codecs::{
        gif::{GifDecoder, GifEncoder, Repeat},
        jpeg::{JpegDecoder, JpegEncoder},
        png::PngDecoder,
        webp::WebPDecoder,
    },
    metadata::Orientation,
};

use super::plan::{Plan, Variant, scale};
use crate::{Error, Result};

/// The largest file that is decoded, in bytes.
pub(crate) const SOURCE_BYTES_MAX: u64 = 64 << 20;
/// The longest side of an image that is decoded, in pixels.
const SIDE_MAX: u32 = 32_768;
/// The most that a decoded image may take, in bytes: 66 million pixels of a photograph.
const DECODED_BYTES_MAX: u64 = 200 << 20;
/// Above this a decoded image is large, in bytes.
const LARGE_BYTES: u64 = 64 << 20;
/// What decoders may take besides the image, in bytes.
const DECODER_BYTES_MAX: u64 = 64 << 20;
/// Frames of an animation.
const FRAMES_MAX: usize = 300;
/// Pixels of all frames of an animation, decoded.
const FRAMES_PIXELS_MAX: u64 = 200_000_000;
/// Pixels of all frames of a moving thumbnail.
const MOVING_PIXELS_MAX: u64 = 12_000_000;
/// Quality of JPEGs, of 100.
const JPEG_QUALITY: u8 = 82;
/// Speed of finding a GIF's colours: 1 is best, 30 fastest.
const GIF_SPEED: i32 = 20;

/// A thumbnail.
pub(crate) enum Rendered {
    /// The original is small enough; its content type.
    Original(&'static str),
    Made {
        bytes: Bytes,
        content_type: &'static str,
    },
}

/// The content type of an image that can be decoded, from its first bytes.
pub(crate) fn content_type(head: &[u8]) -> Result<&'static str> {
    Ok(format(head)?.to_mime_type())
}

fn format(head: &[u8]) -> Result<ImageFormat> {
    match image::guess_format(head) {
        Ok(format @ (ImageFormat::Jpeg | ImageFormat::Png | ImageFormat::Gif | ImageFormat::WebP)) => Ok(format),
        Ok(_) | Err(_) => Err(Error::NotAnImage),
    }
}

/// Width and height of an image as it is shown, from its header.
pub(crate) fn dimensions(bytes: &Bytes) -> Result<(u32, u32)> {
    let mut decoder = open(bytes, format(bytes)?)?;
    let (width, height) = decoder.dimensions();
    let turned = swaps(decoder.orientation().unwrap_or(Orientation::NoTransforms));
    Ok(if turned { (height, width) } else { (width, height) })
}

/// An image whose header has been read and found within bounds.
pub(crate) struct Job {
    bytes: Bytes,
    format: ImageFormat,
    variant: Variant,
    plan: Option<Plan>,
    decoded_bytes: u64,
    orientation: Orientation,
    size: (u32, u32),
}

impl Job {
    pub(crate) fn new(bytes: Bytes, variant: Variant) -> Result<Self> {
        let format = format(&bytes)?;
        let mut decoder = open(&bytes, format)?;
        let (width, height) = decoder.dimensions();
        let decoded_bytes = decoder.total_bytes();
        if width > SIDE_MAX || height > SIDE_MAX || decoded_bytes > DECODED_BYTES_MAX {
            return Err(Error::ImageTooLarge);
        }
        // Without readable metadata the image is as it is stored.
        let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
        let shown = if swaps(orientation) { variant.turned() } else { variant };
        let plan = shown.plan(width, height);
        drop(decoder);
        Ok(Self { bytes, format, variant, plan, decoded_bytes, orientation, size: (width, height) })
    }

    pub(crate) fn is_large(&self) -> bool {
        self.decoded_bytes > LARGE_BYTES
    }

    pub(crate) fn run(self) -> Result<Rendered> {
        let moving = self.is_moving();
        let Some(plan) = self.plan else {
            if !moving || self.variant.animated {
                return Ok(Rendered::Original(self.format.to_mime_type()));
            }
            return self.still(&Plan { cut: None, width: self.size.0, height: self.size.1 });
        };
        // Each frame of it would take that much several times.
        if moving && self.variant.animated && !self.is_large() {
            match self.moving(&plan) {
                Ok(made) => return Ok(made),
                Err(error) => tracing::debug!(%error, "no moving thumbnail"),
            }
        }
        self.still(&plan)
    }

    /// Whether the image has more than one frame.
    fn is_moving(&self) -> bool {
        let reader = Cursor::new(&self.bytes[..]);
        let more = |frames: ImageResult<Frames<'_>>| frames.is_ok_and(|frames| frames.take(2).count() > 1);
        match self.format {
            ImageFormat::Gif => more(limited(GifDecoder::new(reader)).map(GifDecoder::into_frames)),
            ImageFormat::WebP => WebPDecoder::new(reader).is_ok_and(|decoder| decoder.has_animation()),
            ImageFormat::Png => {
                PngDecoder::with_limits(reader, limits()).is_ok_and(|decoder| decoder.is_apng().unwrap_or(false))
            }
            _ => false,
        }
    }

    fn still(&self, plan: &Plan) -> Result<Rendered> {
        let image = DynamicImage::from_decoder(open(&self.bytes, self.format)?).map_err(image_error)?;
        let mut small = shrink(image, plan);
        small.apply_orientation(self.orientation);
        encode(&small)
    }

    fn moving(&self, plan: &Plan) -> ImageResult<Rendered> {
        let reader = Cursor::new(&self.bytes[..]);
        let frames = match self.format {
            ImageFormat::Gif => limited(GifDecoder::new(reader))?.into_frames(),
            ImageFormat::WebP => limited(WebPDecoder::new(reader))?.into_frames(),
            _ => PngDecoder::with_limits(reader, limits())?.apng()?.into_frames(),
        };
        let pixels = |width: u32, height: u32| u64::from(width) * u64::from(height);
        let per_frame = pixels(self.size.0, self.size.1).max(1);
        let per_small = pixels(plan.width, plan.height).max(1);
        let frames_max = (FRAMES_PIXELS_MAX / per_frame).min(MOVING_PIXELS_MAX / per_small).min(FRAMES_MAX as u64);
        let mut bytes = Vec::new();
        let mut encoder = GifEncoder::new_with_speed(&mut bytes, GIF_SPEED);
        encoder.set_repeat(Repeat::Infinite)?;
        for (count, frame) in (1..).zip(frames) {
            let frame = frame?;
            if count > frames_max {
                let kind = image::error::LimitErrorKind::InsufficientMemory;
                return Err(ImageError::Limits(image::error::LimitError::from_kind(kind)));
            }
            let delay = frame.delay();
            let small = shrink(DynamicImage::ImageRgba8(frame.into_buffer()), plan);
            encoder.encode_frame(Frame::from_parts(small.into_rgba8(), 0, 0, delay))?;
        }
        drop(encoder);
        Ok(Rendered::Made { bytes: bytes.into(), content_type: "image/gif" })
    }
}

/// A decoder with limits.
fn open<'b>(bytes: &'b Bytes, format: ImageFormat) -> Result<Box<dyn ImageDecoder + 'b>> {
    let reader = Cursor::new(&bytes[..]);
    let decoder: ImageResult<Box<dyn ImageDecoder>> = match format {
        ImageFormat::Jpeg => limited(JpegDecoder::new(reader)).map(|decoder| Box::new(decoder) as _),
        ImageFormat::Png => PngDecoder::with_limits(reader, limits()).map(|decoder| Box::new(decoder) as _),
        ImageFormat::Gif => limited(GifDecoder::new(reader)).map(|decoder| Box::new(decoder) as _),
        ImageFormat::WebP => limited(WebPDecoder::new(reader)).map(|decoder| Box::new(decoder) as _),
        _ => return Err(Error::NotAnImage),
    };
    decoder.map_err(image_error)
}

fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.max_image_width = Some(SIDE_MAX);
    limits.max_image_height = Some(SIDE_MAX);
    limits.max_alloc = Some(DECODED_BYTES_MAX + DECODER_BYTES_MAX);
    limits
}

fn limited<D: ImageDecoder>(decoder: ImageResult<D>) -> ImageResult<D> {
    let mut decoder = decoder?;
    decoder.set_limits(limits())?;
    Ok(decoder)
}

fn image_error(error: ImageError) -> Error {
    match error {
        ImageError::Limits(_) => Error::ImageTooLarge,
        other => {
            tracing::debug!(error = %other, "an image could not be decoded");
            Error::NotAnImage
        }
    }
}

fn swaps(orientation: Orientation) -> bool {
    matches!(
        orientation,
        Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH
    )
}

/// Scales first and cuts afterwards: no second image of the original's size is made.
fn shrink(image: DynamicImage, plan: &Plan) -> DynamicImage {
    let (width, height) = (image.width(), image.height());
    if (width, height) == (plan.width, plan.height) {
        return image;
    }
    let Some((cut_width, cut_height)) = plan.cut else { return image.thumbnail_exact(plan.width, plan.height) };
    let (to_width, to_height) = (scale(width, plan.width, cut_width), scale(height, plan.height, cut_height));
    let scaled = image.thumbnail_exact(to_width, to_height);
    let (x, y) = (to_width.saturating_sub(plan.width) / 2, to_height.saturating_sub(plan.height) / 2);
    scaled.crop_imm(x, y, plan.width, plan.height)
}

/// A JPEG, or a PNG where something is transparent. No metadata comes along.
fn encode(image: &DynamicImage) -> Result<Rendered> {
    let mut bytes = Vec::new();
    let rgba = image.color().has_alpha().then(|| image.to_rgba8());
    let transparent = rgba.as_ref().is_some_and(|image| image.pixels().any(|pixel| pixel.0[3] < u8::MAX));
    let content_type = match rgba {
        Some(rgba) if transparent => {
            rgba.write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png).map_err(image_error)?;
            "image/png"
        }
        _ => {
            let grey = matches!(image.color(), ColorType::L8 | ColorType::L16);
            let image = if grey { DynamicImage::from(image.to_luma8()) } else { DynamicImage::from(image.to_rgb8()) };
            image.write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY)).map_err(image_error)?;
            "image/jpeg"
        }
    };
    Ok(Rendered::Made { bytes: bytes.into(), content_type })
}
