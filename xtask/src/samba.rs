//! A private Samba server (smbd) on 127.0.0.1, with its own configuration, passwords, state and port.
//!
//! Key type: [`Server`]. It ends with this process, in whatever way that ends: smbd stops, with the processes that it
//! started, once its standard input is closed. Only root can run it, since smbd acts as the users of its clients.

use std::fs::{self, DirBuilder};
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// The clients' user: any Debian has it, and it may do nothing that others may not.
pub const USER: &str = "daemon";
pub const PASSWORD: &str = "secret";

/// How long smbd may take until it answers.
const PATIENCE: Duration = Duration::from_secs(30);

/// Folders that smbd would otherwise share with the machine's own.
const FOLDERS: [(&str, &str); 6] = [
    ("private dir", "private"),
    ("lock directory", "lock"),
    ("state directory", "state"),
    ("cache directory", "cache"),
    ("pid directory", "pid"),
    ("ncalrpc dir", "ncalrpc"),
];

pub struct Server {
    smbd: Child,
    port: u16,
}

impl Server {
    /// Starts smbd with these shares (sections of smb.conf) and waits until it answers. All its files are in
    /// `folder`, which is made; its path should be short, as there are sockets in it.
    pub fn start(folder: &Path, shares: &str) -> Result<Self> {
        DirBuilder::new().mode(0o700).create(folder).context("cannot make the server's folder")?;
        for (_, name) in FOLDERS {
            DirBuilder::new().mode(0o755).create(folder.join(name))?;
        }
        // Whoever else takes it in the meantime makes smbd fail, which is then said.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let configuration = folder.join("smb.conf");
        fs::write(&configuration, format!("{}{shares}", global(folder, port)))?;
        check(&configuration)?;
        add_user(&configuration)?;
        let log = fs::File::create(folder.join("log"))?;
        let smbd = Command::new("smbd")
            .args(["--foreground", "--no-process-group", "--debug-stdout"])
            .arg("--configfile")
            .arg(&configuration)
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            // When it ends, smbd ends its whole group.
            .process_group(0)
            .spawn()
            .context("cannot run smbd")?;
        let mut server = Self { smbd, port };
        server.wait_until_it_answers().with_context(|| {
            let said = fs::read_to_string(folder.join("log")).unwrap_or_default();
            format!("smbd does not answer on port {port}: {}", said.trim())
        })?;
        Ok(server)
    }

    fn wait_until_it_answers(&mut self) -> Result<()> {
        let start = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_err() {
            if let Some(status) = self.smbd.try_wait()? {
                bail!("it ended ({status})");
            }
            ensure!(start.elapsed() < PATIENCE, "waited for {} seconds", PATIENCE.as_secs());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// One of Samba's client programs on one of the shares, as [`USER`].
    pub fn client(&self, program: &str, share: &str) -> Command {
        let mut client = Command::new(program);
        client.arg(format!("//127.0.0.1/{share}"));
        client.args(["-p", &self.port.to_string(), "-U", &format!("{USER}%{PASSWORD}")]);
        client
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Waiting closes its standard input first.
        if let Err(error) = self.smbd.wait() {
            eprintln!("cannot wait for smbd: {error}");
        }
    }
}

/// The name of the share in a section.
pub fn share_name(section: &str) -> Option<&str> {
    section.lines().find_map(|line| line.trim().strip_prefix('[')?.strip_suffix(']'))
}

/// The same share of another folder, under another name.
pub fn share_elsewhere(section: &str, name: &str, folder: &Path) -> String {
    let moved = section.lines().map(|line| match line.trim() {
        line if line.starts_with('[') => format!("[{name}]\n"),
        line if line.starts_with("path =") => format!("    path = {}\n", folder.display()),
        _ => format!("{line}\n"),
    });
    moved.collect()
}

fn global(folder: &Path, port: u16) -> String {
    let folders = FOLDERS.map(|(setting, name)| format!("    {setting} = {}\n", folder.join(name).display()));
    format!(
        "[global]\n    \
         server role = standalone\n    workgroup = TEST\n    netbios name = SERVER\n    \
         interfaces = 127.0.0.1\n    bind interfaces only = yes\n    smb ports = {port}\n    \
         disable netbios = yes\n    disable spoolss = yes\n    load printers = no\n    \
         passdb backend = tdbsam\n    log level = 1\n{}",
        folders.concat()
    )
}

/// Fails if Samba does not understand a setting, or not where it stands.
fn check(configuration: &Path) -> Result<()> {
    let checked = crate::command::outcome(Command::new("testparm").arg("-s").arg(configuration))?;
    let said = String::from_utf8_lossy(&checked.stderr);
    let is_wrong =
        |line: &&str| ["Unknown", "Ignoring", "Global parameter"].iter().any(|word| line.contains(word));
    let wrong: Vec<_> = said.lines().filter(is_wrong).collect();
    ensure!(checked.status.success() && wrong.is_empty(), "testparm: {said}");
    Ok(())
}

fn add_user(configuration: &Path) -> Result<()> {
    let mut smbpasswd = Command::new("smbpasswd")
        .arg("-c")
        .arg(configuration)
        .args(["-s", "-a", USER])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        // It tells of the file that it makes.
        .stderr(Stdio::null())
        .spawn()
        .context("cannot run smbpasswd")?;
    let mut input = smbpasswd.stdin.take().context("smbpasswd has no input")?;
    write!(input, "{PASSWORD}\n{PASSWORD}\n")?;
    drop(input);
    let status = smbpasswd.wait()?;
    ensure!(status.success(), "smbpasswd failed ({status})");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_moves_with_all_its_settings() {
        let section = "[tree]\n    path = /srv/tree\n    # Mine.\n    read only = no\n";
        assert_eq!(share_name(section), Some("tree"));
        let moved = share_elsewhere(section, "other", Path::new("/srv/other"));
        assert_eq!(moved, "[other]\n    path = /srv/other\n    # Mine.\n    read only = no\n");
    }
}
