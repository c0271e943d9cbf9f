//! What ends a connection.

use std::io;

use crate::pdu::{PduError, Term, TermRequest};

/// Why a connection cannot go on. Commands that were under way may have been done or not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// The controller sends what no controller should.
    #[error(transparent)]
    Pdu(#[from] PduError),
    /// A PDU for a command that is not under way.
    #[error(
        "a {pdu} came for command {cid:#06x}, which is not under way: the controller is broken"
    )]
    UnknownCommand {
        /// The PDU.
        pdu: &'static str,
        /// The identifier in it.
        cid: u16,
    },
    /// A PDU that a command of this kind never gets.
    #[error(
        "a {pdu} came for command {cid:#06x}, whose data goes the other way or not at all: the controller is broken"
    )]
    WrongDirection {
        /// The PDU.
        pdu: &'static str,
        /// The command.
        cid: u16,
    },
    /// Data that would lie outside of a command's memory, or that skip or repeat a part of it.
    #[error(
        "a {pdu} is about {bytes} bytes from {offset} on of command {cid:#06x}, which has {whole} and goes on at {expected}: the controller is broken"
    )]
    Range {
        /// The PDU.
        pdu: &'static str,
        /// The command.
        cid: u16,
        /// Where they begin.
        offset: u32,
        /// How many.
        bytes: u32,
        /// Where the next ones have to begin.
        expected: u32,
        /// All of the command's.
        whole: u32,
    },
    /// More R2Ts at a time than were granted.
    #[error("more than {granted} R2Ts are open for command {cid:#06x}: the controller is broken")]
    TooManyR2ts {
        /// The command.
        cid: u16,
        /// As many as may be.
        granted: u32,
    },
    /// The controller ended the connection and said why.
    #[error("the controller ended the connection: {} (information {:#x})", .0.status, .0.information)]
    Terminated(Term),
    /// The controller ended the connection without a word.
    #[error(
        "the connection was closed by the other side: look whether the target runs, and into its log"
    )]
    Closed,
    /// The network.
    #[error("the connection failed: {}", io::Error::from(*.kind))]
    Network {
        /// How.
        kind: io::ErrorKind,
    },
    /// The caller's memory is not as long as it was.
    #[error(
        "the memory of a command became shorter under way: its `Memory` gives another region than before"
    )]
    Memory,
}

impl ConnectionError {
    /// What to tell the controller: "Fatal Error Status" and its information. `None` where there is nobody to tell, or
    /// nothing that it did.
    pub(crate) fn term(&self) -> Option<TermRequest> {
        let (status, information) = match self {
            Self::Pdu(PduError::Field { field, .. }) => (1, place_of(field)),
            Self::Pdu(PduError::Type { .. }) => (2, 0),
            Self::Pdu(PduError::HeaderDigest { expected, .. }) => (3, *expected),
            Self::Pdu(PduError::Digests { .. }) => (6, 11),
            // "CCCID" of CapsuleResp stands elsewhere, in the completion.
            Self::UnknownCommand {
                pdu: "CapsuleResp", ..
            } => (1, 20),
            Self::UnknownCommand { .. } | Self::WrongDirection { .. } => (1, 8),
            Self::Range { .. } => (4, 12),
            Self::TooManyR2ts { .. } => (5, 0),
            Self::Terminated(_) | Self::Closed | Self::Network { .. } | Self::Memory => {
                return None;
            }
        };
        Some(TermRequest {
            status,
            information,
        })
    }
}

/// Where a field stands in its PDU.
fn place_of(field: &str) -> u32 {
    match field {
        "HDGSTF" | "DDGSTF" | "LAST_PDU with SUCCESS" => 1,
        "HLEN" => 2,
        "PDO" | "PDO modulo 4" => 3,
        "PLEN" => 4,
        "PFV" => 8,
        "CPDA" => 10,
        "MAXH2CDATA" => 12,
        _ => 16,
    }
}
