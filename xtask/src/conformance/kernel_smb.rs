//! The suite `kernel-smb`: Linux's own client of SMB, in a virtual machine, on two shares of one private server on this
//! machine: one on Blocktree and one on ext4.
//!
//! The machine says how each case went on a line `case NAME: passed`, or with what failed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{FlockOperation, fcntl_lock};

use super::ground::Ground;
use super::report::{Report, Verdict};
use super::smbtorture::Shared;
use super::{Form, Suite};
use crate::guest::{ATTEMPTS, Machine, Parts};
use xtask::command::{output, target};
use xtask::scratch::Scratch;

pub(super) struct KernelSmb;

impl Suite for KernelSmb {
    fn name(&self) -> &'static str {
        "kernel-smb"
    }

    /// It starts two virtual machines.
    fn is_short(&self) -> bool {
        false
    }

    fn run(&self, ground: &Ground, _: Form) -> Result<Report> {
        let shared = Shared::new(&[ground], ground)?;
        run_in_machine(&shared, 0, ground.program())
    }

    fn run_on_both(&self, grounds: [&Ground; 2], _: Form) -> Result<[Report; 2]> {
        let [blocktree, _] = grounds;
        let shared = Shared::new(&grounds, blocktree)?;
        let run = |share| run_in_machine(&shared, share, blocktree.program());
        Ok([run(0)?, run(1)?])
    }
}

fn run_in_machine(shared: &Shared, share: usize, program: &Path) -> Result<Report> {
    let scratch = Scratch::new(&target(), "kernel-smb")?;
    let parts = Parts::gather(program, &scratch.join(""))?;
    let words = format!("smb {} {}", shared.share(share), shared.server().port());
    let mut machine = None;
    for _ in 0..ATTEMPTS {
        let started = Machine::start(&parts, &words, None)?;
        if started.has_booted()? {
            machine = Some(started);
            break;
        }
    }
    let machine = machine.context("no machine starts")?;
    let mut report = Report::default();
    let mut said = Vec::new();
    while let Some(line) = machine.line()? {
        if let Some((case, verdict)) = line.strip_prefix("case ").and_then(|line| line.split_once(": ")) {
            let verdict = match verdict {
                "passed" => Verdict::Passed,
                why => Verdict::Failed(why.to_owned()),
            };
            report.add(case, verdict);
        }
        if line == END {
            return Ok(report);
        }
        said.push(line);
    }
    bail!("the machine ended early: {}", said.join("\n"))
}

const END: &str = "all cases ran";
const LARGE_BYTES: usize = 16 << 20;

type Case = (&'static str, fn(&Path) -> Result<()>);

const CASES: [Case; 10] = [
    ("write and read", write_and_read),
    ("large file", large_file),
    ("overwrite in the middle", overwrite),
    ("rename", rename),
    ("rename over a file", rename_over),
    ("names in Unicode", unicode),
    ("long names", long_names),
    ("byte-range locks", locks),
    ("truncate and extend", truncate),
    ("folders", folders),
];

/// In the machine: mounts the share and runs all cases on it, then all that look again after a second mount.
pub(crate) fn run(share: &str, port: &str) -> Result<()> {
    let mount = Path::new("/mnt");
    let options = format!("{},port={port},ip=10.0.2.2,vers=3.1.1,cache=strict,noperm", credentials());
    let attach = || {
        let url = format!("//10.0.2.2/{share}");
        output(Command::new("busybox").args(["mount", "-t", "cifs", "-o", &options, &url]).arg(mount))
    };
    attach()?;
    let own = mount.join("kernel client");
    fs::create_dir(&own)?;
    let tell = |case: &str, result: Result<()>| {
        let verdict = match result {
            Ok(()) => "passed".to_owned(),
            Err(error) => format!("{error:#}").replace('\n', " "),
        };
        println!("case {case}: {verdict}");
    };
    for (name, case) in CASES {
        let folder = own.join(name);
        tell(name, fs::create_dir(&folder).context("mkdir").and_then(|()| case(&folder)));
    }
    let before = listing(&own)?;
    output(Command::new("busybox").arg("umount").arg(mount))?;
    attach()?;
    let after = listing(&own)?;
    let same = || {
        ensure!(before == after, "{before:?} became {after:?}");
        Ok(())
    };
    tell("mounted again", same());
    tell("remove all", fs::remove_dir_all(&own).context("rm"));
    output(Command::new("busybox").arg("umount").arg(mount))?;
    println!("{END}");
    Ok(())
}

fn credentials() -> String {
    format!("username={},password={}", xtask::samba::USER, xtask::samba::PASSWORD)
}

/// All files below a folder with their lengths and sums.
fn listing(folder: &Path) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            lines.extend(listing(&path)?);
        } else {
            let bytes = fs::read(&path)?;
            let sum = bytes.iter().fold(0_u64, |sum, &byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
            lines.push(format!("{} {} {sum:x}", path.display(), bytes.len()));
        }
    }
    lines.sort();
    Ok(lines)
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at % 251) as u8 ^ (at >> 12) as u8).collect()
}

fn expect(path: &Path, expected: &[u8]) -> Result<()> {
    let found = fs::read(path).with_context(|| path.display().to_string())?;
    let same = found.iter().zip(expected).take_while(|(a, b)| a == b).count();
    let lengths = (found.len(), expected.len());
    ensure!(found == expected, "{} differs at {same}, lengths {lengths:?}", path.display());
    Ok(())
}

fn write_and_read(folder: &Path) -> Result<()> {
    for bytes in [0, 1, 4095, 4096, 4097, 100_000] {
        let path = folder.join(bytes.to_string());
        fs::write(&path, pattern(bytes))?;
        expect(&path, &pattern(bytes))?;
    }
    Ok(())
}

fn large_file(folder: &Path) -> Result<()> {
    let path = folder.join("large");
    let mut file = File::create(&path)?;
    file.write_all(&pattern(LARGE_BYTES))?;
    file.sync_all()?;
    drop(file);
    expect(&path, &pattern(LARGE_BYTES))
}

fn overwrite(folder: &Path) -> Result<()> {
    let path = folder.join("file");
    let mut expected = pattern(300_000);
    fs::write(&path, &expected)?;
    let file = OpenOptions::new().read(true).write(true).open(&path)?;
    for (at, bytes) in [(0, 10), (5000, 70_000), (299_000, 5000)] {
        file.write_all_at(&vec![9; bytes], at as u64)?;
        expected.resize(expected.len().max(at + bytes), 0);
        expected[at..at + bytes].fill(9);
    }
    file.sync_data()?;
    expect(&path, &expected)
}

fn rename(folder: &Path) -> Result<()> {
    let (one, other) = (folder.join("one"), folder.join("other"));
    fs::write(&one, "one")?;
    fs::rename(&one, &other)?;
    ensure!(!one.exists(), "the old name is there");
    expect(&other, b"one")?;
    fs::create_dir(folder.join("below"))?;
    fs::rename(&other, folder.join("below/moved"))?;
    fs::rename(folder.join("below"), folder.join("above"))?;
    expect(&folder.join("above/moved"), b"one")
}

fn rename_over(folder: &Path) -> Result<()> {
    let (one, other) = (folder.join("one"), folder.join("other"));
    fs::write(&one, "new")?;
    fs::write(&other, "old contents")?;
    fs::rename(&one, &other)?;
    expect(&other, b"new")
}

fn unicode(folder: &Path) -> Result<()> {
    let names = ["äöü", "日本語", "emoji 🌳", "Ελληνικά", "with space", "dot.", "e\u{301} apart"];
    for name in names {
        fs::write(folder.join(name), name)?;
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        found.push(entry?.file_name().to_string_lossy().into_owned());
    }
    found.sort();
    let mut expected = names.map(str::to_owned);
    expected.sort();
    ensure!(found == expected, "{found:?}");
    names.iter().try_for_each(|name| expect(&folder.join(name), name.as_bytes()))
}

fn long_names(folder: &Path) -> Result<()> {
    let longest = "n".repeat(255);
    fs::write(folder.join(&longest), "long")?;
    expect(&folder.join(&longest), b"long")?;
    ensure!(fs::write(folder.join("n".repeat(256)), "too long").is_err(), "256 bytes are too long");
    Ok(())
}

fn locks(folder: &Path) -> Result<()> {
    let path = folder.join("locked");
    fs::write(&path, "locked")?;
    let file = OpenOptions::new().read(true).write(true).open(&path)?;
    fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive)?;
    // Another process is refused, until the lock goes.
    let other = || -> Result<bool> {
        let ran = Command::new("xtask").args(["guest", "lock"]).arg(&path).status()?;
        Ok(ran.success())
    };
    ensure!(!other()?, "two processes have the lock");
    fcntl_lock(&file, FlockOperation::Unlock)?;
    ensure!(other()?, "nobody has the lock and nobody gets it");
    Ok(())
}

/// In another process: fails where the lock is somebody else's.
pub(crate) fn lock(path: &Path) -> Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    Ok(fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive)?)
}

fn truncate(folder: &Path) -> Result<()> {
    let path = folder.join("file");
    let mut expected = pattern(50_000);
    fs::write(&path, &expected)?;
    let file = OpenOptions::new().write(true).open(&path)?;
    for bytes in [10_001, 30_000] {
        file.set_len(bytes)?;
        expected.resize(bytes as usize, 0);
    }
    drop(file);
    expected[10_001..].fill(0);
    expect(&path, &expected)
}

fn folders(folder: &Path) -> Result<()> {
    let deep = folder.join("a/b/c/d");
    fs::create_dir_all(&deep)?;
    for number in 0..200 {
        fs::write(deep.join(number.to_string()), number.to_string())?;
    }
    ensure!(fs::read_dir(&deep)?.count() == 200, "not all names are listed");
    let refused = fs::remove_dir(folder.join("a")).err().map(|error| error.kind());
    ensure!(refused == Some(io::ErrorKind::DirectoryNotEmpty), "rmdir: {refused:?}");
    let mut text = String::new();
    File::open(deep.join("150"))?.read_to_string(&mut text)?;
    ensure!(text == "150", "{text}");
    let mode = fs::metadata(&deep)?.permissions().mode();
    ensure!(mode & 0o040_000 != 0, "mode {mode:o}");
    Ok(())
}
