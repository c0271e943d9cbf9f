//! Files with the secrets of DH-HMAC-CHAP, as `nvme gen-dhchap-key` prints them:
//!
//! ```text
//!   DHHC-1:hh:base64 of 32, 48 or 64 bytes and their CRC-32, little endian:
//!          how it is transformed: 00 not, 01 to 03 by SHA-256, -384, -512
//! ```
//!
//! SPDK reads them when a host connects and says only that it does not work, so they are looked at before.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// More than any secret has.
const BYTES_MAX: u64 = 256;
/// Of its bytes behind the secret.
const CRC_BYTES: usize = 4;

/// Why a file holds no secret. None of them says what is in the file.
#[derive(Debug, thiserror::Error)]
pub(super) enum SecretError {
    #[error("cannot be read ({0}): name a file that the user of orield may read")]
    Unreadable(#[from] io::Error),
    #[error("is no file: name one with a secret in it")]
    NoFile,
    #[error("may be used by others than its owner (mode {mode:04o}): chmod 600")]
    Open { mode: u32 },
    #[error(
        "does not begin with DHHC-1:00: to DHHC-1:03: and end with a colon: make it with nvme gen-dhchap-key"
    )]
    Form,
    #[error(
        "holds no secret of 32, 48 or 64 bytes in base64: copy all of what nvme gen-dhchap-key printed"
    )]
    Secret,
    #[error("holds a secret with a wrong checksum: copy all of what nvme gen-dhchap-key printed")]
    Checksum,
}

/// Looks at a file before it is given to SPDK.
pub(super) fn check_file(path: &Path) -> Result<(), SecretError> {
    // Not opened before it is known to be a file: others may wait for somebody at their other end.
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(SecretError::NoFile);
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(SecretError::Open { mode });
    }
    let mut text = Vec::new();
    File::open(path)?
        .take(BYTES_MAX + 1)
        .read_to_end(&mut text)?;
    check(&text)
}

fn check(text: &[u8]) -> Result<(), SecretError> {
    let text = str::from_utf8(text).map_err(|_| SecretError::Form)?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let rest = text.strip_prefix("DHHC-1:0").ok_or(SecretError::Form)?;
    let rest = rest.strip_prefix(['0', '1', '2', '3']);
    let rest = rest.and_then(|rest| rest.strip_prefix(':'));
    let rest = rest.and_then(|rest| rest.strip_suffix(':'));
    let bytes = STANDARD.decode(rest.ok_or(SecretError::Form)?);
    let bytes = bytes.map_err(|_| SecretError::Secret)?;
    let (secret, crc) = bytes.split_last_chunk().ok_or(SecretError::Secret)?;
    if ![32, 48, 64].contains(&secret.len()) {
        return Err(SecretError::Secret);
    }
    let crc: [u8; CRC_BYTES] = *crc;
    match crc32(secret) == u32::from_le_bytes(crc) {
        true => Ok(()),
        false => Err(SecretError::Checksum),
    }
}

/// The checksum of Ethernet, a bit at a time: it is asked for a few bytes.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
    let byte = |crc: u32, byte: &u8| (0..8).fold(crc ^ u32::from(*byte), step);
    !bytes.iter().fold(u32::MAX, byte)
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    // As nvme gen-dhchap-key prints it, for a secret of 32 bytes of 1.
    const GOOD: &str = "DHHC-1:00:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQHMnzFi:";

    fn said(text: &str) -> String {
        let checked = check(text.as_bytes());
        checked.map_or_else(|error| error.to_string(), |()| "good".into())
    }

    #[test]
    fn only_whole_secrets_are_taken() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(said(GOOD), "good");
        assert_eq!(said(&format!("{GOOD}\n")), "good");
        assert_eq!(said(&GOOD.replace(":00:", ":03:")), "good");
        for (bad, word) in [
            (GOOD.replace(":00:", ":04:"), "DHHC-1:03"),
            (GOOD.replace("DHHC-1", "DHHC-2"), "does not begin"),
            (GOOD[..GOOD.len() - 1].into(), "end with a colon"),
            (format!("{GOOD}\n\n"), "end with a colon"),
            (String::new(), "does not begin"),
            ("DHHC-1:00::".into(), "32, 48 or 64"),
            (GOOD.replace("AQEB", ""), "32, 48 or 64"),
            (GOOD.replace("AQHM", "AQ!M"), "in base64"),
            (GOOD.replace("00:AQEB", "00:AQEC"), "wrong checksum"),
        ] {
            let said = said(&bad);
            assert!(said.contains(word), "{bad}: {said}");
            assert!(!said.contains("AQEB"), "{said}");
        }
    }

    #[test]
    fn a_secret_that_others_may_read_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        assert!(matches!(check_file(&path), Err(SecretError::Unreadable(_))));
        std::fs::write(&path, GOOD).unwrap();
        for (mode, is_good) in [(0o640, false), (0o604, false), (0o600, true)] {
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let checked = check_file(&path);
            assert_eq!(checked.is_ok(), is_good, "{mode:o}: {checked:?}");
        }
        let checked = check_file(directory.path());
        assert!(matches!(checked, Err(SecretError::NoFile)), "{checked:?}");
    }
}
