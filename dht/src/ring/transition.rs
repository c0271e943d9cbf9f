//! From a ring in transition to one at rest: which shard moves from whom to whom, a few at a time.
//!
//! The moves are in the lines, so a plan needs no memory of its own: whoever
//! makes one from the ring of the moment sees what is left. A plan only
//! chooses an order and holds back: what has lost its owner goes first, and no
//! node sends or receives more than its share at a time.

use std::collections::{HashMap, VecDeque};

use super::line::Line;
use super::units::{Epoch, NodeSlot, PartitionId, Shard};
use super::{BuildError, Ring};

/// A shard of a partition that is to change its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Move {
    /// The partition.
    pub partition: PartitionId,
    /// The shard.
    pub shard: Shard,
    /// Who has it. Nothing if that node is down or gone: the shard is rebuilt from the others.
    pub from: Option<NodeSlot>,
    /// Who shall have it.
    pub to: NodeSlot,
}

/// How many moves may be under way at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Throttle {
    /// From one node.
    pub from_node: u16,
    /// To one node.
    pub to_node: u16,
    /// In all.
    pub total: u32,
}

impl Default for Throttle {
    fn default() -> Self {
        Self {
            from_node: 2,
            to_node: 2,
            total: 256,
        }
    }
}

/// Moves still to be made, in an order that keeps all nodes at work.
#[derive(Clone, Debug)]
pub struct Plan {
    throttle: Throttle,
    /// What has lost its owner, then the rest; in each, the moves to one node after another.
    waiting: [VecDeque<(NodeSlot, VecDeque<Move>)>; 2],
    from: HashMap<NodeSlot, u16>,
    to: HashMap<NodeSlot, u16>,
    under_way: u32,
}

/// How many moves to one node are looked at for one whose source is free.
const LOOK_AHEAD: usize = 16;

impl Ring {
    /// The moves still to be made, by partition and shard.
    pub fn moves(&self) -> impl Iterator<Item = Move> + '_ {
        let gives = |node| {
            self.members
                .get(node)
                .is_some_and(|node| node.state.gives())
        };
        let partitions = self.spec.partitions().iter().zip(&self.lines);
        partitions
            .filter(|(_, line)| line.moving() != 0)
            .flat_map(move |(partition, line)| {
                let shards = (0..line.len() as u8).map(Shard);
                shards.filter_map(move |shard| {
                    let from = line.owner(shard).filter(|node| gives(*node));
                    let to = line.next(shard)?;
                    Some(Move {
                        partition,
                        shard,
                        from,
                        to,
                    })
                })
            })
    }

    /// The ring in which these moves are made.
    ///
    /// # Errors
    ///
    /// A move that is not to be made in this ring, or no epoch left.
    pub fn settle(&self, made: &[Move]) -> Result<Self, SettleError> {
        let last = BuildError::LastEpoch { epoch: self.epoch };
        let epoch = self.epoch.next().ok_or(SettleError::Build(last))?;
        let mut lines = self.lines.clone();
        for one in made {
            let line = lines.get_mut(one.partition.index());
            let wrong = SettleError::NoSuchMove {
                partition: one.partition,
                shard: one.shard,
                to: one.to,
                epoch: self.epoch,
            };
            let Some(line) = line.filter(|line| line.next(one.shard) == Some(one.to)) else {
                return Err(wrong);
            };
            let mut owners: Vec<NodeSlot> = line.owners().collect();
            let targets: Vec<NodeSlot> = line.targets().collect();
            owners[one.shard.index()] = one.to;
            *line = Line::new(one.partition, epoch, &owners, &targets)
                .expect("as many owners as before")
                .0;
        }
        Ok(Self {
            epoch,
            spec: self.spec,
            members: self.members.clone(),
            lines,
        })
    }
}

/// Why moves cannot be settled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SettleError {
    /// The ring does not ask for this move: it was settled before, or is one of another epoch.
    #[error(
        "shard {shard} of partition {partition} is not on its way to node slot {to} in epoch {epoch}: make a new plan from the ring of now"
    )]
    NoSuchMove {
        /// The partition.
        partition: PartitionId,
        /// The shard.
        shard: Shard,
        /// The node that it was moved to.
        to: NodeSlot,
        /// The epoch of the ring.
        epoch: Epoch,
    },
    /// There is no ring after this one.
    #[error(transparent)]
    Build(BuildError),
}

impl Plan {
    /// All moves of a ring.
    pub fn new(ring: &Ring, throttle: Throttle) -> Self {
        let mut by_target: [HashMap<NodeSlot, VecDeque<Move>>; 2] = Default::default();
        for one in ring.moves() {
            let queue = by_target[usize::from(one.from.is_some())].entry(one.to);
            queue.or_default().push_back(one);
        }
        let waiting = by_target.map(|queues| {
            let mut queues: Vec<_> = queues.into_iter().collect();
            queues.sort_by_key(|(to, _)| *to);
            queues.into()
        });
        Self {
            throttle,
            waiting,
            from: HashMap::new(),
            to: HashMap::new(),
            under_way: 0,
        }
    }

    /// The next move to begin; nothing if all are under way or made, or those left have to wait for others to end.
    pub fn begin(&mut self) -> Option<Move> {
        if self.under_way >= self.throttle.total {
            return None;
        }
        let Self {
            throttle,
            waiting,
            from,
            to,
            ..
        } = self;
        let has_room = |used: &HashMap<NodeSlot, u16>, node: NodeSlot, limit: u16| {
            used.get(&node).is_none_or(|used| *used < limit)
        };
        let found = waiting.iter_mut().find_map(|queues| {
            for _ in 0..queues.len() {
                let (target, mut queue) = queues.pop_front()?;
                let mut found = None;
                if has_room(to, target, throttle.to_node) {
                    let free = |one: &Move| {
                        one.from
                            .is_none_or(|node| has_room(from, node, throttle.from_node))
                    };
                    let at = queue.iter().take(LOOK_AHEAD).position(free);
                    found = at.and_then(|at| queue.remove(at));
                    if found.is_none() {
                        // Others may have a free source.
                        let looked_at = LOOK_AHEAD.min(queue.len());
                        queue.rotate_left(looked_at);
                    }
                }
                if !queue.is_empty() {
                    queues.push_back((target, queue));
                }
                if found.is_some() {
                    return found;
                }
            }
            None
        })?;
        *self.to.entry(found.to).or_default() += 1;
        if let Some(node) = found.from {
            *self.from.entry(node).or_default() += 1;
        }
        self.under_way += 1;
        Some(found)
    }

    /// A move that was begun has ended well.
    pub fn made(&mut self, one: &Move) {
        self.under_way = self.under_way.saturating_sub(1);
        let nodes = [(&mut self.to, Some(one.to)), (&mut self.from, one.from)];
        for (used, node) in nodes {
            if let Some(used) = node.and_then(|node| used.get_mut(&node)) {
                *used = used.saturating_sub(1);
            }
        }
    }

    /// A move that was begun has failed, and comes again after the others to the same node.
    pub fn failed(&mut self, one: Move) {
        self.made(&one);
        let queues = &mut self.waiting[usize::from(one.from.is_some())];
        match queues.iter_mut().find(|(to, _)| *to == one.to) {
            Some((_, queue)) => queue.push_back(one),
            None => queues.push_back((one.to, VecDeque::from([one]))),
        }
    }

    /// Another limit from now on; what is under way stays so.
    pub fn set_throttle(&mut self, throttle: Throttle) {
        self.throttle = throttle;
    }

    /// The moves that were not begun.
    pub fn left(&self) -> usize {
        let queues = self.waiting.iter().flatten();
        queues.map(|(_, queue)| queue.len()).sum()
    }

    /// The moves that were begun and have not ended.
    pub fn under_way(&self) -> u32 {
        self.under_way
    }
}
