//! A thick logical volume on a drive, where SPDK was built with them.

use oriel_spdk::Subsystems;
use serde_json::json;

use super::TargetError;

const STORE: &str = "lvs";

/// The device's name; `None` without logical volumes.
#[cfg(has_lvol)]
pub(super) async fn make(
    subsystems: &Subsystems,
    base: &str,
) -> Result<Option<String>, TargetError> {
    let failed = |error: oriel_spdk::rpc::RpcError| {
        TargetError::Side(format!("a logical volume cannot be made: {error}"))
    };
    let rpc = subsystems.rpc();
    let params = json!({ "bdev_name": base, "lvs_name": STORE, "clear_method": "none" });
    rpc.call("bdev_lvol_create_lvstore", params)
        .await
        .map_err(failed)?;
    let found = rpc
        .call("bdev_lvol_get_lvstores", json!({ "lvs_name": STORE }))
        .await
        .map_err(failed)?;
    let number = |name: &str| found[0][name].as_u64().unwrap_or(0);
    let bytes = number("free_clusters") * number("cluster_size");
    // Each release knows one of the two, and refuses the other.
    let (field, size) = match oriel_spdk::SPDK_RELEASE >= "23" {
        true => ("size_in_mib", bytes >> 20),
        false => ("size", bytes),
    };
    let params = json!({
        "lvs_name": STORE,
        "lvol_name": "thick",
        field: size,
        "thin_provision": false,
        "clear_method": "none",
    });
    rpc.call("bdev_lvol_create", params).await.map_err(failed)?;
    Ok(Some(format!("{STORE}/thick")))
}

/// Lets go of the volume and what it is on.
#[cfg(has_lvol)]
pub(super) async fn end(subsystems: &Subsystems) -> Result<(), TargetError> {
    let params = json!({ "lvs_name": STORE });
    let ended = subsystems.rpc().call("bdev_lvol_delete_lvstore", params);
    ended.await.map(drop).map_err(|error| {
        TargetError::Side(format!("the logical volume cannot be let go of: {error}"))
    })
}

/// The device's name; `None` without logical volumes.
#[cfg(not(has_lvol))]
pub(super) async fn make(_: &Subsystems, _: &str) -> Result<Option<String>, TargetError> {
    Ok(None)
}

/// There is nothing to let go of.
#[cfg(not(has_lvol))]
pub(super) async fn end(_: &Subsystems) -> Result<(), TargetError> {
    Ok(())
}
