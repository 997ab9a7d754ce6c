//! What decoding an image costs in memory, told from its headers: the decoded image, and what its decoder needs besides.

use image::{ColorType, ImageFormat};

/// Bytes that the decoders of still pictures take for each pixel besides the decoded image, at most: a WebP without loss is decoded with
/// an alpha channel first; the planes of one with loss, and its alpha channel, stand beside it.
const WEBP_OPAQUE: u64 = 5;
const WEBP_TRANSPARENT: u64 = 8;
/// Bytes for each pixel of an animation: the canvas, the frame before, the frame that is read, and the frame that is given.
const ANIMATED: u64 = 20;
/// Bytes that decoders take whatever the size of the picture: tables, a colour profile.
pub(super) const FIXED_BYTES: u64 = 8 << 20;
/// Bytes for each pixel of a JPEG's coefficients: two for each of four components.
const COEFFICIENTS_MAX: u64 = 8;
/// Pixels that a JPEG's blocks reach beyond its sides, at most.
const BLOCK_SIDE_MAX: u64 = 32;

/// What is known of an image before it is decoded.
#[derive(Copy, Clone)]
pub(super) struct Header {
    pub(super) format: ImageFormat,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) color: ColorType,
    /// Whether it may have more than one frame.
    pub(super) moves: bool,
}

impl Header {
    fn pixels(self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    /// The most bytes that decoding takes at a time.
    pub(super) fn decoding_bytes(self, bytes: &[u8]) -> u64 {
        let decoded = self.pixels().saturating_mul(u64::from(self.color.bytes_per_pixel()));
        decoded.saturating_add(self.working_bytes(bytes))
    }

    /// What of that the decoder takes, besides the decoded image.
    pub(super) fn working_bytes(self, bytes: &[u8]) -> u64 {
        let pixels = match self.format {
            ImageFormat::WebP => self.pixels().max(lossy_pixels(bytes)),
            _ => self.pixels(),
        };
        let by_size = match self.format {
            _ if self.moves => pixels.saturating_mul(ANIMATED),
            ImageFormat::Jpeg => {
                let side = |side: u32| u64::from(side) + BLOCK_SIDE_MAX;
                // The file is copied once.
                coefficient_bytes(bytes, side(self.width) * side(self.height)) + bytes.len() as u64
            }
            ImageFormat::WebP => {
                let each = if self.color.has_alpha() { WEBP_TRANSPARENT } else { WEBP_OPAQUE };
                pixels.saturating_mul(each)
            }
            _ => 0,
        };
        by_size.saturating_add(FIXED_BYTES)
    }

    /// What a picture of this many pixels takes that is made of the decoded one, with its turned and converted copies and its file.
    pub(super) fn result_bytes(self, pixels: u64) -> u64 {
        pixels.saturating_mul(2 * u64::from(self.color.bytes_per_pixel()) + 8)
    }
}

/// Bytes that a JPEG's decoder keeps of so many pixels until the last scan: nothing if one scan has all components, line by line.
fn coefficient_bytes(bytes: &[u8], pixels: u64) -> u64 {
    let all = pixels.saturating_mul(COEFFICIENTS_MAX);
    let mut kept = None;
    let mut rest = bytes.get(2..).unwrap_or_default();
    while let [0xFF, marker, after @ ..] = rest {
        let marker = *marker;
        match marker {
            // Fill bytes, and markers that stand alone.
            0xFF => rest = &rest[1..],
            0x01 | 0xD0..=0xD8 => rest = after,
            _ => {
                let [high, low, segment @ ..] = after else { return all };
                match (marker, kept) {
                    // The header of a frame. Those of other kinds than the first two always come in many scans.
                    (0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF, _) => {
                        let Some(sampled) = sampled_bytes(segment, pixels) else { return all };
                        kept = Some((sampled, marker <= 0xC1, segment.get(5)));
                    }
                    (0xDA, Some((_, true, components))) if segment.first() == components => return 0,
                    (0xDA, Some((sampled, ..))) => return sampled,
                    (0xDA, None) => return all,
                    _ => {}
                }
                rest = after.get(usize::from(u16::from_be_bytes([*high, *low]))..).unwrap_or_default();
            }
        }
    }
    all
}

/// Bytes for all coefficients of the frame that a header describes: two for each, of some components fewer than of others.
fn sampled_bytes(frame: &[u8], pixels: u64) -> Option<u64> {
    let count = usize::from(*frame.get(5)?);
    let components = frame.get(6..6 + 3 * count)?;
    let samples =
        components.chunks_exact(3).map(|component| (u64::from(component[1] >> 4), u64::from(component[1] & 15)));
    let largest = samples.clone().fold((1, 1), |(width, height), (w, h)| (width.max(w), height.max(h)));
    let all: u64 = samples.map(|(width, height)| width * height).sum();
    Some(pixels.saturating_mul(2 * all) / (largest.0 * largest.1))
}

/// Pixels of the largest lossy picture in a WebP. A file may say of itself that it is smaller, which its decoder finds out last.
fn lossy_pixels(bytes: &[u8]) -> u64 {
    let mut largest = 0;
    let mut rest = bytes.get(12..).unwrap_or_default();
    while let [name @ .., _, _, _, _] = rest.get(..8).unwrap_or_default() {
        let length = u32::from_le_bytes([rest[4], rest[5], rest[6], rest[7]]);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let content = &rest[8..];
        if name == b"VP8 "
            && let Some([w, wide, h, high]) = content.get(6..10)
        {
            // Two bits of each are a scale that decoders leave aside.
            let side = |low: &u8, high: &u8| u64::from(u16::from_le_bytes([*low, *high]) & 0x3FFF);
            largest = largest.max(side(w, wide) * side(h, high));
        }
        // The chunks of a frame follow its header of sixteen bytes.
        let skipped = if name == b"ANMF" { 16 } else { length.saturating_add(length & 1) };
        rest = content.get(skipped..).unwrap_or_default();
    }
    largest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jpeg(frame: u8, samples: &[u8], in_scan: u8) -> Vec<u8> {
        let mut bytes = vec![0xFF, 0xD8, 0xFF, 0xE0, 0, 4, 1, 2, 0xFF];
        bytes.extend([0xFF, frame, 0, 8 + 3 * samples.len() as u8, 8, 0, 100, 0, 100, samples.len() as u8]);
        bytes.extend(samples.iter().flat_map(|sample| [1, *sample, 0]));
        bytes.extend([0xFF, 0xDA, 0, 3, in_scan]);
        bytes
    }

    #[test]
    fn jpegs_of_many_scans_keep_all_until_the_last() {
        let (full, reduced) = ([0x11, 0x11, 0x11], [0x22, 0x11, 0x11]);
        let each = |bytes: &[u8]| coefficient_bytes(bytes, 100) / 100;
        assert_eq!([each(&jpeg(0xC0, &full, 3)), each(&jpeg(0xC1, &[0x11], 1))], [0, 0]);
        assert_eq!(
            [each(&jpeg(0xC2, &full, 3)), each(&jpeg(0xC2, &reduced, 1)), each(&jpeg(0xC0, &full, 1))],
            [6, 3, 6]
        );
        let whole = jpeg(0xC2, &reduced, 3);
        for length in 0..whole.len() - 5 {
            assert_eq!(each(&whole[..length]), 8, "{length}");
        }
    }

    #[test]
    fn the_largest_picture_of_a_webp_counts() {
        let lossy = [b"VP8 \x0b\0\0\0", &[0, 0, 0, 0x9D, 1, 0x2A][..], &[0xFF, 0x7F, 0xFF, 0x7F], &[0, 0]].concat();
        let still = [b"RIFF\0\0\0\0WEBPVP8X\x02\0\0\0ab", &lossy[..]].concat();
        assert_eq!(lossy_pixels(&still), 16_383 * 16_383);
        let frame = [b"ANMF\xFF\0\0\0", &[0; 16][..], &lossy].concat();
        assert_eq!(lossy_pixels(&[b"RIFF\0\0\0\0WEBP", &frame[..]].concat()), 16_383 * 16_383);
        for length in 0..still.len() - 9 {
            assert_eq!(lossy_pixels(&still[..length]), 0);
        }
    }
}
