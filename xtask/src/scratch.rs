//! A temporary folder for stores and mount points.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

/// A folder that goes away with this value, or with this program, in whatever way it ends; what is still
/// mounted below it is unmounted first.
///
/// A shell waits until its standard input is closed, which the kernel does even for a program that is killed,
/// and then cleans up. It does so for programs that end well, too: there is only this one way.
pub struct Scratch {
    folder: PathBuf,
    shell: Child,
}

const SCRIPT: &str = r#"
    trap '' INT TERM HUP
    cat >/dev/null
    cut -d ' ' -f 2 /proc/self/mounts | while read -r mount_point; do
        mount_point=$(printf '%b' "$mount_point")
        case $mount_point in
            "$1"/*) fusermount3 -u "$mount_point" || fusermount3 -u -z "$mount_point" || umount -l "$mount_point" ;;
        esac
    done 2>/dev/null
    rm -rf --one-file-system "$1"
"#;

impl Scratch {
    /// Makes an empty folder in `parent`, with this process's number in its name.
    pub fn new(parent: &Path, name: &str) -> Result<Self> {
        let folder = parent.join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let folder = folder.canonicalize()?;
        let shell = Command::new("sh")
            .args(["-c", SCRIPT, "sh"])
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            // Who kills this program may kill its whole group.
            .process_group(0)
            .spawn()
            .context("cannot start a shell")?;
        Ok(Self { folder, shell })
    }

    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Waiting closes the shell's standard input first.
        if let Err(error) = self.shell.wait() {
            eprintln!("cannot clean up {}: {error}", self.folder.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_goes_away() {
        let scratch = Scratch::new(&std::env::temp_dir(), "scratch test").unwrap();
        let file = scratch.join("file");
        fs::write(&file, "x").unwrap();
        drop(scratch);
        assert!(!file.parent().unwrap().exists());
    }
}
