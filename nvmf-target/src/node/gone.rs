//! Connections whose hosts are gone, where SPDK keeps them: it waits for the rest of a PDU that nobody sends any more, with the
//! buffer that it is for. A keep-alive timeout ends them as well, but a host need not have one.

use std::sync::Arc;
use std::time::Duration;

use oriel_engine::reactor::{self, JoinHandle, sleep, spawn_local};
use oriel_spdk::nvmf::{Peers, keeps_gone};

use super::SERVES;
use crate::error::StartError;

/// Looks in the time that a host is waited for. Only who is missing at two of them is gone.
const LOOKS: u32 = 2;

/// Has such connections ended, if the linked SPDK does not do so itself.
pub(super) fn watch(patience: Duration) -> Result<Option<JoinHandle<()>>, StartError> {
    if !keeps_gone() {
        return Ok(None);
    }
    let watch = spawn_local("end connections whose hosts are gone", async move {
        loop {
            sleep(patience / LOOKS).await;
            match Peers::look().await {
                Ok(peers) => end_gone(&Arc::new(peers)).await,
                Err(error) => tracing::warn!(%error, "nobody knows which hosts are gone"),
            }
        }
    });
    watch.map(Some).map_err(|_| StartError::Tasks)
}

async fn end_gone(there: &Arc<Peers>) {
    for core in reactor::handle().cores() {
        let there = Arc::clone(there);
        let look = move || async move {
            SERVES.with_borrow(|group| group.iter().for_each(|group| group.end_gone(&there)));
        };
        // A core that has no room for it now has it at the next look.
        if let Ok(looked) = reactor::handle().spawn(core, "look for hosts that are gone", look) {
            let _ = looked.await;
        }
    }
}
