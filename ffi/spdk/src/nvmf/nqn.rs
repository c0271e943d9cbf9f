//! NVMe qualified names: who a subsystem or a host is.

use std::ffi::CString;
use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::limits::NQN_BYTES_MAX;

/// The well-known name of every discovery subsystem.
pub const DISCOVERY_NQN: &str = "nqn.2014-08.org.nvmexpress.discovery";

const UUID_PREFIX: &str = "nqn.2014-08.org.nvmexpress:uuid:";

/// The longest label of a domain name, as DNS has it.
const LABEL_BYTES_MAX: usize = 63;

/// A valid NVMe qualified name: `nqn.2016-06.io.oriel:node7`, or the UUID form.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Nqn {
    text: String,
}

/// Why a text is no NVMe qualified name.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum NqnError {
    /// Longer than the specification allows.
    #[error(
        "an NVMe qualified name of {bytes} bytes is too long: at most {NQN_BYTES_MAX} are allowed"
    )]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// No `nqn.yyyy-mm.` in front.
    #[error(
        "'{nqn}' is no NVMe qualified name: it begins with nqn.yyyy-mm. and goes on like nqn.2016-06.io.oriel:node7"
    )]
    NoDate {
        /// What was given.
        nqn: String,
    },
    /// The part between the date and the colon is no domain name.
    #[error(
        "'{nqn}' is no NVMe qualified name: after the date comes a reversed domain name, its labels of letters, digits and inner hyphens"
    )]
    BadDomain {
        /// What was given.
        nqn: String,
    },
    /// Nothing after a colon, or no colon.
    #[error(
        "'{nqn}' is no NVMe qualified name: a colon and a name of your own are missing at the end"
    )]
    NoName {
        /// What was given.
        nqn: String,
    },
    /// The UUID form without a UUID.
    #[error("'{nqn}' is no NVMe qualified name: what follows {UUID_PREFIX} is no UUID")]
    BadUuid {
        /// What was given.
        nqn: String,
    },
    /// A control character.
    #[error("an NVMe qualified name contains a control character")]
    Control,
}

impl Nqn {
    /// The name of discovery subsystems.
    pub fn discovery() -> Self {
        Self {
            text: DISCOVERY_NQN.into(),
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub(crate) fn to_c(&self) -> CString {
        CString::new(self.text.as_str()).expect("an Nqn contains no control character, so no NUL")
    }
}

fn is_date(text: &[u8]) -> bool {
    let digits = |range: std::ops::Range<usize>| {
        text.get(range)
            .is_some_and(|part| part.iter().all(u8::is_ascii_digit))
    };
    digits(0..4) && text.get(4) == Some(&b'-') && digits(5..7) && text.get(7) == Some(&b'.')
}

fn is_label(label: &str) -> bool {
    let bytes = label.as_bytes();
    bytes.len() <= LABEL_BYTES_MAX
        && bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
}

fn is_uuid(text: &str) -> bool {
    let lengths = text.split('-').map(str::len);
    lengths.eq([8, 4, 4, 4, 12])
        && text
            .bytes()
            .all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
}

impl FromStr for Nqn {
    type Err = NqnError;

    fn from_str(text: &str) -> Result<Self, NqnError> {
        let nqn = || text.to_owned();
        if text.len() > NQN_BYTES_MAX {
            return Err(NqnError::TooLong { bytes: text.len() });
        }
        if text.chars().any(char::is_control) {
            return Err(NqnError::Control);
        }
        let rest = text
            .strip_prefix("nqn.")
            .filter(|rest| is_date(rest.as_bytes()));
        let rest = rest.ok_or_else(|| NqnError::NoDate { nqn: nqn() })?;
        if text == DISCOVERY_NQN {
            return Ok(Self::discovery());
        }
        if let Some(uuid) = text.strip_prefix(UUID_PREFIX) {
            if !is_uuid(uuid) {
                return Err(NqnError::BadUuid { nqn: nqn() });
            }
            return Ok(Self { text: nqn() });
        }
        let named = rest[8..]
            .split_once(':')
            .filter(|(_, name)| !name.is_empty());
        let (domain, _) = named.ok_or_else(|| NqnError::NoName { nqn: nqn() })?;
        if !domain.split('.').all(is_label) {
            return Err(NqnError::BadDomain { nqn: nqn() });
        }
        Ok(Self { text: nqn() })
    }
}

impl fmt::Display for Nqn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Nqn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nqn({})", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_the_specification_gives_them_are_taken() {
        for text in [
            "nqn.2014-08.com.example:nvme:nvm-subsystem-sn-d78432",
            "nqn.2014-08.org.nvmexpress:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
            "nqn.2014-08.org.nvmexpress.discovery",
            "nqn.2016-06.io.oriel:Grüße",
        ] {
            assert_eq!(text.parse::<Nqn>().unwrap().as_str(), text);
        }
    }

    #[test]
    fn each_fault_is_named() {
        let fault = |text: &str| text.parse::<Nqn>().unwrap_err();
        let long = format!("nqn.2016-06.io.oriel:{}", "x".repeat(203));
        assert_eq!(fault(&long), NqnError::TooLong { bytes: 224 });
        for text in [
            "",
            "nqn",
            "iqn.2016-06.io:x",
            "nqn.2016-6.io:x",
            "nqn.201a-06.io:x",
            "nqn.2016-06",
        ] {
            assert!(matches!(fault(text), NqnError::NoDate { .. }), "{text}");
        }
        for text in ["nqn.2016-06.io", "nqn.2016-06.io:", "nqn.2016-06."] {
            assert!(matches!(fault(text), NqnError::NoName { .. }), "{text}");
        }
        for text in [
            "nqn.2016-06.:x",
            "nqn.2016-06.io..a:x",
            "nqn.2016-06.-io:x",
            "nqn.2016-06.io-:x",
            "nqn.2016-06.1o:x",
        ] {
            assert!(matches!(fault(text), NqnError::BadDomain { .. }), "{text}");
        }
        let uuid = "nqn.2014-08.org.nvmexpress:uuid:f81d4fae-7dec-11d0-a765";
        assert!(matches!(fault(uuid), NqnError::BadUuid { .. }));
        assert_eq!(fault("nqn.2016-06.io:a\nb"), NqnError::Control);
    }
}
