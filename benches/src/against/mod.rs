pub(crate) mod bdevperf;
pub(crate) mod ratio;
