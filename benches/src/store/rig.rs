//! One measurement of one side.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use oriel_engine::reactor::handle;
use oriel_engine::store::{LogMetrics, Observe};

use super::StorePerfError;
use super::adapter::{Seam, Shape, SideError, Store, Target};
use super::load::{self, Course, Done, Sizes, Speed};
use super::node::{Node, Stores};
use super::peers::{self, Peer};
use crate::bdev::crew::RunOptions;
use crate::bdev::plan::{JobPlan, Part};
use crate::bdev::session::Session;
use crate::load::workload::Workload;
use crate::report::Report;

/// What is asked of every side.
#[derive(Debug, Clone, Copy)]
pub(super) struct Job {
    pub(super) kind: Kind,
    pub(super) sizes: Sizes,
    pub(super) depth: u32,
    pub(super) read_percent: u8,
    pub(super) zipf_theta: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// New blobs, each answered when it is durable; on the raw device writes in order
    Put,
    /// The same beside raw writes at random
    Randput,
    /// Blobs read at random
    Get,
    /// Their windows read at random by position, as a target does for hosts, who check what they read
    Read,
    /// Both
    Mixed,
    /// Blobs read, some much more often than others
    Zipf,
    /// Read-mostly, blobs of 64 KiB to 32 MiB; on the raw device 1 MiB each
    Kv,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Side {
    /// The device, loaded as `oriel-perf bdev` does.
    Raw,
    /// The store's transfers without the store.
    Seam,
    Store,
    /// A store that counts and times nothing.
    Blind,
    Files,
    Foyer,
}

impl Side {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Seam => "seam",
            Self::Store => "store",
            Self::Blind => "blind",
            Self::Files => "files",
            Self::Foyer => "foyer",
        }
    }
}

const KV_READ_PERCENT: u8 = 95;
const KV_RAW_BYTES: u64 = 1 << 20;
/// What requests in flight may have together.
const IN_FLIGHT_BYTES_MAX: u64 = 256 << 20;
const SLAB_BYTES_MIN: u64 = 64 << 20;

impl Job {
    /// So many requests that they do not take all the memory.
    pub(super) fn depth(&self) -> u32 {
        let most = IN_FLIGHT_BYTES_MAX / self.sizes.largest();
        u32::try_from(most.max(1)).map_or(self.depth, |most| self.depth.min(most))
    }

    pub(super) fn read_percent(&self) -> u8 {
        match self.kind {
            Kind::Put | Kind::Randput => 0,
            Kind::Get | Kind::Read | Kind::Zipf => 100,
            Kind::Mixed => self.read_percent,
            Kind::Kv => KV_READ_PERCENT,
        }
    }

    fn raw(&self) -> (Workload, u64) {
        match (self.kind, self.sizes) {
            (_, Sizes::KvCache) => (Workload::RandRw, KV_RAW_BYTES),
            (Kind::Put, Sizes::Fixed(bytes)) => (Workload::Write, bytes),
            (Kind::Randput, Sizes::Fixed(bytes)) => (Workload::RandWrite, bytes),
            (Kind::Get | Kind::Read | Kind::Zipf, Sizes::Fixed(bytes)) => {
                (Workload::RandRead, bytes)
            }
            (Kind::Mixed | Kind::Kv, Sizes::Fixed(bytes)) => (Workload::RandRw, bytes),
        }
    }

    fn theta(&self) -> Option<f64> {
        (self.kind == Kind::Zipf).then_some(self.zipf_theta)
    }
}

/// Where it is measured.
pub(super) struct Rig<'a> {
    pub(super) session: &'a Session,
    pub(super) device: String,
    pub(super) device_bytes: u64,
    pub(super) core: u32,
    /// Where the peers work.
    pub(super) directory: Option<PathBuf>,
    pub(super) time: Duration,
    pub(super) seed: u64,
    /// Whether the store checks what it reads.
    pub(super) verify: bool,
    /// What the last store has counted.
    pub(super) counted: RefCell<Option<LogMetrics>>,
}

impl Rig<'_> {
    pub(super) async fn measure(&self, side: Side, job: &Job) -> Result<Speed, StorePerfError> {
        match side {
            Side::Raw => self.raw(job).await,
            Side::Seam => Ok(self.seam(job).await?.speed()),
            Side::Store if job.kind == Kind::Read => {
                let place = (self.device.clone(), self.core);
                Node::measure(self, job, &[place], Stores::One).await
            }
            Side::Store => Ok(self.store(job, Observe::default()).await?.speed()),
            Side::Blind => Ok(self.store(job, Observe::Nothing).await?.speed()),
            Side::Files => self.peer(Peer::Files, job).await,
            Side::Foyer => self.peer(Peer::Foyer, job).await,
        }
    }

    /// Half of the device is blobs, the rest journals, checkpoints and what a slab has left.
    pub(super) fn room(&self) -> u64 {
        self.device_bytes / 2
    }

    pub(super) fn course(&self, job: &Job, put_bytes_max: u64) -> Course {
        Course {
            sizes: job.sizes,
            read_percent: job.read_percent(),
            zipf_theta: job.theta(),
            depth: job.depth(),
            time: self.time,
            put_bytes_max,
            seed: self.seed,
        }
    }

    async fn raw(&self, job: &Job) -> Result<Speed, StorePerfError> {
        let place = (self.device.clone(), self.core);
        self.raw_on(job, &[place]).await
    }

    /// The same on several devices at once, each from its core.
    pub(super) async fn raw_on(
        &self,
        job: &Job,
        places: &[(String, u32)],
    ) -> Result<Speed, StorePerfError> {
        let (workload, io_bytes) = job.raw();
        let plan = |(bdev, core): &(String, u32)| JobPlan {
            bdev: bdev.clone(),
            core: *core,
            workload,
            io_bytes,
            depth: job.depth(),
            read_percent: job.read_percent(),
            part: Part::Whole,
        };
        let plans: Vec<JobPlan> = places.iter().map(plan).collect();
        let options = RunOptions {
            time: self.time,
            times_every_io: true,
            prints_histogram: false,
            keep_going: false,
            timeout: None,
            zipf_theta: job.theta(),
            verify: false,
            iops_max: None,
            bytes_per_second_max: None,
            seed: self.seed,
        };
        let results = self.session.load(&plans, &options, &mut |_, _| {}).await?;
        let report = Report {
            results,
            core_count: places.len(),
        };
        if let Some((_, error)) = report.failure() {
            return Err(StorePerfError::Raw(error.to_owned()));
        }
        let total = report.total();
        let at = |wanted: f64| {
            let all = report.results.iter().flat_map(|job| &job.percentiles_us);
            let mut found = all.filter(|(percent, _)| *percent == wanted);
            found.next().map(|(_, us)| *us)
        };
        Ok(Speed {
            per_second: total.iops,
            mib_per_second: total.mibps,
            p50_us: at(50.0),
            p99_us: at(99.0),
        })
    }

    async fn seam(&self, job: &Job) -> Result<Done, SideError> {
        let seam = Seam::fresh(&self.device, job.sizes.largest(), self.room()).await?;
        let seam = Rc::new(seam);
        let stored = self.room() / job.sizes.largest();
        // It writes where it wrote before.
        let course = self.course(job, u64::MAX);
        let done = load::run(&seam, &course, stored).await;
        let seam = Rc::into_inner(seam).expect("the workers have ended");
        seam.close().await?;
        done
    }

    pub(super) fn shape(&self, job: &Job, observe: Observe) -> Shape {
        Shape {
            slab_bytes: (2 * job.sizes.largest())
                .next_power_of_two()
                .max(SLAB_BYTES_MIN),
            blobs_max: self.room() / job.sizes.mean() + 4096,
            // Who reads a window checks it.
            verify: self.verify && job.kind != Kind::Read,
            observe,
        }
    }

    /// A store that is full is made anew; only putting and getting count as time.
    async fn store(&self, job: &Job, observe: Observe) -> Result<Done, SideError> {
        let mut all = Done::nothing();
        loop {
            let left = self
                .time
                .saturating_sub(Duration::from_secs_f64(all.seconds));
            let store = Rc::new(Store::fresh(&self.device, self.shape(job, observe)).await?);
            let done = self.once(&store, job, left).await;
            let store = Rc::into_inner(store).expect("the workers have ended");
            if observe != Observe::Nothing {
                self.counted.replace(Some(store.metrics()));
            }
            store.close().await?;
            all = all.and(&done?);
            let is_over = Duration::from_secs_f64(all.seconds) * 100 >= self.time * 99;
            if is_over || job.read_percent() == 100 || handle().is_stopping() {
                return Ok(all);
            }
        }
    }

    async fn once<T: Target>(
        &self,
        target: &Rc<T>,
        job: &Job,
        time: Duration,
    ) -> Result<Done, SideError> {
        let (before, during) = match job.read_percent() {
            0 => (0, self.room()),
            100 => (self.room(), 0),
            _ => (self.room() / 2, self.room() / 2),
        };
        let course = Course {
            time,
            ..self.course(job, during)
        };
        let stored = match before {
            0 => 0,
            before => load::fill(target, &course, before).await?,
        };
        load::run(target, &course, stored).await
    }

    async fn peer(&self, peer: Peer, job: &Job) -> Result<Speed, StorePerfError> {
        let directory = self.directory.as_deref().ok_or(StorePerfError::NoFolder)?;
        let course = self.course(job, self.room());
        Ok(peers::put(peer, directory, course).await?.speed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_blobs_are_fewer_at_once() {
        let job = |sizes| Job {
            kind: Kind::Get,
            sizes,
            depth: 32,
            read_percent: 70,
            zipf_theta: 0.99,
        };
        assert_eq!(job(Sizes::Fixed(4096)).depth(), 32);
        assert_eq!(job(Sizes::Fixed(64 << 20)).depth(), 4);
        assert_eq!(job(Sizes::Fixed(1 << 30)).depth(), 1);
        assert_eq!(job(Sizes::KvCache).depth(), 8);
    }
}
