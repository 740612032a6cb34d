//! flock and fcntl locks.

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use blocktree_vfs::{CancelToken, Lock, LockKind, LockRange};
use support::*;

fn lock(kind: LockKind, start: u64, end: u64, owner: u64) -> Lock {
    Lock { kind, range: LockRange { start, end }, owner, pid: owner as u32 }
}

use LockKind::{Read, Unlock, Write};

#[test]
fn ranges_conflict_where_they_overlap() {
    let fs = mount();
    let file = fs.file(ROOT, "f");
    fs.setlk(file, lock(Write, 10, 19, 1), None).unwrap();
    fails(fs.setlk(file, lock(Read, 19, 30, 2), None), libc::EAGAIN);
    fs.setlk(file, lock(Write, 20, u64::MAX, 2), None).unwrap();
    fs.setlk(file, lock(Read, 0, 9, 2), None).unwrap();
    fs.setlk(file, lock(Read, 5, 5, 3), None).unwrap();
    fails(fs.setlk(file, lock(Write, 5, 5, 2), None), libc::EAGAIN);
    assert_eq!(fs.getlk(file, lock(Read, 12, 13, 2)).unwrap(), Some(lock(Write, 10, 19, 1)));
    assert_eq!(fs.getlk(file, lock(Write, 10, 19, 1)).unwrap(), None);
    fails(fs.setlk(file, lock(Read, 5, 4, 1), None), libc::EINVAL);
    let other = fs.file(ROOT, "g");
    fs.setlk(other, lock(Write, 0, u64::MAX, 3), None).unwrap();
}

#[test]
fn ranges_split_and_join() {
    let fs = mount();
    let file = fs.file(ROOT, "f");
    fs.setlk(file, lock(Write, 0, 99, 1), None).unwrap();
    fs.setlk(file, lock(Unlock, 40, 49, 1), None).unwrap();
    fs.setlk(file, lock(Write, 40, 49, 2), None).unwrap();
    fails(fs.setlk(file, lock(Write, 39, 39, 2), None), libc::EAGAIN);
    fails(fs.setlk(file, lock(Write, 50, 50, 2), None), libc::EAGAIN);
    fs.setlk(file, lock(Read, 60, 69, 1), None).unwrap();
    fs.setlk(file, lock(Read, 60, 69, 2), None).unwrap();
    fails(fs.setlk(file, lock(Read, 70, 70, 2), None), libc::EAGAIN);
    fs.setlk(file, lock(Unlock, 0, u64::MAX, 2), None).unwrap();
    fs.setlk(file, lock(Write, 40, 69, 1), None).unwrap();
    assert_eq!(
        fs.getlk(file, lock(Write, 55, 55, 2)).unwrap().unwrap().range,
        LockRange { start: 0, end: 99 }
    );
    fs.flush(file, 1).unwrap();
    fs.setlk(file, lock(Write, 0, u64::MAX, 2), None).unwrap();
}

#[test]
fn waiters_wake() {
    let fs = mount();
    let file = fs.file(ROOT, "f");
    fs.setlk(file, lock(Write, 0, 9, 1), None).unwrap();
    fs.flock(file, 1, Write, None).unwrap();
    let freed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            fs.setlk(file, lock(Write, 5, 15, 2), Some(&CancelToken::new())).unwrap();
            assert!(freed.load(Ordering::SeqCst));
        });
        scope.spawn(|| {
            fs.flock(file, 2, Read, Some(&CancelToken::new())).unwrap();
            assert!(freed.load(Ordering::SeqCst));
        });
        std::thread::sleep(Duration::from_millis(30));
        freed.store(true, Ordering::SeqCst);
        fs.flush(file, 1).unwrap();
        fs.release(file, Some(1));
    });
}

#[test]
fn waits_end_when_cancelled() {
    let fs = mount();
    let file = fs.file(ROOT, "f");
    fs.setlk(file, lock(Write, 0, 9, 1), None).unwrap();
    for delay in [0, 0, 1, 20] {
        let token = CancelToken::new();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| fs.setlk(file, lock(Read, 0, 9, 2), Some(&token)));
            std::thread::sleep(Duration::from_millis(delay));
            token.cancel();
            fails(waiter.join().unwrap(), libc::EINTR);
        });
    }
    let token = CancelToken::new();
    token.cancel();
    fails(fs.setlk(file, lock(Read, 0, 9, 2), Some(&token)), libc::EINTR);
}

#[test]
fn deadlocks_are_refused() {
    let fs = mount();
    let file = fs.file(ROOT, "f");
    fs.setlk(file, lock(Write, 0, 0, 1), None).unwrap();
    fs.setlk(file, lock(Write, 1, 1, 2), None).unwrap();
    let token = CancelToken::new();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| fs.setlk(file, lock(Write, 1, 1, 1), Some(&token)));
        std::thread::sleep(Duration::from_millis(30));
        fails(fs.setlk(file, lock(Write, 0, 0, 2), Some(&CancelToken::new())), libc::EDEADLK);
        fs.flush(file, 2).unwrap();
        waiter.join().unwrap().unwrap();
    });
}

#[test]
fn flock_is_shared_or_exclusive() {
    let fs = mount();
    let file = fs.file(ROOT, "f");
    fs.flock(file, 1, Read, None).unwrap();
    fs.flock(file, 2, Read, None).unwrap();
    fails(fs.flock(file, 3, Write, None), libc::EAGAIN);
    fs.flock(file, 2, Unlock, None).unwrap();
    fs.flock(file, 1, Write, None).unwrap();
    fails(fs.flock(file, 2, Read, None), libc::EAGAIN);
    fs.setlk(file, lock(Write, 0, 9, 2), None).unwrap();
    fs.release(file, Some(1));
    fs.flock(file, 2, Write, None).unwrap();
}
