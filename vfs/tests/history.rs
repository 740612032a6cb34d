//! Who changed what: paths as they were when they were changed.

mod support;

use blocktree_engine::Seq;
use blocktree_vfs::{Event, Fs, Past, RenameFlags};
use support::*;

const ALL: Seq = Seq(u64::MAX);

fn past(fs: &Fs, path: &str) -> Past {
    page(fs, path, ALL, 1000)
}

fn page(fs: &Fs, path: &str, before: Seq, limit: usize) -> Past {
    let names: Vec<&[u8]> = path.split('/').filter(|name| !name.is_empty()).map(str::as_bytes).collect();
    fs.history(&names, before, limit).unwrap()
}

/// Newest first: what, and where.
fn told(past: &Past) -> Vec<String> {
    let text = |path: &Option<Vec<u8>>| {
        path.as_ref().map_or("?".to_owned(), |path| String::from_utf8(path.clone()).unwrap())
    };
    past.changes
        .iter()
        .map(|change| {
            let what = match change.entry.event {
                Event::Linked { is_new: true, .. } => "new",
                Event::Linked { is_new: false, .. } => "link",
                Event::Unlinked { .. } => "gone",
                Event::Renamed { exchanged: false, .. } => "moved",
                Event::Renamed { exchanged: true, .. } => "swapped",
                Event::Data { .. } => "data",
                Event::Settled { .. } => "settled",
                Event::Attributes { .. } => "attributes",
                _ => "other",
            };
            match &change.new_path {
                None => format!("{what} {}", text(&change.path)),
                new_path => format!("{what} {} {}", text(&change.path), text(new_path)),
            }
        })
        .collect()
}

fn rename(fs: &Fs, from: (u64, &str), to: (u64, &str)) {
    fs.rename(from.0, from.1.as_bytes(), to.0, to.1.as_bytes(), RenameFlags::default()).unwrap();
}

#[test]
fn a_file_is_followed_through_its_names() {
    let fs = mount();
    let folder = fs.dir(ROOT, "folder");
    let file = fs.file_with(ROOT, "a", b"bytes");
    rename(&fs, (ROOT, "a"), (folder, "b"));
    fs.chmod(file, 0o600);
    fs.file(ROOT, "other");
    let all = ["attributes /folder/b", "moved /a /folder/b", "data /a", "new /a"];
    assert_eq!(told(&past(&fs, "/folder/b")), all);
    // What was there is found under its old name as far as it had that.
    assert_eq!(told(&past(&fs, "/a")), all[1..]);
    assert_eq!(told(&past(&fs, "/never")), [""; 0]);
    // A new file of that name begins anew, after what the old one was.
    fs.file(ROOT, "a");
    assert_eq!(told(&past(&fs, "/a")), ["new /a", "moved /a /folder/b", "data /a", "new /a"]);
}

#[test]
fn a_directory_has_the_history_of_everything_below() {
    let fs = mount();
    let [a, b] = ["a", "b"].map(|name| fs.dir(ROOT, name));
    let c = fs.dir(a, "c");
    fs.file(c, "f");
    rename(&fs, (a, "c"), (b, "d"));
    fs.file(c, "g");
    fs.unlink(c, b"f").unwrap();
    let below_b = ["gone /b/d/f", "new /b/d/g", "moved /a/c /b/d"];
    assert_eq!(told(&past(&fs, "/b"))[..3], below_b);
    assert_eq!(told(&past(&fs, "/a")), ["moved /a/c /b/d", "new /a/c/f", "new /a/c", "new /a"]);
    // By what it is, and not by where.
    let followed = ["gone /b/d/f", "new /b/d/g", "moved /a/c /b/d", "new /a/c/f", "new /a/c"];
    assert_eq!(told(&past(&fs, "/b/d")), followed);
    assert_eq!(told(&past(&fs, "/")).len(), 8, "with the mount");
}

#[test]
fn what_was_deleted_is_found() {
    let fs = mount();
    let a = fs.dir(ROOT, "a");
    let b = fs.dir(a, "b");
    fs.file_with(b, "f", b"bytes");
    fs.unlink(b, b"f").unwrap();
    fs.rmdir(a, b"b").unwrap();
    fs.rmdir(ROOT, b"a").unwrap();
    assert_eq!(told(&past(&fs, "/a/b/f")), ["gone /a/b/f", "data /a/b/f", "new /a/b/f"]);
    assert_eq!(
        told(&past(&fs, "/a")),
        ["gone /a", "gone /a/b", "gone /a/b/f", "data /a/b/f", "new /a/b/f", "new /a/b", "new /a"]
    );
}

#[test]
fn exchanged_directories_are_told_apart() {
    let fs = mount();
    let [a, b] = ["a", "b"].map(|name| fs.dir(ROOT, name));
    fs.file(a, "in-a");
    let flags = RenameFlags { exchange: true, ..RenameFlags::default() };
    fs.rename(ROOT, b"a", ROOT, b"b", flags).unwrap();
    fs.file(b, "in-b");
    assert_eq!(told(&past(&fs, "/"))[..3], ["new /a/in-b", "swapped /a /b", "new /a/in-a"]);
    // The directory that is /b now was /a.
    assert!(told(&past(&fs, "/b")).contains(&"new /a/in-a".to_owned()));
}

#[test]
fn pages_join_without_a_seam() {
    let fs = mount();
    let folder = fs.dir(ROOT, "folder");
    for number in 0..20 {
        fs.file(folder, &number.to_string());
        rename(&fs, (folder, &number.to_string()), (folder, "x"));
    }
    let all = told(&past(&fs, "/folder"));
    let (mut joined, mut before) = (Vec::new(), Some(ALL));
    while let Some(seq) = before {
        let page = page(&fs, "/folder", seq, 7);
        assert!(page.changes.len() == 7 || page.more_before.is_none());
        assert!(!page.is_cut && page.kept_since.is_some());
        joined.extend(told(&page));
        before = page.more_before;
    }
    assert_eq!(joined, all);
    assert_eq!(all.len(), 41);
}
