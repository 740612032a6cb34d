//! The system calls that the standard library has no safe name for.
//!
//! Invariant: what is unsafe in this crate is in this file.

#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use blocktree_vfs::control::Command;
use zerocopy::{FromBytes, Immutable, IntoBytes};
use zeroize::Zeroizing;

/// Whether a request for a mounted store failed because its daemon has died: before, or while it waited.
pub(crate) fn says_dead(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotConnected | io::ErrorKind::ConnectionAborted)
}

/// Sends a request to the daemon behind `root`, an open root directory of a mount; the answer replaces the message.
pub(crate) fn request<T: FromBytes + IntoBytes + Immutable>(
    root: &File,
    command: Command,
    message: &mut T,
) -> io::Result<()> {
    if size_of::<T>() != command.bytes() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the command's number says how many bytes the kernel reads and writes, which was compared to the
    // message's size; any bytes are a valid message.
    let result = unsafe { libc::ioctl(root.as_raw_fd(), command.number() as _, std::ptr::from_mut(message)) };
    checked(result).map(drop)
}

/// Writes everything back that the kernel holds for the filesystem of `root`.
pub(crate) fn write_back(root: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open for the duration of the call.
    checked(unsafe { libc::syncfs(root.as_raw_fd()) }).map(drop)
}

/// A process that one can wait for without being its parent.
pub(crate) struct Process(OwnedFd);

impl Process {
    pub(crate) fn open(id: u32) -> io::Result<Self> {
        // SAFETY: pidfd_open takes two integers and returns a new descriptor or an error.
        let number = checked(unsafe { libc::syscall(libc::SYS_pidfd_open, id as libc::pid_t, 0) } as i32)?;
        // SAFETY: the descriptor is new and ours.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(number) }))
    }

    /// Returns once it has ended.
    pub(crate) fn wait(&self) -> io::Result<()> {
        let mut entry = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        loop {
            // SAFETY: the pointer is to one valid entry.
            match checked(unsafe { libc::poll(&mut entry, 1, -1) }) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result.map(drop),
            }
        }
    }
}

/// The signals that ask a daemon to end, blocked so that one thread can wait for them.
pub(crate) struct EndSignals(libc::sigset_t);

impl EndSignals {
    /// Blocks them in this thread and in the threads that it starts from now on: call it before there are others.
    pub(crate) fn block() -> io::Result<Self> {
        // SAFETY: an all-zero sigset_t is valid memory for sigemptyset to fill in.
        let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
        // SAFETY: the set is valid, and so are the signal numbers; the old mask is not asked for.
        let error = unsafe {
            libc::sigemptyset(&mut set);
            for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
                libc::sigaddset(&mut set, signal);
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut())
        };
        if error == 0 { Ok(Self(set)) } else { Err(io::Error::from_raw_os_error(error)) }
    }

    /// Returns when one of them arrives.
    pub(crate) fn wait(&self) -> i32 {
        let mut signal = 0;
        // SAFETY: both pointers are valid for the duration of the call.
        while unsafe { libc::sigwait(&self.0, &mut signal) } != 0 {}
        signal
    }
}

/// From now on, SIGINT and SIGTERM only set this; a second one ends the process.
pub(crate) fn interrupts() -> io::Result<&'static AtomicBool> {
    static INTERRUPTED: AtomicBool = AtomicBool::new(false);
    extern "C" fn note(_: libc::c_int) {
        INTERRUPTED.store(true, Ordering::Relaxed);
    }
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: an all-zero sigaction is valid, with an empty mask.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = note as extern "C" fn(libc::c_int) as libc::sighandler_t;
        action.sa_flags = libc::SA_RESETHAND | libc::SA_RESTART;
        // SAFETY: the action is valid, and its handler only stores to an atomic.
        checked(unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) })?;
    }
    Ok(&INTERRUPTED)
}

/// Leaves the terminal's session, so that the terminal's end is not this process's.
pub(crate) fn leave_session() {
    // SAFETY: no memory is involved. It fails only for a leader of a process group, which needs no leaving.
    unsafe { libc::setsid() };
}

/// Keeps this process's memory out of core dumps, and from others of the same user. Root can still look, to profile it.
pub(crate) fn keep_memory_private() {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a valid limit; prctl takes numbers. Where they are refused, all is as it was.
    unsafe {
        libc::setrlimit(libc::RLIMIT_CORE, &none);
        libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0);
    }
}

/// What takes everything and gives nothing.
pub(crate) fn open_nowhere() -> io::Result<File> {
    File::options().read(true).write(true).open("/dev/null")
}

/// Points standard input, output and error there.
pub(crate) fn point_standard_streams_to(nowhere: &File) -> io::Result<()> {
    for stream in 0..=2 {
        // SAFETY: both are valid descriptors; the standard streams are not owned by any Rust object that closes them.
        checked(unsafe { libc::dup2(nowhere.as_raw_fd(), stream) })?;
    }
    Ok(())
}

/// While it exists, the terminal shows nothing of what is typed, and gives each byte as it comes: also those that
/// would otherwise send a signal, which would leave the terminal like this.
pub(crate) struct HiddenInput {
    terminal: OwnedFd,
    before: libc::termios,
}

impl HiddenInput {
    pub(crate) fn on(terminal: &File) -> io::Result<Self> {
        let terminal = OwnedFd::from(terminal.try_clone()?);
        // SAFETY: an all-zero termios is valid memory for tcgetattr to fill in.
        let mut before: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: the descriptor is open and the pointer valid.
        checked(unsafe { libc::tcgetattr(terminal.as_raw_fd(), &mut before) })?;
        let mut hidden = before;
        hidden.c_lflag &= !(libc::ECHO | libc::ICANON | libc::ISIG);
        hidden.c_cc[libc::VMIN] = 1;
        hidden.c_cc[libc::VTIME] = 0;
        // SAFETY: as above. Flushing discards what was typed before the question.
        checked(unsafe { libc::tcsetattr(terminal.as_raw_fd(), libc::TCSAFLUSH, &hidden) })?;
        Ok(Self { terminal, before })
    }
}

impl Drop for HiddenInput {
    fn drop(&mut self) {
        // SAFETY: the descriptor is open and the pointer valid.
        unsafe { libc::tcsetattr(self.terminal.as_raw_fd(), libc::TCSANOW, &self.before) };
    }
}

/// A key of type "user" in the keyrings of this process, its session and its user: request_key(2). One that is longer than
/// `bytes_max` is an error.
pub(crate) fn key_from_keyrings(description: &str, bytes_max: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let description = CString::new(description)?;
    let none = std::ptr::null::<libc::c_char>();
    // SAFETY: type and description are strings that end with zero; without information to call out with, nothing is
    // started, only searched for.
    let key = unsafe {
        libc::syscall(libc::SYS_request_key, c"user".as_ptr(), description.as_ptr(), none, 0 as libc::c_long)
    };
    if key < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut bytes = Zeroizing::new(vec![0; bytes_max + 1]);
    // SAFETY: the buffer is as long as is said; the kernel says how long the key is, and copies no more.
    let length = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            libc::c_long::from(libc::KEYCTL_READ),
            key,
            bytes.as_mut_ptr(),
            bytes.len(),
        )
    };
    match usize::try_from(length) {
        Err(_) => Err(io::Error::last_os_error()),
        Ok(length) if length > bytes_max => Err(io::ErrorKind::FileTooLarge.into()),
        Ok(length) => {
            bytes.truncate(length);
            Ok(bytes)
        }
    }
}

/// The user and group that this process acts as.
pub(crate) fn effective_user_and_group() -> (u32, u32) {
    // SAFETY: these two only return numbers.
    unsafe { (libc::geteuid(), libc::getegid()) }
}

fn checked(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_in_a_keyring() {
        let description = format!("blocktree-test-{}", std::process::id());
        let missing = key_from_keyrings(&description, 100).unwrap_err();
        assert_eq!(missing.raw_os_error(), Some(libc::ENOKEY));
        let (name, value) = (CString::new(description.clone()).unwrap(), *b"swordfish");
        // SAFETY: the strings end with zero, the value is as long as is said; the keyring ends with this process.
        let added = unsafe {
            libc::syscall(
                libc::SYS_add_key,
                c"user".as_ptr(),
                name.as_ptr(),
                value.as_ptr(),
                value.len(),
                libc::c_long::from(libc::KEY_SPEC_PROCESS_KEYRING),
            )
        };
        assert!(added > 0, "{}", io::Error::last_os_error());
        assert_eq!(key_from_keyrings(&description, 9).unwrap().as_slice(), b"swordfish");
        assert_eq!(key_from_keyrings(&description, 8).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert!(key_from_keyrings("nul\0inside", 8).is_err());
    }
}
