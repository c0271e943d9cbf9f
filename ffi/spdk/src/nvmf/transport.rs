//! Transports: how hosts reach a target, with everything that can be set.
//!
//! An option that is `None` keeps SPDK's default. One that is set and that the linked release does
//! not have is refused by name and never ignored.

use std::ffi::{CStr, c_char, c_int};
use std::fmt;
use std::mem::ManuallyDrop;
use std::time::Duration;

use oriel_spdk_sys as sys;
use thiserror::Error;

use super::TargetInner;
use super::connections::Gate;
use super::sockets::Limits;
use crate::oneshot::{Reply, oneshot, reply_rc};
use crate::{SPDK_RELEASE, env};

/// The kinds of transport.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TransportKind {
    /// NVMe/TCP: any network.
    Tcp,
    /// NVMe/RDMA: RoCE, InfiniBand or iWARP.
    Rdma,
}

impl TransportKind {
    pub(crate) fn c_name(self) -> &'static CStr {
        match self {
            Self::Tcp => c"TCP",
            Self::Rdma => c"RDMA",
        }
    }
}

impl fmt::Display for TransportKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Rdma => "RDMA",
        })
    }
}

/// What only NVMe/TCP has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TcpOptions {
    /// Answer a read by its last data, without a response of its own.
    pub c2h_success: Option<bool>,
    /// The sockets' priority (`SO_PRIORITY`).
    pub socket_priority: Option<u32>,
    /// Requests kept for control messages of each queue pair. From v21.01.
    pub control_messages: Option<u16>,
    /// How long a host may take nothing of what waits for it, or give no sign of life, before its connection ends. If left
    /// out, one that takes nothing keeps its connection, and its buffers, for ever. Counts for addresses at which nobody of the target
    /// listens yet.
    pub host_patience: Option<Duration>,
    /// What of a connection's data is on its way at most. It is also what one turn of a poll group gives to one host while the others wait.
    /// Counts as the patience does.
    pub send_buffer_bytes: Option<u32>,
}

/// What only NVMe/RDMA has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RdmaOptions {
    /// Entries of the shared receive queue of each device and poll group.
    pub shared_receive_queue_depth: Option<u32>,
    /// Give each queue pair a receive queue of its own.
    pub no_shared_receive_queue: Option<bool>,
    /// Connections that may wait to be accepted.
    pub acceptor_backlog: Option<u32>,
    /// Post each work request at once. From v20.10.
    pub no_batching: Option<bool>,
    /// Entries of each completion queue. From v21.04.
    pub completion_queue_entries: Option<u32>,
}

/// A transport's own options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Specific {
    /// NVMe/TCP.
    Tcp(TcpOptions),
    /// NVMe/RDMA.
    Rdma(RdmaOptions),
}

/// How a transport is to work. Start from [`TransportOptions::tcp`] or [`TransportOptions::rdma`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransportOptions {
    /// What only this kind has.
    pub specific: Specific,
    /// Requests in flight on an I/O queue.
    pub queue_depth: Option<u16>,
    /// I/O queues of one controller.
    pub queues_per_controller: Option<u16>,
    /// Data that a command may carry itself, in bytes.
    pub in_capsule_bytes: Option<u32>,
    /// The largest transfer of one command, in bytes.
    pub io_bytes_max: Option<u32>,
    /// The size of one data buffer, in bytes.
    pub io_unit_bytes: Option<u32>,
    /// Requests in flight on an admin queue.
    pub admin_queue_depth: Option<u32>,
    /// Data buffers that all poll groups share.
    pub shared_buffers: Option<u32>,
    /// Data buffers that each poll group keeps for itself.
    pub buffer_cache: Option<u32>,
    /// Insert and strip protection information on behalf of hosts that do not.
    pub protection_insert_or_strip: Option<bool>,
    /// How long an aborted command may take, in whole seconds.
    pub abort_timeout: Option<Duration>,
    /// How long a new connection may take to become a controller. From v20.10.
    pub association_timeout: Option<Duration>,
    /// How often new connections are looked for. From v22.01; v20.07 looks every 10 ms.
    pub acceptor_period: Option<Duration>,
    /// Let devices lend their buffers. From v22.01.
    pub zero_copy: Option<bool>,
    /// How long the peer's network card may take to acknowledge. From v24.05.
    pub acknowledge_timeout: Option<Duration>,
    /// RDMA work requests for data that each poll group keeps. From v24.05.
    pub data_work_requests: Option<u32>,
    /// Never hand commands to devices as they came. From v24.09.
    pub no_command_passthrough: Option<bool>,
    /// The shortest keep-alive timeout that hosts may ask for. From v25.05.
    pub keep_alive_min: Option<Duration>,
    /// The step of keep-alive timeouts, in 100 ms (KAS of Identify Controller). From v25.05.
    pub keep_alive_granularity_100ms: Option<u16>,
    /// Optional NVM commands (ONCS of Identify Controller). From v26.01.
    pub optional_commands: Option<u16>,
    /// Fused operations (FUSES of Identify Controller). From v26.01.
    pub fused_operations: Option<u16>,
    /// Large buffers that each poll group keeps for itself. From v26.05.
    pub large_buffer_cache: Option<u32>,
}

/// Why a transport was not added.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransportError {
    /// It is there already.
    #[error("the target already has the {kind} transport: each can be added once")]
    Already {
        /// Which.
        kind: TransportKind,
    },
    /// An option that this release of SPDK lacks.
    #[error(
        "the linked SPDK v{release} has no transport option '{option}': leave it unset, or link a newer release"
    )]
    Unsupported {
        /// SPDK's name for the option.
        option: String,
        /// The release.
        release: &'static str,
    },
    /// No RDMA device.
    #[error(
        "this machine has no RDMA device: rdma link lists them; soft-RoCE makes one (rdma link add rxe0 type rxe netdev eth0)"
    )]
    NoRdmaDevice,
    /// The memory cannot be reached by RDMA devices: SPDK would use an address that it has not got.
    #[error("RDMA needs memory from hugepages, and this environment was started without them")]
    NeedsHugepages,
    /// SPDK was built without it.
    #[error("the linked SPDK was built without the {kind} transport")]
    NotBuilt {
        /// Which.
        kind: TransportKind,
    },
    /// SPDK refused.
    #[error("SPDK refused the {kind} transport ({}): its log says which option it does not like; there may also be too little memory for the buffers", std::io::Error::from_raw_os_error(*errno))]
    Refused {
        /// Which.
        kind: TransportKind,
        /// The positive errno.
        errno: i32,
    },
}

impl TransportOptions {
    /// NVMe/TCP with SPDK's defaults for everything else.
    pub fn tcp(options: TcpOptions) -> Self {
        Self::new(Specific::Tcp(options))
    }

    /// NVMe/RDMA with SPDK's defaults for everything else.
    pub fn rdma(options: RdmaOptions) -> Self {
        Self::new(Specific::Rdma(options))
    }

    fn new(specific: Specific) -> Self {
        Self {
            specific,
            queue_depth: None,
            queues_per_controller: None,
            in_capsule_bytes: None,
            io_bytes_max: None,
            io_unit_bytes: None,
            admin_queue_depth: None,
            shared_buffers: None,
            buffer_cache: None,
            protection_insert_or_strip: None,
            abort_timeout: None,
            association_timeout: None,
            acceptor_period: None,
            zero_copy: None,
            acknowledge_timeout: None,
            data_work_requests: None,
            no_command_passthrough: None,
            keep_alive_min: None,
            keep_alive_granularity_100ms: None,
            optional_commands: None,
            fused_operations: None,
            large_buffer_cache: None,
        }
    }

    /// Which transport this is about.
    pub fn kind(&self) -> TransportKind {
        match self.specific {
            Specific::Tcp(_) => TransportKind::Tcp,
            Specific::Rdma(_) => TransportKind::Rdma,
        }
    }

    fn raw(&self) -> sys::oriel_nvmf_transport_opts {
        fn number(value: Option<impl Into<i64>>) -> i64 {
            value.map_or(-1, Into::into)
        }
        fn time(value: Option<Duration>, unit: Duration) -> i64 {
            let count = |time: Duration| time.as_nanos().div_ceil(unit.as_nanos());
            value.map_or(-1, |time| {
                u32::try_from(count(time)).unwrap_or(u32::MAX).into()
            })
        }
        let (tcp, rdma) = match &self.specific {
            Specific::Tcp(tcp) => (tcp.clone(), RdmaOptions::default()),
            Specific::Rdma(rdma) => (TcpOptions::default(), rdma.clone()),
        };
        sys::oriel_nvmf_transport_opts {
            max_queue_depth: number(self.queue_depth),
            max_qpairs_per_ctrlr: number(self.queues_per_controller),
            in_capsule_data_size: number(self.in_capsule_bytes),
            max_io_size: number(self.io_bytes_max),
            io_unit_size: number(self.io_unit_bytes),
            max_aq_depth: number(self.admin_queue_depth),
            num_shared_buffers: number(self.shared_buffers),
            buf_cache_size: number(self.buffer_cache),
            dif_insert_or_strip: number(self.protection_insert_or_strip),
            abort_timeout_sec: time(self.abort_timeout, Duration::from_secs(1)),
            association_timeout_ms: time(self.association_timeout, Duration::from_millis(1)),
            acceptor_poll_rate_us: time(self.acceptor_period, Duration::from_micros(1)),
            zcopy: number(self.zero_copy),
            ack_timeout_ms: time(self.acknowledge_timeout, Duration::from_millis(1)),
            data_wr_pool_size: number(self.data_work_requests),
            disable_command_passthru: number(self.no_command_passthrough),
            min_kato_ms: time(self.keep_alive_min, Duration::from_millis(1)),
            kas: number(self.keep_alive_granularity_100ms),
            oncs: number(self.optional_commands),
            fuses: number(self.fused_operations),
            iobuf_large_cache_size: number(self.large_buffer_cache),
            max_srq_depth: number(rdma.shared_receive_queue_depth),
            no_srq: number(rdma.no_shared_receive_queue),
            acceptor_backlog: number(rdma.acceptor_backlog),
            no_wr_batching: number(rdma.no_batching),
            num_cqe: number(rdma.completion_queue_entries),
            c2h_success: number(tcp.c2h_success),
            sock_priority: number(tcp.socket_priority),
            control_msg_num: number(tcp.control_messages),
        }
    }
}

/// Whether the kernel knows any RDMA device.
fn has_rdma_device() -> bool {
    std::fs::read_dir("/sys/class/infiniband").is_ok_and(|mut devices| devices.next().is_some())
}

pub(super) async fn add(
    target: &TargetInner,
    options: &TransportOptions,
) -> Result<(), TransportError> {
    let kind = options.kind();
    if target.transports.borrow().contains(&kind) {
        return Err(TransportError::Already { kind });
    }
    if kind == TransportKind::Rdma && !has_rdma_device() {
        return Err(TransportError::NoRdmaDevice);
    }
    if kind == TransportKind::Rdma && !env::has_hugepages() {
        return Err(TransportError::NeedsHugepages);
    }
    let raw = options.raw();
    let gate = Gate::new(&target.connections).ok_or(TransportError::Refused {
        kind,
        errno: libc::ENOMEM,
    })?;
    let gate_raw = gate.as_ptr();
    target.gates.borrow_mut().push(ManuallyDrop::new(gate));
    let mut unsupported: *const c_char = std::ptr::null();
    let (reply, added) = oneshot::<c_int>();
    let ctx = reply.into_raw();
    let guard = target.shared.lock();
    let rc = target.home.enter(|| {
        // SAFETY: the target lives, and the gate longer; the shim copies the options, and reply_rc takes the reply back
        // once if the call returns 0 and never if not.
        unsafe {
            sys::oriel_nvmf_transport_add(
                target.raw.as_ptr(),
                kind.c_name().as_ptr(),
                &raw,
                gate_raw,
                &mut unsupported,
                Some(reply_rc),
                ctx,
            )
        }
    });
    drop(guard);
    if rc != 0 {
        // SAFETY: see above; the reply is still ours.
        drop(unsafe { Reply::<c_int>::from_raw(ctx) });
        if !unsupported.is_null() {
            // SAFETY: the shim names the option by a string literal.
            let option = unsafe { CStr::from_ptr(unsupported) };
            return Err(TransportError::Unsupported {
                option: option.to_string_lossy().into_owned(),
                release: SPDK_RELEASE,
            });
        }
        return Err(match rc.abs() {
            libc::EINVAL => TransportError::NotBuilt { kind },
            errno => TransportError::Refused { kind, errno },
        });
    }
    match added.await {
        0 => {
            target.transports.borrow_mut().push(kind);
            if let Specific::Tcp(tcp) = &options.specific {
                target.sockets.set(Limits {
                    patience: tcp.host_patience,
                    send_buffer: tcp.send_buffer_bytes,
                });
            }
            Ok(())
        }
        rc => Err(TransportError::Refused {
            kind,
            errno: rc.abs(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_set_stays_spdks_default() {
        let raw = TransportOptions::tcp(TcpOptions::default()).raw();
        // Every field is an i64, so the struct is an array of them.
        let fields = [
            raw.max_queue_depth,
            raw.zcopy,
            raw.num_cqe,
            raw.c2h_success,
            raw.kas,
        ];
        assert_eq!(fields, [-1; 5]);
    }

    #[test]
    fn units_are_rounded_up_and_never_overflow() {
        let options = TransportOptions {
            abort_timeout: Some(Duration::from_millis(1500)),
            association_timeout: Some(Duration::from_secs(u64::MAX)),
            zero_copy: Some(false),
            ..TransportOptions::rdma(RdmaOptions {
                no_shared_receive_queue: Some(true),
                ..RdmaOptions::default()
            })
        };
        let raw = options.raw();
        assert_eq!(raw.abort_timeout_sec, 2);
        assert_eq!(raw.association_timeout_ms, i64::from(u32::MAX));
        assert_eq!((raw.zcopy, raw.no_srq, raw.c2h_success), (0, 1, -1));
    }
}
