//! The cycle counter that SPDK measures time with.

use std::time::Duration;

use oriel_spdk_sys as sys;

/// The counter now. Costs a few nanoseconds and never goes backwards on one core.
#[inline]
pub fn now() -> u64 {
    // SAFETY: reads the CPU's cycle counter; it has no precondition.
    unsafe { sys::spdk_get_ticks() }
}

/// Ticks a second. Only meaningful once an [`Env`](crate::Env) has started.
pub fn per_second() -> u64 {
    // SAFETY: reads a number that the environment measured at start; zero before.
    unsafe { sys::spdk_get_ticks_hz() }
}

/// The time that so many ticks take.
pub fn to_duration(ticks: u64) -> Duration {
    let nanos = u128::from(ticks) * 1_000_000_000 / u128::from(per_second().max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}
