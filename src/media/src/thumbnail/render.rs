//! Decoding, scaling and encoding images, within bounds that are checked from the header before anything is decoded.

use std::io::Cursor;

use bytes::Bytes;
use image::{
    AnimationDecoder, ColorType, DynamicImage, Frame, ImageDecoder, ImageError, ImageFormat, ImageResult, Limits,
    codecs::{
        gif::{GifDecoder, GifEncoder, Repeat},
        jpeg::{JpegDecoder, JpegEncoder},
        png::PngDecoder,
        webp::WebPDecoder,
    },
    metadata::Orientation,
};

use super::{
    cost::{FIXED_BYTES, Header},
    plan::{Plan, Variant},
};
use crate::{Error, Result};

/// The longest side of an image that is decoded, in pixels.
const SIDE_MAX: u32 = 32_768;
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
    let mut decoder = open(bytes, format(bytes)?, FIXED_BYTES)?;
    let (width, height) = decoder.dimensions();
    let turned = swaps(decoder.orientation().unwrap_or(Orientation::NoTransforms));
    Ok(if turned { (height, width) } else { (width, height) })
}

/// An image whose header has been read and found within bounds.
pub(crate) struct Job {
    bytes: Bytes,
    variant: Variant,
    plan: Option<Plan>,
    header: Header,
    orientation: Orientation,
    /// Whether a moving thumbnail is made of an image that moves.
    animate: bool,
    cost_bytes: u64,
}

impl Job {
    /// What to do for a variant of an image, if that takes at most `bytes_max`.
    pub(crate) fn new(bytes: Bytes, variant: Variant, bytes_max: u64) -> Result<Self> {
        let format = format(&bytes)?;
        let mut decoder = open(&bytes, format, FIXED_BYTES)?;
        let (width, height) = decoder.dimensions();
        let color = decoder.color_type();
        // Without readable metadata the image is as it is stored.
        let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
        drop(decoder);
        if width > SIDE_MAX || height > SIDE_MAX {
            return Err(Error::ImageTooLarge);
        }
        let header = Header { format, width, height, color, moves: may_move(&bytes, format) };
        // Only of a PNG the first frame can be read by itself.
        let still = Header { moves: header.moves && format != ImageFormat::Png, ..header };
        let shown = if swaps(orientation) { variant.turned() } else { variant };
        let plan = shown.plan(width, height);
        let mut job = Self { bytes, variant, plan, header, orientation, animate: variant.animated, cost_bytes: 0 };
        job.cost_bytes = job.cost_of(header);
        if job.cost_bytes > bytes_max {
            // Its first frame may still be shown.
            job.animate = false;
            job.cost_bytes = job.cost_of(still);
        }
        if job.cost_bytes > bytes_max {
            return Err(Error::ImageTooLarge);
        }
        Ok(job)
    }

    /// The most memory that the job takes at a time, in bytes, the image's file included.
    pub(crate) fn cost_bytes(&self) -> u64 {
        self.cost_bytes
    }

    fn working_bytes(&self) -> u64 {
        self.header.working_bytes(&self.bytes)
    }

    fn cost_of(&self, header: Header) -> u64 {
        let result = match self.plan {
            Some(plan) => pixels(plan.scaled(header.width, header.height)),
            // A still picture is made of one that moves, if no moving one was asked for.
            None if header.moves => pixels((header.width, header.height)),
            None => 0,
        };
        let decoding = header.decoding_bytes(&self.bytes).saturating_add(header.result_bytes(result));
        decoding.saturating_add(self.bytes.len() as u64)
    }

    pub(crate) fn run(self) -> Result<Rendered> {
        let moving = self.is_moving();
        let Some(plan) = self.plan else {
            if !moving || self.variant.animated {
                return Ok(Rendered::Original(self.header.format.to_mime_type()));
            }
            return self.still(&Plan { cut: None, width: self.header.width, height: self.header.height });
        };
        if moving && self.animate {
            match self.moving(&plan) {
                Ok(made) => return Ok(made),
                Err(error) => tracing::debug!(%error, "no moving thumbnail"),
            }
        }
        self.still(&plan)
    }

    /// Whether the image has more than one frame.
    fn is_moving(&self) -> bool {
        if self.header.format != ImageFormat::Gif {
            return self.header.moves;
        }
        let frames =
            limited(GifDecoder::new(Cursor::new(&self.bytes[..])), self.working_bytes()).map(GifDecoder::into_frames);
        frames.is_ok_and(|frames| frames.take(2).count() > 1)
    }

    fn still(&self, plan: &Plan) -> Result<Rendered> {
        let image = DynamicImage::from_decoder(open(&self.bytes, self.header.format, self.working_bytes())?)
            .map_err(image_error)?;
        let mut small = shrink(image, plan);
        small.apply_orientation(self.orientation);
        encode(&small)
    }

    fn moving(&self, plan: &Plan) -> ImageResult<Rendered> {
        let reader = Cursor::new(&self.bytes[..]);
        let frames = match self.header.format {
            ImageFormat::Gif => limited(GifDecoder::new(reader), self.working_bytes())?.into_frames(),
            ImageFormat::WebP => WebPDecoder::new(reader)?.into_frames(),
            _ => PngDecoder::with_limits(reader, limits(self.working_bytes()))?.apng()?.into_frames(),
        };
        let per_frame = pixels((self.header.width, self.header.height)).max(1);
        let per_small = pixels((plan.width, plan.height)).max(1);
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

/// Whether an image may have more than one frame.
fn may_move(bytes: &Bytes, format: ImageFormat) -> bool {
    let reader = Cursor::new(&bytes[..]);
    match format {
        ImageFormat::Gif => true,
        ImageFormat::WebP => WebPDecoder::new(reader).is_ok_and(|decoder| decoder.has_animation()),
        ImageFormat::Png => {
            let decoder = PngDecoder::with_limits(reader, limits(FIXED_BYTES));
            decoder.is_ok_and(|decoder| decoder.is_apng().unwrap_or(false))
        }
        _ => false,
    }
}

/// A decoder that has read the header, and takes at most `bytes_max` besides the image, as far as its format leaves that open.
fn open<'b>(bytes: &'b Bytes, format: ImageFormat, bytes_max: u64) -> Result<Box<dyn ImageDecoder + 'b>> {
    let reader = Cursor::new(&bytes[..]);
    let decoder: ImageResult<Box<dyn ImageDecoder>> = match format {
        ImageFormat::Jpeg => JpegDecoder::new(reader).map(|decoder| Box::new(decoder) as _),
        // The limit is for what stands beside the picture: colour profiles may be compressed.
        ImageFormat::Png => PngDecoder::with_limits(reader, limits(FIXED_BYTES)).map(|decoder| Box::new(decoder) as _),
        // Frames may be larger than the picture.
        ImageFormat::Gif => limited(GifDecoder::new(reader), bytes_max).map(|decoder| Box::new(decoder) as _),
        ImageFormat::WebP => WebPDecoder::new(reader).map(|decoder| Box::new(decoder) as _),
        _ => return Err(Error::NotAnImage),
    };
    decoder.map_err(image_error)
}

fn limits(bytes_max: u64) -> Limits {
    let mut limits = Limits::default();
    limits.max_image_width = Some(SIDE_MAX);
    limits.max_image_height = Some(SIDE_MAX);
    limits.max_alloc = Some(bytes_max);
    limits
}

fn limited<D: ImageDecoder>(decoder: ImageResult<D>, bytes_max: u64) -> ImageResult<D> {
    let mut decoder = decoder?;
    decoder.set_limits(limits(bytes_max))?;
    Ok(decoder)
}

fn pixels((width, height): (u32, u32)) -> u64 {
    u64::from(width) * u64::from(height)
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
    let (to_width, to_height) = plan.scaled(width, height);
    if plan.cut.is_none() {
        return image.thumbnail_exact(to_width, to_height);
    }
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
