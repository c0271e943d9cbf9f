//! Sizes on the command line: bytes, or with a binary suffix (`4k`, `1M`).

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("\"{0}\" is no size: write bytes above 0, as 4096, or with k, M, G or T, as 4k")]
pub(crate) struct SizeError(String);

pub(crate) fn parse(text: &str) -> Result<u64, SizeError> {
    let error = || SizeError(text.to_owned());
    let suffixes = [
        ("k", 10),
        ("K", 10),
        ("m", 20),
        ("M", 20),
        ("g", 30),
        ("G", 30),
        ("T", 40),
    ];
    let found = suffixes
        .iter()
        .find_map(|(suffix, shift)| Some((text.strip_suffix(suffix)?, *shift)));
    let (digits, shift) = found.unwrap_or((text, 0));
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(error());
    }
    let bytes = digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift));
    bytes.filter(|bytes| *bytes > 0).ok_or_else(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_are_binary() {
        assert_eq!(parse("4096"), Ok(4096));
        assert_eq!(parse("4k"), Ok(4096));
        assert_eq!(parse("128K"), Ok(131_072));
        assert_eq!(parse("1M"), Ok(1 << 20));
        assert_eq!(parse("2T"), Ok(2 << 40));
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for bad in [
            "",
            "k",
            "0",
            "-1",
            "+1",
            "4kb",
            "1.5k",
            "99999999999T",
            "0x10",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
