//! A member as it is written down, in the file and in etcd.

use serde::{Deserialize, Serialize};

use crate::ring::limits::{ADDRESSES_MAX, WEIGHT_MAX};
use crate::ring::{AddressError, Member, Name, NameError, State, StateError};

/// What a record says, before it is believed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    pub(super) weight: u32,
    /// Without one, a node fails alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) rack: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) zone: Option<String>,
    /// A node that is written down by hand is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) state: Option<String>,
    pub(super) addresses: Vec<String>,
}

/// The zone of those that name none.
const ZONE: &str = "default";

/// Why a record is not a member.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// A name that is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// An address that is none.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// A state that is none.
    #[error(transparent)]
    State(#[from] StateError),
    /// A node that nobody can reach.
    #[error("it has {found} addresses: give it 1 to {ADDRESSES_MAX}")]
    Addresses {
        /// The number of addresses.
        found: usize,
    },
    /// A weight that is too large.
    #[error("its weight is {found}: choose at most {WEIGHT_MAX}; only the proportions matter")]
    Weight {
        /// The weight.
        found: u32,
    },
}

impl Record {
    #[cfg(all(feature = "etcd", not(loom)))]
    pub(super) fn of(member: &Member) -> Self {
        Self {
            weight: member.weight,
            rack: Some(member.rack.to_string()),
            zone: Some(member.zone.to_string()),
            state: Some(member.state.name().to_owned()),
            addresses: member.addresses.iter().map(ToString::to_string).collect(),
        }
    }

    pub(super) fn member(&self, name: Name) -> Result<Member, RecordError> {
        if self.weight > WEIGHT_MAX {
            return Err(RecordError::Weight { found: self.weight });
        }
        let found = self.addresses.len();
        if found == 0 || found > ADDRESSES_MAX {
            return Err(RecordError::Addresses { found });
        }
        let rack = self.rack.as_ref().map(|text| text.parse());
        let state = self.state.as_ref().map(|text| text.parse());
        let addresses: Result<_, AddressError> =
            self.addresses.iter().map(|text| text.parse()).collect();
        Ok(Member {
            rack: rack.transpose()?.unwrap_or_else(|| name.clone()),
            zone: self.zone.as_deref().unwrap_or(ZONE).parse()?,
            weight: self.weight,
            state: state.transpose()?.unwrap_or(State::Up),
            addresses: addresses?,
            name,
        })
    }
}
