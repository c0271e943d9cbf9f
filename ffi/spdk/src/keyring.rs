//! SPDK's keyring: secrets in files, known to SPDK by a name. From v24.05.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::json;
use thiserror::Error;

use crate::SPDK_RELEASE;
use crate::rpc::RpcError;
use crate::subsystems::Subsystems;

/// Why the keyring was not changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KeyringError {
    /// Too old a release.
    #[error("the linked SPDK v{release} has no keyring: link v24.05 or newer")]
    Unsupported {
        /// The release.
        release: &'static str,
    },
    /// No such file.
    #[error("the key file {} cannot be found ({source}): name a file that this user can read", path.display())]
    NoFile {
        /// The path.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// SPDK refused.
    #[error(
        "the key '{name}' was not {what}: is the name free or known, and is its file readable by its owner alone (chmod 600)?"
    )]
    Refused {
        /// The key's name.
        name: String,
        /// What was to happen: added or removed.
        what: &'static str,
        /// SPDK's words.
        source: RpcError,
    },
}

/// JSON-RPC's code for a method that the server does not know.
const METHOD_NOT_FOUND: i64 = -32601;

/// Makes the secret in a file known as `name`. The file may be read by its owner only; for
/// DH-HMAC-CHAP it holds one line as `nvme gen-dhchap-key` prints it.
pub async fn add_file(sub: &Subsystems, name: &str, path: &Path) -> Result<(), KeyringError> {
    let path = path.canonicalize().map_err(|source| KeyringError::NoFile {
        path: path.into(),
        source,
    })?;
    let params = json!({ "name": name, "path": path });
    call(sub, "keyring_file_add_key", name, "added", params).await
}

/// Forgets a key. Who uses it keeps it as long as it needs it.
pub async fn remove_file(sub: &Subsystems, name: &str) -> Result<(), KeyringError> {
    let params = json!({ "name": name });
    call(sub, "keyring_file_remove_key", name, "removed", params).await
}

async fn call(
    sub: &Subsystems,
    method: &str,
    name: &str,
    what: &'static str,
    params: serde_json::Value,
) -> Result<(), KeyringError> {
    match sub.rpc().call(method, params).await {
        Ok(_) => Ok(()),
        Err(RpcError::Refused { code, .. }) if code == METHOD_NOT_FOUND => {
            Err(KeyringError::Unsupported {
                release: SPDK_RELEASE,
            })
        }
        Err(source) => Err(KeyringError::Refused {
            name: name.into(),
            what,
            source,
        }),
    }
}
