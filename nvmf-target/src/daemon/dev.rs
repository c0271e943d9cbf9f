//! A node for trying out, on a file.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::{DaemonError, LOOKED_AT, Source};
use crate::config::{Config, Device};

/// Bytes of the file that a node for trying out keeps its blobs in. It takes as much of the disk as it holds.
const DEV_BYTES: u64 = 8 << 30;
const DEV_FILE: &str = "drive";
const DEV_CONFIG: &str = "orield.toml";

/// The configuration of a node for trying out, in a directory that is made if it is not there: one file as its drive, one
/// realm for all hosts of this machine.
pub fn dev(directory: &Path, port: u16) -> Result<Source, DaemonError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        |source| DaemonError::Directory { path, source }
    };
    std::fs::create_dir_all(directory).map_err(failed(directory))?;
    let file = directory.join(DEV_CONFIG);
    let drive = directory.join(DEV_FILE);
    if !file.exists() {
        let mut id = [0; 16];
        let random = Path::new("/dev/urandom");
        File::open(random)
            .and_then(|mut source| source.read_exact(&mut id))
            .map_err(failed(random))?;
        let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let text = format!(
            "node = \"dev\"\nstore = \"{id}\"\n\n[format]\nslab_mib = 64\njournal_mib = 16\n\n[[device]]\npath = \"{DEV_FILE}\"\n\n\
             [[listener]]\naddress = \"127.0.0.1:{port}\"\n\n[status]\naddress = \"127.0.0.1:0\"\n\n[[realm]]\nname = \"default\"\nid = 1\nhosts = \"any\"\n"
        );
        // Whole or not at all.
        let half = directory.join("orield.toml.new");
        File::create(&half)
            .and_then(|mut half| half.write_all(text.as_bytes()))
            .and_then(|()| std::fs::rename(&half, &file))
            .map_err(failed(&file))?;
    }
    let config = Config::read(&file)?;
    let is_used = config.devices.contains(&Device::Path(drive.clone()));
    if is_used && !drive.exists() {
        File::create(&drive)
            .and_then(|drive| drive.set_len(DEV_BYTES))
            .map_err(failed(&drive))?;
    }
    // One that is blank beside others that are not is to be added to them.
    let mut is_new = true;
    for device in &config.devices {
        is_new = is_new
            && match device {
                Device::Path(path) => is_empty(path)?,
                Device::Pci(_) => false,
            };
    }
    Ok(Source {
        config,
        file,
        is_new,
    })
}

fn is_empty(path: &Path) -> Result<bool, DaemonError> {
    let look = || {
        let mut device = File::open(path)?;
        let end = device.seek(SeekFrom::End(0))?;
        for from in [0, end.saturating_sub(LOOKED_AT)] {
            device.seek(SeekFrom::Start(from))?;
            let mut bytes = Vec::new();
            (&device).take(LOOKED_AT).read_to_end(&mut bytes)?;
            if bytes.iter().any(|&byte| byte != 0) {
                return Ok(false);
            }
        }
        Ok(true)
    };
    look().map_err(|source| DaemonError::File {
        path: path.to_owned(),
        source,
    })
}
