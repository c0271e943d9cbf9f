//! Which shard goes to which owner.

#![forbid(unsafe_code)]

use std::fmt;

use arrayvec::ArrayVec;

use crate::geometry::Scheme;
use crate::limits::SHARDS_MAX;
use crate::units::ShardIndex;

/// What fails together, for example a rack or a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Domain(pub u32);

/// The place of an owner in a partition's ordered list of owners.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnerIndex(pub u16);

/// Why shards cannot be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlacementError {
    /// There is no owner.
    #[error("no owners: the partition needs at least one")]
    NoOwners,
    /// The list is longer than an owner's index can say.
    #[error("{found} owners: a partition has at most {max}")]
    TooManyOwners {
        /// The owners given.
        found: usize,
        /// The largest number.
        max: usize,
    },
    /// The domains cannot hold the shards with at most m in each.
    #[error(
        "{scheme} on {found} failure domains: at most {each} shards in each need {needed} domains"
    )]
    TooFewDomains {
        /// The scheme.
        scheme: Scheme,
        /// The domains that the owners are in.
        found: usize,
        /// The domains that it takes.
        needed: usize,
        /// The shards that one domain may hold.
        each: usize,
    },
}

/// The owner of each shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    owners: ArrayVec<OwnerIndex, SHARDS_MAX>,
}

impl Placement {
    /// Places the shards of a scheme on owners, given in the partition's order by their failure domains, so that no domain
    /// holds more than m and the loss of any one loses nothing. Shards are spread evenly over domains first and owners
    /// second; between equals the earlier owner comes first, so that an owner added at the end moves few shards. Without
    /// parity (m = 0) no placement survives a loss, and shards are only spread.
    ///
    /// # Errors
    ///
    /// There are no owners, or their domains are too few.
    pub fn new(scheme: Scheme, owners: &[Domain]) -> Result<Self, PlacementError> {
        if owners.is_empty() {
            return Err(PlacementError::NoOwners);
        }
        let max = usize::from(u16::MAX);
        if owners.len() > max {
            return Err(PlacementError::TooManyOwners {
                found: owners.len(),
                max,
            });
        }
        let each = if scheme.parity_shards() == 0 {
            scheme.shards()
        } else {
            scheme.parity_shards()
        };
        let mut placed: ArrayVec<OwnerIndex, SHARDS_MAX> = ArrayVec::new();
        while placed.len() < scheme.shards() {
            let load = |place: usize| {
                let in_domain = placed
                    .iter()
                    .filter(|owner| owners[usize::from(owner.0)] == owners[place])
                    .count();
                (
                    in_domain,
                    placed
                        .iter()
                        .filter(|owner| usize::from(owner.0) == place)
                        .count(),
                    place,
                )
            };
            let (in_domain, _, place) = (0..owners.len())
                .map(load)
                .min()
                .expect("there is an owner, as was checked above");
            if in_domain >= each {
                let found = (0..owners.len())
                    .filter(|at| !owners[..*at].contains(&owners[*at]))
                    .count();
                let needed = scheme.shards().div_ceil(each);
                return Err(PlacementError::TooFewDomains {
                    scheme,
                    found,
                    needed,
                    each,
                });
            }
            placed.push(OwnerIndex(place as u16));
        }
        Ok(Self { owners: placed })
    }

    /// The owner of a shard, if the scheme has it.
    pub fn owner(&self, shard: ShardIndex) -> Option<OwnerIndex> {
        self.owners.get(shard.index()).copied()
    }

    /// The owners in the order of shards.
    pub fn owners(&self) -> &[OwnerIndex] {
        &self.owners
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shard, owner) in self.owners.iter().enumerate() {
            let gap = if shard == 0 { "" } else { ", " };
            write!(f, "{gap}shard {shard} on owner {}", owner.0)?;
        }
        Ok(())
    }
}
