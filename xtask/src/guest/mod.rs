//! A virtual machine: Debian's kernel under QEMU, and in it what a test wants to run, with nothing of this machine's
//! own kernel or disks.
//!
//! Key types: [`Parts`], what it is made of; [`Machine`], a running one. [`disk`] and [`network_block`] are its disk, which loses
//! what was not flushed; [`power`] cuts its power; [`workload`] is what runs in it meanwhile.
//!
//! The kernel, busybox and QEMU are Debian's, unpacked below the target folder and not installed. The first program
//! is a script, which starts this very program with the words that the machine was started with.

pub(crate) mod disk;
mod initramfs;
mod network_block;
pub(crate) mod power;
pub(crate) mod workload;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::conformance::kernel_smb;
use crate::packages;

/// How long a machine may be silent. It computes everything twice as slowly as this one at best, and tens of times on a
/// busy one.
const PATIENCE: Duration = Duration::from_secs(300);
/// What the first program says when all is there, on a line on which firmware may have said something.
const BOOTED: &str = "booted";
/// How often a machine is started that does not start.
pub(crate) const ATTEMPTS: usize = 3;
const MEMORY_MIB: &str = "768";

/// What machines are made of.
pub(crate) struct Parts {
    emulator: PathBuf,
    /// Where its libraries and firmware are, if it is not installed.
    emulator_root: Option<PathBuf>,
    kernel: PathBuf,
    initramfs: PathBuf,
    /// `blocktree` as it is in the machines.
    pub(crate) program: PathBuf,
}

impl Parts {
    /// Fetches and makes what is missing. `program` is the `blocktree` that machines use; `folder` takes what is only
    /// for them.
    pub(crate) fn gather(program: &Path, folder: &Path) -> Result<Self> {
        let unpacked = packages::machine()?;
        let kernel = initramfs::find(&unpacked.join("boot"), "vmlinuz-")?;
        let initramfs = folder.join("initramfs");
        let program = initramfs::build(&initramfs, &unpacked, program)?;
        let own = unpacked.join("usr/bin").join(packages::EMULATOR);
        let (emulator, emulator_root) = match own.exists() {
            true => (own, Some(unpacked)),
            false => (packages::EMULATOR.into(), None),
        };
        Ok(Self { emulator, emulator_root, kernel, initramfs, program })
    }

    fn emulator(&self) -> Command {
        // It dies with whoever started it.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(&self.emulator);
        if let Some(root) = &self.emulator_root {
            command.env("LD_LIBRARY_PATH", root.join("usr/lib/x86_64-linux-gnu"));
            command.env("QEMU_MODULE_DIR", root.join("usr/lib/x86_64-linux-gnu/qemu"));
            for folder in ["usr/share/qemu", "usr/share/seabios"] {
                command.arg("-L").arg(root.join(folder));
            }
        }
        command
    }
}

/// A running machine. It is killed when this is dropped.
pub(crate) struct Machine {
    emulator: Child,
    lines: Receiver<String>,
}

impl Machine {
    /// Starts a machine in which `xtask guest WORDS` runs; perhaps with a disk, a server of which listens on a socket.
    pub(crate) fn start(parts: &Parts, words: &str, disk: Option<&Path>) -> Result<Self> {
        let mut command = parts.emulator();
        // /dev/kvm may be there and not work.
        command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", MEMORY_MIB]);
        command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-nographic", "-serial", "stdio"]);
        command.arg("-kernel").arg(&parts.kernel).arg("-initrd").arg(&parts.initramfs);
        // A timer that is emulated on a busy machine is late.
        let settings = "console=ttyS0 quiet panic=-1 random.trust_cpu=on no_timer_check";
        command.args(["-append", &format!("{settings} -- {words}")]);
        // The host's loopback interface is 10.0.2.2 there.
        command.args(["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="]);
        if let Some(socket) = disk {
            let url = format!("nbd+unix:///?socket={}", socket.display());
            command.args(["-drive", &format!("file={url},format=raw,if=none,id=disk,cache=writeback")]);
            let sectors = "logical_block_size=512,physical_block_size=4096";
            command.args(["-device", &format!("virtio-blk-pci,drive=disk,{sectors}")]);
        }
        let mut emulator = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .context("cannot start QEMU")?;
        let serial = emulator.stdout.take().context("QEMU has no output")?;
        let (sender, lines) = channel();
        thread::spawn(move || {
            let mut serial = BufReader::new(serial);
            let mut line = Vec::new();
            while serial.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
                // A line that power cut short says nothing.
                if line.ends_with(b"\n") {
                    let text = String::from_utf8_lossy(&line).trim().to_owned();
                    if sender.send(text).is_err() {
                        break;
                    }
                }
                line.clear();
            }
        });
        Ok(Self { emulator, lines })
    }

    /// Waits until the kernel and the first program have started; whether they have.
    pub(crate) fn has_booted(&self) -> Result<bool> {
        let mut said = Vec::new();
        while let Some(line) = self.line()? {
            if line.ends_with(BOOTED) {
                return Ok(true);
            }
            said.push(line);
        }
        println!("a machine did not start: {}", said.join("\n"));
        Ok(false)
    }

    /// The next line that it says; `None` once it has ended.
    pub(crate) fn line(&self) -> Result<Option<String>> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => bail!("the machine has been silent for {PATIENCE:?}"),
        }
    }

    /// Kills it; what it had said that was not listened to.
    pub(crate) fn kill(mut self) -> Result<Vec<String>> {
        self.emulator.kill()?;
        self.emulator.wait()?;
        Ok(self.lines.iter().collect())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.emulator.kill();
        let _ = self.emulator.wait();
    }
}

/// What runs in a machine: `xtask guest WORDS`.
pub(crate) fn run(words: &[String]) -> Result<()> {
    match words {
        [what, seed, life] if what == "power" => workload::run(seed.parse()?, life.parse()?),
        [what, share, port] if what == "smb" => kernel_smb::run(share, port),
        [what, path] if what == "lock" => kernel_smb::lock(Path::new(path)),
        _ => bail!("nothing to do in a machine: {}", words.join(" ")),
    }
}
