//! Where in the log a blob is: a key's fingerprint to its position.
