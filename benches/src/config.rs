//! SPDK's JSON configuration, as far as it makes bdevs.
//!
//! The file is the one that SPDK's own programs take with `-c`. Whatever this
//! program would not act on is an error: a silently skipped method would make
//! a comparison measure two different things.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One bdev to create, with SPDK's names for methods and parameters.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(tag = "method", content = "params")]
pub(crate) enum Create {
    #[serde(rename = "bdev_malloc_create")]
    Malloc(MemoryDrive),
    #[serde(rename = "bdev_null_create")]
    Null(MemoryDrive),
    #[serde(rename = "bdev_aio_create")]
    Aio(FileDrive),
    #[serde(rename = "bdev_uring_create")]
    Uring(FileDrive),
    #[serde(rename = "bdev_nvme_attach_controller")]
    Nvme(Controller),
    #[serde(rename = "bdev_error_create")]
    Error(ErrorDrive),
    #[serde(rename = "bdev_delay_create")]
    Delay(DelayDrive),
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MemoryDrive {
    pub(crate) name: String,
    pub(crate) num_blocks: u64,
    pub(crate) block_size: u32,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileDrive {
    pub(crate) name: String,
    pub(crate) filename: PathBuf,
    /// 0 or absent: the device's own.
    #[serde(default)]
    pub(crate) block_size: u32,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Controller {
    pub(crate) name: String,
    pub(crate) trtype: String,
    pub(crate) traddr: String,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ErrorDrive {
    pub(crate) base_name: String,
}

/// Latencies in microseconds, as SPDK's method takes them.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DelayDrive {
    pub(crate) name: String,
    pub(crate) base_bdev_name: String,
    pub(crate) avg_read_latency: u64,
    pub(crate) p99_read_latency: u64,
    pub(crate) avg_write_latency: u64,
    pub(crate) p99_write_latency: u64,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ConfigError {
    #[error("cannot read the configuration {}: {source}", path.display())]
    Unreadable {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{} is not SPDK's JSON configuration ({{\"subsystems\": [...]}}): {source}", path.display())]
    Shape {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("{}: subsystem \"{subsystem}\" is not supported here: keep only \"bdev\"", path.display())]
    Subsystem { path: PathBuf, subsystem: String },
    #[error("{}: method \"{method}\" is not supported here: use one of {METHODS}", path.display())]
    Method { path: PathBuf, method: String },
    #[error("{}: the parameters of \"{method}\" are wrong: {source}", path.display())]
    Params {
        path: PathBuf,
        method: String,
        source: serde_json::Error,
    },
    #[error("{}: it creates no bdev: add a method such as bdev_malloc_create", path.display())]
    Nothing { path: PathBuf },
}

const METHODS: &str = "bdev_malloc_create, bdev_null_create, bdev_aio_create, bdev_uring_create, \
    bdev_nvme_attach_controller, bdev_error_create, bdev_delay_create";

/// What `save_config` of SPDK adds although it changes nothing here.
const HARMLESS_METHODS: [&str; 1] = ["bdev_wait_for_examine"];
/// A bdev's identity does not touch how fast it is.
const HARMLESS_PARAMS: [&str; 1] = ["uuid"];

#[derive(Deserialize)]
struct File {
    subsystems: Vec<Subsystem>,
}

#[derive(Deserialize)]
struct Subsystem {
    subsystem: String,
    #[serde(default)]
    config: Option<Vec<Call>>,
}

#[derive(Deserialize)]
struct Call {
    method: String,
    #[serde(default)]
    params: Value,
}

pub(crate) fn read(path: &Path) -> Result<Vec<Create>, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    parse(path, &text)
}

fn parse(path: &Path, text: &str) -> Result<Vec<Create>, ConfigError> {
    let path = path.to_owned();
    let file: File = match serde_json::from_str(text) {
        Ok(file) => file,
        Err(source) => return Err(ConfigError::Shape { path, source }),
    };
    let mut creates = Vec::new();
    for Subsystem { subsystem, config } in file.subsystems {
        let calls = config.unwrap_or_default();
        if subsystem != "bdev" && !calls.is_empty() {
            return Err(ConfigError::Subsystem { path, subsystem });
        }
        for Call { method, mut params } in calls {
            if HARMLESS_METHODS.contains(&method.as_str()) {
                continue;
            }
            if !METHODS.split(", ").any(|known| known.trim() == method) {
                return Err(ConfigError::Method { path, method });
            }
            if let Some(params) = params.as_object_mut() {
                params.retain(|key, _| !HARMLESS_PARAMS.contains(&key.as_str()));
            }
            let call = serde_json::json!({ "method": method, "params": params });
            match serde_json::from_value(call) {
                Ok(create) => creates.push(create),
                Err(source) => {
                    return Err(ConfigError::Params {
                        path,
                        method,
                        source,
                    });
                }
            }
        }
    }
    if creates.is_empty() {
        return Err(ConfigError::Nothing { path });
    }
    Ok(creates)
}

/// The same bdevs as a file that SPDK's programs take.
pub(crate) fn to_json(creates: &[Create]) -> Value {
    serde_json::json!({ "subsystems": [{ "subsystem": "bdev", "config": creates }] })
}

impl Create {
    /// The name under which the bdev will be found; a controller's drives are
    /// called after its namespaces.
    pub(crate) fn bdev_name(&self) -> String {
        match self {
            Self::Malloc(drive) | Self::Null(drive) => drive.name.clone(),
            Self::Aio(drive) | Self::Uring(drive) => drive.name.clone(),
            Self::Nvme(controller) => format!("{}n1", controller.name),
            Self::Error(drive) => format!("EE_{}", drive.base_name),
            Self::Delay(drive) => drive.name.clone(),
        }
    }

    /// Memory that the drive's content takes out of the DMA memory.
    pub(crate) fn dma_bytes(&self) -> u64 {
        match self {
            Self::Malloc(drive) => drive.num_blocks.saturating_mul(u64::from(drive.block_size)),
            _ => 0,
        }
    }

    /// A drive for a name that no configuration explains, so that a newcomer
    /// needs no file: `Malloc…` is memory, `Null…` discards everything.
    pub(crate) fn by_name(name: &str) -> Option<Self> {
        let drive = |num_blocks, block_size| MemoryDrive {
            name: name.to_owned(),
            num_blocks,
            block_size,
        };
        if name.starts_with("Malloc") {
            Some(Self::Malloc(drive(MALLOC_BLOCKS, 512)))
        } else if name.starts_with("Null") {
            Some(Self::Null(drive(NULL_BLOCKS, 512)))
        } else {
            None
        }
    }
}

/// 64 MiB: fits the least memory SPDK starts with.
const MALLOC_BLOCKS: u64 = 64 * 1024 * 1024 / 512;
/// 100 GiB: costs nothing.
const NULL_BLOCKS: u64 = 100 * 1024 * 1024 * 1024 / 512;

#[cfg(test)]
mod tests {
    use super::*;

    fn config(calls: &str) -> Result<Vec<Create>, ConfigError> {
        parse(
            Path::new("bdev.json"),
            &format!(r#"{{"subsystems":[{{"subsystem":"bdev","config":[{calls}]}}]}}"#),
        )
    }

    #[test]
    fn every_method_is_read_and_written_back() {
        let calls = r#"
            {"method":"bdev_malloc_create","params":{"name":"Malloc0","num_blocks":131072,"block_size":512,"uuid":"x"}},
            {"method":"bdev_null_create","params":{"name":"Null0","num_blocks":10,"block_size":4096}},
            {"method":"bdev_aio_create","params":{"name":"Aio0","filename":"/tmp/a"}},
            {"method":"bdev_uring_create","params":{"name":"Uring0","filename":"/tmp/a","block_size":512}},
            {"method":"bdev_nvme_attach_controller","params":{"name":"Nvme0","trtype":"PCIe","traddr":"0000:01:00.0"}},
            {"method":"bdev_error_create","params":{"base_name":"Malloc0"}},
            {"method":"bdev_delay_create","params":{"name":"Delay0","base_bdev_name":"Null0","avg_read_latency":1,
              "p99_read_latency":2,"avg_write_latency":3,"p99_write_latency":4}},
            {"method":"bdev_wait_for_examine"}"#;
        let creates = config(calls).unwrap();
        let names: Vec<_> = creates.iter().map(Create::bdev_name).collect();
        assert_eq!(
            names,
            [
                "Malloc0",
                "Null0",
                "Aio0",
                "Uring0",
                "Nvme0n1",
                "EE_Malloc0",
                "Delay0"
            ]
        );
        let again = parse(Path::new("again.json"), &to_json(&creates).to_string()).unwrap();
        assert_eq!(again, creates);
    }

    #[test]
    fn an_unknown_method_is_named_with_what_there_is() {
        let error = config(r#"{"method":"bdev_raid_create","params":{}}"#)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("bdev_raid_create") && error.contains("bdev_malloc_create"),
            "{error}"
        );
    }

    #[test]
    fn an_unknown_or_missing_parameter_is_named() {
        let error = config(
            r#"{"method":"bdev_null_create","params":{"name":"N","num_blocks":1,"block_size":512,"x":1}}"#,
        );
        assert!(error.unwrap_err().to_string().contains("`x`"));
        let error = config(r#"{"method":"bdev_null_create","params":{"name":"N","num_blocks":1}}"#);
        assert!(error.unwrap_err().to_string().contains("block_size"));
        assert!(matches!(
            config(r#"{"method":"bdev_null_create"}"#),
            Err(ConfigError::Params { .. })
        ));
    }

    #[test]
    fn other_subsystems_are_only_taken_when_empty() {
        let path = Path::new("x");
        let ok = r#"{"subsystems":[{"subsystem":"sock","config":null},{"subsystem":"bdev","config":
            [{"method":"bdev_malloc_create","params":{"name":"M","num_blocks":8,"block_size":512}}]}]}"#;
        assert_eq!(parse(path, ok).unwrap().len(), 1);
        let bad = r#"{"subsystems":[{"subsystem":"nvmf","config":[{"method":"nvmf_create_transport"}]}]}"#;
        assert!(matches!(
            parse(path, bad),
            Err(ConfigError::Subsystem { .. })
        ));
    }

    #[test]
    fn what_is_no_configuration_is_refused() {
        assert!(matches!(
            parse(Path::new("x"), "[global]"),
            Err(ConfigError::Shape { .. })
        ));
        assert!(matches!(
            parse(Path::new("x"), "{}"),
            Err(ConfigError::Shape { .. })
        ));
        assert!(matches!(
            parse(Path::new("x"), r#"{"subsystems":[]}"#),
            Err(ConfigError::Nothing { .. })
        ));
        assert!(matches!(
            read(Path::new("/nonexistent/x")),
            Err(ConfigError::Unreadable { .. })
        ));
    }

    #[test]
    fn familiar_names_need_no_configuration() {
        assert!(matches!(
            Create::by_name("Malloc0"),
            Some(Create::Malloc(_))
        ));
        assert!(matches!(Create::by_name("Null7"), Some(Create::Null(_))));
        assert!(Create::by_name("Nvme0n1").is_none());
    }
}
