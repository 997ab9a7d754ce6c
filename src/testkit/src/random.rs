//! Numbers that look random and are the same in every run.

use std::sync::atomic::{AtomicU64, Ordering};

use event::Random;

/// The increment of the SplitMix64 generator.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A source of numbers that follow from a seed (SplitMix64). Never for anything secret.
#[derive(Debug)]
pub struct SeededRandom {
    state: AtomicU64,
}

impl SeededRandom {
    /// The numbers that follow from `seed`.
    pub fn new(seed: u64) -> Self {
        Self { state: AtomicU64::new(seed) }
    }

    /// The next number.
    pub fn next(&self) -> u64 {
        let mut mixed = self.state.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which must not be 0.
    pub fn below(&self, bound: usize) -> usize {
        let bound = u64::try_from(bound).unwrap_or(u64::MAX);
        usize::try_from(self.next() % bound).unwrap_or(0)
    }

    /// True `percent` times in a hundred.
    pub fn chance(&self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of `items`, which must not be empty.
    pub fn pick<'a, T>(&self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

impl Random for SeededRandom {
    fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let number = self.next().to_le_bytes();
            chunk.copy_from_slice(&number[..chunk.len()]);
        }
    }
}

/// The seeds that a test goes through, `usual` of them. `HAIMA_SEED=n` in the environment replays one, `HAIMA_SEEDS=n` runs so
/// many, those from `HAIMA_SEED` on if both are there. Each is printed before its turn, so that a failed test names its own.
pub fn seeds(usual: u64) -> impl Iterator<Item = u64> {
    let number = |name: &str| {
        let text = std::env::var(name).ok()?;
        Some(text.parse::<u64>().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
    };
    let seeds = match (number("HAIMA_SEED"), number("HAIMA_SEEDS")) {
        (Some(first), count) => first..first + count.unwrap_or(1),
        (None, count) => 0..count.unwrap_or(usual),
    };
    seeds.inspect(|seed| println!("HAIMA_SEED={seed}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_numbers_again() {
        let (one, two, other) = (SeededRandom::new(7), SeededRandom::new(7), SeededRandom::new(8));
        let numbers: Vec<u64> = (0..10).map(|_| one.next()).collect();
        assert_eq!(numbers, (0..10).map(|_| two.next()).collect::<Vec<u64>>());
        assert_ne!(numbers, (0..10).map(|_| other.next()).collect::<Vec<u64>>());
    }
}
