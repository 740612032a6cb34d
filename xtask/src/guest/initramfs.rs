//! The files that a virtual machine starts with: busybox, this program, `blocktree`, their libraries and the kernel's modules,
//! in one cpio archive ("newc", see the kernel's `Documentation/driver-api/early-userspace/buffer-format.rst`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use xtask::command::{execute, output};

const INIT: &str = include_str!("init.sh");
/// Of the machine's disk and network, of the filesystems, and what a client of SMB asks for by name.
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "fuse",
    "cifs",
    "cmac",
    "hmac",
    "ccm",
    "gcm",
    "ghash_generic",
    "seqiv",
    "ctr",
    "ecb",
    "md5",
    "sha256_generic",
    "sha512_generic",
    "aes_generic",
    "nls_utf8",
];

const MODE_FILE: u32 = 0o100_644;
const MODE_PROGRAM: u32 = 0o100_755;
const MODE_FOLDER: u32 = 0o040_755;

/// Makes the archive, and beside it `blocktree` as it is in there, which it returns. `unpacked` has the kernel's modules and
/// busybox.
pub(super) fn build(archive: &Path, unpacked: &Path, program: &Path) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let mut files = BTreeMap::new();
    files.insert(PathBuf::from("init"), (MODE_PROGRAM, INIT.as_bytes().to_vec()));
    files.insert("passphrase".into(), (MODE_FILE, b"correct horse battery staple\n".to_vec()));
    files.insert("bin/busybox".into(), (MODE_PROGRAM, read(&unpacked.join("bin/busybox"))?));
    let place = |name: &str| archive.with_file_name(name);
    for (name, program) in [("xtask", own.as_path()), ("blocktree", program)] {
        // With what a debugger wants it would be several times as long.
        let stripped = place(name);
        execute(Command::new("strip").arg("-o").arg(&stripped).arg(program))?;
        files.insert(Path::new("bin").join(name), (MODE_PROGRAM, read(&stripped)?));
        for library in libraries(program)? {
            let place = library.strip_prefix("/").unwrap_or(&library).to_owned();
            files.insert(place, (MODE_PROGRAM, read(&library)?));
        }
    }
    let mut order = String::new();
    for module in modules(&find(&unpacked.join("lib/modules"), "")?)? {
        let name = module.file_name().context("a module has a name")?;
        order += &format!("{}\n", name.display());
        files.insert(Path::new("modules").join(name), (MODE_FILE, read(&module)?));
    }
    files.insert("modules/order".into(), (MODE_FILE, order.into_bytes()));
    let mut output = BufWriter::new(File::create(archive)?);
    write(&mut output, &files)?;
    output.flush().context("cannot write the initramfs")?;
    Ok(place("blocktree"))
}

/// The only entry of a folder whose name starts so.
pub(super) fn find(folder: &Path, start: &str) -> Result<PathBuf> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(start) {
            return Ok(entry.path());
        }
    }
    bail!("there is no {start} in {}", folder.display())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// What a program is linked with, as paths.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let linked = output(Command::new("ldd").arg(program))?;
    let words = linked.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(words.map(PathBuf::from).collect())
}

/// The files of all modules that are wanted, each behind those that it needs.
fn modules(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut known = BTreeMap::new();
    let mut folders = vec![folder.join("kernel")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "ko") {
                let name = path.file_stem().unwrap_or_default().to_string_lossy().replace('-', "_");
                known.insert(name, path);
            }
        }
    }
    let (mut order, mut done) = (Vec::new(), BTreeSet::new());
    for name in MODULES {
        // What is not there is built in.
        add_with_needs(name, &known, &mut done, &mut order)?;
    }
    Ok(order)
}

fn add_with_needs(
    name: &str,
    known: &BTreeMap<String, PathBuf>,
    done: &mut BTreeSet<String>,
    order: &mut Vec<PathBuf>,
) -> Result<()> {
    let Some(path) = known.get(name).filter(|_| done.insert(name.to_owned())) else { return Ok(()) };
    for need in needs(&read(path)?) {
        add_with_needs(&need, known, done, order)?;
    }
    order.push(path.clone());
    Ok(())
}

/// What a module says that it needs: `depends=a,b` among its strings.
fn needs(module: &[u8]) -> Vec<String> {
    const MARK: &[u8] = b"\0depends=";
    let Some(at) = module.windows(MARK.len()).position(|window| window == MARK) else { return Vec::new() };
    let list = module[at + MARK.len()..].split(|&byte| byte == 0).next().unwrap_or_default();
    let names = String::from_utf8_lossy(list).replace('-', "_");
    names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Writes files, with the folders above them, as a cpio archive.
fn write(output: &mut impl Write, files: &BTreeMap<PathBuf, (u32, Vec<u8>)>) -> io::Result<()> {
    let mut folders: BTreeSet<&Path> = ["proc", "sys", "dev", "tmp", "mnt"].iter().map(Path::new).collect();
    for path in files.keys() {
        folders.extend(path.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty()));
    }
    let folders = folders.into_iter().map(|folder| (folder, MODE_FOLDER, &[][..]));
    let files = files.iter().map(|(path, (mode, bytes))| (path.as_path(), *mode, bytes.as_slice()));
    for (number, (path, mode, bytes)) in (1..).zip(folders.chain(files)) {
        entry(output, number, &path.to_string_lossy(), mode, bytes)?;
    }
    entry(output, 0, "TRAILER!!!", 0, &[])
}

fn entry(output: &mut impl Write, number: u32, name: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let name_bytes = name.len() as u32 + 1;
    // Number, mode, owner, group, links, time, length, device (two numbers), device file (two), name's length, checksum.
    let fields = [number, mode, 0, 0, 1, 0, bytes.len() as u32, 0, 0, 0, 0, name_bytes, 0];
    let header: String = fields.iter().map(|field| format!("{field:08X}")).collect();
    write!(output, "070701{header}{name}\0")?;
    pad(output, 6 + 8 * fields.len() + name_bytes as usize)?;
    output.write_all(bytes)?;
    pad(output, bytes.len())
}

fn pad(output: &mut impl Write, bytes: usize) -> io::Result<()> {
    output.write_all(&[0; 3][..bytes.next_multiple_of(4) - bytes])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_says_what_it_needs() {
        assert_eq!(needs(b"x\0license=GPL\0depends=virtio-ring,virtio\0name=y\0"), ["virtio_ring", "virtio"]);
        assert!(needs(b"x\0depends=\0name=y\0").is_empty());
        assert!(needs(b"nothing").is_empty());
    }

    #[test]
    fn entries_are_aligned() {
        let files = BTreeMap::from([(PathBuf::from("a/b"), (MODE_FILE, b"hello".to_vec()))]);
        let mut archive = Vec::new();
        write(&mut archive, &files).unwrap();
        assert_eq!(archive.len() % 4, 0);
        let text = String::from_utf8_lossy(&archive);
        let starts: Vec<_> = text.match_indices("070701").map(|(at, _)| at).collect();
        assert!(starts.iter().all(|at| at % 4 == 0), "{starts:?}");
        let before = |name: &str| text.find(name).unwrap();
        assert!(before("a\0") < before("a/b\0"));
        assert!(text.contains("hello") && text.contains("TRAILER!!!"));
    }
}
