//! Operations by threads, each of which waits for one at a time: for kernels without the ring, and processes that get none.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;

use crate::call;
use crate::device::Device;
use crate::held::{Buffer, Piece};
use crate::operation::Operation;
use crate::queue::Ended;

/// More than that keep a device no busier.
const THREADS_MAX: u16 = 16;

struct Job<B: Buffer> {
    token: u64,
    operation: Operation,
    piece: Piece<B>,
}

struct State<B: Buffer> {
    jobs: VecDeque<Job<B>>,
    ended: Vec<Ended>,
    is_rung: bool,
    is_closing: bool,
}

struct Shared<B: Buffer> {
    device: Arc<Device>,
    state: Mutex<State<B>>,
    /// There is a job, or the end.
    has_job: Condvar,
    /// Something has ended, or somebody rang.
    has_news: Condvar,
}

/// What a waker knows of a crew.
pub(crate) trait Board: Send + Sync {
    fn ring(&self);
}

pub(crate) struct Crew<B: Buffer> {
    shared: Arc<Shared<B>>,
    depth: usize,
    under_way: usize,
}

impl<B: Buffer> Shared<B> {
    fn state(&self) -> MutexGuard<'_, State<B>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut state = self.state();
        loop {
            match state.jobs.pop_front() {
                Some(job) => {
                    drop(state);
                    let Job {
                        token,
                        operation,
                        piece,
                    } = job;
                    let result = call::operate(&self.device, &operation, &piece);
                    // Whoever is told that it has ended finds its memory free.
                    drop(piece);
                    state = self.state();
                    state.ended.push((token, result));
                    self.has_news.notify_one();
                }
                None if state.is_closing => return,
                None => {
                    let waited = self.has_job.wait(state);
                    state = waited.unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }
}

impl<B: Buffer> Board for Shared<B> {
    fn ring(&self) {
        self.state().is_rung = true;
        self.has_news.notify_one();
    }
}

impl<B: Buffer> Crew<B> {
    pub(crate) fn new(device: &Arc<Device>, depth: u16) -> Result<Self, Errno> {
        let crew = Self {
            shared: Arc::new(Shared {
                device: Arc::clone(device),
                state: Mutex::new(State {
                    jobs: VecDeque::with_capacity(depth.into()),
                    ended: Vec::new(),
                    is_rung: false,
                    is_closing: false,
                }),
                has_job: Condvar::new(),
                has_news: Condvar::new(),
            }),
            depth: depth.into(),
            under_way: 0,
        };
        for number in 0..depth.min(THREADS_MAX) {
            let shared = Arc::clone(&crew.shared);
            let thread = std::thread::Builder::new().name(format!("oriel-io-{number}"));
            match thread.spawn(move || shared.work()) {
                Ok(_) => {}
                // Those that there are do the work.
                Err(_) if number > 0 => break,
                Err(error) => return Err(Errno::from_io_error(&error).unwrap_or(Errno::AGAIN)),
            }
        }
        Ok(crew)
    }

    pub(crate) fn board(&self) -> Arc<dyn Board> {
        Arc::clone(&self.shared) as Arc<dyn Board>
    }

    pub(crate) fn room(&self) -> usize {
        self.depth - self.under_way
    }

    pub(crate) fn push(
        &mut self,
        token: u64,
        operation: Operation,
        piece: Piece<B>,
    ) -> Result<(), Piece<B>> {
        if self.room() == 0 {
            return Err(piece);
        }
        self.under_way += 1;
        self.shared.state().jobs.push_back(Job {
            token,
            operation,
            piece,
        });
        self.shared.has_job.notify_one();
        Ok(())
    }

    pub(crate) fn wait(&mut self, most: Option<Duration>, ended: &mut Vec<Ended>) {
        let state = self.shared.state();
        let is_idle = |state: &mut State<B>| state.ended.is_empty() && !state.is_rung;
        let news = &self.shared.has_news;
        let mut state = match most {
            None => news
                .wait_while(state, is_idle)
                .unwrap_or_else(PoisonError::into_inner),
            Some(most) => {
                news.wait_timeout_while(state, most, is_idle)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0
            }
        };
        state.is_rung = false;
        self.under_way -= state.ended.len();
        ended.append(&mut state.ended);
    }
}

impl<B: Buffer> Drop for Crew<B> {
    fn drop(&mut self) {
        // Threads end what was pushed, with its memory, and go. A device that is away may keep them for long.
        self.shared.state().is_closing = true;
        self.shared.has_job.notify_all();
    }
}
