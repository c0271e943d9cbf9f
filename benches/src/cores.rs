//! Core masks as SPDK's programs take them: hexadecimal (`0x3`, `3`) or a list
//! in brackets (`[0,2-4]`).

use std::collections::BTreeSet;

/// More cores than any machine that DPDK supports has.
const CORES_MAX: u32 = 1024;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum MaskError {
    #[error(
        "\"{0}\" is no core mask: write it in hexadecimal, as 0x3, or as a list, as [0,1] or [0-3]"
    )]
    Syntax(String),
    #[error("the core mask \"{0}\" names no core: give at least one, as 0x1")]
    Empty(String),
    #[error("core {core} of \"{mask}\" is beyond the {CORES_MAX} cores that SPDK can address")]
    TooLarge { mask: String, core: u32 },
}

pub(crate) fn parse(mask: &str) -> Result<BTreeSet<u32>, MaskError> {
    let text = mask.trim();
    let cores = match text.strip_prefix('[') {
        Some(list) => parse_list(mask, list.strip_suffix(']').ok_or_else(|| syntax(mask))?)?,
        None => parse_hex(mask, text)?,
    };
    if cores.is_empty() {
        return Err(MaskError::Empty(mask.to_owned()));
    }
    Ok(cores)
}

/// The mask as bdevperf prints and takes it.
pub(crate) fn to_hex(cores: &BTreeSet<u32>) -> String {
    let digits = cores.last().map_or(1, |last| last / 4 + 1);
    let digit = |place: u32| {
        (0..4)
            .filter(|bit| cores.contains(&(place * 4 + bit)))
            .map(|bit| 1 << bit)
            .sum()
    };
    let digits = (0..digits)
        .rev()
        .map(|place| char::from_digit(digit(place), 16).unwrap_or('0'));
    format!("0x{}", digits.collect::<String>())
}

fn syntax(mask: &str) -> MaskError {
    MaskError::Syntax(mask.to_owned())
}

fn parse_hex(mask: &str, text: &str) -> Result<BTreeSet<u32>, MaskError> {
    let digits = text
        .strip_prefix("0x")
        .or_else(|| text.strip_prefix("0X"))
        .unwrap_or(text);
    if digits.is_empty() {
        return Err(syntax(mask));
    }
    let mut cores = BTreeSet::new();
    for (place, digit) in (0u32..).zip(digits.chars().rev()) {
        let value = digit.to_digit(16).ok_or_else(|| syntax(mask))?;
        for bit in (0..4).filter(|bit| value >> bit & 1 == 1) {
            cores.insert(checked(mask, place * 4 + bit)?);
        }
    }
    Ok(cores)
}

fn parse_list(mask: &str, list: &str) -> Result<BTreeSet<u32>, MaskError> {
    let number = |text: &str| text.trim().parse::<u32>().map_err(|_| syntax(mask));
    let mut cores = BTreeSet::new();
    for item in list.split(',') {
        let (from, to) = item.split_once('-').unwrap_or((item, item));
        let (from, to) = (number(from)?, checked(mask, number(to)?)?);
        if from > to {
            return Err(syntax(mask));
        }
        cores.extend(from..=to);
    }
    Ok(cores)
}

fn checked(mask: &str, core: u32) -> Result<u32, MaskError> {
    if core < CORES_MAX {
        Ok(core)
    } else {
        Err(MaskError::TooLarge {
            mask: mask.to_owned(),
            core,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cores(mask: &str) -> Vec<u32> {
        parse(mask).unwrap().into_iter().collect()
    }

    #[test]
    fn masks_and_lists_name_the_same_cores() {
        assert_eq!(cores("0x1"), [0]);
        assert_eq!(cores("3"), [0, 1]);
        assert_eq!(cores("0xF0"), [4, 5, 6, 7]);
        assert_eq!(cores("[0,2-4]"), [0, 2, 3, 4]);
        assert_eq!(cores(" [ 1 , 5 ] "), [1, 5]);
    }

    #[test]
    fn senseless_masks_are_refused() {
        for bad in ["", "0x", "xyz", "[0", "[]", "[3-1]", "[a]", "-1", "[1,]"] {
            assert!(matches!(parse(bad), Err(MaskError::Syntax(_))), "{bad}");
        }
        assert_eq!(parse("0x0"), Err(MaskError::Empty("0x0".into())));
        assert!(matches!(
            parse("[0-4000000000]"),
            Err(MaskError::TooLarge { .. })
        ));
    }

    proptest! {
        #[test]
        fn printing_and_parsing_are_inverse(cores in prop::collection::btree_set(0..CORES_MAX, 1..20)) {
            prop_assert_eq!(parse(&to_hex(&cores)).unwrap(), cores);
        }

        #[test]
        fn no_input_panics(text in "\\PC*") {
            let _ = parse(&text);
        }
    }
}
