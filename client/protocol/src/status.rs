//! How a command ended, with what to do.
//!
//! Where NVMe has a status that fits it is used, so that initiators who know nothing of blobs do the right thing; the
//! others have status code type 7h, vendor specific.

use std::fmt;

/// Whether it helps to send a command again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Advice {
    /// It ended well.
    Done,
    /// The command as it is will never succeed.
    Change,
    /// Something else has to be done first; the sentence says what.
    First,
    /// It may succeed later.
    Later,
}

macro_rules! statuses {
    ($($(#[$doc:meta])* $name:ident = ($kind:literal, $code:literal), $advice:ident, $sentence:literal;)*) => {
        /// A status of the blob protocol.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[non_exhaustive]
        pub enum Status {
            $($(#[$doc])* $name,)*
        }

        impl Status {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Status code type and status code.
            pub const fn code(self) -> (u8, u8) {
                match self { $(Self::$name => ($kind, $code),)* }
            }

            /// `None` for one that this protocol does not speak of.
            pub const fn from_code(kind: u8, code: u8) -> Option<Self> {
                match (kind, code) {
                    $(($kind, $code) => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// What happened and what to do.
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$name => $sentence,)* }
            }

            /// Whether to send it again.
            pub const fn advice(self) -> Advice {
                match self { $(Self::$name => Advice::$advice,)* }
            }
        }
    };
}

statuses! {
    /// Done.
    Success = (0x0, 0x00), Done, "it is done";
    /// Generic: Invalid Command Opcode.
    InvalidOpcode = (0x0, 0x01), Change, "the node does not know this command: it is no Oriel node, or one of another version";
    /// Generic: Invalid Field in Command.
    InvalidField = (0x0, 0x02), Change, "a field of the command is wrong: the node's log says which; client and node may be of different versions";
    /// Generic: Internal Error.
    Internal = (0x0, 0x06), Later, "the node failed at it: its log says why";
    /// Generic: Command Sequence Error.
    Sequence = (0x0, 0x0c), First, "the commands came in the wrong order: reserve, write, then commit";
    /// Generic: Data SGL Length Invalid.
    DataLengthInvalid = (0x0, 0x0f), Change, "the transfer has another length than the command goes with: client and node may be of different versions";
    /// Generic: LBA Out of Range.
    OutOfRange = (0x0, 0x80), Change, "the blocks lie behind the end of the namespace";
    /// Generic: Capacity Exceeded.
    CapacityExceeded = (0x0, 0x81), First, "the node is full: delete blobs, or add a drive";
    /// Generic: Namespace Not Ready.
    NotReady = (0x0, 0x82), Later, "the node is starting or ending: try again in a moment";
    /// Media: Unrecovered Read Error.
    Unreadable = (0x2, 0x81), Later, "the node's drive cannot read these blocks: read the blob from another node, and look at the drive";
    /// Media: Write Fault.
    WriteFault = (0x2, 0x80), Later, "the node's drive did not take the data, and is lost by that: reserve another window, which is on another drive if there is one, and write the blob again";
    /// Media: Access Denied.
    AccessDenied = (0x2, 0x86), First, "this host may not write there: reserve a window first, and write within it before its deadline";
    /// Media: Deallocated or Unwritten Logical Block.
    Unwritten = (0x2, 0x87), First, "no blob is there any more, it has moved or is gone: locate the key again";

    /// Longer than a slab holds.
    TooLarge = (0x7, 0x01), Change, "the blob is longer than one window takes: STAT says how long that is; put it by parts";
    /// Not reserved.
    NotReserved = (0x7, 0x02), First, "the window is not reserved, its deadline has passed, or it was committed: reserve another and write the blob again";
    /// A write is under way.
    BeingWritten = (0x7, 0x03), Later, "a write to the window is under way: commit when all writes have ended";
    /// Not all is written.
    NotWritten = (0x7, 0x04), First, "not every block of the blob was written: write the rest, then commit";
    /// More than was reserved.
    LongerThanReserved = (0x7, 0x05), Change, "the blob is longer than the window that was reserved: reserve a larger one";
    /// Data that changed on its way.
    OtherChecksum = (0x7, 0x06), First, "what arrived has another checksum than what was sent: write the blob again";
    /// Not the bytes of the key.
    OtherContent = (0x7, 0x07), Change, "the bytes are not those of the key: compute the key again, or put the blob under a name";
    /// A blob that is not served.
    Damaged = (0x7, 0x08), First, "the node found the blob damaged and does not serve it: read it from another node, or delete it and put it again";
    /// The realm has all that it may have.
    OverQuota = (0x7, 0x09), First, "the realm holds all that it may: delete blobs of it, unpin them if it is a cache, or raise its quota";
    /// As many blobs as the node is made for.
    TooManyBlobs = (0x7, 0x0a), First, "the node holds as many blobs as it is configured for: delete some, or raise the limit";
    /// Too few drives that can be written.
    Stopped = (0x7, 0x0b), First, "the node takes no more changes since too few of its drives are there and can be written: its status and its log name them; bring them back, or say which are gone for good";
    /// More at once than one host may have.
    Busy = (0x7, 0x0c), Later, "this host has as many windows reserved or commands under way as it may: let some end first";
    /// No position is left.
    LogEnds = (0x7, 0x0d), Change, "the node's log has reached its last block: copy the blobs into a new store";
    /// Not, or no more, a put by parts.
    NoSuchPut = (0x7, 0x0e), First, "no put by parts has that number: it has ended, nothing came for too long, or the node was restarted; begin it again";
    /// Parts that are not those of the blob.
    OtherParts = (0x7, 0x0f), First, "the parts that were put are not those of a blob of that length: put those that are missing, or begin again";
    /// A part went before its blob was there.
    PartGone = (0x7, 0x10), First, "a part made room for other blobs before its blob was whole: raise the cache's quota, or put it again";
    /// What is asked for is, or may be, on a drive that the node has lost.
    DriveLost = (0x7, 0x11), First, "the node has lost the drive that this is on: reserve another window and write the blob again; read what was there from another node. The node's log and its status name the drive";
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.sentence())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_told_apart_and_come_back() {
        for status in Status::ALL {
            let (kind, code) = status.code();
            assert_eq!(Status::from_code(kind, code), Some(*status));
            assert!(kind <= 7, "{status:?}");
            assert!(status.sentence().len() >= 10 && !status.sentence().ends_with('.'));
        }
        let ours = Status::ALL.iter().filter(|status| status.code().0 == 7);
        assert_eq!(ours.count(), 17);
        assert_eq!(Status::from_code(7, 0xff), None);
        // The protocol.
        assert_eq!(Status::Unwritten.code(), (2, 0x87));
        assert_eq!(Status::OtherContent.code(), (7, 7));
    }
}
