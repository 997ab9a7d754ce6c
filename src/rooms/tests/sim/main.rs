//! Several servers share a room over a network that loses, doubles, delays and reorders, and falls into parts. When it is whole again,
//! all servers in the room agree about every event: whether it was rejected, and the state before and after it. Each state that was
//! resolved is what resolution gives on whole states and whole auth chains. Some of them send events that follow any others and lie
//! about depth, or a flood of these; some die. Whatever they do, no event that a server accepted ever falls out of its graph.
//!
//! `HAIMA_SEED=n` replays one seed; `HAIMA_SEEDS=n` runs that many instead of a few hundred, with both those from the one on.

mod agreement;
mod front;
mod play;
mod whole;
#[path = "../write/world.rs"]
#[expect(dead_code, reason = "shared with the tests of the write side, which use more of it")]
mod world;

/// Seeds of all tests together.
const SEEDS: u64 = 520;

/// Seeds that are played with databases larger than what memory there is to cache them.
const DISK_SEEDS: u64 = 6;

/// Seeds beyond these that found a fault.
const SEEDS_OF_FAULTS: [u64; 11] = [928, 2269, 4131, 5685, 8502, 9230, 10793, 10815, 11348, 11661, 17752];

/// Tests below, which share the seeds so that they run side by side.
const TESTS: u64 = 8;

async fn run(part: u64) {
    for seed in testkit::seeds(SEEDS).filter(|seed| seed % TESTS == part) {
        play::play(seed, play::Storage::Memory).await;
    }
}

#[tokio::test]
async fn servers_whose_databases_are_larger_than_their_memory_agree() {
    for seed in testkit::seeds(DISK_SEEDS) {
        play::play(seed, play::Storage::Disk).await;
    }
}

#[tokio::test]
async fn those_of_seeds_that_found_a_fault_agree() {
    for seed in SEEDS_OF_FAULTS {
        play::play(seed, play::Storage::Memory).await;
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
