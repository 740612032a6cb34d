//! What this process can do to the system once it is confined: compute, and talk through the two descriptors that it
//! was born with.
//!
//! In this order: limits of what it may use; no core dumps and no look from outside; no user of its own; no new
//! privileges; no file, no socket and no signal to others by Landlock; and at the end a list of the system calls that
//! are left. Each alone would stop an app that broke out of the runtime; they are different walls.
//!
//! What a kernel does not have is left out by Landlock itself; without seccomp there is no app.

#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::io;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr,
    Scope,
};
use rustix::process::{
    DumpableBehavior, Gid, Resource, Rlimit, Signal, Uid, nice, set_dumpable_behavior,
    set_parent_process_death_signal, setrlimit,
};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter_all_threads,
};

use crate::limits::WINDOW_BYTES;

/// Descriptors that it may have: the standard ones, its copies of them, and what the runtime makes.
const DESCRIPTORS_MAX: u64 = 32;
/// What compiler and runtime need beside the app's memory.
const RUNTIME_MIB: u64 = 1024;
/// How much less it gets of a processor that others want, too: those who use the filesystem come first.
const NICER: i32 = 5;
/// Nobody.
const NOBODY: u32 = 65_534;

#[derive(Debug, thiserror::Error)]
pub(super) enum ConfineError {
    #[error("cannot limit this process: {0}")]
    System(#[from] io::Error),
    #[error("Landlock: {0}")]
    Landlock(#[from] landlock::RulesetError),
    #[error("seccomp: {0}")]
    Seccomp(#[from] seccompiler::Error),
    #[error("seccomp: {0}")]
    Backend(#[from] seccompiler::BackendError),
}

impl From<rustix::io::Errno> for ConfineError {
    fn from(error: rustix::io::Errno) -> Self {
        Self::System(error.into())
    }
}

/// Closes what whoever started the node may have left open for everybody. Call it before anything is opened here.
pub(super) fn close_others() -> io::Result<()> {
    // SAFETY: it is the first thing that this process does, so no object here owns one of these descriptors.
    match unsafe { libc::close_range(3, libc::c_uint::MAX, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// All that concerns one thread only, or its children: before there are others.
pub(super) fn first() -> Result<(), ConfineError> {
    limit(Resource::Core, 0)?;
    limit(Resource::Nofile, DESCRIPTORS_MAX)?;
    limit(Resource::Fsize, WINDOW_BYTES as u64)?;
    limit(Resource::Memlock, 0)?;
    nice(NICER)?;
    become_nobody()?;
    // After that, since a change of user undoes both.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    set_parent_process_death_signal(Some(Signal::KILL))?;
    forbid_files_and_network()
}

/// The system calls that are left, for all threads.
pub(super) fn last() -> Result<(), ConfineError> {
    let is = |argument, value: u64| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
    };
    let mut calls: BTreeMap<_, _> = ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    // Its own limits, not those of others; what installing a filter needs; and seals of files in memory.
    calls.insert(libc::SYS_prlimit64, vec![SeccompRule::new(vec![is(0, 0)?])?]);
    calls.insert(libc::SYS_prctl, vec![SeccompRule::new(vec![is(0, libc::PR_SET_NO_NEW_PRIVS as u64)?])?]);
    let seal = [is(1, libc::F_ADD_SEALS as u64)?, is(1, libc::F_GET_SEALS as u64)?];
    let seal: Result<Vec<_>, _> = seal.into_iter().map(|one| SeccompRule::new(vec![one])).collect();
    calls.insert(libc::SYS_fcntl, seal?);
    // An error, not death: what looks for something optional goes on without it.
    install(calls, SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow)
}

/// From now on, no memory becomes code: what is to run is there.
pub(super) fn no_more_code() -> Result<(), ConfineError> {
    let executable = || {
        let bit = libc::PROT_EXEC as u64;
        let has = SeccompCmpOp::MaskedEq(bit);
        Ok::<_, ConfineError>(vec![SeccompRule::new(vec![SeccompCondition::new(
            2,
            SeccompCmpArgLen::Dword,
            has,
            bit,
        )?])?])
    };
    let calls = BTreeMap::from([(libc::SYS_mmap, executable()?), (libc::SYS_mprotect, executable()?)]);
    install(calls, SeccompAction::Allow, SeccompAction::KillProcess)
}

fn install(
    calls: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    these: SeccompAction,
) -> Result<(), ConfineError> {
    let architecture: TargetArch = std::env::consts::ARCH.try_into()?;
    let program: BpfProgram = SeccompFilter::new(calls, otherwise, these, architecture)?.try_into()?;
    Ok(apply_filter_all_threads(&program)?)
}

/// Private memory of the whole process: what the app may have, and what its runtime needs.
pub(super) fn limit_memory(memory_mib: u32) -> Result<(), io::Error> {
    limit(Resource::Data, (u64::from(memory_mib) + RUNTIME_MIB) << 20)
}

fn limit(resource: Resource, to: u64) -> io::Result<()> {
    Ok(setrlimit(resource, Rlimit { current: Some(to), maximum: Some(to) })?)
}

/// Root gives up what it is. Other users stay who they are.
fn become_nobody() -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    set_thread_groups(&[])?;
    set_thread_res_gid(group, group, group)?;
    Ok(set_thread_res_uid(user, user, user)?)
}

/// Sets no-new-privileges too.
fn forbid_files_and_network() -> Result<(), ConfineError> {
    const NEWEST: ABI = ABI::V6;
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .no_new_privs(true)
        .restrict_self()?;
    Ok(())
}

/// Computing, memory, one's own threads and signals, the clock, and what is open already. No `open`, no `socket`, no
/// `execve`, no `kill` of others, no `ptrace`.
const ALLOWED: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_ftruncate,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_memfd_create,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_recvfrom,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_sendto,
    libc::SYS_seccomp,
    libc::SYS_sigaltstack,
    libc::SYS_write,
];
