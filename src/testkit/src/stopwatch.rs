//! What benches measure with: on a shared machine the time on a processor varies less than the time on the wall.

use std::time::Instant;

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Measures from when it is started.
#[derive(Debug)]
pub struct Stopwatch {
    started: Instant,
    processor: Timespec,
}

impl Stopwatch {
    /// Begins to measure.
    pub fn start() -> Self {
        Self { started: Instant::now(), processor: clock_gettime(ClockId::ProcessCPUTime) }
    }

    /// Prints the time of each of `count` doings since the start.
    pub fn report(&self, label: &str, count: usize) {
        let processor = clock_gettime(ClockId::ProcessCPUTime) - self.processor;
        let processor_us = (processor.tv_sec as f64 * 1e6 + processor.tv_nsec as f64 / 1e3) / count as f64;
        let wall_us = self.started.elapsed().as_secs_f64() * 1e6 / count as f64;
        println!("{label}: {processor_us:.1} µs of processor, {wall_us:.1} µs");
    }
}

/// Nanoseconds that the living threads of this process with this name have spent on a processor; 0 where the system doesn't tell.
pub fn processor_ns(name: &str) -> u64 {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else { return 0 };
    let mut sum = 0;
    for thread in threads.flatten() {
        let read = |file: &str| std::fs::read_to_string(thread.path().join(file)).unwrap_or_default();
        if read("comm").trim() == name {
            let times = read("schedstat");
            sum += times.split(' ').next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    sum
}
