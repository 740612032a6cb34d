//! STAND-IN, so that the command line type-checks: the offline check. The engine's author replaces it.

use std::sync::Arc;

use super::OpenError;
use crate::device::Device;

/// How to check.
#[derive(Debug, Clone, Copy, Default)]
pub struct CheckOptions {
    /// Repair what can be repaired. Without it, nothing is written.
    pub repair: bool,
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub what: String,
    pub place: String,
    pub repaired: bool,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CheckReport {
    pub problems: Vec<Problem>,
    pub sectors_checked: u64,
    pub repaired: u64,
    pub damage_left: u64,
}

/// Checks a store that nobody has open: structure, every hash, every signature. `progress` gets the sectors done and
/// the sectors in all.
pub fn check(
    _device: Arc<dyn Device>,
    _passphrase: &[u8],
    _options: &CheckOptions,
    _progress: &mut dyn FnMut(u64, u64),
) -> Result<CheckReport, OpenError> {
    unimplemented!()
}
