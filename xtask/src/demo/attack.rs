//! What somebody does who can read and write the disk but has no key: search it, flip a bit, put an old sector
//! back, exchange two sectors.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::say;
use super::stage::{Stage, hashes};
use xtask::command::outcome;

const SECTOR_BYTES: u64 = 4096;
const NAME: &str = "map-of-the-treasure.txt";
const TEXT: &str = "The treasure lies under the old oak tree";
const VICTIM_BYTES: usize = 8 << 20;
const EIO: i32 = 5;

pub(crate) fn run(stage: &Stage) -> Result<()> {
    let volume = stage.volume()?;
    // What changes on the disk while nothing but one file is written shows where that file's sectors are.
    let old = victim_sectors(stage, &volume, "first")?;
    // It was sealed by the rightful owner, for the same part of the same file.
    let previous = read(&volume, old.start + old.sectors / 2)?;
    let new = victim_sectors(stage, &volume, "second")?;
    search(stage)?;

    let sector = new.start + new.sectors / 2;
    let (before, other) = (read(&volume, sector)?, read(&volume, sector + 1)?);
    let mut flipped = before.clone();
    flipped[1234] ^= 1;
    attack(stage, &volume, "one bit flipped in a sector of that file", &[(sector, flipped)])?;

    attack(stage, &volume, "an older copy of the sector put in its place", &[(sector, previous)])?;

    let exchanged = [(sector, other), (sector + 1, before)];
    attack(stage, &volume, "two sectors of the file exchanged", &exchanged)?;

    stage.check_is_clean()?;
    say("restored", "the sectors as they were: check is clean again");
    Ok(())
}

/// A run of sectors of the volume.
struct Run {
    start: u64,
    sectors: u64,
}

/// Writes the file anew, alone, and finds where it went: the longest run of sectors that changed.
fn victim_sectors(stage: &Stage, volume: &Path, version: &str) -> Result<Run> {
    let copy = stage.outside("volume-before");
    fs::copy(volume, &copy)?;
    stage.mount()?;
    let mut file = File::create(stage.mount_point().join(NAME))?;
    let lines = (0..).map(|line| format!("{TEXT}. {version} version, line {line}\n"));
    let mut text = Vec::with_capacity(VICTIM_BYTES + 128);
    for line in lines {
        if text.len() >= VICTIM_BYTES {
            break;
        }
        text.extend_from_slice(line.as_bytes());
    }
    file.write_all(&text)?;
    file.sync_all()?;
    drop(file);
    stage.unmount()?;
    let run = longest_change(&copy, volume)?;
    fs::remove_file(copy)?;
    ensure!(run.sectors >= 4, "the file's sectors cannot be told from the others");
    Ok(run)
}

fn longest_change(old: &Path, new: &Path) -> Result<Run> {
    const CHUNK: usize = 1 << 20;
    let (old, new) = (File::open(old)?, File::open(new)?);
    // The log is no place for data; where it ends is in the superblock, in the clear (docs/FORMAT.md).
    let mut log_sectors = [0; 8];
    new.read_exact_at(&mut log_sectors, 8 * SECTOR_BYTES + 64)?;
    let first = 64 + u64::from_le_bytes(log_sectors) + 16;
    let (mut before, mut after) = (vec![0; CHUNK], vec![0; CHUNK]);
    let (mut longest, mut run) = (Run { start: 0, sectors: 0 }, Run { start: first, sectors: 0 });
    let mut sector = first;
    loop {
        let length = read_up_to(&new, &mut after, sector * SECTOR_BYTES)?;
        let old_length = read_up_to(&old, &mut before, sector * SECTOR_BYTES)?;
        before[old_length..].fill(0);
        let sectors = length / SECTOR_BYTES as usize;
        for i in 0..sectors {
            let range = i * SECTOR_BYTES as usize..(i + 1) * SECTOR_BYTES as usize;
            if before[range.clone()] == after[range] {
                run = Run { start: sector + 1, sectors: 0 };
            } else {
                run.sectors += 1;
                if run.sectors > longest.sectors {
                    longest = Run { ..run };
                }
            }
            sector += 1;
        }
        if sectors == 0 {
            return Ok(longest);
        }
    }
}

/// Reads as much as there is, up to the length of `bytes`.
fn read_up_to(file: &File, bytes: &mut [u8], offset: u64) -> Result<usize> {
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], offset + done as u64)? {
            0 => break,
            length => done += length,
        }
    }
    Ok(done)
}

/// Looks for the file's text and name in everything that the store wrote.
fn search(stage: &Stage) -> Result<()> {
    for secret in [TEXT, NAME] {
        ensure!(!finds(secret, &stage.store())?, "the volume shows {secret:?}");
    }
    // What cannot find anything proves nothing.
    let control = stage.outside("control");
    fs::create_dir(&control)?;
    fs::write(control.join("file"), format!("{NAME}: {TEXT}"))?;
    for secret in [TEXT, NAME] {
        ensure!(finds(secret, &control)?, "the search does not work");
    }
    say("attack", "searched the volume for a file's text and name: neither is there");
    Ok(())
}

fn finds(secret: &str, folder: &Path) -> Result<bool> {
    let mut grep = Command::new("grep");
    let status = outcome(grep.args(["-r", "-q", "-a", "-F", "-e", secret]).arg(folder))?.status;
    match status.code() {
        Some(0) => Ok(true),
        Some(1) => Ok(false),
        _ => bail!("grep failed ({status})"),
    }
}

/// Changes sectors of the volume, shows that it is noticed, and that it harms nothing else; then undoes it.
fn attack(stage: &Stage, volume: &Path, what: &str, changes: &[(u64, Vec<u8>)]) -> Result<()> {
    let mut originals = Vec::new();
    for (sector, bytes) in changes {
        let original = read(volume, *sector)?;
        ensure!(original != *bytes, "the attack changes nothing");
        originals.push((*sector, original));
        write(volume, *sector, bytes)?;
    }
    let sector = changes[0].0;
    say("attack", &format!("sector {sector}: {what}"));

    stage.mount()?;
    let read_victim = fs::read(stage.mount_point().join(NAME));
    let others = stage.mount_point().join("copy");
    let others = hashes(&others).context("another file cannot be read")?;
    stage.unmount()?;
    match read_victim {
        Err(error) if error.raw_os_error() == Some(EIO) => {}
        Err(error) => bail!("reading the file fails with another error: {error}"),
        Ok(_) => bail!("the file was read as if nothing had happened"),
    }
    say("", &format!("reading it fails (I/O error); {} other files still read", others.lines().count()));

    let (code, said) = stage.check()?;
    ensure!(code == 4, "`blocktree check` ends with exit code {code}, not 4:\n{said}");
    ensure!(said.contains(&sector.to_string()), "`blocktree check` does not name sector {sector}:\n{said}");
    say("", "blocktree check ends with exit code 4 and says:");
    said.lines().take(4).for_each(|line| say("", &format!("  {line}")));

    for (sector, bytes) in originals {
        write(volume, sector, &bytes)?;
    }
    Ok(())
}

fn read(volume: &Path, sector: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; SECTOR_BYTES as usize];
    File::open(volume)?.read_exact_at(&mut bytes, sector * SECTOR_BYTES)?;
    Ok(bytes)
}

fn write(volume: &Path, sector: u64, bytes: &[u8]) -> Result<()> {
    let file = OpenOptions::new().write(true).open(volume)?;
    file.write_all_at(bytes, sector * SECTOR_BYTES)?;
    // The engine reads past the page cache.
    file.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_longest_run_that_changed() {
        let folder = std::env::temp_dir().join(format!("xtask-attack-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let paths = ["old", "new"].map(|name| folder.join(name));
        let mut bytes = vec![7; 2000 * SECTOR_BYTES as usize];
        bytes[8 * SECTOR_BYTES as usize + 64..][..8].copy_from_slice(&100_u64.to_le_bytes());
        fs::write(&paths[0], &bytes[..1000 * SECTOR_BYTES as usize]).unwrap();
        for sector in (70..170).chain([200]).chain(300..320).chain(500..510) {
            bytes[sector * SECTOR_BYTES as usize + 9] = 1;
        }
        fs::write(&paths[1], &bytes[..1000 * SECTOR_BYTES as usize]).unwrap();
        let run = longest_change(&paths[0], &paths[1]).unwrap();
        assert_eq!((run.start, run.sectors), (300, 20));
        // What was added counts as changed.
        fs::write(&paths[1], &bytes).unwrap();
        let run = longest_change(&paths[0], &paths[1]).unwrap();
        assert_eq!((run.start, run.sectors), (1000, 1000));
        fs::remove_dir_all(folder).unwrap();
    }
}
