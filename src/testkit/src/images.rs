//! Pictures that are made to be unpleasant.

/// A lossless WebP of one colour, which takes a few dozen bytes whatever its size.
pub fn plain_webp(width: u32, height: u32) -> Vec<u8> {
    let (mut bits, mut at) = (vec![0_u8; 64], 0);
    let mut put = |value: u32, count: usize| {
        for bit in 0..count {
            bits[at / 8] |= ((value >> bit & 1) as u8) << (at % 8);
            at += 1;
        }
    };
    // Sizes, no alpha channel, version 0; no transformation, no colour cache, one group of codes.
    for (value, count) in [(width - 1, 14), (height - 1, 14), (0, 1), (0, 3), (0, 1), (0, 1), (0, 1)] {
        put(value, count);
    }
    // Five codes of one symbol each, so that a pixel takes no bits.
    for symbol in [90, 60, 30, 255, 0] {
        put(0b101, 3);
        put(symbol, 8);
    }
    let mut chunk = vec![0x2F];
    chunk.extend(&bits);
    chunk.push(0);
    let length = |length: usize| (length as u32).to_le_bytes();
    let file = [b"WEBPVP8L", &length(chunk.len())[..], &chunk];
    [b"RIFF", &length(file.concat().len())[..], &file.concat()].concat()
}
