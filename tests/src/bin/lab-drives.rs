//! Drives several NVMe drives of one process over real PCIe: attached one after the other, written and
//! read side by side, their queues closed and opened again and again; detached in turn.
//!
//! usage: lab-drives DRIVE...   (PCI addresses)
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Duration;

use oriel_spdk::bdev::create::{self, Kind};
use oriel_spdk::bdev::{self, Access, BdevDesc, BlockRange, Channel};
use oriel_spdk::env::Pci;
use oriel_spdk::{DmaBuf, PciAddress, Subsystems};
use oriel_tests::lab::{self, Failure};
use oriel_tests::{ensure, pattern};

const MEMORY_MIB: u32 = 256;
const RUN_BLOCKS: u64 = 64;
const RUNS: u64 = 32;

fn main() -> ExitCode {
    lab::main("lab-drives", || {
        let drives: Result<Vec<PciAddress>, _> =
            std::env::args().skip(1).map(|a| a.parse()).collect();
        let drives = drives?;
        ensure!(drives.len() >= 2, "usage: lab-drives DRIVE DRIVE...");
        lab::with_spdk(MEMORY_MIB, Pci::All, async |sub| {
            exercise(sub, &drives).await
        })
    })
}

struct Drive {
    number: usize,
    desc: BdevDesc,
    channel: Option<Channel>,
}

impl Drive {
    fn open(number: usize) -> Result<Self, Failure> {
        let desc = BdevDesc::open(&format!("Nvme{number}n1"), Access::ReadWrite, |_| {})?;
        let channel = Some(desc.channel()?);
        Ok(Self {
            number,
            desc,
            channel,
        })
    }

    /// Closes the drive's queues and opens others, which get the same numbers on the controller.
    async fn reopen(&mut self) -> Result<(), Failure> {
        self.channel = None;
        // SPDK lets go of a channel some turns later.
        let mut turns = 0;
        lab::until("a few turns", Duration::from_secs(1), || {
            turns += 1;
            turns > 10
        })
        .await?;
        self.channel = Some(self.desc.channel()?);
        Ok(())
    }

    fn channel(&self) -> Result<&Channel, Failure> {
        Ok(self.channel.as_ref().ok_or("the drive has no channel")?)
    }

    fn seed(&self) -> u64 {
        0x6472_6976_6500_0000 + self.number as u64
    }

    fn runs() -> impl Iterator<Item = BlockRange> {
        (0..RUNS).map(|run| BlockRange::new(run * 3 * RUN_BLOCKS, RUN_BLOCKS))
    }

    fn buffer(&self) -> Result<DmaBuf, Failure> {
        let bytes = RUN_BLOCKS * u64::from(self.desc.block_size());
        Ok(DmaBuf::zeroed(usize::try_from(bytes)?, 4096)?)
    }

    async fn write(&self) -> Result<(), Failure> {
        for run in Self::runs() {
            let mut buf = self.buffer()?;
            pattern::fill(&mut buf, self.seed(), run.start);
            self.channel()?.write_at(buf, run).await.1?;
        }
        Ok(())
    }

    async fn verify(&self) -> Result<(), Failure> {
        self.verify_first(usize::MAX).await
    }

    async fn verify_first(&self, runs: usize) -> Result<(), Failure> {
        for run in Self::runs().take(runs) {
            let (buf, read) = self.channel()?.read_at(self.buffer()?, run).await;
            read?;
            pattern::check(&buf, self.seed(), run.start)?;
        }
        Ok(())
    }
}

async fn exercise(sub: &Subsystems, addresses: &[PciAddress]) -> Result<(), Failure> {
    for (number, &at) in addresses.iter().enumerate() {
        let names = create::nvme(sub, &format!("Nvme{number}"), at).await?;
        ensure!(
            names == [format!("Nvme{number}n1")],
            "drive {at} has the namespaces {names:?}"
        );
    }
    let drives: Result<Vec<Drive>, _> = (0..addresses.len()).map(Drive::open).collect();
    let mut drives = drives?;
    for drive in &drives {
        drive.write().await?;
    }
    for drive in &drives {
        drive.verify().await?;
        println!("Nvme{} verified", drive.number);
    }
    // What a queue has done is not to be seen by the next one; one command is where it once was.
    for commands in 1..=4 {
        for drive in &mut drives {
            drive.reopen().await?;
            drive.verify_first(commands).await?;
        }
    }
    while let Some(last) = drives.pop() {
        let number = last.number;
        drop(last);
        create::delete(sub, Kind::Nvme, &format!("Nvme{number}")).await?;
        ensure!(
            !bdev::exists(&format!("Nvme{number}n1")),
            "the block device outlived its drive"
        );
        println!("Nvme{number} detached");
        for drive in &drives {
            drive.verify().await?;
        }
    }
    println!("{} drives written and verified", addresses.len());
    Ok(())
}
