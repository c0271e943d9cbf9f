//! What changes cost: how even the table is, and how much of it moves.

use std::time::{Duration, Instant};

use oriel_dht::ring::{Member, Ring};
use serde::Serialize;

use super::cluster::{built, member, members, rack_nodes, settled, spec};

/// What happens to a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Event {
    New,
    Join,
    Leave,
    RackLeaves,
    Weights,
}

impl Event {
    pub(super) const ALL: [Self; 5] = [
        Self::New,
        Self::Join,
        Self::Leave,
        Self::RackLeaves,
        Self::Weights,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Join => "one joins",
            Self::Leave => "one leaves",
            Self::RackLeaves => "a rack leaves",
            Self::Weights => "weights change",
        }
    }
}

/// What it came to.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Outcome {
    pub(super) nodes: u32,
    pub(super) event: Event,
    /// Shards that move.
    pub(super) moved: usize,
    /// Shards that must: those of nodes that are gone, and those that others need to come within one of their share.
    pub(super) least: usize,
    /// The largest distance of a node from its share, in shards and in percent of the share.
    pub(super) worst_shards: f64,
    pub(super) worst_percent: f64,
    /// What one shard is, in percent of the smallest share: nothing can be told apart below.
    pub(super) shard_percent: f64,
    pub(super) build_ms: f64,
    pub(super) warnings: usize,
}

/// Nothing where a cluster of this size has too little for the event.
pub(super) fn measure(nodes: u32, event: Event) -> Option<Outcome> {
    let before = members(nodes);
    let mut after = before.clone();
    match event {
        Event::New => {}
        Event::Join => after.push(member(nodes, nodes)),
        Event::Leave => drop(after.remove(nodes as usize / 2)),
        Event::RackLeaves => {
            let rack = before[nodes as usize / 2].rack.clone();
            after.retain(|member| member.rack != rack);
            if rack_nodes(nodes) == 1 {
                return None;
            }
        }
        Event::Weights => after
            .iter_mut()
            .step_by(10)
            .for_each(|member| member.weight = 1500),
    }
    // Three nodes hold two shards each whatever their weights are, and two cannot.
    if nodes <= 3 && matches!(event, Event::Leave | Event::Weights) {
        return None;
    }
    let first = (event != Event::New).then(|| settled(&built(spec(nodes), &before, None).ring));
    let start = Instant::now();
    let result = built(spec(nodes), &after, first.as_ref());
    let build = start.elapsed();
    Some(outcome(
        nodes,
        event,
        first.as_ref(),
        &after,
        &result.ring,
        (result.moved, result.warnings.len()),
        build,
    ))
}

fn outcome(
    nodes: u32,
    event: Event,
    before: Option<&Ring>,
    members: &[Member],
    after: &Ring,
    (moved, warnings): (usize, usize),
    build: Duration,
) -> Outcome {
    let weight: f64 = members.iter().map(|member| f64::from(member.weight)).sum();
    let had = |member: &Member| {
        let slot = before.and_then(|ring| ring.members().find(&member.name));
        slot.map_or(0, |slot| slot.index())
    };
    let old = before.map(Ring::shards_by_node);
    let new = after.shards_by_node();
    let (mut worst_shards, mut worst_percent) = (0.0f64, 0.0f64);
    let (mut smallest, mut needed, mut staying) = (f64::INFINITY, 0.0, 0);
    for member in members {
        let share = after.spec().shards() as f64 * f64::from(member.weight) / weight;
        let slot = after
            .members()
            .find(&member.name)
            .expect("it was built from this member");
        let off = (f64::from(new[slot.index()].shall_have) - share).abs();
        worst_shards = worst_shards.max(off);
        worst_percent = worst_percent.max(100.0 * off / share);
        smallest = smallest.min(share);
        let known = before.is_some_and(|ring| ring.members().find(&member.name).is_some());
        let held = old
            .as_ref()
            .filter(|_| known)
            .map_or(0, |old| old[had(member)].has);
        staying += held as usize;
        needed += (share.floor() - f64::from(held)).max(0.0);
    }
    let gone = if before.is_some() {
        after.spec().shards() - staying
    } else {
        0
    };
    Outcome {
        nodes,
        event,
        moved,
        least: if before.is_some() {
            gone.max(needed as usize)
        } else {
            0
        },
        worst_shards,
        worst_percent,
        shard_percent: 100.0 / smallest,
        build_ms: build.as_secs_f64() * 1e3,
        warnings,
    }
}

impl Outcome {
    /// Moves for each that is needed.
    pub(super) fn ratio(&self) -> f64 {
        if self.least == 0 {
            1.0
        } else {
            self.moved as f64 / self.least as f64
        }
    }

    /// One percent, or one shard of the smallest share where that is more.
    pub(super) fn percent_max(&self) -> f64 {
        self.shard_percent.max(1.0)
    }

    pub(super) fn line(&self) -> String {
        let moves = match self.event {
            Event::New => format!("{:>8} {:>8} {:>6}", "", "", ""),
            _ => format!("{:>8} {:>8} {:>6.3}", self.moved, self.least, self.ratio()),
        };
        format!(
            "{:>6} {:<15} {moves} {:>8.2} {:>8.3} {:>8.3} {:>9.1} {:>8}",
            self.nodes,
            self.event.name(),
            self.worst_shards,
            self.worst_percent,
            self.shard_percent,
            self.build_ms,
            self.warnings
        )
    }
}

pub(super) fn head() -> String {
    format!(
        "{:>6} {:<15} {:>8} {:>8} {:>6} {:>8} {:>8} {:>8} {:>9} {:>8}",
        "nodes",
        "",
        "moved",
        "least",
        "ratio",
        "off, sh.",
        "off, %",
        "1 sh., %",
        "build, ms",
        "warnings"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_join_moves_what_it_must_and_no_more() {
        let outcome = measure(48, Event::Join).unwrap();
        assert!(
            outcome.least >= 8024 && outcome.ratio() < 1.05,
            "{outcome:?}"
        );
        assert!(
            outcome.worst_shards < 1.0 && outcome.worst_percent < 0.02,
            "{outcome:?}"
        );
    }

    #[test]
    fn what_a_size_has_too_little_for_is_left_out() {
        assert!(measure(3, Event::RackLeaves).is_none() && measure(3, Event::Leave).is_none());
    }

    #[test]
    fn the_bound_is_a_shard_where_that_is_more_than_a_percent() {
        let mut outcome = measure(6, Event::New).unwrap();
        assert_eq!(outcome.percent_max(), 1.0);
        outcome.shard_percent = 2.5;
        assert_eq!(outcome.percent_max(), 2.5);
    }
}
