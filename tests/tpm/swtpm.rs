//! A software TPM (swtpm) for each test, which ends with it.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::support::{Ran, finish, is_alive, program, wait_until};

/// A software TPM. Its state outlives a restart, as that of a TPM does.
pub(crate) struct Tpm {
    state: TempDir,
    port: u16,
    process: Child,
}

impl Tpm {
    pub(crate) fn new() -> Self {
        let state = tempfile::tempdir().unwrap();
        let port = free_port();
        let process = start(&state, port);
        Self { state, port, process }
    }

    /// As when the machine is started anew: the PCRs are as at first.
    pub(crate) fn restart(&mut self) {
        // As an operating system does at its end: otherwise the TPM takes it for an attempt to guess a PIN.
        if matches!(self.process.try_wait(), Ok(None)) {
            self.tool("tpm2_shutdown", &["--clear"]);
        }
        self.stop();
        self.process = start(&self.state, self.port);
    }

    pub(crate) fn stop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        assert!(!is_alive(self.process.id()));
    }

    fn place(&self) -> String {
        format!("swtpm:host=127.0.0.1,port={}", self.port)
    }

    /// A command of ours that finds this TPM.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program();
        command.env("BLOCKTREE_TPM", self.place()).args(arguments);
        command
    }

    pub(crate) fn status(&self) -> String {
        finish(&mut self.command(&["tpm", "status"])).ok().stdout
    }

    /// Adds to what a PCR measured.
    pub(crate) fn extend_pcr(&self, pcr: u32) {
        self.tool("tpm2_pcrextend", &[&format!("{pcr}:sha256={}", "42".repeat(32))]);
    }

    /// As the firmware's menu does it: all that it keeps is gone.
    pub(crate) fn clear(&self) {
        self.tool("tpm2_clear", &["-c", "platform"]);
    }

    /// Runs one of tpm2-tools, which leave nothing loaded here.
    pub(crate) fn tool(&self, name: &str, arguments: &[&str]) -> String {
        self.run_tool(name, arguments).ok().stdout
    }

    /// One that the TPM refuses.
    pub(crate) fn tool_fails(&self, name: &str, arguments: &[&str], says: &str) {
        let ran = self.run_tool(name, arguments);
        assert!(ran.code != 0 && ran.stderr.contains(says), "{ran:?}");
    }

    fn run_tool(&self, name: &str, arguments: &[&str]) -> Ran {
        finish(Command::new(name).env("TPM2TOOLS_TCTI", self.place()).args(arguments))
    }
}

impl Drop for Tpm {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A port that nobody has, and neither the next one, which swtpm's libraries take for control.
fn free_port() -> u16 {
    loop {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        if port < u16::MAX && TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            return port;
        }
    }
}

fn start(state: &TempDir, port: u16) -> Child {
    let mut command = Command::new("swtpm");
    command.args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"]);
    command.arg("--tpmstate").arg(format!("dir={}", state.path().display()));
    command.arg("--server").arg(format!("type=tcp,port={port}"));
    command.arg("--ctrl").arg(format!("type=tcp,port={}", port + 1));
    let process = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("swtpm starts");
    wait_until("swtpm listens", || TcpStream::connect(("127.0.0.1", port + 1)).is_ok());
    process
}
