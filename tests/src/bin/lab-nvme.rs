//! Drives an NVMe drive over real PCIe: attach, write, read, verify, every mistake in the address,
//! a second process at the same drive, detach and attach again.
//!
//! usage: lab-nvme DRIVE KERNEL-DRIVE   (PCI addresses; the second one is left to the kernel)
#![forbid(unsafe_code)]

use std::process::{Command, ExitCode};

use oriel_spdk::bdev::create::{self, CreateError, Kind};
use oriel_spdk::bdev::{self, Access, BdevDesc, BlockRange, Channel, IoKind, RequestError};
use oriel_spdk::env::Pci;
use oriel_spdk::{DmaBuf, PciAddress, Subsystems};
use oriel_tests::lab::{self, Failure};
use oriel_tests::{ensure, pattern};

/// Told to the second process, which is this program too.
const SECOND: &str = "second";

const SEED: u64 = 0x6f72_6965_6c00_0001;
const MEMORY_MIB: u32 = 256;
const SECOND_MEMORY_MIB: u32 = 128;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    lab::main("lab-nvme", || match &arguments[..] {
        [mark, drive] if mark == SECOND => attach_as_second_process(drive.parse()?),
        [drive, kernels] => {
            let (drive, kernels) = (drive.parse()?, kernels.parse()?);
            lab::with_spdk(MEMORY_MIB, Pci::All, async |sub| {
                wrong_addresses_are_refused(sub, kernels).await?;
                exercise(sub, drive).await
            })
        }
        _ => Err("usage: lab-nvme DRIVE KERNEL-DRIVE".into()),
    })
}

async fn wrong_addresses_are_refused(sub: &Subsystems, kernels: PciAddress) -> Result<(), Failure> {
    ensure!(
        "0000:01:00".parse::<PciAddress>().is_err(),
        "half an address was taken for one"
    );
    let absent: PciAddress = "0000:7f:1f.7".parse()?;
    match create::nvme(sub, "Absent", absent).await {
        Err(error @ CreateError::NoPciDevice { .. }) => println!("absent: {error}"),
        other => return Err(format!("an absent drive: {other:?}").into()),
    }
    match create::nvme(sub, "Kernels", kernels).await {
        Err(error @ CreateError::KernelDriven { .. }) => println!("kernel's: {error}"),
        other => return Err(format!("the kernel's drive: {other:?}").into()),
    }
    Ok(())
}

async fn exercise(sub: &Subsystems, drive: PciAddress) -> Result<(), Failure> {
    attach(sub, drive).await?;
    let (desc, channel) = open()?;
    let (block, blocks) = (u64::from(desc.block_size()), desc.block_count());
    println!("{}: {blocks} blocks of {block} bytes", desc.product());
    ensure!(block * blocks == 1 << 30, "the drive is not 1 GiB");

    // From one block to more than the controller takes in one command; the last run ends the drive.
    let mut at = 0;
    let mut runs = Vec::new();
    for count in [1, 7, 8, 33, 256, 1024, 4096] {
        runs.push(BlockRange::new(at, count));
        at += count + 1;
    }
    runs.extend((0..64).map(|i| BlockRange::new(blocks / 2 + i * 256, 256)));
    runs.push(BlockRange::new(blocks - 100, 100));
    for run in &runs {
        write(&channel, *run).await?;
    }
    if desc.supports(IoKind::Flush) {
        channel.flush_at(BlockRange::new(0, blocks)).await?;
    }
    verify_all(&channel, &runs).await?;

    match channel
        .read_at(buffer(block)?, BlockRange::new(blocks, 1))
        .await
        .1
    {
        Err(RequestError::Rejected(why)) => println!("beyond the end: {why}"),
        other => return Err(format!("a read beyond the end: {other:?}").into()),
    }
    channel
        .write_zeroes_at(BlockRange::new(blocks / 3, 64))
        .await?;
    let (zeroes, read) = channel
        .read_at(buffer(64 * block)?, BlockRange::new(blocks / 3, 64))
        .await;
    read?;
    ensure!(
        zeroes.iter().all(|&byte| byte == 0),
        "zeroed blocks are not zero"
    );

    second_process_is_refused(drive)?;
    match create::nvme(sub, "Again", drive).await {
        Err(error @ CreateError::NvmeFailed { .. }) => println!("twice in one process: {error}"),
        other => return Err(format!("the same drive twice: {other:?}").into()),
    }
    verify_all(&channel, &runs).await?;

    // A new controller session finds the data of the last one.
    drop((channel, desc));
    detach(sub).await?;
    attach(sub, drive).await?;
    let (desc, channel) = open()?;
    verify_all(&channel, &runs).await?;
    drop((channel, desc));
    detach(sub).await?;
    println!("{} runs written and verified", runs.len());
    Ok(())
}

async fn attach(sub: &Subsystems, drive: PciAddress) -> Result<(), Failure> {
    let names = create::nvme(sub, "Nvme0", drive).await?;
    ensure!(
        names == ["Nvme0n1"],
        "the drive has the namespaces {names:?}"
    );
    Ok(())
}

async fn detach(sub: &Subsystems) -> Result<(), Failure> {
    create::delete(sub, Kind::Nvme, "Nvme0").await?;
    ensure!(
        !bdev::exists("Nvme0n1"),
        "the block device outlived its drive"
    );
    Ok(())
}

fn open() -> Result<(BdevDesc, Channel), Failure> {
    let desc = BdevDesc::open("Nvme0n1", Access::ReadWrite, |_| {})?;
    let channel = desc.channel()?;
    Ok((desc, channel))
}

fn buffer(bytes: u64) -> Result<DmaBuf, Failure> {
    Ok(DmaBuf::zeroed(usize::try_from(bytes)?, 4096)?)
}

async fn write(channel: &Channel, run: BlockRange) -> Result<(), Failure> {
    let block = u64::from(channel.block_size());
    let mut buf = buffer(run.count * block)?;
    pattern::fill(&mut buf, SEED, run.start * block);
    Ok(channel.write_at(buf, run).await.1?)
}

async fn verify_all(channel: &Channel, runs: &[BlockRange]) -> Result<(), Failure> {
    let block = u64::from(channel.block_size());
    for run in runs {
        let (buf, read) = channel.read_at(buffer(run.count * block)?, *run).await;
        read?;
        pattern::check(&buf, SEED, run.start * block)?;
    }
    Ok(())
}

fn second_process_is_refused(drive: PciAddress) -> Result<(), Failure> {
    let program = std::env::current_exe()?;
    let second = Command::new(program)
        .args([SECOND, &drive.to_string()])
        .output()?;
    let said = String::from_utf8_lossy(&second.stderr);
    let last = said.lines().last().unwrap_or_default();
    ensure!(
        second.status.code() == Some(1) && last.contains("is another process driving it"),
        "a second process at the drive ended with {} and said:\n{said}",
        second.status
    );
    println!("second process: {last}");
    Ok(())
}

fn attach_as_second_process(drive: PciAddress) -> Result<(), Failure> {
    lab::with_spdk(SECOND_MEMORY_MIB, Pci::All, async |sub| {
        attach(sub, drive).await
    })
}
