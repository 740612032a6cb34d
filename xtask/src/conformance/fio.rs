//! The suite `fio`: what each shape of load wrote is read again and compared by checksum, at once and after a
//! remount.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Result;

use super::ground::Ground;
use super::report::Report;
use super::{Form, Suite};
use xtask::command::output;

pub(super) struct Fio;

/// How a load writes.
#[derive(Debug, Clone)]
struct Shape {
    pattern: &'static str,
    engine: &'static str,
    is_direct: bool,
    block_bytes: usize,
    jobs: &'static str,
}

/// Whole sectors, more than a sector, and across the edges of sectors.
const BLOCKS: [usize; 4] = [4 << 10, 64 << 10, 1 << 20, UNEVEN];
const UNEVEN: usize = 3000;

fn shapes(form: Form) -> Vec<Shape> {
    let mut shapes = Vec::new();
    for pattern in ["write", "randwrite", "rw", "randrw"] {
        for engine in ["psync", "libaio", "io_uring", "mmap"] {
            for is_direct in [false, true] {
                for block_bytes in BLOCKS {
                    for jobs in ["1", "4"] {
                        shapes.push(Shape { pattern, engine, is_direct, block_bytes, jobs });
                    }
                }
            }
        }
    }
    // Pages are what both mmap(2) and O_DIRECT know.
    shapes.retain(|shape| !(shape.is_direct && (shape.engine == "mmap" || shape.block_bytes == UNEVEN)));
    if form == Form::Short {
        let is_short = |shape: &Shape| {
            shape.pattern == "randrw" && shape.jobs == "1" && matches!(shape.block_bytes, 4096 | UNEVEN)
        };
        shapes.retain(is_short);
    }
    shapes
}

impl Shape {
    fn name(&self) -> String {
        let Self { pattern, engine, is_direct, block_bytes, jobs } = self;
        let direct = if *is_direct { "direct" } else { "cached" };
        format!("{pattern} {engine} {direct} {block_bytes} {jobs}")
    }

    fn run(&self, folder: &Path, bytes: usize, more: &[&str]) -> Result<()> {
        // In a part of a block, fio finds nothing again.
        let bytes = bytes - bytes % self.block_bytes;
        let direct = if self.is_direct { "1" } else { "0" };
        let fio = output(
            Command::new("fio")
                .current_dir(folder)
                .stderr(Stdio::piped())
                .args(["--name=verify", "--randrepeat=1", "--fallocate=none", "--iodepth=8"])
                .args(["--verify=crc32c", "--verify_fatal=1", "--minimal"])
                .arg(format!("--rw={}", self.pattern))
                .arg(format!("--ioengine={}", self.engine))
                .arg(format!("--direct={direct}"))
                .arg(format!("--bs={}", self.block_bytes))
                .arg(format!("--numjobs={}", self.jobs))
                .arg(format!("--size={bytes}"))
                .args(more),
        );
        fio.map(drop)
    }
}

impl Suite for Fio {
    fn name(&self) -> &'static str {
        "fio"
    }

    fn is_short(&self) -> bool {
        true
    }

    fn run(&self, ground: &Ground, form: Form) -> Result<Report> {
        let bytes = if form == Form::Short { 4 << 20 } else { 8 << 20 };
        let mut report = Report::default();
        let shapes = shapes(form);
        let folder = |number: usize| ground.folder().join(number.to_string());
        for (number, shape) in shapes.iter().enumerate() {
            std::fs::create_dir(folder(number))?;
            report.judge(shape.name(), shape.run(&folder(number), bytes, &["--do_verify=1"]));
        }
        ground.remount()?;
        for (number, shape) in shapes.iter().enumerate() {
            let again = shape.run(&folder(number), bytes, &["--verify_only"]);
            report.judge(format!("{}, remounted", shape.name()), again);
        }
        Ok(report)
    }
}
