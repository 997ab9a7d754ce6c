//! Several servers share a room over a network that loses, doubles, delays and reorders, and falls into parts. When it is whole again,
//! all servers in the room agree about every event: whether it was rejected, and the state before and after it. Each state that was
//! resolved is what resolution gives on whole states and whole auth chains.
//!
//! `HAIMA_SIM_SEED=n` replays one seed; `HAIMA_SIM_SEEDS=n` runs that many instead of a few hundred.

mod agreement;
mod play;
mod whole;
#[path = "../write/world.rs"]
#[expect(dead_code, reason = "shared with the tests of the write side, which use more of it")]
mod world;

/// Seeds of one test, of which there are several so that they run side by side.
const SEEDS_PER_TEST: u64 = 65;

/// Tests below.
const TESTS: u64 = 8;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

async fn run(part: u64) {
    if let Some(seed) = number("HAIMA_SIM_SEED") {
        if part == 0 {
            play::play(seed).await;
        }
        return;
    }
    let seeds = number("HAIMA_SIM_SEEDS").map_or(SEEDS_PER_TEST, |seeds| seeds.div_ceil(TESTS));
    for index in 0..seeds {
        play::play(part + index * TESTS).await;
    }
}

macro_rules! parts {
    ($($name:ident = $part:expr),*) => {$(
        #[tokio::test]
        async fn $name() {
            run($part).await;
        }
    )*};
}

parts!(
    servers_agree_0 = 0,
    servers_agree_1 = 1,
    servers_agree_2 = 2,
    servers_agree_3 = 3,
    servers_agree_4 = 4,
    servers_agree_5 = 5,
    servers_agree_6 = 6,
    servers_agree_7 = 7
);
