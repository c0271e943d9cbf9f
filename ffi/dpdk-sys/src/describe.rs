//! What a port is asked to be like, and what it says of itself.

use core::fmt;

use crate::raw;

/// The address of a port on its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MacAddr(pub [u8; raw::ORIEL_DPDK_MAC_LEN as usize]);

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// What a port is to be like when it runs.
#[derive(Clone, Debug)]
pub struct PortOptions {
    /// Number of receive queues.
    pub rx_queues: u16,
    /// Number of send queues.
    pub tx_queues: u16,
    /// Frames that a receive queue holds; brought into what the device takes.
    pub rx_descriptors: u16,
    /// Frames that a send queue holds; brought into what the device takes.
    pub tx_descriptors: u16,
    /// Largest payload of a frame, bytes. None: as the device has it.
    pub mtu: Option<u16>,
    /// Whether to take frames for other addresses too.
    pub promiscuous: bool,
}

impl Default for PortOptions {
    fn default() -> Self {
        Self {
            rx_queues: 1,
            tx_queues: 1,
            rx_descriptors: 1024,
            tx_descriptors: 1024,
            mtu: None,
            promiscuous: false,
        }
    }
}

/// What a port says of itself.
#[derive(Clone, Debug)]
pub struct PortInfo {
    /// The device, as `net_memif0` or a PCI address.
    pub name: String,
    /// Its driver.
    pub driver: String,
    /// Its address.
    pub mac: MacAddr,
    /// Receive queues it has.
    pub rx_queues_max: u16,
    /// Send queues it has.
    pub tx_queues_max: u16,
    /// The NUMA node it is at, where known.
    pub numa_node: Option<u16>,
}

/// Whether a port is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Whether frames can pass.
    pub up: bool,
    /// Megabits per second, where known.
    pub speed_mbps: Option<u32>,
    /// Whether both directions run at once.
    pub full_duplex: bool,
}

/// Counts since the port started or was last reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Frames received.
    pub rx_packets: u64,
    /// Frames sent.
    pub tx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Frames the device dropped because its queue was full.
    pub rx_missed: u64,
    /// Frames received damaged.
    pub rx_errors: u64,
    /// Frames that could not be sent.
    pub tx_errors: u64,
    /// Frames dropped because the pool had no buffer.
    pub rx_no_buffer: u64,
}
