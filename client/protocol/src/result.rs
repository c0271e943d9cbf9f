//! Dword 0 of a completion that ended well; and of a COMMIT that did not.

use crate::error::{DecodeError, Expected};

fn bits(field: &'static str, count: u8, dword: u32) -> Result<u32, DecodeError> {
    let known = u64::from(u32::MAX) >> (32 - u32::from(count.clamp(1, 32)));
    DecodeError::bits(field, u64::from(dword), known)?;
    Ok(dword)
}

fn flag(field: &'static str, dword: u32) -> Result<bool, DecodeError> {
    let expected = Expected::Between { least: 0, most: 1 };
    DecodeError::check(dword <= 1, field, u64::from(dword), expected)?;
    Ok(dword == 1)
}

/// PROBE: bit i says whether key i is there.
pub fn probe(keys: u8, dword: u32) -> Result<u32, DecodeError> {
    bits("dword 0 of a PROBE's completion", keys, dword)
}

/// PIN: bit i says whether key i is there and pinned; where its pin was to end, whether there was one.
pub fn pin(keys: u8, dword: u32) -> Result<u32, DecodeError> {
    bits("dword 0 of a PIN's completion", keys, dword)
}

/// COMMIT: bit i says whether record i made a blob; where it is 0, there was one of that key.
pub fn commit(records: u8, dword: u32) -> Result<u32, DecodeError> {
    bits("dword 0 of a COMMIT's completion", records, dword)
}

/// COMMIT with an error status: the record that it is about. Those before it were committed, those after it were not
/// looked at.
pub fn commit_failed(records: u8, dword: u32) -> Result<u8, DecodeError> {
    let most = u64::from(records).saturating_sub(1);
    let expected = Expected::Between { least: 0, most };
    let field = "dword 0 of a failed COMMIT's completion";
    DecodeError::check(
        dword < u32::from(records),
        field,
        u64::from(dword),
        expected,
    )?;
    Ok(dword as u8)
}

/// PUT: whether there is a blob where there was none.
pub fn put(dword: u32) -> Result<bool, DecodeError> {
    flag("dword 0 of a PUT's completion", dword)
}

/// DELETE: whether there was a blob.
pub fn delete(dword: u32) -> Result<bool, DecodeError> {
    flag("dword 0 of a DELETE's completion", dword)
}

/// PART: whether it is new; the same one can be put twice.
pub fn part(dword: u32) -> Result<bool, DecodeError> {
    flag("dword 0 of a PART's completion", dword)
}

/// FINISH: whether there is a blob where there was none.
pub fn finish(dword: u32) -> Result<bool, DecodeError> {
    flag("dword 0 of a FINISH's completion", dword)
}

/// The others: nothing.
pub fn nothing(dword: u32) -> Result<(), DecodeError> {
    DecodeError::exactly("dword 0 of the completion", u64::from(dword), 0)
}
