//! The queues to one controller, from the first Connect to the shutdown.
//!
//! ```text
//!   TCP ► ICReq/ICResp ► Connect (admin) ► CAP, CC.EN, CSTS.RDY ► Identify ► number of queues ► Connect (each I/O queue)
//! ```
//!
//! Set-up and shutdown run one command at a time and are waited for; what lies between is the driver's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::connection::{Buffers, ConnectionError, ConnectionOptions};
use crate::error::{ConnectError, Peer};
use crate::limits::{
    ADMIN_IN_CAPSULE_BYTES, ADMIN_QUEUE_ENTRIES, COMMAND_BYTES, DIAL_STEP, SHUTDOWN_TIME,
    TRANSFER_BYTES_MAX,
};
use crate::link::Link;
use crate::nvme::command::admin;
use crate::nvme::fabrics::{self, Capabilities, ControllerStatus, Property};
use crate::nvme::identify::{self, ControllerData, IDENTIFY_BYTES};
use crate::nvme::status::invalid_parameter;
use crate::nvme::{Command, Completion, Flow, Status};
use crate::options::Options;

const NUMBER_OF_QUEUES: u32 = 7;

/// One vector of data, which stands for whatever token.
struct One<'a>(&'a mut [u8]);

impl Buffers for One<'_> {
    fn bytes(&self, _: u64) -> Option<&[u8]> {
        Some(self.0)
    }

    fn bytes_mut(&mut self, _: u64) -> Option<&mut [u8]> {
        Some(self.0)
    }
}

/// Making connections to one controller.
pub(crate) struct Dialler<'a> {
    pub(crate) options: &'a Options,
    pub(crate) peer: &'a Arc<Peer>,
    /// Whether it is still wanted.
    pub(crate) goes_on: &'a dyn Fn() -> bool,
}

/// All queues to a controller.
pub(crate) struct Association {
    pub(crate) admin: Link,
    pub(crate) queues: Vec<Link>,
    pub(crate) data: ControllerData,
    /// Bytes of one command's data at most.
    pub(crate) transfer_bytes_max: u32,
    id: u16,
}

impl Dialler<'_> {
    fn peer(&self) -> Arc<Peer> {
        Arc::clone(self.peer)
    }

    fn broken(&self, source: ConnectionError) -> ConnectError {
        ConnectError::Connection {
            peer: self.peer(),
            source,
        }
    }

    /// All queues, or the reason why not.
    pub(crate) fn associate(&self) -> Result<Association, ConnectError> {
        let mut association = self.admin_queue()?;
        let wanted = self.options.queues;
        if wanted > 0 {
            let granted = self.grant_queues(&mut association, wanted)?;
            let capabilities = self.property(&mut association.admin, Property::Capabilities)?;
            for queue in 1..=granted {
                let link = self.io_queue(&association, Capabilities(capabilities), queue)?;
                association.queues.push(link);
            }
        }
        Ok(association)
    }

    fn link(&self, entries: u16, in_capsule_bytes: u32) -> Result<Link, ConnectError> {
        let options = ConnectionOptions {
            digests: self.options.digests,
            commands: entries - 1,
            in_capsule_bytes,
            r2ts: self.options.r2ts,
        };
        let (address, within) = (self.options.address, self.options.connect_timeout);
        let mut link = Link::dial(address, within, options, self.goes_on).map_err(|error| {
            match (self.goes_on)() {
                true => ConnectError::Unreachable {
                    peer: self.peer(),
                    kind: error.kind(),
                },
                false => ConnectError::Cancelled { peer: self.peer() },
            }
        })?;
        let until = Instant::now() + within;
        while !link.connection.is_ready() {
            self.check_time(until, "the ICReq")?;
            if let Err(source) = link.turn(&mut One(&mut []), DIAL_STEP) {
                link.part(&source);
                return Err(self.broken(source));
            }
        }
        if link.connection.digests() != self.options.digests {
            return Err(ConnectError::NoDigests { peer: self.peer() });
        }
        Ok(link)
    }

    fn check_time(&self, until: Instant, step: &'static str) -> Result<(), ConnectError> {
        if !(self.goes_on)() {
            return Err(ConnectError::Cancelled { peer: self.peer() });
        }
        if Instant::now() >= until {
            let after = self.options.connect_timeout;
            return Err(ConnectError::TimedOut {
                peer: self.peer(),
                step,
                after,
            });
        }
        Ok(())
    }

    /// Runs one command to its end, whatever that is.
    fn call(
        &self,
        link: &mut Link,
        command: Command,
        data: &mut [u8],
    ) -> Result<Completion, ConnectError> {
        let bytes = data.len() as u32;
        let until = Instant::now() + self.options.connect_timeout;
        link.connection.submit(0, command, bytes, None);
        let name = command.name(true);
        loop {
            if let Some(done) = link.connection.next_done() {
                let changed = |_| ConnectError::Short {
                    peer: self.peer(),
                    command: name,
                    found: 0,
                    expected: bytes,
                };
                let completion = done.result.map_err(changed)?;
                let is_whole = done.transferred == bytes || !completion.status.is_success();
                if !is_whole {
                    let (found, expected) = (done.transferred, bytes);
                    let peer = self.peer();
                    return Err(ConnectError::Short {
                        peer,
                        command: name,
                        found,
                        expected,
                    });
                }
                return Ok(completion);
            }
            self.check_time(until, "a command of the set-up")?;
            if let Err(source) = link.turn(&mut One(data), DIAL_STEP) {
                link.connection.part(&source);
                return Err(self.broken(source));
            }
        }
    }

    /// Runs one command that has to succeed.
    fn done(
        &self,
        link: &mut Link,
        command: Command,
        data: &mut [u8],
    ) -> Result<Completion, ConnectError> {
        let completion = self.call(link, command, data)?;
        match completion.status.is_success() {
            true => Ok(completion),
            false => Err(ConnectError::Command {
                peer: self.peer(),
                command: command.name(true),
                status: completion.status,
            }),
        }
    }

    fn property(&self, link: &mut Link, property: Property) -> Result<u64, ConnectError> {
        Ok(self.done(link, property.get(), &mut [])?.result)
    }

    /// Connects a queue and gives the controller's number.
    fn connect(
        &self,
        link: &mut Link,
        queue: u16,
        entries: u16,
        controller: u16,
    ) -> Result<u16, ConnectError> {
        let Options {
            subsystem,
            host,
            host_id,
            keep_alive,
            ..
        } = self.options;
        let keep_alive_ms = match (queue, keep_alive) {
            (0, Some(time)) => u32::try_from(time.as_millis()).unwrap_or(u32::MAX).max(1),
            _ => 0,
        };
        let mut data = fabrics::connect_data(host_id, controller, subsystem, host);
        let command = fabrics::connect(queue, entries, keep_alive_ms);
        let Completion { result, status } = self.call(link, command, &mut data)?;
        if !status.is_success() {
            let is_parameter = (status.kind, status.code) == (1, 0x82);
            return Err(ConnectError::Refused {
                peer: self.peer(),
                host: host.clone(),
                status,
                about: is_parameter.then(|| invalid_parameter(result)),
            });
        }
        // "AUTHREQ": either of its two bits wants an authentication before anything else.
        if result >> 16 & 3 != 0 {
            return Err(ConnectError::Authentication {
                peer: self.peer(),
                host: host.clone(),
            });
        }
        Ok(result as u16)
    }

    fn admin_queue(&self) -> Result<Association, ConnectError> {
        let entries = ADMIN_QUEUE_ENTRIES;
        let mut admin = self.link(entries, ADMIN_IN_CAPSULE_BYTES)?;
        let id = self.connect(&mut admin, 0, entries, fabrics::ANY_CONTROLLER)?;
        let capabilities = Capabilities(self.property(&mut admin, Property::Capabilities)?);
        self.done(
            &mut admin,
            Property::Configuration.set(fabrics::ENABLED),
            &mut [],
        )?;
        let until = Instant::now()
            + capabilities
                .ready_within()
                .max(self.options.connect_timeout);
        loop {
            let status = ControllerStatus(self.property(&mut admin, Property::Status)?);
            if status.has_failed() {
                return Err(ConnectError::ControllerFailed { peer: self.peer() });
            }
            if status.is_ready() {
                break;
            }
            self.check_time(until, "the wish to be ready (CC.EN)")?;
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut bytes = Box::new([0; IDENTIFY_BYTES]);
        self.done(&mut admin, identify::controller(), &mut bytes[..])?;
        let data = ControllerData::decode(&bytes, capabilities.page_bits());
        let limit = data.transfer_bytes_max.unwrap_or(u64::MAX);
        let transfer_bytes_max = limit.min(u64::from(TRANSFER_BYTES_MAX)) as u32;
        Ok(Association {
            admin,
            queues: Vec::new(),
            data,
            transfer_bytes_max,
            id,
        })
    }

    /// How many I/O queues there may be.
    fn grant_queues(
        &self,
        association: &mut Association,
        wanted: u16,
    ) -> Result<u16, ConnectError> {
        let both = u32::from(wanted - 1);
        let command = Command::new(admin::SET_FEATURES, 0, Flow::None)
            .dword(10, NUMBER_OF_QUEUES)
            .dword(11, both | both << 16);
        let granted = self.done(&mut association.admin, command, &mut [])?.dword();
        // Both numbers, of submission and completion queues, are 0's based.
        let granted = (granted & 0xffff).min(granted >> 16) + 1;
        Ok(granted.min(u32::from(wanted)) as u16)
    }

    fn io_queue(
        &self,
        association: &Association,
        capabilities: Capabilities,
        queue: u16,
    ) -> Result<Link, ConnectError> {
        let entries = u32::from(self.options.queue_entries).min(capabilities.queue_entries());
        let entries = (entries as u16).max(2);
        // Connect's own data go in the capsule if anything may: 1024 bytes.
        let in_capsule = association.data.in_capsule_bytes;
        let mut link = self.link(entries, in_capsule)?;
        self.connect(&mut link, queue, entries, association.id)?;
        Ok(link)
    }

    /// Tells the controller that this is the end, as NVMe wants it, and waits for a while until it says that all is well.
    pub(crate) fn shut_down(&self, association: Association) {
        let Association {
            mut admin, queues, ..
        } = association;
        drop(queues);
        let until = Instant::now() + SHUTDOWN_TIME;
        let asked = self.done(
            &mut admin,
            Property::Configuration.set(fabrics::SHUT_DOWN),
            &mut [],
        );
        if asked.is_err() {
            return;
        }
        while Instant::now() < until {
            match self.property(&mut admin, Property::Status) {
                Ok(status) if !ControllerStatus(status).is_shut_down() => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                _ => return,
            }
        }
    }
}

const _: () = assert!(ADMIN_IN_CAPSULE_BYTES as usize >= fabrics::CONNECT_BYTES + COMMAND_BYTES);

/// A controller without I/O queues, for one caller who waits for each command.
pub(crate) struct AdminOnly<'a> {
    pub(crate) dialler: Dialler<'a>,
    pub(crate) association: Association,
}

impl AdminOnly<'_> {
    pub(crate) fn done(
        &mut self,
        command: Command,
        data: &mut [u8],
    ) -> Result<Completion, ConnectError> {
        self.dialler
            .done(&mut self.association.admin, command, data)
    }

    pub(crate) fn end(self) {
        self.dialler.shut_down(self.association);
    }
}

/// A success says so, and anything else is an error of the keep-alive.
pub(crate) fn keep_alive_failed(completion: Completion) -> Option<Status> {
    (!completion.status.is_success()).then_some(completion.status)
}
