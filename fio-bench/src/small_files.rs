//! Many small files: what fio does not measure well. A process of its own, so that it can be timed and ended.
//!
//! Files are looked at with `lstat` and `fstat`, as `find`, `tar`, `rsync`, `git` and `cat` do. The standard library asks for the time of birth, too,
//! which the kernel knows of no FUSE filesystem without another request.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::fs::{fstat, lstat};

use crate::subject::Subject;

/// What this program is called with to be that process.
pub(crate) const CHILD: &str = "small-files";
/// At random places, no more than this many are looked at.
const LOOKUPS_MAX: usize = 10_000;
const SEED: u64 = 0xf11e;

/// What is done with the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Step {
    Create,
    /// Each by its name, in order.
    Stat,
    /// By its name, some at random.
    StatRandom,
    /// Each by listing the folders, and looking at what is in them.
    Walk,
    /// Only listing.
    List,
    Read,
    /// Some at random.
    ReadRandom,
    Delete,
}

/// Files, a number of them in each folder.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub(crate) struct SmallFiles {
    pub(crate) folder: PathBuf,
    #[arg(long)]
    pub(crate) count: usize,
    #[arg(long)]
    pub(crate) per_folder: usize,
    #[arg(long)]
    pub(crate) bytes: usize,
}

impl SmallFiles {
    /// Does one step in a child, measured; how many it does in a second. Nothing is synced: that is another row.
    pub(crate) fn measure(&self, subject: &mut Subject, step: Step) -> Result<f64> {
        let finished = subject.measure(&mut self.command(step)?)?;
        finished.text.trim().parse().context("the child process printed no number")
    }

    /// Does one step in a child, not measured.
    pub(crate) fn prepare(&self, subject: &Subject, step: Step) -> Result<()> {
        subject.prepare(&mut self.command(step)?).map(|_| ())
    }

    fn command(&self, step: Step) -> Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        let step = step.to_possible_value().context("a step without a name")?;
        command.arg(CHILD).arg(&self.folder).arg("--step").arg(step.get_name());
        for (name, value) in
            [("--count", self.count), ("--per-folder", self.per_folder), ("--bytes", self.bytes)]
        {
            command.arg(name).arg(value.to_string());
        }
        Ok(command)
    }

    /// Does one step; how many it does in a second.
    pub(crate) fn run(&self, step: Step) -> Result<f64> {
        ensure!(self.count > 0 && self.per_folder > 0, "there are no files");
        let mut random = StdRng::seed_from_u64(SEED);
        let start = Instant::now();
        let done = match step {
            Step::StatRandom | Step::ReadRandom => {
                let lookups = self.count.min(LOOKUPS_MAX);
                for _ in 0..lookups {
                    let i = random.random_range(0..self.count);
                    if step == Step::StatRandom { self.stat(i)? } else { self.read(i)? }
                }
                lookups
            }
            Step::Walk | Step::List => {
                let seen = walk(&self.folder, step == Step::Walk)?;
                ensure!(seen == self.count, "{seen} files are listed, not {}", self.count);
                seen
            }
            Step::Create | Step::Stat | Step::Read | Step::Delete => {
                for i in 0..self.count {
                    match step {
                        Step::Create => self.create(i)?,
                        Step::Stat => self.stat(i)?,
                        Step::Read => self.read(i)?,
                        _ => self.delete(i)?,
                    }
                }
                self.count
            }
        };
        Ok(done as f64 / start.elapsed().as_secs_f64())
    }

    fn folder_of(&self, i: usize) -> PathBuf {
        self.folder.join(format!("{:06}", i / self.per_folder))
    }

    fn file(&self, i: usize) -> PathBuf {
        self.folder_of(i).join(format!("file-{i:08}"))
    }

    fn create(&self, i: usize) -> Result<()> {
        if i.is_multiple_of(self.per_folder) {
            fs::create_dir_all(self.folder_of(i))?;
        }
        Ok(fs::write(self.file(i), self.contents(i))?)
    }

    fn stat(&self, i: usize) -> Result<()> {
        let file = self.file(i);
        ensure!(lstat(&file)?.st_size as usize == self.bytes, "{file:?}: wrong length");
        Ok(())
    }

    fn read(&self, i: usize) -> Result<()> {
        let path = self.file(i);
        let file = File::open(&path)?;
        let mut bytes = Vec::with_capacity(fstat(&file)?.st_size as usize + 1);
        // Without a bound, it would ask for the length once more.
        file.take(u64::MAX).read_to_end(&mut bytes)?;
        ensure!(bytes == self.contents(i), "{path:?}: wrong contents");
        Ok(())
    }

    fn delete(&self, i: usize) -> Result<()> {
        fs::remove_file(self.file(i))?;
        if (i + 1).is_multiple_of(self.per_folder) || i + 1 == self.count {
            fs::remove_dir(self.folder_of(i))?;
        }
        Ok(())
    }

    fn contents(&self, i: usize) -> Vec<u8> {
        i.to_le_bytes().into_iter().cycle().take(self.bytes).collect()
    }
}

/// How many files are in a folder and below.
fn walk(folder: &Path, with_metadata: bool) -> Result<usize> {
    let mut seen = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            seen += walk(&entry.path(), with_metadata)?;
        } else {
            seen += 1;
            if with_metadata {
                lstat(entry.path())?;
            }
        }
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_steps_on_an_ordinary_folder() {
        let folder = std::env::temp_dir().join(format!("small-files-{}", std::process::id()));
        let files = SmallFiles { folder: folder.clone(), count: 250, per_folder: 100, bytes: 4096 };
        for step in Step::value_variants() {
            assert!(files.run(*step).unwrap() > 0.0, "{step:?}");
        }
        assert!(files.run(Step::Read).is_err() && files.run(Step::Walk).is_err());
        fs::remove_dir(folder).unwrap();
    }
}
