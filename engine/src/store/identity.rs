//! Who the realms of a drive are, in the header of each checkpoint: so that a configuration that calls a realm by another's name,
//! or makes a cache of a durable one, is refused before anybody is given another's blobs, or durable ones make room.
//!
//! ```text
//!  byte  64     68     72      76    80                                4096
//!        ├──────┼──────┼───────┼─────┼──────────────────────────────────┤
//!        │"OR01"│CRC32C│ bytes │ 0   │ realms; the rest behind the body │
//!        └──────┴──────┴───────┴─────┴──────────────────────────────────┘
//!  each realm:  number (2) │ 0 durable, 1 a cache (1) │ bytes of its name (1) │ name
//! ```
//!
//! The realms stand in the order of their numbers, in `bytes` bytes; what does not fit the header's block follows in whole
//! blocks behind the checkpoint's body. The checksum covers `bytes` and the realms. A realm that nobody has named has a name of
//! 0 bytes. Programs that know nothing of this see zeros that they never looked at, and leave zeros behind; then all is taken as it
//! is configured, and written down with the checkpoint that opening writes.
//!
//! A realm is in a checkpoint before there is a slab of it (`Log::recorded`), so no blob is on a drive that does not say whose it is.
//! One without blobs may become anything.

use std::collections::BTreeMap;
use std::sync::Arc;

use oriel_ec::Crc32c;

use super::error::OpenError;
use super::options::RealmOptions;
use super::record::u32_at;
use super::types::{BLOCK_BYTES, RealmId, blocks_for};

const MAGIC: [u8; 4] = *b"OR01";
const AT: usize = 64;
const CHECKSUM_AT: usize = AT + 4;
const BYTES_AT: usize = AT + 8;
const ZERO_AT: usize = AT + 12;
const REALMS_AT: usize = AT + 16;
/// Bytes that stand in the header's block.
const INSIDE: usize = BLOCK_BYTES - REALMS_AT;
const DURABLE: u8 = 0;
const CACHE: u8 = 1;
/// Of a realm, before its name.
const HEAD_BYTES: usize = 4;
/// Of a name, which is cut.
const NAME_BYTES: usize = u8::MAX as usize;
/// As many as realms can have.
const BYTES_MAX: usize = (HEAD_BYTES + NAME_BYTES) << 16;

/// What a drive knows of a realm beside its blobs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Identity {
    pub(super) is_cache: bool,
    /// `None` if nobody has named it.
    pub(super) name: Option<Arc<str>>,
}

pub(super) type Identities = BTreeMap<RealmId, Identity>;

impl Identity {
    /// What is configured.
    pub(super) fn of(options: &RealmOptions) -> Self {
        Self {
            is_cache: options.cache.is_some(),
            name: options.name.as_deref().map(|name| cut(name).into()),
        }
    }
}

/// As much of a name as there is room for.
fn cut(name: &str) -> &str {
    let mut end = name.len().min(NAME_BYTES);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

/// Blocks behind a checkpoint's body that so many bytes of realms take.
pub(super) fn blocks_behind(bytes: usize) -> u64 {
    blocks_for(bytes.saturating_sub(INSIDE) as u64)
}

/// The bytes of realms.
pub(super) fn encode(realms: &Identities) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (id, Identity { is_cache, name }) in realms {
        let name = cut(name.as_deref().unwrap_or_default());
        bytes.extend(id.0.to_le_bytes());
        bytes.push(if *is_cache { CACHE } else { DURABLE });
        bytes.push(name.len() as u8);
        bytes.extend(name.as_bytes());
    }
    bytes
}

/// Writes realms into the block of a checkpoint's header, and gives what does not fit there. None leave no trace.
pub(super) fn put<'a>(realms: &'a [u8], block: &mut [u8]) -> &'a [u8] {
    let (inside, behind) = realms.split_at(realms.len().min(INSIDE));
    if !inside.is_empty() {
        block[AT..CHECKSUM_AT].copy_from_slice(&MAGIC);
        block[BYTES_AT..ZERO_AT].copy_from_slice(&(realms.len() as u32).to_le_bytes());
        block[REALMS_AT..REALMS_AT + inside.len()].copy_from_slice(inside);
        let checksum = Crc32c::of(&block[BYTES_AT..ZERO_AT]).and(realms).value();
        block[CHECKSUM_AT..BYTES_AT].copy_from_slice(&checksum.to_le_bytes());
    }
    behind
}

/// Why what a checkpoint says of realms is not what was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wrong {
    Damaged { expected: u32, found: u32 },
    Unknown,
}

/// Bytes of the realms of a header's block; `None` if it has none.
pub(super) fn len(block: &[u8]) -> Result<Option<usize>, Wrong> {
    if block[AT..REALMS_AT] == [0; REALMS_AT - AT] {
        return Ok(None);
    }
    let bytes = u32_at(block, BYTES_AT) as usize;
    let is_known = block[AT..CHECKSUM_AT] == MAGIC && block[ZERO_AT..REALMS_AT] == [0; 4];
    match is_known && bytes <= BYTES_MAX {
        true => Ok(Some(bytes)),
        false => Err(Wrong::Unknown),
    }
}

/// The realms of a header's block that has so many bytes of them, and of the blocks behind the body.
pub(super) fn decode(bytes: usize, block: &[u8], behind: &[u8]) -> Result<Identities, Wrong> {
    let inside = bytes.min(INSIDE);
    let mut realms = block[REALMS_AT..REALMS_AT + inside].to_vec();
    realms.extend_from_slice(&behind[..bytes - inside]);
    let expected = u32_at(block, CHECKSUM_AT);
    let found = Crc32c::of(&block[BYTES_AT..ZERO_AT]).and(&realms).value();
    match expected == found {
        true => decode_all(&realms).ok_or(Wrong::Unknown),
        false => Err(Wrong::Damaged { expected, found }),
    }
}

fn decode_all(mut bytes: &[u8]) -> Option<Identities> {
    let mut realms = Identities::new();
    while !bytes.is_empty() {
        let (head, rest) = bytes.split_first_chunk::<HEAD_BYTES>()?;
        let [low, high, kind, length] = *head;
        let (name, rest) = rest.split_at_checked(length.into())?;
        let is_cache = match kind {
            DURABLE => false,
            CACHE => true,
            _ => return None,
        };
        let name = str::from_utf8(name).ok()?;
        let name = (!name.is_empty()).then(|| name.into());
        let id = RealmId(u16::from_le_bytes([low, high]));
        realms.insert(id, Identity { is_cache, name });
        bytes = rest;
    }
    Some(realms)
}

/// Refuses realms that have blobs on the drive and are configured as others than those that the drive knows.
pub(super) fn compare(
    known: &Identities,
    configured: &[RealmOptions],
    has_blobs: impl Fn(RealmId) -> bool,
) -> Result<(), OpenError> {
    for options in configured {
        let realm = options.id;
        let Some(known) = known.get(&realm).filter(|_| has_blobs(realm)) else {
            continue;
        };
        let wanted = Identity::of(options);
        if let (Some(found), Some(configured)) = (&known.name, &wanted.name)
            && found != configured
            && options.was.as_deref().map(cut) != Some(&**found)
        {
            return Err(OpenError::OtherRealm {
                realm,
                found: found.clone(),
                configured: configured.clone(),
            });
        }
        // The other way round nothing is lost: what was left of a cache stays from now on.
        if wanted.is_cache && !known.is_cache && !options.was_durable {
            let name = known.name.clone();
            return Err(OpenError::DurableRealm { realm, name });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::eviction::Policy;
    use super::*;

    fn identities(realms: &[(u16, bool, &str)]) -> Identities {
        let identity = |(id, is_cache, name): &(u16, bool, &str)| {
            let name = (!name.is_empty()).then(|| (*name).into());
            let is_cache = *is_cache;
            (RealmId(*id), Identity { is_cache, name })
        };
        realms.iter().map(identity).collect()
    }

    /// The block of a header and what comes behind the body, in whole blocks.
    fn written(realms: &Identities) -> (Vec<u8>, Vec<u8>) {
        let bytes = encode(realms);
        let mut block = vec![0; BLOCK_BYTES];
        let mut behind = put(&bytes, &mut block).to_vec();
        behind.resize(blocks_behind(bytes.len()) as usize * BLOCK_BYTES, 0);
        (block, behind)
    }

    fn read(block: &[u8], behind: &[u8]) -> Result<Option<Identities>, Wrong> {
        let bytes = len(block)?;
        let realms = bytes.map(|bytes| decode(bytes, block, behind));
        realms.transpose()
    }

    /// The format on the drives: a change here needs another magic.
    #[test]
    fn the_bytes_of_realms_are_these() {
        let realms = identities(&[(0x102, true, "kv"), (7, false, ""), (0x103, false, "ö")]);
        let (block, behind) = written(&realms);
        let bytes = [
            &[7, 0, 0, 0][..],
            &[2, 1, 1, 2, b'k', b'v'],
            &[3, 1, 0, 2, 0xc3, 0xb6],
        ]
        .concat();
        let length = [bytes.len() as u8, 0, 0, 0];
        let checksum = Crc32c::of(&length).and(&bytes).value().to_le_bytes();
        let head = [&b"OR01"[..], &checksum, &length, &[0; 4]].concat();
        assert_eq!(block[..64], [0; 64]);
        assert_eq!(block[64..80], head);
        assert_eq!(block[80..80 + bytes.len()], bytes);
        assert!(block[80 + bytes.len()..].iter().all(|&byte| byte == 0));
        assert!(behind.is_empty());
        assert_eq!(read(&block, &behind), Ok(Some(realms)));
    }

    #[test]
    fn what_does_not_fit_the_header_goes_behind_the_body() {
        let name = "n".repeat(251);
        for (realms, blocks) in [(15, 0), (16, 1), (31, 1), (32, 2), (300, 18)] {
            let realms: Identities = (0..realms)
                .map(|id| {
                    let name = Some(name.as_str().into());
                    let is_cache = id % 2 == 1;
                    (RealmId(id), Identity { is_cache, name })
                })
                .collect();
            let (block, behind) = written(&realms);
            assert_eq!(behind.len(), blocks * BLOCK_BYTES);
            assert_eq!(read(&block, &behind), Ok(Some(realms)));
            for at in (0..behind.len()).step_by(997) {
                let mut flipped = behind.clone();
                flipped[at] ^= 1;
                let is_padding = at + INSIDE >= u32_at(&block, BYTES_AT) as usize;
                assert_eq!(read(&block, &flipped).is_ok(), is_padding, "byte {at}");
            }
        }
    }

    #[test]
    fn no_realms_leave_no_trace_and_damaged_ones_are_found() {
        let (block, _) = written(&Identities::new());
        assert_eq!(block, [0; BLOCK_BYTES]);
        assert_eq!(read(&block, &[]), Ok(None));
        let (block, _) = written(&identities(&[(1, false, "models"), (2, true, "kv")]));
        let end = REALMS_AT + u32_at(&block, BYTES_AT) as usize;
        for bit in AT * 8..end * 8 {
            let mut flipped = block.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // Longer ones would go on behind the body.
            assert!(read(&flipped, &vec![0; BYTES_MAX]).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn what_this_version_does_not_know_is_refused() {
        for bytes in [
            &[1, 0, 2, 0][..],
            &[1, 0, 0, 1],
            &[1, 0, 0],
            &[1, 0, 0, 1, 0xff],
        ] {
            let mut block = vec![0; BLOCK_BYTES];
            put(bytes, &mut block);
            assert_eq!(read(&block, &[]), Err(Wrong::Unknown), "{bytes:?}");
        }
    }

    #[test]
    fn long_names_are_cut_between_letters_and_compared_so() {
        let long = "ö".repeat(200);
        let options = RealmOptions {
            name: Some(long.as_str().into()),
            ..RealmOptions::new(RealmId(1))
        };
        let realms = Identities::from([(RealmId(1), Identity::of(&options))]);
        let (block, behind) = written(&realms);
        let found = read(&block, &behind).unwrap().unwrap();
        assert_eq!(found[&RealmId(1)].name.as_deref(), Some(&*"ö".repeat(127)));
        assert_eq!(compare(&found, &[options], |_| true), Ok(()));
    }

    #[test]
    fn a_realm_with_blobs_stays_who_it_is_unless_somebody_says_so() {
        let realm = RealmId(1);
        let known = identities(&[(1, false, "a"), (2, true, "b"), (3, false, "")]);
        let named = |id, name: &str| RealmOptions {
            name: Some(name.into()),
            ..RealmOptions::new(RealmId(id))
        };
        let cached = |options: RealmOptions| RealmOptions {
            cache: Some(Policy::Lru),
            ..options
        };
        let check = |options: RealmOptions| compare(&known, &[options], |_| true);
        let other = |realm, found: &str, configured: &str| {
            let (found, configured) = (found.into(), configured.into());
            Err(OpenError::OtherRealm {
                realm,
                found,
                configured,
            })
        };
        let durable = |realm, name: Option<&str>| {
            let name = name.map(Arc::from);
            Err(OpenError::DurableRealm { realm, name })
        };
        assert_eq!(check(named(1, "a")), Ok(()));
        assert_eq!(check(named(1, "b")), other(realm, "a", "b"));
        assert_eq!(check(cached(named(1, "a"))), durable(realm, Some("a")));
        assert_eq!(check(named(2, "a")), other(RealmId(2), "b", "a"));
        // A cache that becomes durable loses nothing, nor one that evicts by another policy.
        assert_eq!(check(named(2, "b")), Ok(()));
        let mut by_other = cached(named(2, "b"));
        by_other.cache = Some(Policy::S3Fifo);
        assert_eq!(check(by_other), Ok(()));
        // Who has no name may get one, and who asks for none gets what is there.
        assert_eq!(check(named(3, "c")), Ok(()));
        assert_eq!(check(RealmOptions::new(realm)), Ok(()));
        let unnamed = cached(RealmOptions::new(RealmId(3)));
        assert_eq!(check(unnamed), durable(RealmId(3), None));
        assert_eq!(check(cached(named(4, "new"))), Ok(()));

        let renamed = |was: &str| RealmOptions {
            was: Some(was.into()),
            ..named(1, "c")
        };
        assert_eq!(check(renamed("a")), Ok(()));
        assert_eq!(check(renamed("b")), other(realm, "a", "c"));
        // Saying the one says nothing of the other.
        assert_eq!(check(cached(renamed("a"))), durable(realm, Some("a")));
        let was_durable = |options: RealmOptions| RealmOptions {
            was_durable: true,
            ..cached(options)
        };
        assert_eq!(check(was_durable(named(1, "a"))), Ok(()));
        assert_eq!(check(was_durable(named(1, "c"))), other(realm, "a", "c"));
        assert_eq!(check(was_durable(renamed("a"))), Ok(()));

        let swapped = [named(1, "b"), cached(named(2, "a"))];
        assert_eq!(compare(&known, &swapped, |_| false), Ok(()));
        let only_two = |id| id == RealmId(2);
        let refused = other(RealmId(2), "b", "a");
        assert_eq!(compare(&known, &swapped, only_two), refused);
    }
}
