//! Two ports of one process, joined back to back by the ring driver: what one sends, the other
//! receives, buffer and all. For tests, and for stages of one program.

use core::ptr::NonNull;
use std::ffi::CString;
use std::io;
use std::sync::Arc;

use crate::eal::{Eal, control};
use crate::port::{Port, Removal};
use crate::{check, raw};

/// Why a pair of ring ports could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RingError {
    /// The driver is not part of the build.
    #[error(
        "this program was built on a DPDK without the ring driver: run scripts/bootstrap and use what it builds"
    )]
    NoDriver,
    /// DPDK takes powers of two only.
    #[error("a ring has {slots} slots, which is not a power of two above 1: use one")]
    Slots {
        /// What was asked for.
        slots: u32,
    },
    /// The name cannot be passed to C.
    #[error("a ring's name contains a NUL byte: remove it")]
    Name(#[from] std::ffi::NulError),
    /// DPDK refused.
    #[error(
        "DPDK made no ring ports {name} ({source}): use a name that is not taken and at most 16 characters long, and check memory_mib"
    )]
    Refused {
        /// The pair.
        name: String,
        /// What DPDK reported.
        source: io::Error,
    },
}

/// A ring that frees itself and the frames left in it.
#[derive(Debug)]
struct Ring(NonNull<raw::rte_ring>);

// SAFETY: whoever holds a `Ring` does nothing with it but free it, once; the ports that use it
// are one producer and one consumer, and are gone by then (see `Rings`).
unsafe impl Send for Ring {}
// SAFETY: as for `Send`; `&Ring` gives access to the pointer's value only.
unsafe impl Sync for Ring {}

impl Ring {
    fn new(name: &str, slots: u32) -> Result<Self, RingError> {
        let c_name = CString::new(name)?;
        let mut error = 0;
        // SAFETY: `c_name` is a string that DPDK copies, `error` is ours to write to, and only
        // `pair` calls this, which borrows a running EAL.
        let ring = unsafe {
            raw::oriel_dpdk_ring_create(
                c_name.as_ptr(),
                slots,
                raw::ORIEL_DPDK_SOCKET_ANY,
                &raw mut error,
            )
        };
        NonNull::new(ring)
            .map(Self)
            .ok_or_else(|| RingError::Refused {
                name: name.to_owned(),
                source: io::Error::from_raw_os_error(-error),
            })
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: made in `new`, freed only here, and no port uses it any more: each port of the
        // pair holds the rings, and lets go after its device is detached.
        unsafe { raw::oriel_dpdk_ring_free(self.0.as_ptr()) };
    }
}

/// What both ports of a pair hold, so that the rings outlive the devices.
#[derive(Debug)]
pub(crate) struct Rings {
    _there: Ring,
    _back: Ring,
}

/// Makes two ports that are joined back to back. Each direction holds up to `slots - 1` frames;
/// `slots` is a power of two.
pub fn pair<'eal>(
    eal: &'eal Eal,
    name: &str,
    slots: u32,
) -> Result<(Port<'eal>, Port<'eal>), RingError> {
    // SAFETY: takes nothing and looks at the program itself.
    if !unsafe { raw::oriel_dpdk_has_ring_driver() } {
        return Err(RingError::NoDriver);
    }
    if !slots.is_power_of_two() || slots < 2 {
        return Err(RingError::Slots { slots });
    }
    let there = Ring::new(&format!("{name}-ab"), slots)?;
    let back = Ring::new(&format!("{name}-ba"), slots)?;
    let (ab, ba) = (there.0, back.0);
    let rings = Arc::new(Rings {
        _there: there,
        _back: back,
    });
    let a = port(eal, &format!("{name}_a"), ba, ab, &rings)?;
    let b = port(eal, &format!("{name}_b"), ab, ba, &rings)?;
    Ok((a, b))
}

fn port<'eal>(
    eal: &'eal Eal,
    name: &str,
    rx: NonNull<raw::rte_ring>,
    tx: NonNull<raw::rte_ring>,
    rings: &Arc<Rings>,
) -> Result<Port<'eal>, RingError> {
    let c_name = CString::new(name)?;
    // The driver puts this before the name.
    let device = CString::new(format!("net_ring_{name}"))?;
    let mut owners = control();
    // SAFETY: the strings and rings are alive, and the rings stay so while the port exists, since
    // the port gets a share of `rings` below.
    let rc = unsafe {
        raw::oriel_dpdk_port_from_rings(
            c_name.as_ptr(),
            rx.as_ptr(),
            tx.as_ptr(),
            raw::ORIEL_DPDK_SOCKET_ANY,
        )
    };
    let id = check(rc).map_err(|source| RingError::Refused {
        name: name.to_owned(),
        source,
    })?;
    let id = u16::try_from(id).expect("DPDK's port numbers have 16 bits");
    owners.insert(id);
    drop(owners);
    Ok(Port::new(
        eal,
        id,
        Removal::Detach {
            name: device,
            rings: Some(Arc::clone(rings)),
        },
    ))
}
