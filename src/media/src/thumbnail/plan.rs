//! Which thumbnail to make for what is asked, and of which part of the image (client-server API, "Thumbnails").

/// The largest side of a thumbnail that is scaled, in pixels. Who asks for more gets one of the original's size.
const SIDE_MAX: u32 = 2_048;
/// Sizes that asks for scaled thumbnails are rounded up to.
const SCALED: [(u32, u32); 5] = [(32, 32), (96, 96), (320, 240), (640, 480), (800, 600)];
/// Sizes that asks for square cut-outs are rounded up to.
const CROPPED: [u32; 5] = [32, 96, 320, 640, 800];

/// What a client asks for.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Ask {
    /// The least width in pixels.
    pub width: u32,
    /// The least height in pixels.
    pub height: u32,
    /// Cut to the aspect of width and height, and not only scaled.
    pub crop: bool,
    /// Moving, where the original is.
    pub animated: bool,
}

/// A thumbnail that is made: one for several asks.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Variant {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) crop: bool,
    pub(crate) animated: bool,
}

impl Variant {
    /// The variant for an ask.
    pub(crate) fn of(ask: Ask) -> Self {
        let (width, height) = (ask.width.max(1), ask.height.max(1));
        if width > SIDE_MAX || height > SIDE_MAX {
            // Covers every image, so that none is cut or scaled.
            return Self { width: u32::MAX, height: u32::MAX, crop: false, animated: ask.animated };
        }
        let listed = if !ask.crop {
            SCALED.into_iter().find(|(w, h)| *w >= width && *h >= height)
        } else if width == height {
            CROPPED.into_iter().find(|side| *side >= width).map(|side| (side, side))
        } else {
            None
        };
        let (width, height) = listed.unwrap_or((width, height));
        Self { width, height, crop: ask.crop, animated: ask.animated }
    }

    /// The part of the row's key that isn't its size.
    pub(crate) fn kind(self) -> u8 {
        u8::from(self.crop) | u8::from(self.animated) << 1
    }

    /// The same for an image that lies on its side.
    pub(crate) fn turned(self) -> Self {
        Self { width: self.height, height: self.width, ..self }
    }

    /// What to do with an image of this size; `None` if it is small enough as it is.
    ///
    /// Neither side of a thumbnail is smaller than asked for unless the image's is, and nothing is scaled up.
    pub(crate) fn plan(self, width: u32, height: u32) -> Option<Plan> {
        if width <= self.width && height <= self.height {
            return None;
        }
        if self.crop {
            let (to_width, to_height) = (self.width.min(width), self.height.min(height));
            // The greatest part with the aspect of the result.
            let (cut_width, cut_height) = fit(to_width, to_height, width, height);
            return Some(Plan { cut: Some((cut_width, cut_height)), width: to_width, height: to_height });
        }
        // The smallest size of the same aspect that covers what was asked for.
        let by_width = u64::from(self.width) * u64::from(height) >= u64::from(self.height) * u64::from(width);
        let (to_width, to_height) = match by_width {
            true => (self.width, scale(height, self.width, width)),
            false => (scale(width, self.height, height), self.height),
        };
        if to_width >= width || to_height >= height {
            return None;
        }
        Some(Plan { cut: None, width: to_width, height: to_height })
    }
}

/// How to make a thumbnail of an image.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Plan {
    /// Width and height of the part in the middle that is taken.
    pub(crate) cut: Option<(u32, u32)>,
    /// The width to scale to.
    pub(crate) width: u32,
    /// The height to scale to.
    pub(crate) height: u32,
}

impl Plan {
    /// The size that the whole image is scaled to, before anything is cut off.
    pub(super) fn scaled(&self, width: u32, height: u32) -> (u32, u32) {
        match self.cut {
            Some((cut_width, cut_height)) => {
                (scale(width, self.width, cut_width), scale(height, self.height, cut_height))
            }
            None => (self.width, self.height),
        }
    }
}

/// `side * numerator / denominator`, rounded up and at least 1.
fn scale(side: u32, numerator: u32, denominator: u32) -> u32 {
    let scaled = (u64::from(side) * u64::from(numerator)).div_ceil(u64::from(denominator.max(1)));
    u32::try_from(scaled).unwrap_or(u32::MAX).max(1)
}

/// The greatest size with the aspect of `width` to `height` that fits into an image.
fn fit(width: u32, height: u32, in_width: u32, in_height: u32) -> (u32, u32) {
    if u64::from(width) * u64::from(in_height) >= u64::from(height) * u64::from(in_width) {
        (in_width, scale(height, in_width, width).min(in_height))
    } else {
        (scale(width, in_height, height).min(in_width), in_height)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ask(width: u32, height: u32, crop: bool) -> Ask {
        Ask { width, height, crop, animated: false }
    }

    fn planned(width: u32, height: u32, crop: bool, image: (u32, u32)) -> Option<(u32, u32)> {
        let variant = Variant::of(ask(width, height, crop));
        variant.plan(image.0, image.1).map(|plan| (plan.width, plan.height))
    }

    #[test]
    fn asks_are_rounded_up_to_listed_sizes() {
        let size = |ask| {
            let variant = Variant::of(ask);
            (variant.width, variant.height)
        };
        assert_eq!(size(ask(0, 0, false)), (32, 32));
        assert_eq!(size(ask(33, 20, false)), (96, 96));
        assert_eq!(size(ask(320, 240, false)), (320, 240));
        assert_eq!(size(ask(321, 240, false)), (640, 480));
        assert_eq!(size(ask(1_000, 10, false)), (1_000, 10));
        assert_eq!(size(ask(64, 64, true)), (96, 96));
        assert_eq!(size(ask(300, 200, true)), (300, 200));
        assert_eq!(size(ask(2_049, 1, true)), (u32::MAX, u32::MAX));
    }

    #[test]
    fn examples() {
        assert_eq!(planned(320, 240, false, (1_024, 768)), Some((320, 240)));
        assert_eq!(planned(320, 240, false, (2_000, 1_000)), Some((480, 240)));
        assert_eq!(planned(320, 240, false, (1_000, 4_000)), Some((320, 1_280)));
        assert_eq!(planned(320, 240, false, (320, 240)), None);
        assert_eq!(planned(10, 9_000, true, (30_000, 30_000)), None);
        // Scaled down, its height would be less than asked for.
        assert_eq!(planned(320, 240, false, (4_000, 200)), None);
        assert_eq!(planned(96, 96, true, (1_000, 500)), Some((96, 96)));
        assert_eq!(planned(96, 96, true, (1_000, 50)), Some((96, 50)));
    }

    proptest! {
        #[test]
        fn thumbnails_are_never_larger_than_the_image_nor_smaller_than_asked(
            width in 1..2_048_u32, height in 1..2_048_u32, crop: bool, w in 1..9_000_u32, h in 1..9_000_u32,
        ) {
            let variant = Variant::of(ask(width, height, crop));
            prop_assert!(variant.width >= width && variant.height >= height);
            let Some(plan) = variant.plan(w, h) else { return Ok(()) };
            prop_assert!(plan.width <= w && plan.height <= h);
            prop_assert!(plan.width >= width.min(w) && plan.height >= height.min(h));
            if let Some((cut_width, cut_height)) = plan.cut {
                prop_assert!(cut_width <= w && cut_height <= h);
                prop_assert!(cut_width >= plan.width && cut_height >= plan.height);
                prop_assert_eq!((plan.width, plan.height), (variant.width.min(w), variant.height.min(h)));
            }
        }
    }
}
