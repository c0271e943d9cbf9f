//! CRC32C, by which data are checked.
//!
//! By carry-less multiplication of whole vectors, where the CPU has it, which is faster than its own instruction for CRC32C.

/// That of some bytes.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// That of some bytes and of more behind them.
pub(crate) fn crc32c_append(before: u32, bytes: &[u8]) -> u32 {
    let state = u64::from(!before);
    let mut digest =
        crc_fast::Digest::new_with_init_state(crc_fast::CrcAlgorithm::Crc32Iscsi, state);
    digest.update(bytes);
    digest.finalize() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_the_instruction() {
        // The check value of the catalogue of CRCs, and an example of RFC 3720.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        let bytes: Vec<u8> = (0..9000_u32)
            .map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        for length in (0..300).chain([511, 512, 4092, 4095, 4096, 4097, 8192, 9000]) {
            for from in [0, 1, 7].into_iter().filter(|from| *from <= length) {
                let (expected, part) = (::crc32c::crc32c(&bytes[from..length]), length / 3);
                assert_eq!(crc32c(&bytes[from..length]), expected);
                let (first, behind) = bytes[from..length].split_at(part.min(length - from));
                assert_eq!(crc32c_append(crc32c(first), behind), expected);
                assert_eq!(crc32c_append(0, &bytes[from..length]), expected);
            }
        }
    }
}
