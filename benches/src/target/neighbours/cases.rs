//! What neighbours do, and what a host beside them is compared with.

use clap::ValueEnum;

use super::plan::{Act, Neighbour, Neighbourhood, SIZES};

/// What is wrong with a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Case {
    /// It has asked for much and takes none of it
    Stuck,
    /// It takes what it has asked for at a trickle
    Slow,
    /// Its realm is full, and it goes on putting
    Full,
    /// Its drive fails, and it goes on reading
    Failing,
    /// It may not connect, and tries again and again
    Refused,
    /// It reads with a hundred times as many bytes under way
    Greedy,
    /// It hangs up in the middle of writing, again and again
    Vanishing,
    /// It has taken all connections, and tries to have more
    Crowd,
}

/// How a neighbour's program is kept going.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    Willing,
    /// It has only what the host that is measured leaves of their core.
    Yielding,
    /// It is stopped once it works.
    Stuck,
    /// It goes on for a little while now and then.
    Slow,
}

/// A neighbour, and how it is kept going.
#[derive(Debug, Clone)]
pub(super) struct Beside {
    pub(super) neighbour: Neighbour,
    pub(super) manner: Manner,
}

/// The two sides of a comparison.
#[derive(Debug, Clone)]
pub(super) struct Sides {
    pub(super) without: Option<Beside>,
    pub(super) with: Beside,
}

/// Commands of a greedy host under way, of 128 KiB each.
const GREEDY_DEPTH: u32 = 127;
/// What a host beside a greedy one asks for, of what it could have alone: less than its half.
const PART: f64 = 1.0 / 3.0;
/// Connections of a host that is stuck or slow.
const QUEUES: u16 = 4;

impl Case {
    pub(super) const ALL: [Self; 8] = [
        Self::Stuck,
        Self::Slow,
        Self::Full,
        Self::Failing,
        Self::Refused,
        Self::Greedy,
        Self::Vanishing,
        Self::Crowd,
    ];

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Stuck => {
                "stuck: four connections with 127 reads of 128 KiB each, none received; without: alone"
            }
            Self::Slow => "slow: the same, received for 1 ms of 40; without: alone",
            Self::Full => {
                "full: 16 puts of 4 KiB at a time into a full realm; without: the same into one with room"
            }
            Self::Failing => {
                "failing: 8 reads of 4 KiB at a time of a drive that fails, of which the host's puts are the first to hear; without: before it fails"
            }
            Self::Refused => "refused: connects all the time, and may not; without: alone",
            Self::Greedy => {
                "greedy: 127 reads of 128 KiB at a time; the host asks for a third of what it could have; without: alone"
            }
            Self::Vanishing => "vanishing: hangs up while it writes, all the time; without: alone",
            Self::Crowd => {
                "crowd: has 30 of 32 connections, and tries to have more all the time; without: alone"
            }
        }
    }

    /// What the host asks for, of what it could have alone; as much as it can, if none.
    pub(super) fn part(self) -> Option<f64> {
        (self == Self::Greedy).then_some(PART)
    }

    pub(super) fn sides(self, node: &Neighbourhood) -> Sides {
        let [small, large] = SIZES;
        let willing = |neighbour| Beside {
            neighbour,
            manner: Manner::Willing,
        };
        let alone = |with| Sides {
            without: None,
            with,
        };
        let many = |manner| Beside {
            neighbour: Neighbour {
                queues: QUEUES,
                ..node.neighbour(
                    &node.other,
                    Act::Read,
                    large,
                    GREEDY_DEPTH * u32::from(QUEUES),
                )
            },
            manner,
        };
        match self {
            Self::Stuck => alone(many(Manner::Stuck)),
            Self::Slow => alone(many(Manner::Slow)),
            Self::Full => {
                let puts = |site| willing(node.neighbour(site, Act::Put, small, 16));
                Sides {
                    without: Some(puts(&node.other)),
                    with: puts(&node.full),
                }
            }
            Self::Failing => {
                let reads = willing(node.neighbour(&node.other, Act::Read, small, 8));
                Sides {
                    without: Some(reads.clone()),
                    with: reads,
                }
            }
            Self::Refused => alone(willing(node.neighbour(&node.closed, Act::Connect, 0, 0))),
            Self::Greedy => {
                let greedy = node.neighbour(&node.other, Act::Read, large, GREEDY_DEPTH);
                alone(Beside {
                    neighbour: greedy,
                    manner: Manner::Yielding,
                })
            }
            Self::Vanishing => alone(willing(node.neighbour(&node.other, Act::Vanish, large, 16))),
            Self::Crowd => alone(willing(node.neighbour(&node.other, Act::Crowd, 0, 0))),
        }
    }
}
