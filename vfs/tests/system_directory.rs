//! A directory that the layers above keep things in, and no mount shows.

mod support;

use blocktree_vfs::{Fs, FsError, MountOptions, repair};
use support::*;

#[test]
fn it_is_there_and_nothing_shows_it() {
    let fs = mount();
    fs.file(ROOT, "seen");
    let before = fs.stat(ROOT);
    assert_eq!(fs.system_directory().unwrap(), None);
    let hidden = fs.make_system_directory().unwrap();
    assert_eq!(fs.make_system_directory().unwrap(), hidden, "there is one");
    assert_eq!(fs.system_directory().unwrap(), Some(hidden));

    assert_eq!(fs.names(ROOT), ["seen"]);
    let after = fs.stat(ROOT);
    assert_eq!((before.nlink, before.size, before.mtime), (after.nlink, after.size, after.mtime));
    for name in ["system", "/system", "", "/"] {
        assert!(fs.lookup(ROOT, name.as_bytes()).is_err(), "{name:?}");
    }
    assert!(matches!(fs.rmdir(ROOT, b"/system"), Err(FsError::Invalid(_))));
    assert_eq!(fs.stat(hidden).permissions, 0o700);
    assert_eq!((fs.stat(hidden).uid, fs.stat(hidden).gid), (0, 0));
}

#[test]
fn what_is_in_it_lasts_and_moves_out_whole() {
    let store = store();
    let options = || MountOptions { clock: Some(tick), ..MountOptions::default() };
    let fs = Fs::mount(store.clone(), options()).unwrap();
    let hidden = fs.make_system_directory().unwrap();
    let apps = fs.dir(hidden, "apps");
    fs.file_with(apps, "one", b"contents");
    fs.unmount().unwrap();
    drop(fs);

    let fs = Fs::mount(store, options()).unwrap();
    let hidden = fs.system_directory().unwrap().unwrap();
    let apps = fs.find(hidden, "apps").unwrap();
    let one = fs.find(apps, "one").unwrap();
    assert_eq!(fs.bytes(one), b"contents");
    fs.rename(apps, b"one", ROOT, b"two", Default::default()).unwrap();
    assert_eq!(fs.names(ROOT), ["two"]);
    assert_eq!(fs.stat(ROOT).size, 1);
}

#[test]
fn nobody_hears_of_what_is_kept_in_it() {
    let fs = mount();
    fs.file(ROOT, "seen");
    let start = fs.store().newest();
    let heard = || fs.events_since(start, 100).unwrap();
    let hidden = fs.make_system_directory().unwrap();
    let kept = fs.unnoted();
    let caller = blocktree_vfs::Caller::default();
    let file = kept.create(&caller, hidden, b"one", 0o600).unwrap().ino;
    kept.write(file, 0, b"contents", Default::default()).unwrap();
    kept.release(file, None);
    kept.rename(hidden, b"one", hidden, b"two", Default::default()).unwrap();
    kept.unlink(hidden, b"two").unwrap();
    fs.settle_quiet(std::time::Duration::ZERO);
    assert_eq!(heard(), []);
    // What moves out by others is a change like any other.
    kept.create(&caller, hidden, b"three", 0o600).unwrap();
    fs.rename(hidden, b"three", ROOT, b"four", Default::default()).unwrap();
    assert_eq!(heard().len(), 1, "{:?}", heard());
}

#[test]
fn a_check_of_the_tree_finds_nothing_wrong_with_it() {
    let store = store();
    let fs = Fs::mount(store.clone(), MountOptions::default()).unwrap();
    let hidden = fs.make_system_directory().unwrap();
    fs.dir(hidden, "apps");
    fs.dir(ROOT, "seen");
    fs.unmount().unwrap();
    drop(fs);
    assert_eq!(repair::examine(&store, false).unwrap(), []);
}
