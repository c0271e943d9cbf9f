//! Ports: finding one, starting it, and the queues that frames go through.

use core::ffi::CStr;
use std::ffi::CString;
use std::io;
use std::sync::Arc;

use crate::describe::{Link, MacAddr, PortInfo, PortOptions, Stats};
use crate::eal::{AttachError, Eal, control};
use crate::mbuf::{Mbuf, PktPool};
use crate::ring::Rings;
use crate::{check, raw};

/// Why a port could not be found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FindError {
    /// The name cannot be passed to C.
    #[error("a port's name contains a NUL byte: remove it")]
    Name(#[from] std::ffi::NulError),
    /// No port has the name.
    #[error(
        "DPDK has no port {name}: attach the device first, and for a PCI device bind it to vfio-pci"
    )]
    NoSuchName {
        /// What was looked for.
        name: String,
    },
    /// No port has the address.
    #[error(
        "DPDK has no port with the address {mac}: attach the device first, and for a PCI device bind it to vfio-pci"
    )]
    NoSuchMac {
        /// What was looked for.
        mac: MacAddr,
    },
    /// The port has an owner in this process.
    #[error("port {id} is in use in this process: drop the other Port and its queues first")]
    InUse {
        /// DPDK's number of the port.
        id: u16,
    },
}

/// A question to a port, or a change of it, that failed.
#[derive(Debug, thiserror::Error)]
#[error(
    "port {id} did not {what} ({source}): its driver may not offer that, or the device is gone"
)]
pub struct PortError {
    /// DPDK's number of the port.
    pub id: u16,
    /// What was asked of it.
    pub what: &'static str,
    /// What DPDK reported.
    pub source: io::Error,
}

/// Why a port did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The device has fewer queues.
    #[error(
        "port {id} has {rx_max} receive and {tx_max} send queues at most, and {rx} and {tx} were asked for: ask for fewer, and for at least one"
    )]
    Queues {
        /// DPDK's number of the port.
        id: u16,
        /// Receive queues asked for.
        rx: u16,
        /// Send queues asked for.
        tx: u16,
        /// Receive queues there are.
        rx_max: u16,
        /// Send queues there are.
        tx_max: u16,
    },
    /// A step on the way failed.
    #[error(transparent)]
    Port(#[from] PortError),
}

/// What becomes of the device when its port is dropped.
#[derive(Debug)]
pub(crate) enum Removal {
    /// Someone else attached it: stopped and closed.
    Close,
    /// Detached too. The rings, if it is a ring port, may go only after that.
    Detach {
        name: CString,
        rings: Option<Arc<Rings>>,
    },
}

/// The one owner of a port. The port and its queues share it; the last of them ends the port.
#[derive(Debug)]
struct Claim<'eal> {
    id: u16,
    started: bool,
    removal: Removal,
    _eal: &'eal Eal,
}

impl Claim<'_> {
    fn check(&self, what: &'static str, rc: core::ffi::c_int) -> Result<(), PortError> {
        check(rc).map(drop).map_err(|source| PortError {
            id: self.id,
            what,
            source,
        })
    }

    fn info(&self) -> Result<PortInfo, PortError> {
        // SAFETY: a struct of numbers and arrays of them, for which all zero is a value.
        let mut info: raw::oriel_dpdk_port_info = unsafe { core::mem::zeroed() };
        // SAFETY: `info` is ours to write to, and a `Claim` means that the EAL runs.
        let rc = unsafe { raw::oriel_dpdk_port_info(self.id, &raw mut info) };
        self.check("describe itself", rc)?;
        Ok(PortInfo {
            name: text(&info.name),
            driver: text(&info.driver),
            mac: MacAddr(info.mac),
            rx_queues_max: info.max_rx_queues,
            tx_queues_max: info.max_tx_queues,
            numa_node: u16::try_from(info.socket).ok(),
        })
    }
}

/// The string in a C array; DPDK ends it with a zero.
fn text(array: &[core::ffi::c_char]) -> String {
    let bytes: Vec<u8> = array.iter().map(|&byte| byte.cast_unsigned()).collect();
    CStr::from_bytes_until_nul(&bytes)
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut owners = control();
        if self.started {
            // SAFETY: the last of the port and its queues is being dropped, so no burst runs, and
            // `owners` keeps other control calls away. A failure shows again in the next step.
            unsafe { raw::oriel_dpdk_port_stop(self.id) };
        }
        // SAFETY: as above; the port is stopped.
        let mut rc = unsafe { raw::oriel_dpdk_port_close(self.id) };
        if let Removal::Detach { name, rings } = &mut self.removal {
            // SAFETY: as above; both strings are alive.
            rc = unsafe { raw::oriel_dpdk_device_detach(c"vdev".as_ptr(), name.as_ptr()) };
            if rc != 0 {
                // The device is still there and uses its rings, so they have to stay.
                core::mem::forget(rings.take());
            }
        }
        // A port that would not go keeps its owner, so that nobody takes it in an unknown state
        // and the EAL is not torn down around it.
        if rc == 0 || matches!(self.removal, Removal::Close) {
            owners.remove(&self.id);
        }
    }
}

/// A port that does not run yet. Dropping it closes the port.
#[derive(Debug)]
pub struct Port<'eal> {
    claim: Claim<'eal>,
}

impl Eal {
    /// Attaches a virtual device, as `net_memif0` with its driver's arguments. Dropping the port
    /// and its queues detaches it.
    pub fn attach(&self, name: &str, arguments: &str) -> Result<Port<'_>, AttachError> {
        let c_name = CString::new(name)?;
        let c_arguments = CString::new(arguments)?;
        let mut owners = control();
        // SAFETY: the strings are alive, the EAL runs, and `owners` keeps other control calls away.
        let rc = unsafe {
            raw::oriel_dpdk_device_attach(c"vdev".as_ptr(), c_name.as_ptr(), c_arguments.as_ptr())
        };
        check(rc).map_err(|source| AttachError::Refused {
            name: name.to_owned(),
            arguments: arguments.to_owned(),
            source,
        })?;
        let mut id = raw::ORIEL_DPDK_PORT_NONE as u16;
        // SAFETY: `c_name` is alive and `id` is ours to write to; otherwise as above.
        let rc = unsafe { raw::oriel_dpdk_port_by_name(c_name.as_ptr(), &raw mut id) };
        if rc != 0 {
            // SAFETY: as for the attaching; nothing else knows of the device yet.
            unsafe { raw::oriel_dpdk_device_detach(c"vdev".as_ptr(), c_name.as_ptr()) };
            return Err(AttachError::NotAPort {
                name: name.to_owned(),
            });
        }
        owners.insert(id);
        drop(owners);
        Ok(Port::new(
            self,
            id,
            Removal::Detach {
                name: c_name,
                rings: None,
            },
        ))
    }

    /// Takes the port of a device that is there, by the device's name or PCI address.
    pub fn port_by_name(&self, name: &str) -> Result<Port<'_>, FindError> {
        let c_name = CString::new(name)?;
        self.take(|id| {
            // SAFETY: `c_name` is alive and `id` is writable; the EAL runs.
            let rc = unsafe { raw::oriel_dpdk_port_by_name(c_name.as_ptr(), id) };
            check(rc).map(drop).map_err(|_| FindError::NoSuchName {
                name: name.to_owned(),
            })
        })
    }

    /// Takes the first port that has the address.
    pub fn port_by_mac(&self, mac: MacAddr) -> Result<Port<'_>, FindError> {
        self.take(|id| {
            // SAFETY: the array has the length C expects, and `id` is writable; the EAL runs.
            let rc = unsafe { raw::oriel_dpdk_port_by_mac(mac.0.as_ptr(), id) };
            check(rc)
                .map(drop)
                .map_err(|_| FindError::NoSuchMac { mac })
        })
    }

    fn take(
        &self,
        find: impl FnOnce(&mut u16) -> Result<(), FindError>,
    ) -> Result<Port<'_>, FindError> {
        let mut owners = control();
        let mut id = raw::ORIEL_DPDK_PORT_NONE as u16;
        find(&mut id)?;
        if !owners.insert(id) {
            return Err(FindError::InUse { id });
        }
        drop(owners);
        Ok(Port::new(self, id, Removal::Close))
    }

    /// The devices that have a port, owned or not.
    pub fn port_ids(&self) -> Vec<u16> {
        let _owners = control();
        let next = |from: u16| {
            // SAFETY: the EAL runs; the control lock keeps ports from coming and going.
            let id = unsafe { raw::oriel_dpdk_port_next(from) };
            (u32::from(id) != raw::ORIEL_DPDK_PORT_NONE).then_some(id)
        };
        std::iter::successors(next(0), |&id| next(id + 1)).collect()
    }
}

impl<'eal> Port<'eal> {
    /// The caller has entered `id` among the owners.
    pub(crate) fn new(eal: &'eal Eal, id: u16, removal: Removal) -> Self {
        Self {
            claim: Claim {
                id,
                started: false,
                removal,
                _eal: eal,
            },
        }
    }

    /// DPDK's number of the port.
    pub fn id(&self) -> u16 {
        self.claim.id
    }

    /// What the port says of itself.
    pub fn info(&self) -> Result<PortInfo, PortError> {
        self.claim.info()
    }

    /// Sets up the queues, received frames being put into buffers of `pool`, and starts the port.
    pub fn start(
        mut self,
        options: &PortOptions,
        pool: PktPool<'eal>,
    ) -> Result<Started<'eal>, StartError> {
        let info = self.info()?;
        let (id, rx, tx) = (self.claim.id, options.rx_queues, options.tx_queues);
        let (rx_max, tx_max) = (info.rx_queues_max, info.tx_queues_max);
        if rx == 0 || tx == 0 || rx > rx_max || tx > tx_max {
            return Err(StartError::Queues {
                id,
                rx,
                tx,
                rx_max,
                tx_max,
            });
        }
        self.set_up(options, pool)?;
        let owners = control();
        // SAFETY: the port is configured and all its queues are set up; we own it and hold the
        // control lock.
        let rc = unsafe { raw::oriel_dpdk_port_start(id) };
        drop(owners);
        self.claim.check("start", rc)?;
        self.claim.started = true;
        let claim = Arc::new(self.claim);
        let rx = (0..rx)
            .map(|queue| RxQueue {
                queue,
                claim: Arc::clone(&claim),
            })
            .collect();
        let tx = (0..tx)
            .map(|queue| TxQueue {
                queue,
                claim: Arc::clone(&claim),
            })
            .collect();
        Ok(Started {
            port: ActivePort { claim },
            rx,
            tx,
        })
    }

    fn set_up(&self, options: &PortOptions, pool: PktPool<'eal>) -> Result<(), PortError> {
        let (id, claim) = (self.claim.id, &self.claim);
        let (mut rx_depth, mut tx_depth) = (options.rx_descriptors, options.tx_descriptors);
        let _owners = control();
        // SAFETY: the port is ours, is not running, and the control lock is held.
        let rc =
            unsafe { raw::oriel_dpdk_port_configure(id, options.rx_queues, options.tx_queues) };
        claim.check("take its configuration", rc)?;
        // SAFETY: as above; both numbers are ours to write to.
        let rc = unsafe {
            raw::oriel_dpdk_port_adjust_descriptors(id, &raw mut rx_depth, &raw mut tx_depth)
        };
        claim.check("say how many descriptors it takes", rc)?;
        if let Some(mtu) = options.mtu {
            // SAFETY: as above.
            let rc = unsafe { raw::oriel_dpdk_port_set_mtu(id, mtu) };
            claim.check("take the MTU", rc)?;
        }
        for queue in 0..options.rx_queues {
            // SAFETY: as above; the pool lives as long as the EAL, as the port does at most.
            let rc = unsafe { raw::oriel_dpdk_rx_queue_setup(id, queue, rx_depth, pool.as_ptr()) };
            claim.check("set up a receive queue", rc)?;
        }
        for queue in 0..options.tx_queues {
            // SAFETY: as above.
            let rc = unsafe { raw::oriel_dpdk_tx_queue_setup(id, queue, tx_depth) };
            claim.check("set up a send queue", rc)?;
        }
        if options.promiscuous {
            // SAFETY: as above.
            let rc = unsafe { raw::oriel_dpdk_port_set_promiscuous(id, true) };
            claim.check("become promiscuous", rc)?;
        }
        Ok(())
    }
}

/// A running port with its queues. Drop all three to stop it.
#[derive(Debug)]
pub struct Started<'eal> {
    /// The port.
    pub port: ActivePort<'eal>,
    /// Its receive queues.
    pub rx: Vec<RxQueue<'eal>>,
    /// Its send queues.
    pub tx: Vec<TxQueue<'eal>>,
}

/// A port that runs: what can be asked of it meanwhile, from any thread.
#[derive(Debug)]
pub struct ActivePort<'eal> {
    claim: Arc<Claim<'eal>>,
}

impl ActivePort<'_> {
    /// DPDK's number of the port.
    pub fn id(&self) -> u16 {
        self.claim.id
    }

    /// What the port says of itself.
    pub fn info(&self) -> Result<PortInfo, PortError> {
        self.claim.info()
    }

    /// Whether the port is connected now.
    pub fn link(&self) -> Result<Link, PortError> {
        let mut link = raw::oriel_dpdk_link {
            speed_mbps: 0,
            up: false,
            full_duplex: false,
        };
        let _owners = control();
        // SAFETY: `link` is ours to write to, and the port is ours.
        let rc = unsafe { raw::oriel_dpdk_port_link(self.claim.id, &raw mut link) };
        self.claim.check("tell its link", rc)?;
        let known = !matches!(link.speed_mbps, 0 | u32::MAX);
        Ok(Link {
            up: link.up,
            speed_mbps: known.then_some(link.speed_mbps),
            full_duplex: link.full_duplex,
        })
    }

    /// What the port has counted.
    pub fn stats(&self) -> Result<Stats, PortError> {
        // SAFETY: a struct of numbers, for which all zero is a value.
        let mut stats: raw::oriel_dpdk_stats = unsafe { core::mem::zeroed() };
        // SAFETY: `stats` is ours to write to, and the port is ours.
        let rc = unsafe { raw::oriel_dpdk_port_stats(self.claim.id, &raw mut stats) };
        self.claim.check("tell its counts", rc)?;
        Ok(Stats {
            rx_packets: stats.rx_packets,
            tx_packets: stats.tx_packets,
            rx_bytes: stats.rx_bytes,
            tx_bytes: stats.tx_bytes,
            rx_missed: stats.rx_missed,
            rx_errors: stats.rx_errors,
            tx_errors: stats.tx_errors,
            rx_no_buffer: stats.rx_no_buffer,
        })
    }

    /// Starts counting from zero. What is in flight meanwhile may be counted or not.
    pub fn reset_stats(&self) -> Result<(), PortError> {
        let _owners = control();
        // SAFETY: the port is ours and the control lock is held.
        let rc = unsafe { raw::oriel_dpdk_port_stats_reset(self.claim.id) };
        self.claim.check("reset its counts", rc)
    }
}

/// A receive queue, for one thread at a time.
#[derive(Debug)]
pub struct RxQueue<'eal> {
    queue: u16,
    claim: Arc<Claim<'eal>>,
}

impl<'eal> RxQueue<'eal> {
    /// Appends the frames that have come in to `frames`, up to its capacity, and returns how many.
    pub fn receive(&mut self, frames: &mut Vec<Mbuf<'eal>>) -> usize {
        let free = frames.spare_capacity_mut();
        let most = u16::try_from(free.len()).unwrap_or(u16::MAX);
        let free = free.as_mut_ptr().cast::<*mut raw::rte_mbuf>();
        // SAFETY: there is room for `most` of `Mbuf`, each one such pointer. The port runs while
        // `claim` is held, the queue is set up, and `&mut self` is the only user of it.
        let got = unsafe { raw::oriel_dpdk_rx_burst(self.claim.id, self.queue, free, most) };
        let got = usize::from(got);
        // SAFETY: DPDK has filled `got` elements with buffers that are now ours alone.
        unsafe { frames.set_len(frames.len() + got) };
        got
    }
}

/// A send queue, for one thread at a time.
#[derive(Debug)]
pub struct TxQueue<'eal> {
    queue: u16,
    claim: Arc<Claim<'eal>>,
}

impl<'eal> TxQueue<'eal> {
    /// Sends frames from the front of `frames` and returns how many. Those the queue had no room
    /// for stay in `frames`, in order.
    pub fn send(&mut self, frames: &mut Vec<Mbuf<'eal>>) -> usize {
        let count = u16::try_from(frames.len()).unwrap_or(u16::MAX);
        let first = frames.as_mut_ptr().cast::<*mut raw::rte_mbuf>();
        // SAFETY: there are `count` of `Mbuf`, each one such pointer. The port runs while `claim`
        // is held, the queue is set up, and `&mut self` is the only user of it.
        let sent = unsafe { raw::oriel_dpdk_tx_burst(self.claim.id, self.queue, first, count) };
        // These are the device's now: they leave the vector without being freed.
        frames
            .drain(..usize::from(sent))
            .for_each(core::mem::forget);
        usize::from(sent)
    }
}
