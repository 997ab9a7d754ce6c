//! A network between numbered nodes that delays, reorders, duplicates and drops messages, and falls into parts.

use std::collections::BTreeMap;

use crate::SeededRandom;

/// How a network misbehaves.
#[derive(Copy, Clone, Debug)]
pub struct Faults {
    /// Messages lost, in percent.
    pub drop_percent: usize,
    /// Messages that come twice, in percent.
    pub duplicate_percent: usize,
    /// The longest delay, in steps; different delays reorder.
    pub delay_steps_max: usize,
}

impl Faults {
    /// A network on which every message arrives once and in order.
    pub const NONE: Self = Self { drop_percent: 0, duplicate_percent: 0, delay_steps_max: 0 };
}

/// A message that arrives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delivery<M> {
    /// The node that sent it.
    pub from: usize,
    /// The node that gets it.
    pub to: usize,
    /// The message.
    pub message: M,
}

/// Messages on their way.
#[derive(Debug)]
pub struct Network<M> {
    faults: Faults,
    /// The part of the network that each node is in.
    parts: Vec<usize>,
    now: u64,
    sent: u64,
    /// By the step of arrival, and the order of sending within one.
    on_the_way: BTreeMap<(u64, u64), Delivery<M>>,
}

impl<M: Clone> Network<M> {
    /// A whole network of `nodes` nodes.
    pub fn new(nodes: usize, faults: Faults) -> Self {
        Self { faults, parts: vec![0; nodes], now: 0, sent: 0, on_the_way: BTreeMap::new() }
    }

    /// Changes how it misbehaves from now on.
    pub fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// Splits the nodes into up to `parts` parts by chance.
    pub fn partition(&mut self, random: &SeededRandom, parts: usize) {
        for part in &mut self.parts {
            *part = random.below(parts.max(1));
        }
    }

    /// Makes the network whole again.
    pub fn heal(&mut self) {
        self.parts.fill(0);
    }

    /// Whether two nodes reach each other.
    pub fn connects(&self, a: usize, b: usize) -> bool {
        self.parts[a] == self.parts[b]
    }

    /// Sends a message, which may come to nothing.
    pub fn send(&mut self, random: &SeededRandom, from: usize, to: usize, message: M) {
        if !self.connects(from, to) || random.chance(self.faults.drop_percent) {
            return;
        }
        let copies = if random.chance(self.faults.duplicate_percent) { 2 } else { 1 };
        for _ in 0..copies {
            let delay = random.below(self.faults.delay_steps_max + 1);
            let arrives = self.now + u64::try_from(delay).unwrap_or(u64::MAX);
            self.sent += 1;
            self.on_the_way.insert((arrives, self.sent), Delivery { from, to, message: message.clone() });
        }
    }

    /// Lets a step of time pass and gives what arrives in it. What would cross a partition is lost.
    pub fn step(&mut self) -> Vec<Delivery<M>> {
        let later = self.on_the_way.split_off(&(self.now + 1, 0));
        let arrived = std::mem::replace(&mut self.on_the_way, later);
        self.now += 1;
        arrived.into_values().filter(|delivery| self.parts[delivery.from] == self.parts[delivery.to]).collect()
    }

    /// Whether nothing is on its way.
    pub fn is_idle(&self) -> bool {
        self.on_the_way.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_faults_everything_arrives_in_order() {
        let random = SeededRandom::new(1);
        let mut network = Network::new(2, Faults::NONE);
        for message in 0..5 {
            network.send(&random, 0, 1, message);
        }
        let messages: Vec<i32> = network.step().into_iter().map(|delivery| delivery.message).collect();
        assert_eq!(messages, [0, 1, 2, 3, 4]);
        assert!(network.is_idle());
    }

    #[test]
    fn nothing_crosses_a_partition() {
        let random = SeededRandom::new(1);
        let mut network = Network::new(2, Faults::NONE);
        network.send(&random, 0, 1, "before");
        network.parts = vec![0, 1];
        network.send(&random, 0, 1, "during");
        assert!(network.step().is_empty());
        network.heal();
        network.send(&random, 0, 1, "after");
        assert_eq!(network.step().len(), 1);
    }
}
