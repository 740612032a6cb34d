//! The suite `fsx`: random reads, writes, mappings and truncations of one file, compared with a copy in memory; a
//! million of them for each case of the long form, over twenty seeds.

use std::fs;
use std::process::Command;

use anyhow::Result;

use super::ground::Ground;
use super::report::Report;
use super::{Form, Suite};
use crate::tools::{self, FSX};
use xtask::command::output;

pub(super) struct Fsx;

/// A name, and settings and weights of operations.
const KINDS: [(&str, &str); 4] = [
    (
        "plain",
        "flen = 262144\nopsize.max = 65536\n[weights]\nread = 10\nwrite = 10\nmapread = 1\nmapwrite = 1\n\
         truncate = 5\nclose_open = 1\nsendfile = 2\nposix_fadvise = 1\nfsync = 0.05\nfdatasync = 0.05\n",
    ),
    (
        "mappings",
        "flen = 262144\nopsize.max = 16384\nnomsyncafterwrite = true\n[weights]\nread = 5\nwrite = 5\n\
         mapread = 20\nmapwrite = 20\ntruncate = 5\nclose_open = 1\ninvalidate = 0.1\nfsync = 0.05\n",
    ),
    (
        "holes and copies",
        // Zero bytes cannot be allocated, on any filesystem.
        "flen = 1048576\nopsize.min = 1\nopsize.max = 131072\n[weights]\nread = 10\nwrite = 10\nmapread = 3\nmapwrite = 3\n\
         truncate = 5\npunch_hole = 10\nposix_fallocate = 5\ncopy_file_range = 10\nclose_open = 1\nfsync = 0.05\n",
    ),
    (
        "whole sectors",
        "flen = 1048576\nopsize.max = 131072\nopsize.align = 4096\n[weights]\nread = 10\nwrite = 10\n\
         mapread = 3\nmapwrite = 3\ntruncate = 5\npunch_hole = 10\ncopy_file_range = 10\nfdatasync = 0.05\n",
    ),
];

impl Suite for Fsx {
    fn name(&self) -> &'static str {
        "fsx"
    }

    /// Those tests that always run use fsx already.
    fn is_short(&self) -> bool {
        false
    }

    fn run(&self, ground: &Ground, form: Form) -> Result<Report> {
        let program = tools::ensure(&FSX)?;
        let (operations, seeds) = match form {
            Form::Short => ("20000", 1..=1),
            // In short lives: fsx keeps what it has mapped, and every mapping makes each truncation slower.
            Form::Long => ("50000", 1..=20),
        };
        let mut report = Report::default();
        for (name, settings) in KINDS {
            let config = ground.outside("fsx.toml");
            fs::write(&config, settings)?;
            for seed in seeds.clone() {
                let file = ground.folder().join(format!("{name} {seed}"));
                let ran = output(
                    Command::new(&program)
                        .args(["-N", operations, "-S", &seed.to_string(), "-P"])
                        .arg(ground.outside(""))
                        .arg("-f")
                        .arg(&config)
                        .arg(&file),
                );
                report.judge(format!("{name}, seed {seed}"), ran.map(drop));
                fs::remove_file(&file)?;
            }
        }
        Ok(report)
    }
}
