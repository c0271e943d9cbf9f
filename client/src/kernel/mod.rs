//! A realm by the kernel's own initiator: what `nvme connect` has attached, over whatever transport.
//!
//! ```text
//!   any executor, any thread                       one thread a namespace                  the kernel
//!   KernelNamespace::read(block, memory) ──► Pending     driver ──► parts ──► queue ──┬──► /dev/nvmeXnY  windows, O_DIRECT
//!                    │                       ▲             │      io_uring or threads └──► /dev/ngXnY    commands
//!                    └── request ────────────┼─────────────┘
//!                                            └── memory and completion
//! ```
//!
//! - **Windows are plain reads and writes** of the block device. The kernel cuts them, has several under way, takes another path
//!   where one is lost, and holds them back while there is none: for as long as `--ctrl-loss-tmo` of `nvme connect` says, and
//!   not for the time that [`KernelOptions::give_up_after`] allows. What fails so is passed through once more as NVMe READ or WRITE, since the
//!   block layer says less of the reason than NVMe does. Memory that the kernel cannot use as it lies ([`memory::Aligned`] always can be) is passed
//!   through from the beginning.
//! - **Commands are passed through**, which the kernel does not hold back: while it has no path to the node they are tried again until
//!   their time is over. One that may have been done when its connection was lost is sent again only if it looks and changes
//!   nothing; the caller of any other is told.
//! - **Without io_uring** (before Linux 5.19, or where a process may not use it) threads do the same by ioctls.
//! - **Who may**: the kernel passes vendor-specific commands through for `CAP_SYS_ADMIN` alone, whoever may open the devices.
//! - **Nothing but Oriel**: a namespace of another make is refused before any command but Identify is sent to it.
//!
//! [`memory::Aligned`]: crate::memory::Aligned

mod attach;
mod driver;
mod error;
mod request;
#[cfg(test)]
mod tests;
mod verdict;

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use oriel_protocol::{Command, Position, Status};

pub use error::{Cause, KernelError};
pub use oriel_nvme_kernel::Means;

use crate::blob::{Failure, Transport};
use crate::limits::KERNEL_DEPTH;
use crate::memory::Memory;
use crate::nvme::identify::{ControllerData, NamespaceData};
use crate::pending::{Answer, Pending, block_on, promise};
use driver::{Attached, Shared};
use request::{Submission, Work};

/// How a namespace of the kernel's is used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KernelOptions {
    /// How long a command may take once the kernel has sent it. The kernel ends the connection of one that takes longer, for
    /// all who use the device.
    pub command_timeout: Duration,
    /// How long a command is tried again while the kernel has no path to the node; and how long opening may take then.
    pub give_up_after: Duration,
    /// Operations that the kernel has at a time.
    pub depth: u16,
    /// Requests that may wait or be under way.
    pub requests_max: usize,
    /// By io_uring or by threads; `None`: by io_uring where that is possible.
    pub means: Option<Means>,
}

impl Default for KernelOptions {
    fn default() -> Self {
        Self {
            command_timeout: Duration::from_secs(30),
            give_up_after: Duration::from_secs(60),
            depth: KERNEL_DEPTH,
            requests_max: 4096,
            means: None,
        }
    }
}

struct Inner {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    attached: Attached,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // What is under way goes on to its end, and the thread ends by itself.
        self.shared.close();
    }
}

/// A realm's namespace, attached by the kernel. Clones are the same one.
#[derive(Clone)]
pub struct KernelNamespace(Arc<Inner>);

/// A namespace that is being opened.
#[must_use = "the namespace comes out of it"]
pub struct Opening {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    answer: Answer<Result<Attached, KernelError>>,
}

impl Opening {
    /// Waits on this thread.
    pub fn wait(self) -> Result<KernelNamespace, KernelError> {
        block_on(self)
    }
}

impl Future for Opening {
    type Output = Result<KernelNamespace, KernelError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.answer.poll(cx).map(|attached| {
            let attached = attached.expect("the I/O thread says how opening went")?;
            Ok(KernelNamespace(Arc::new(Inner {
                shared: Arc::clone(&self.shared),
                thread: Mutex::new(self.thread.take()),
                attached,
            })))
        })
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.shared.close();
        }
    }
}

impl KernelNamespace {
    /// Begins to open a namespace by its block device (`/dev/nvmeXnY`) or its character device (`/dev/ngXnY`), on a thread of its
    /// own that does its I/O from then on. It has to be a realm of an Oriel node.
    pub fn open(path: impl Into<PathBuf>, options: KernelOptions) -> Result<Opening, KernelError> {
        let path = path.into();
        Self::begin(path.clone(), options, move |shared, options| {
            attach::attach(&path, shared, options)
        })
    }

    fn begin<P: driver::Port>(
        path: PathBuf,
        options: KernelOptions,
        attach: impl FnOnce(&Shared, &KernelOptions) -> Result<(P, Attached), KernelError>
        + Send
        + 'static,
    ) -> Result<Opening, KernelError> {
        let shared = Arc::new(Shared::new(path, options.requests_max));
        let (promise, answer) = promise();
        let thread = std::thread::Builder::new().name("oriel-kernel".into());
        let of_thread = Arc::clone(&shared);
        let thread = thread
            .spawn(move || driver::run(&of_thread, &options, attach, promise))
            .map_err(|error| KernelError::Thread {
                device: Arc::clone(&shared.path),
                kind: error.kind(),
            })?;
        Ok(Opening {
            shared,
            thread: Some(thread),
            answer,
        })
    }

    /// The device's path, as it was given.
    pub fn path(&self) -> &Path {
        self.0.shared.path.as_path()
    }

    /// What its controller said of itself: among it the subsystem, which names node and realm.
    pub fn controller(&self) -> &ControllerData {
        &self.0.attached.controller
    }

    /// What it said of itself.
    pub fn data(&self) -> &NamespaceData {
        &self.0.attached.namespace
    }

    /// By what its operations are done.
    pub fn means(&self) -> Means {
        self.0.attached.means
    }

    /// Fills memory from a block on.
    pub fn read<M: Memory>(&self, block: u64, memory: M) -> Pending<M, KernelError> {
        self.on_blocks(false, block, memory)
    }

    /// Writes memory from a block on. It may be done twice.
    pub fn write<M: Memory>(&self, block: u64, memory: M) -> Pending<M, KernelError> {
        self.on_blocks(true, block, memory)
    }

    fn on_blocks<M: Memory>(
        &self,
        is_write: bool,
        block: u64,
        memory: M,
    ) -> Pending<M, KernelError> {
        let NamespaceData {
            blocks,
            block_bytes,
            ..
        } = *self.data();
        let bytes = memory.region().bytes;
        if bytes == 0 || !bytes.is_multiple_of(block_bytes as usize) {
            return Pending::failed(memory, KernelError::NotWholeBlocks { bytes, block_bytes });
        }
        let count = bytes as u64 / u64::from(block_bytes);
        if block.checked_add(count).is_none_or(|end| end > blocks) {
            let error = KernelError::OutOfRange {
                block,
                count,
                blocks,
            };
            return Pending::failed(memory, error);
        }
        self.submit(Work::Blocks { is_write, block }, memory)
    }

    /// A command of the blob protocol, with its data or room for them.
    pub fn vendor<M: Memory>(&self, command: &Command, memory: M) -> Pending<M, KernelError> {
        let (bytes, max) = (
            memory.region().bytes,
            self.0.attached.transfer_bytes_max as usize,
        );
        let work = Work::vendor(command);
        if bytes > max {
            let error = KernelError::TooLong {
                command: work.name(),
                bytes,
                max,
            };
            return Pending::failed(memory, error);
        }
        self.submit(work, memory)
    }

    fn submit<M: Memory>(&self, work: Work, mut memory: M) -> Pending<M, KernelError> {
        if memory.host_mut().is_none() {
            let placement = memory.region().placement;
            return Pending::failed(memory, KernelError::NotHostMemory { placement });
        }
        let (promise, answer) = promise();
        self.0.shared.submit(Submission {
            memory: Box::new(memory),
            work,
            promise,
        });
        Pending::new(answer)
    }

    /// Takes no more requests, waits for those under way and ends its thread.
    ///
    /// # Panics
    /// When the thread has panicked.
    pub fn close(self) {
        self.0.shared.close();
        let thread = self.0.thread.lock();
        let thread = thread.unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            thread.join().expect("the I/O thread does not panic");
        }
    }
}

impl Failure for KernelError {
    fn status(&self) -> Option<Status> {
        match self {
            Self::Status { status, .. } => status.of_blobs(),
            _ => None,
        }
    }

    fn result(&self) -> u32 {
        match self {
            Self::Status { result, .. } => *result,
            _ => 0,
        }
    }
}

impl Transport for KernelNamespace {
    type Failure = KernelError;

    async fn read<M: Memory>(&self, from: Position, memory: M) -> (M, Result<(), KernelError>) {
        let (memory, result) = Self::read(self, from.0, memory).await;
        (memory, result.map(drop))
    }

    async fn write<M: Memory>(&self, to: Position, memory: M) -> (M, Result<(), KernelError>) {
        let (memory, result) = Self::write(self, to.0, memory).await;
        (memory, result.map(drop))
    }

    async fn command<M: Memory>(
        &self,
        command: &Command,
        memory: M,
    ) -> (M, Result<u32, KernelError>) {
        let (memory, result) = self.vendor(command, memory).await;
        (memory, result.map(|completion| completion.dword()))
    }
}
