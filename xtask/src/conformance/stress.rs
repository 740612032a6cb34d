//! The suite `stress-ng`: every stressor of its class "filesystem", one after the other, each with two processes;
//! and that nothing of it stays.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::ground::Ground;
use super::report::{Report, Verdict};
use super::{Form, Suite};
use xtask::command::{outcome, output};

pub(super) struct Stress;

/// Together a little more than ten minutes.
const SECONDS_LONG: usize = 15;
const SECONDS_SHORT: usize = 1;

/// Some stressors mark or look at every mount of the machine, and would wait for ever for one whose daemon does not
/// answer: they see no FUSE filesystem but the one that is stressed. Called with its folder, then the command.
const ALONE: &str = r#"
    cut -d ' ' -f 2,3 /proc/self/mounts | while read -r mount_point kind; do
        case $kind in
            fuse*) [ "$mount_point" = "$1" ] || umount --no-canonicalize --internal-only --lazy "$mount_point" ;;
        esac
    done 2>/dev/null
    shift
    exec "$@"
"#;

/// stress-ng's exit codes for what it cannot do here.
const NO_RESOURCE: i32 = 3;
const NOT_IMPLEMENTED: i32 = 4;

/// What the daemon may grow by over all stressors: its caches are bounded, and fill.
const GROWTH_BYTES_MAX: u64 = 1 << 30;
/// What stays in use of a filesystem that was full of files: index, directories' blocks, and the journal of what was done, which
/// alone takes up to 32 MiB and what its nodes have free.
const USED_BYTES_MAX: u64 = 128 << 20;
/// More than the daemon opens by the way.
const DESCRIPTORS_MAX: usize = 16;
const PATIENCE: Duration = Duration::from_secs(60);

impl Suite for Stress {
    fn name(&self) -> &'static str {
        "stress-ng"
    }

    fn is_short(&self) -> bool {
        false
    }

    fn run(&self, ground: &Ground, form: Form) -> Result<Report> {
        let seconds = if form == Form::Long { SECONDS_LONG } else { SECONDS_SHORT };
        let mut report = Report::default();
        let before = Traces::of(ground)?;
        for stressor in stressors()? {
            report.add(stressor.clone(), stress(ground, &stressor, seconds)?);
        }
        report.judge("nothing stays behind", nothing_stays(ground, &before));
        Ok(report)
    }
}

/// What there is of its class.
fn stressors() -> Result<Vec<String>> {
    let list = output(Command::new("stress-ng").args(["--class", "filesystem?"]))?;
    let (_, names) = list.split_once("stressors:").context("stress-ng does not name its stressors")?;
    Ok(names.split_whitespace().map(Into::into).collect())
}

fn stress(ground: &Ground, stressor: &str, seconds: usize) -> Result<Verdict> {
    let ran = outcome(
        Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", ALONE, "sh"])
            .arg(ground.folder())
            .arg("stress-ng")
            .arg(format!("--{stressor}"))
            .args(["2", "--verify", "--oomable", "--timeout", &seconds.to_string(), "--temp-path"])
            .arg(ground.folder())
            .current_dir(ground.folder()),
    )?;
    let said = [ran.stdout, ran.stderr].concat();
    let said = String::from_utf8_lossy(&said).replace('\n', "; ");
    Ok(match ran.status.code() {
        Some(0) => Verdict::Passed,
        // It leaves out what may hang the machine.
        _ if said.contains("No stress workers invoked") => Verdict::Skipped(said),
        Some(NO_RESOURCE | NOT_IMPLEMENTED) => Verdict::Skipped(said),
        _ => Verdict::Failed(format!("{}: {said}", ran.status)),
    })
}

/// What was deleted is freed in the background.
fn nothing_stays(ground: &Ground, before: &Traces) -> Result<()> {
    let start = Instant::now();
    loop {
        let compared = Traces::of(ground)?.compare(before);
        if compared.is_ok() || start.elapsed() > PATIENCE {
            return compared;
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// What could leak.
struct Traces {
    names: Vec<String>,
    used_bytes: u64,
    /// Of Blocktree's daemon.
    descriptors: usize,
    memory_bytes: u64,
}

impl Traces {
    fn of(ground: &Ground) -> Result<Self> {
        output(Command::new("sync").arg("-f").arg(ground.folder()))?;
        let mut names = Vec::new();
        for entry in fs::read_dir(ground.folder())? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        let used = output(Command::new("df").args(["--output=used", "--block-size=1"]).arg(ground.folder()))?;
        let used = used.lines().nth(1).context("df says nothing")?;
        let (descriptors, memory_bytes) = match ground.daemon()? {
            Some(daemon) => (fs::read_dir(daemon.join("fd"))?.count(), resident_bytes(&daemon)?),
            None => (0, 0),
        };
        Ok(Self { names, used_bytes: used.trim().parse()?, descriptors, memory_bytes })
    }

    fn compare(&self, before: &Self) -> Result<()> {
        ensure!(self.names == before.names, "files: {:?}", self.names);
        let used = self.used_bytes.saturating_sub(before.used_bytes);
        ensure!(used <= USED_BYTES_MAX, "{used} bytes more are in use");
        let descriptors = self.descriptors.saturating_sub(before.descriptors);
        ensure!(descriptors <= DESCRIPTORS_MAX, "the daemon has {descriptors} descriptors more");
        let memory = self.memory_bytes.saturating_sub(before.memory_bytes);
        ensure!(memory <= GROWTH_BYTES_MAX, "the daemon has grown by {memory} bytes");
        Ok(())
    }
}

fn resident_bytes(process: &Path) -> Result<u64> {
    let status = fs::read_to_string(process.join("status"))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    let kib: u64 = resident.trim().trim_end_matches(" kB").parse()?;
    Ok(kib << 10)
}
