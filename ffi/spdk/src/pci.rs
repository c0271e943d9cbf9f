//! PCI addresses, and what the kernel says of the device at one.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::str::FromStr;

use thiserror::Error;

/// The address of a PCI function: domain, bus, device, function.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PciAddress {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

/// Why a PCI address could not be read.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("'{text}' is no PCI address: write it as lspci -D does, for example 0000:3b:00.0")]
pub struct PciAddressError {
    text: String,
}

impl FromStr for PciAddress {
    type Err = PciAddressError;

    fn from_str(text: &str) -> Result<Self, PciAddressError> {
        let error = || PciAddressError { text: text.into() };
        let hex = |part: &str, max: u32| {
            let sane = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_hexdigit());
            u32::from_str_radix(part, 16)
                .ok()
                .filter(|&value| sane && value <= max)
                .ok_or_else(error)
        };
        let (rest, function) = text.trim().rsplit_once('.').ok_or_else(error)?;
        let (rest, device) = rest.rsplit_once(':').ok_or_else(error)?;
        let (domain, bus) = rest.rsplit_once(':').unwrap_or(("0", rest));
        Ok(Self {
            domain: hex(domain, u32::MAX)?,
            bus: hex(bus, 0xff)? as u8,
            device: hex(device, 0x1f)? as u8,
            function: hex(function, 7)? as u8,
        })
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:04x}:{:02x}:{:02x}.{:x}",
            self.domain, self.bus, self.device, self.function
        )
    }
}

impl fmt::Debug for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PciAddress({self})")
    }
}

/// Who drives a PCI device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PciDriver {
    /// There is no device at the address.
    NoDevice,
    /// No driver is bound.
    Unbound,
    /// vfio-pci or uio: user space may drive it.
    UserSpace(String),
    /// A kernel driver holds it.
    Kernel(String),
}

impl PciAddress {
    /// Asks the kernel who drives the device at this address.
    pub fn driver(self) -> PciDriver {
        let device = PathBuf::from(format!("/sys/bus/pci/devices/{self}"));
        if !device.exists() {
            return PciDriver::NoDevice;
        }
        let driver = fs::read_link(device.join("driver"));
        let name = driver
            .ok()
            .and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
        match name {
            None => PciDriver::Unbound,
            Some(name) if matches!(&*name, "vfio-pci" | "uio_pci_generic" | "igb_uio") => {
                PciDriver::UserSpace(name)
            }
            Some(name) => PciDriver::Kernel(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_and_print_as_lspci_does() {
        for (text, printed) in [
            ("0000:3b:00.0", "0000:3b:00.0"),
            ("5e:1f.7", "0000:5e:1f.7"),
            ("10000:01:00.1", "10000:01:00.1"),
        ] {
            assert_eq!(text.parse::<PciAddress>().unwrap().to_string(), printed);
        }
        for text in [
            "",
            "00:00",
            "0000:00:20.0",
            "0000:00:00.8",
            "0000:zz:00.0",
            "1:2:3:4.5",
            "+0:00:00.0",
        ] {
            assert!(text.parse::<PciAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_address_without_a_device_says_so() {
        let nowhere: PciAddress = "fffe:ff:1f.7".parse().unwrap();
        assert_eq!(nowhere.driver(), PciDriver::NoDevice);
    }
}
