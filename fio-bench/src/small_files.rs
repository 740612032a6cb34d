//! Many small files: what fio does not measure well.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, ensure};

/// What is done with every file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Create,
    Stat,
    Read,
    Delete,
}

/// A folder with a hundred files in each of its folders.
pub(crate) struct SmallFiles {
    folder: PathBuf,
    count: usize,
}

const BYTES: usize = 4096;

impl SmallFiles {
    pub(crate) fn new(folder: PathBuf, count: usize) -> Self {
        Self { folder, count }
    }

    /// Does one step to all files; how many it does in a second. Nothing is synced: that is another row.
    pub(crate) fn run(&self, step: Step) -> Result<f64> {
        let start = Instant::now();
        for i in 0..self.count {
            let folder = self.folder.join(format!("{:04}", i / 100));
            let file = folder.join(format!("file-{i:06}"));
            match step {
                Step::Create => {
                    if i.is_multiple_of(100) {
                        fs::create_dir_all(&folder)?;
                    }
                    fs::write(file, contents(i))?;
                }
                Step::Stat => ensure!(fs::metadata(&file)?.len() == BYTES as u64, "{file:?}: wrong length"),
                Step::Read => ensure!(fs::read(&file)? == contents(i), "{file:?}: wrong contents"),
                Step::Delete => {
                    fs::remove_file(file)?;
                    if i % 100 == 99 {
                        fs::remove_dir(folder)?;
                    }
                }
            }
        }
        Ok(self.count as f64 / start.elapsed().as_secs_f64())
    }
}

fn contents(i: usize) -> Vec<u8> {
    i.to_le_bytes().repeat(BYTES / size_of::<usize>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_steps_on_an_ordinary_folder() {
        let folder = std::env::temp_dir().join(format!("small-files-{}", std::process::id()));
        let files = SmallFiles::new(folder.clone(), 200);
        for step in [Step::Create, Step::Stat, Step::Read, Step::Delete] {
            assert!(files.run(step).unwrap() > 0.0);
        }
        assert!(files.run(Step::Read).is_err());
        fs::remove_dir(folder).unwrap();
    }
}
