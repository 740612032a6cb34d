//! What chattr(1) sets, and what it forbids.

mod support;

use blocktree_vfs::{
    FallocateMode, FileFlags, Fs, Ino, MountOptions, OpenFlags, RenameFlags, SetAttributes, SetTime,
    SetXattrFlags, Time, WriteFlags, file_flags,
};
use libc::{EINVAL, EOPNOTSUPP, EPERM};
use support::*;

const GET_FLAGS: u32 = 0x8008_6601;
const SET_FLAGS: u32 = 0x4008_6602;
const GET_EXTENDED: u32 = 0x801c_581f;
const SET_EXTENDED: u32 = 0x401c_5820;

const IMMUTABLE: FileFlags =
    FileFlags { immutable: true, append_only: false, no_dump: false, no_atime: false };
const APPEND_ONLY: FileFlags =
    FileFlags { immutable: false, append_only: true, no_dump: false, no_atime: false };
const WRITE: OpenFlags = OpenFlags { write: true, append: false, truncate: false, kill_privileges: false };
const CACHED: WriteFlags = WriteFlags { kill_privileges: false, from_cache: true };

fn set_times(fs: &Fs, ino: Ino, atime: Option<SetTime>, mtime: Option<SetTime>) -> blocktree_vfs::Result<()> {
    fs.setattr(&USER, ino, &SetAttributes { atime, mtime, ..SetAttributes::default() }).map(drop)
}

/// What neither an immutable nor an append-only file allows.
fn stays_as_it_is(fs: &Fs, file: Ino, name: &str) {
    let then = Some(SetTime::At(Time::new(5, 0)));
    fails(fs.open(file, WRITE), EPERM);
    fails(fs.open(file, OpenFlags { append: true, truncate: true, ..WRITE }), EPERM);
    fails(fs.write(file, 0, b"x", WriteFlags::default()), EPERM);
    fails(fs.truncate(file, 1), EPERM);
    fails(fs.truncate(file, 100), EPERM);
    for changes in [
        SetAttributes { permissions: Some(0o600), ..SetAttributes::default() },
        SetAttributes { uid: Some(1), ..SetAttributes::default() },
        SetAttributes { gid: Some(1), ..SetAttributes::default() },
    ] {
        fails(fs.setattr(&USER, file, &changes), EPERM);
    }
    fails(set_times(fs, file, then, then), EPERM);
    fails(set_times(fs, file, None, then), EPERM);
    fails(set_times(fs, file, Some(SetTime::Now), None), EPERM);
    fails(fs.setxattr(file, b"user.a", b"b", SetXattrFlags::default()), EPERM);
    fails(fs.removexattr(file, b"user.kept"), EPERM);
    fails(fs.fallocate(file, FallocateMode::PunchHole, 0, 4096, KEEP), EPERM);
    fails(fs.fallocate(file, FallocateMode::ZeroRange { keep_size: true }, 0, 4096, KEEP), EPERM);
    let other = fs.file_with(ROOT, "other", b"other");
    fails(fs.copy_file_range(other, 0, file, 0, 5, KEEP), EPERM);
    fails(fs.link(file, ROOT, b"second"), EPERM);
    fails(fs.unlink(ROOT, name.as_bytes()), EPERM);
    fails(fs.rename(ROOT, name.as_bytes(), ROOT, b"new", RenameFlags::default()), EPERM);
    fails(fs.rename(ROOT, b"other", ROOT, name.as_bytes(), RenameFlags::default()), EPERM);
    let exchange = RenameFlags { exchange: true, ..RenameFlags::default() };
    fails(fs.rename(ROOT, b"other", ROOT, name.as_bytes(), exchange), EPERM);
    fs.unlink(ROOT, b"other").unwrap();
}

#[test]
fn an_immutable_file_does_not_change() {
    let fs = mount();
    let file = fs.file_with(ROOT, "f", b"before");
    fs.setxattr(file, b"user.kept", b"x", SetXattrFlags::default()).unwrap();
    fs.set_file_flags(file, IMMUTABLE).unwrap();
    let before = fs.stat(file);
    stays_as_it_is(&fs, file, "f");
    fails(fs.open(file, OpenFlags { append: true, ..WRITE }), EPERM);
    fails(fs.append(file, b"x", WriteFlags::default()), EPERM);
    fails(fs.fallocate(file, FallocateMode::Allocate { keep_size: true }, 0, 4096, KEEP), EPERM);
    fails(set_times(&fs, file, Some(SetTime::Now), Some(SetTime::Now)), EPERM);
    assert_eq!(fs.stat(file), before);
    assert_eq!(fs.bytes(file), b"before");
    fs.open(file, OpenFlags::default()).unwrap();
    fs.release(file, None);
    fs.set_file_flags(file, FileFlags::default()).unwrap();
    fs.put(file, 0, b"after ");
    fs.unlink(ROOT, b"f").unwrap();
}

#[test]
fn an_append_only_file_only_grows() {
    let fs = mount();
    let file = fs.file_with(ROOT, "f", b"one ");
    fs.setxattr(file, b"user.kept", b"x", SetXattrFlags::default()).unwrap();
    fs.set_file_flags(file, APPEND_ONLY).unwrap();
    stays_as_it_is(&fs, file, "f");
    fs.open(file, OpenFlags { append: true, ..WRITE }).unwrap();
    fs.append(file, b"two ", WriteFlags::default()).unwrap();
    fs.put(file, 8, b"three");
    fs.fallocate(file, FallocateMode::Allocate { keep_size: true }, 0, 4096, KEEP).unwrap();
    set_times(&fs, file, Some(SetTime::Now), Some(SetTime::Now)).unwrap();
    assert_eq!(fs.bytes(file), b"one two three");
    fs.release(file, None);
}

#[test]
fn what_the_kernel_collected_is_not_lost() {
    let fs = mount();
    let file = fs.file_with(ROOT, "f", b"before");
    fs.open(file, WRITE).unwrap();
    fs.set_file_flags(file, IMMUTABLE).unwrap();
    fs.write(file, 0, b"cached", CACHED).unwrap();
    let time = Some(SetTime::At(Time::new(7, 0)));
    let times = SetAttributes { mtime: time, ctime: time, ..SetAttributes::default() };
    fs.setattr(&USER, file, &times).unwrap();
    fs.release(file, None);
    fails(fs.setattr(&USER, file, &times), EPERM);
    assert_eq!(fs.bytes(file), b"cached");
}

#[test]
fn an_immutable_directory_keeps_its_names() {
    let fs = mount();
    let directory = fs.dir(ROOT, "d");
    let (file, _) = (fs.file(directory, "f"), fs.dir(directory, "sub"));
    fs.file(ROOT, "outside");
    fs.set_file_flags(directory, IMMUTABLE).unwrap();
    fails(fs.create(&USER, directory, b"new", 0o644), EPERM);
    fails(fs.mkdir(&USER, directory, b"new", 0o755), EPERM);
    fails(fs.mknod(&USER, directory, b"new", libc::S_IFIFO | 0o644, 0), EPERM);
    fails(fs.symlink(&USER, directory, b"new", b"x"), EPERM);
    fails(fs.link(file, directory, b"new"), EPERM);
    fails(fs.unlink(directory, b"f"), EPERM);
    fails(fs.rmdir(directory, b"sub"), EPERM);
    fails(fs.rename(directory, b"f", ROOT, b"f", RenameFlags::default()), EPERM);
    fails(fs.rename(ROOT, b"outside", directory, b"in", RenameFlags::default()), EPERM);
    fails(fs.rename(ROOT, b"d", ROOT, b"e", RenameFlags::default()), EPERM);
    fails(fs.rmdir(ROOT, b"d"), EPERM);
    // Names that are there say so first, as in Linux.
    fails(fs.create(&USER, directory, b"f", 0o644), libc::EEXIST);
    // What is in it is not concerned.
    fs.put(file, 0, b"x");
    assert_eq!(fs.names(directory), ["f", "sub"]);
}

#[test]
fn an_append_only_directory_only_gets_names() {
    let fs = mount();
    let directory = fs.dir(ROOT, "d");
    fs.set_file_flags(directory, APPEND_ONLY).unwrap();
    fs.file(directory, "f");
    fs.file(ROOT, "outside");
    fs.rename(ROOT, b"outside", directory, b"in", RenameFlags::default()).unwrap();
    fs.file(ROOT, "outside");
    fails(fs.rename(ROOT, b"outside", directory, b"f", RenameFlags::default()), EPERM);
    fails(fs.unlink(directory, b"f"), EPERM);
    fails(fs.rename(directory, b"f", directory, b"g", RenameFlags::default()), EPERM);
    assert_eq!(fs.names(directory), ["f", "in"]);
}

#[test]
fn flags_are_inherited_but_not_those_that_forbid() {
    let fs = mount();
    let directory = fs.dir(ROOT, "d");
    let all = FileFlags { immutable: false, append_only: true, no_dump: true, no_atime: true };
    fs.set_file_flags(directory, all).unwrap();
    let file = fs.file(directory, "f");
    assert_eq!(fs.file_flags(file).unwrap(), FileFlags { append_only: false, ..all });
    let pipe = fs.mknod(&USER, directory, b"p", libc::S_IFIFO | 0o644, 0).unwrap().ino;
    fails(fs.file_flags(pipe), EOPNOTSUPP);
}

#[test]
fn no_atime_keeps_the_access_time() {
    let fs = mount();
    let file = fs.file_with(ROOT, "f", b"x");
    fs.set_file_flags(file, FileFlags { no_atime: true, ..FileFlags::default() }).unwrap();
    let before = fs.stat(file).atime;
    fs.bytes(file);
    assert_eq!(fs.stat(file).atime, before);
    fs.set_file_flags(file, FileFlags::default()).unwrap();
    fs.bytes(file);
    assert!(fs.stat(file).atime > before);
}

#[test]
fn flags_are_kept_over_a_remount() {
    let fs = mount();
    let file = fs.file(ROOT, "f");
    fs.set_file_flags(file, IMMUTABLE).unwrap();
    fs.unmount().unwrap();
    let fs = Fs::mount(fs.store().clone(), MountOptions::default()).unwrap();
    let file = fs.find(ROOT, "f").unwrap();
    assert_eq!(fs.file_flags(file).unwrap(), IMMUTABLE);
    fails(fs.unlink(ROOT, b"f"), EPERM);
}

#[test]
fn both_pairs_of_ioctls_say_the_same() {
    let fs = mount();
    let file = fs.file(ROOT, "f");
    let ask = |number, input: &[u8]| file_flags::answer(&fs, file, number, input).unwrap();
    let before = fs.stat(file).ctime;
    assert_eq!(ask(SET_FLAGS, &0xf0_u32.to_ne_bytes()).unwrap(), []);
    assert!(fs.stat(file).ctime > before);
    assert_eq!(ask(GET_FLAGS, &[]).unwrap(), 0xf0_u32.to_ne_bytes());
    let extended = ask(GET_EXTENDED, &[]).unwrap();
    assert_eq!((extended.len(), &extended[..4]), (28, &0xd8_u32.to_ne_bytes()[..]));
    let mut wanted = [0; 28];
    wanted[0] = 0x08;
    ask(SET_EXTENDED, &wanted).unwrap();
    assert_eq!(fs.file_flags(file).unwrap(), IMMUTABLE);
    assert_eq!(ask(GET_FLAGS, &[]).unwrap(), 0x10_u32.to_ne_bytes());

    // FS_SYNC_FL, a project, and what is too short.
    fails(ask(SET_FLAGS, &8_u32.to_ne_bytes()), EOPNOTSUPP);
    wanted[12] = 1;
    fails(ask(SET_EXTENDED, &wanted), EOPNOTSUPP);
    fails(ask(SET_FLAGS, &[0; 3]), EINVAL);
    fails(ask(SET_EXTENDED, &[0; 27]), EINVAL);
    assert_eq!(fs.file_flags(file).unwrap(), IMMUTABLE);
    assert!(file_flags::answer(&fs, file, 0xc010_4201, &[]).is_none());
}
