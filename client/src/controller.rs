//! A controller as its users see it.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::driver::{Connected, Driver, Shared};
use crate::error::{CommandError, ConnectError, NamespaceError, Peer};
use crate::limits::QUEUES_MAX;
use crate::memory::{Memory, Nothing};
use crate::namespace::Namespace;
use crate::nvme::identify::{self, ControllerData, IDENTIFY_BYTES, NamespaceData};
use crate::nvme::{Command, Flow};
use crate::options::Options;
use crate::pending::{Answer, Pending, block_on, promise};
use crate::poller::Poller;
use crate::request::{Submission, Work};

/// What its handles share.
pub(crate) struct Inner {
    pub(crate) shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    data: ControllerData,
    pub(crate) transfer_bytes_max: u32,
    queues: usize,
    timeout: Duration,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // What is under way goes on to its end, and the thread ends by itself.
        self.shared.close();
    }
}

/// A connected controller. Clones are the same one; when the last is gone, requests that are under way still end, then the
/// controller is shut down. [`Controller::close`] waits for that.
#[derive(Clone)]
pub struct Controller(pub(crate) Arc<Inner>);

/// A controller that is being connected to.
#[must_use = "the controller comes out of it"]
pub struct Connecting {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    answer: Answer<Connected>,
    timeout: Duration,
    /// The controller is its user's.
    is_handed_on: bool,
}

impl Connecting {
    /// Waits on this thread.
    pub fn wait(self) -> Result<Controller, ConnectError> {
        block_on(self)
    }
}

impl Future for Connecting {
    type Output = Result<Controller, ConnectError>;

    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.answer.poll(cx).map(|connected| {
            let connected = connected.expect("the I/O thread says how connecting went");
            let (data, transfer_bytes_max, queues) = connected?;
            self.is_handed_on = true;
            Ok(Controller(Arc::new(Inner {
                shared: Arc::clone(&self.shared),
                thread: Mutex::new(self.thread.take()),
                data,
                transfer_bytes_max,
                queues,
                timeout: self.timeout,
            })))
        })
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        // Nobody wants the connection any more.
        if !self.is_handed_on {
            self.shared.close();
        }
    }
}

impl Controller {
    /// Begins to connect: all queues, on a thread of its own that does this controller's I/O from then on.
    pub fn connect(options: Options) -> Result<Connecting, ConnectError> {
        let (mut connecting, mut poller) = Self::connect_polled(options)?;
        let failed = |error: std::io::Error| ConnectError::Thread {
            peer: Arc::clone(&connecting.shared.peer),
            kind: error.kind(),
        };
        let thread = std::thread::Builder::new().name("oriel-client".into());
        connecting.thread = Some(thread.spawn(move || poller.run()).map_err(failed)?);
        Ok(connecting)
    }

    /// Begins to connect; the I/O is done by whoever polls the [`Poller`], from connecting on.
    pub fn connect_polled(options: Options) -> Result<(Connecting, Poller), ConnectError> {
        options.check()?;
        if options.queues == 0 {
            return Err(ConnectError::BadOption {
                what: "the number of I/O queues",
                found: 0,
                least: 1,
                most: QUEUES_MAX.into(),
            });
        }
        let peer = Arc::new(Peer {
            address: options.address,
            subsystem: options.subsystem.clone(),
        });
        let failed = |error: std::io::Error| ConnectError::Thread {
            peer: Arc::clone(&peer),
            kind: error.kind(),
        };
        let shared = Shared::new(Arc::clone(&peer), options.requests_max).map_err(failed)?;
        let shared = Arc::new(shared);
        let timeout = options.command_timeout;
        let (promise, answer) = promise();
        let driver = Driver::new(Arc::clone(&shared), options, promise);
        let connecting = Connecting {
            shared,
            thread: None,
            answer,
            timeout,
            is_handed_on: false,
        };
        Ok((connecting, Poller(driver)))
    }

    /// Who it is.
    pub fn peer(&self) -> &Peer {
        &self.0.shared.peer
    }

    /// What it said of itself when it was first connected to.
    pub fn data(&self) -> &ControllerData {
        &self.0.data
    }

    /// I/O queues that it has given.
    pub fn queues(&self) -> usize {
        self.0.queues
    }

    /// Bytes of one command's data at most. Reads and writes of more are split.
    pub fn transfer_bytes_max(&self) -> u32 {
        self.0.transfer_bytes_max
    }

    /// The numbers of its active namespaces.
    pub async fn namespaces(&self) -> Result<Vec<u32>, CommandError> {
        let mut all: Vec<u32> = Vec::new();
        loop {
            let after = all.last().copied().unwrap_or(0);
            let bytes = self.identify(identify::namespaces(after)).await?;
            let more = identify::namespace_list(&bytes);
            let is_full = more.len() == IDENTIFY_BYTES / 4;
            // Numbers grow, or a list would never end.
            all.extend(more.into_iter().filter(|nsid| *nsid > after));
            if !is_full || all.last().copied().unwrap_or(0) == after {
                return Ok(all);
            }
        }
    }

    /// A namespace by number.
    pub async fn namespace(&self, nsid: u32) -> Result<Namespace, NamespaceError> {
        let bytes = self.identify(identify::namespace(nsid)).await?;
        let data = NamespaceData::decode(nsid, &bytes);
        let peer = || Arc::clone(&self.0.shared.peer);
        let data = data.map_err(|source| NamespaceError::Data {
            peer: peer(),
            source,
        })?;
        Ok(Namespace::new(self.clone(), data))
    }

    async fn identify(&self, command: Command) -> Result<Box<[u8; IDENTIFY_BYTES]>, CommandError> {
        let (bytes, result) = self.admin(command, vec![0; IDENTIFY_BYTES]).await;
        result?;
        let bytes: Result<Box<[u8; IDENTIFY_BYTES]>, _> = bytes.into_boxed_slice().try_into();
        Ok(bytes.expect("memory comes back as it went"))
    }

    /// An admin command as it is. It is sent again after a reconnect if it only reads.
    pub fn admin<M: Memory>(&self, command: Command, memory: M) -> Pending<M> {
        let is_idempotent = command.flow() == Flow::In;
        self.submit(Work::One(command), memory, true, is_idempotent)
    }

    pub(crate) fn submit<M: Memory>(
        &self,
        work: Work,
        memory: M,
        is_admin: bool,
        is_idempotent: bool,
    ) -> Pending<M> {
        let region = memory.region();
        if memory.host().is_none() {
            let error = CommandError::NotHostMemory {
                placement: region.placement,
            };
            return Pending::failed(memory, error);
        }
        let (promise, answer) = promise();
        let submission = Submission {
            bytes: region.bytes,
            memory: Box::new(memory),
            work,
            part_bytes: self.0.transfer_bytes_max,
            is_admin,
            is_idempotent,
            timeout: self.0.timeout,
            promise,
        };
        let max = self.0.transfer_bytes_max;
        if let Work::One(command) = work
            && region.bytes > max as usize
        {
            let error = CommandError::TooLong {
                peer: Arc::clone(&self.0.shared.peer),
                command: command.name(is_admin),
                bytes: region.bytes,
                max,
            };
            submission.give_back(error);
        } else {
            self.0.shared.submit(submission);
        }
        Pending::new(answer)
    }

    /// A command without data.
    pub(crate) fn bare(&self, command: Command, is_idempotent: bool) -> Pending<Nothing> {
        self.submit(Work::One(command), Nothing, false, is_idempotent)
    }

    /// Takes no more requests, waits for those under way, shuts the controller down and ends its thread. One that is polled
    /// does so in the next turns of its [`Poller`], which are not waited for.
    ///
    /// # Panics
    /// When the thread has panicked.
    pub fn close(self) {
        self.0.shared.close();
        let thread = self
            .0
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            thread.join().expect("the I/O thread does not panic");
        }
    }
}
