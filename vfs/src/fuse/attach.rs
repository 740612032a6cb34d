//! Attaching to the kernel and detaching from it: mount(2) where allowed, `fusermount3` otherwise.
//!
//! Invariants:
//! 1. The system calls that need `unsafe` are in this file.
//! 2. Nothing here waits for the daemon: the caller may be the daemon.

#![allow(unsafe_code)]

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{Access, Flags, MountError, MountOptions};

const DEVICE: &str = "/dev/fuse";
/// What `/proc/mounts` calls it.
pub const FILESYSTEM_TYPE: &str = "fuse.blocktree";

/// Mounts, and returns the descriptor through which the kernel sends its requests.
pub(super) fn attach(mountpoint: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    match attach_directly(mountpoint, options) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::EACCES)) => {
            attach_by_helper(mountpoint, options)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(MountError::NoFuse(error)),
        Err(error) => Err(MountError::Mount(error)),
        Ok(device) => Ok(device),
    }
}

/// Unmounts. `lazily`: only takes it out of the tree; it ends when the last user lets go.
///
/// # Errors
/// [`io::ErrorKind::ResourceBusy`] if it is in use.
pub fn detach(mountpoint: &Path, lazily: bool) -> io::Result<()> {
    let path = c_string(mountpoint.as_os_str())?;
    let flags = libc::UMOUNT_NOFOLLOW | if lazily { libc::MNT_DETACH } else { 0 };
    // SAFETY: the path is a valid C string for the duration of the call.
    if unsafe { libc::umount2(path.as_ptr(), flags) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() != Some(libc::EPERM) {
        return Err(error);
    }
    let mut command = Command::new("fusermount3");
    command.arg("-u").args(lazily.then_some("-z")).arg("--").arg(mountpoint);
    let output = command.stdin(Stdio::null()).env("LC_ALL", "C").output().map_err(no_helper)?;
    if output.status.success() {
        return Ok(());
    }
    let message = helper_message(&output.stderr);
    let kind = if message.contains("busy") { io::ErrorKind::ResourceBusy } else { io::ErrorKind::Other };
    Err(io::Error::new(kind, message))
}

fn attach_directly(mountpoint: &Path, options: &MountOptions) -> io::Result<OwnedFd> {
    let device = File::options().read(true).write(true).open(DEVICE)?;
    let mode = mountpoint.metadata()?.mode();
    // SAFETY: these two only return numbers.
    let (user, group) = unsafe { (libc::getuid(), libc::getgid()) };
    let mut data = format!("fd={},rootmode={mode:o},user_id={user},group_id={group}", device.as_raw_fd());
    data.push_str(",default_permissions");
    if options.access != Access::Owner {
        data.push_str(",allow_other");
    }
    if let Some(bytes) = options.read_bytes_max {
        data.push_str(&format!(",max_read={bytes}"));
    }
    let source = c_string(&options.source)?;
    let target = c_string(mountpoint.as_os_str())?;
    let kind = c_string(OsStr::new(FILESYSTEM_TYPE))?;
    let data = c_string(OsStr::new(&data))?;
    let flags = mount_flags(options);
    // SAFETY: all four are valid C strings for the duration of the call.
    let result =
        unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(device.into())
}

fn mount_flags(options: &MountOptions) -> libc::c_ulong {
    let Flags { set_user_id, devices, execute, access_times, directory_access_times, synchronous } =
        options.flags;
    let mut flags = 0;
    for (wanted, flag) in [
        (options.read_only, libc::MS_RDONLY),
        (!set_user_id, libc::MS_NOSUID),
        (!devices, libc::MS_NODEV),
        (!execute, libc::MS_NOEXEC),
        (!access_times, libc::MS_NOATIME),
        (!directory_access_times, libc::MS_NODIRATIME),
        (synchronous, libc::MS_SYNCHRONOUS),
    ] {
        if wanted {
            flags |= flag;
        }
    }
    flags
}

/// `fusermount3` is installed set-user-id root; it mounts for an ordinary user and sends the descriptor over a socket.
fn attach_by_helper(mountpoint: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let (ours, theirs) = UnixStream::pair().map_err(MountError::Mount)?;
    let their_number = theirs.as_raw_fd();
    let mut command = Command::new("fusermount3");
    command.arg("-o").arg(helper_options(options)).arg("--").arg(mountpoint);
    command.env("_FUSE_COMMFD", their_number.to_string()).env("LC_ALL", "C");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    // SAFETY: fcntl is async-signal-safe, and nothing else happens between fork and exec.
    unsafe {
        command.pre_exec(move || {
            if libc::fcntl(their_number, libc::F_SETFD, 0) < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
    let mut child = command.spawn().map_err(|error| MountError::Mount(no_helper(error)))?;
    drop(theirs);
    let received = receive_descriptor(&ours);
    drop(ours);
    let mut message = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        // The helper says little; more than this is not for us.
        let _ = stderr.take(16 << 10).read_to_end(&mut message);
    }
    let status = child.wait().map_err(MountError::Mount)?;
    match received {
        Ok(Some(device)) => Ok(device),
        Ok(None) | Err(_) => {
            let message = helper_message(&message);
            if message.contains("user_allow_other") {
                return Err(MountError::AllowOther);
            }
            let message = if message.is_empty() { format!("fusermount3 failed: {status}") } else { message };
            Err(MountError::Mount(io::Error::other(message)))
        }
    }
}

fn helper_options(options: &MountOptions) -> OsString {
    let mut list = b"fsname=".to_vec();
    for &byte in options.source.as_bytes() {
        if matches!(byte, b',' | b'\\') {
            list.push(b'\\');
        }
        list.push(byte);
    }
    list.extend_from_slice(b",subtype=blocktree,default_permissions");
    let flags = options.flags;
    for (wanted, name) in [
        (options.read_only, "ro"),
        // Only root may ask for these two; the helper leaves them out unless asked.
        (!flags.execute, "noexec"),
        (!flags.access_times, "noatime"),
        (flags.synchronous, "sync"),
        (options.access != Access::Owner, "allow_other"),
    ] {
        if wanted {
            list.push(b',');
            list.extend_from_slice(name.as_bytes());
        }
    }
    if let Some(bytes) = options.read_bytes_max {
        list.extend_from_slice(format!(",max_read={bytes}").as_bytes());
    }
    OsString::from_vec(list)
}

/// The descriptor that comes with the next byte, or `None` if the other side closed without sending one.
fn receive_descriptor(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    const NUMBER_BYTES: u32 = size_of::<RawFd>() as u32;
    let mut byte = [0u8; 1];
    let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: byte.len() };
    // Aligned as a control message header wants it, and larger than CMSG_SPACE of one descriptor.
    let mut control = [0u64; 8];
    // SAFETY: an all-zero msghdr is valid.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control) as _;
    let received = loop {
        // SAFETY: the header points to one valid buffer and to a control buffer of the stated length.
        let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &mut header, libc::MSG_CMSG_CLOEXEC) };
        if received >= 0 {
            break received;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    };
    if received == 0 {
        return Ok(None);
    }
    // SAFETY: recvmsg filled in the header; CMSG_FIRSTHDR gives null or a header inside the control buffer, and a
    // message of at least CMSG_LEN of one descriptor holds one, which is now ours.
    unsafe {
        let message = libc::CMSG_FIRSTHDR(&header);
        if message.is_null()
            || (*message).cmsg_level != libc::SOL_SOCKET
            || (*message).cmsg_type != libc::SCM_RIGHTS
            || ((*message).cmsg_len as usize) < libc::CMSG_LEN(NUMBER_BYTES) as usize
        {
            return Ok(None);
        }
        let number = libc::CMSG_DATA(message).cast::<RawFd>().read_unaligned();
        Ok((number >= 0).then(|| OwnedFd::from_raw_fd(number)))
    }
}

/// A second descriptor of the connection that `device` is one of. It needs the right to open the device.
pub(super) fn clone_device(device: &File) -> io::Result<OwnedFd> {
    /// `_IOR(229, 0, uint32_t)`.
    const FUSE_DEV_IOC_CLONE: libc::c_ulong = 0x8004_e500;
    let clone = File::options().read(true).write(true).open(DEVICE)?;
    let number = device.as_raw_fd() as u32;
    // SAFETY: the call reads one u32, which lives long enough; both descriptors are open.
    if unsafe { libc::ioctl(clone.as_raw_fd(), FUSE_DEV_IOC_CLONE as _, &raw const number) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(clone.into())
}

/// The user that this process runs for: the one that owns its mounts.
pub(super) fn user() -> u32 {
    // SAFETY: it only returns a number.
    unsafe { libc::getuid() }
}

/// Writes back everything of the filesystem that `root` is the root of.
pub(super) fn write_back(root: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open for the duration of the call.
    if unsafe { libc::syncfs(root.as_raw_fd()) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn no_helper(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("fusermount3, which ordinary users need (package fuse3): {error}"))
}

fn helper_message(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    text.trim().trim_start_matches("fusermount3: ").to_owned()
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}
