//! `cargo xtask demo`: builds the filesystem, does real work in it, then attacks the volume behind its back.
//!
//! [`stage`] is the place where it happens.
//! [`work`] is what a user does, [`app`] what an app does for them, [`attack`] is what somebody does who can write to the disk.

mod app;
mod attack;
mod stage;
mod work;

use std::time::Instant;

use anyhow::Result;

use crate::packages;
use stage::Stage;
use xtask::command::{cargo, execute};

pub(crate) fn run() -> Result<()> {
    packages::ensure()?;
    say("build", "the release binary; the first time this takes minutes");
    execute(cargo().args(["build", "--release", "--quiet", "--bin", "blocktree"]))?;
    let start = Instant::now();
    let stage = Stage::new()?;
    work::run(&stage)?;
    app::run(&stage)?;
    attack::run(&stage)?;
    say("done", &format!("in {:.1} s; everything is unmounted and removed", start.elapsed().as_secs_f64()));
    Ok(())
}

/// Tells what was done.
fn say(topic: &str, text: &str) {
    println!("{topic:>9}  {text}");
}
