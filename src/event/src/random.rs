//! Randomness as an argument, so that a test or a simulation can replay a run.

const ALPHANUMERIC: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// Bytes below this value map to the alphabet without bias; the others are drawn again.
const ALPHANUMERIC_FAIR_BELOW: u8 = 248;

/// Random bytes taken from the source at once while letters are drawn.
const ALPHANUMERIC_CHUNK_BYTES: usize = 64;

/// Where random bytes come from. Implementations used in production must be cryptographically
/// secure: keys, tokens and room ids are made from them.
pub trait Random: Send + Sync {
    /// Fills the whole of `bytes`.
    fn fill(&self, bytes: &mut [u8]);

    /// A string of `len` letters and digits, each equally likely.
    fn alphanumeric(&self, len: usize) -> String {
        let mut text = String::with_capacity(len);
        let mut chunk = [0; ALPHANUMERIC_CHUNK_BYTES];
        while text.len() < len {
            self.fill(&mut chunk);
            for byte in chunk {
                if byte < ALPHANUMERIC_FAIR_BELOW && text.len() < len {
                    text.push(ALPHANUMERIC[usize::from(byte) % ALPHANUMERIC.len()].into());
                }
            }
        }
        text
    }
}

/// The random source of the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    /// # Panics
    ///
    /// If the operating system has no random bytes to give: no key or token made afterwards could
    /// be trusted.
    fn fill(&self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("the operating system gives random bytes");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alphanumeric_has_the_length_and_the_alphabet() {
        let text = SystemRandom.alphanumeric(257);
        assert_eq!(text.len(), 257);
        assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        assert_ne!(text, SystemRandom.alphanumeric(257));
    }
}
