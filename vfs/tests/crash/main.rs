//! The filesystem on a faulty device: crashes and faults against a reference model.
//!
//! `sequences` tries all short histories, `lives` random long ones. A `world` is a filesystem beside its `model`;
//! `operation` is what is done to both, `shown` what can be seen of a filesystem, and `journal` compares that with what it
//! says of its own past.

mod journal;
mod lives;
mod model;
mod operation;
#[path = "../../../engine/tests/crash/runner.rs"]
mod runner;
mod sequences;
mod shown;
mod space;
mod world;
