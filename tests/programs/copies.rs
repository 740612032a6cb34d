//! Programs that copy whole trees, with everything that files have.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::{across_a_remount, shell, succeed};

/// A folder of C headers or the like, and some sources of this program's own libraries.
fn source_trees() -> Vec<PathBuf> {
    let mut trees = vec![PathBuf::from("/usr/include"), Path::new(env!("CARGO_MANIFEST_DIR")).join("engine")];
    let cargo_home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo_home = cargo_home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    if let Some(registries) = cargo_home.and_then(|home| fs::read_dir(home.join("registry/src")).ok()) {
        let crates = registries.flatten().filter_map(|registry| fs::read_dir(registry.path()).ok()).flatten();
        let mut crates: Vec<PathBuf> = crates.flatten().map(|entry| entry.path()).collect();
        crates.sort();
        crates.truncate(20);
        trees.extend(crates);
    }
    trees.retain(|tree| tree.is_dir());
    assert!(!trees.is_empty(), "no sources to copy");
    trees
}

#[test]
fn copied_trees_are_equal() {
    let trees = source_trees();
    let rsync = |arguments: &[&str], target: &Path| {
        succeed(
            Command::new("rsync")
                .args(["--archive", "--hard-links"])
                .args(arguments)
                .args(&trees)
                .arg(target),
        )
    };
    across_a_remount(
        |mount| {
            rsync(&[], mount);
        },
        |mount| {
            // Names nothing unless contents, modes, owners, times or links differ.
            let different = rsync(&["--checksum", "--dry-run", "--itemize-changes", "--delete"], mount);
            assert_eq!(different, "");
            for tree in &trees {
                let copy = mount.join(tree.file_name().expect("a tree has a name"));
                succeed(Command::new("diff").args(["--recursive", "--no-dereference"]).arg(tree).arg(copy));
            }
        },
    );
}

/// A tree on the machine's own filesystem with hard and symbolic links, ACLs, extended attributes, holes and times.
fn rich_tree() -> TempDir {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir_all(path("inner/deeper")).unwrap();
    for number in 0..50 {
        fs::write(path(&format!("inner/{number}")), format!("{number}").repeat(number * 100)).unwrap();
    }
    fs::hard_link(path("inner/7"), path("inner/deeper/seven")).unwrap();
    fs::hard_link(path("inner/7"), path("7")).unwrap();
    symlink("inner/8", path("link")).unwrap();
    symlink("/nowhere", path("dangling")).unwrap();
    shell(
        folder.path(),
        "truncate -s 5M holes; printf x | dd of=holes bs=1 seek=3000000 conv=notrunc status=none
         setfacl -m u:games:rx,g:games:r inner/1; setfacl -d -m u:games:rwx,m::rwx inner/deeper
         setfattr -n user.colour -v blue inner/2; setfattr -n user.large -v $(printf %02000d 7) inner/3
         setfattr -n user.colour -v red inner
         chmod 2755 inner/deeper; chmod 4711 inner/9; mkfifo pipe
         touch -h -d '2001-02-03 04:05:06.123456789' inner/4 link; touch -d '1980-01-01' inner/deeper",
    );
    folder
}

#[test]
fn rsync_copies_everything_that_files_have() {
    let tree = rich_tree();
    let rsync = |arguments: &[&str], from: &Path, to: &Path| {
        // What is in it, not the folder itself.
        succeed(Command::new("rsync").arg("-aHAX").args(arguments).arg(from.join("")).arg(to))
    };
    across_a_remount(
        |mount| {
            rsync(&["--sparse"], tree.path(), &mount.join("first"));
            // And from this filesystem to itself.
            rsync(&[], &mount.join("first"), &mount.join("second"));
        },
        |mount| {
            for copy in ["first", "second"] {
                let arguments = ["--checksum", "--dry-run", "--itemize-changes", "--delete"];
                assert_eq!(rsync(&arguments, tree.path(), &mount.join(copy)), "", "{copy}");
            }
            let seven = fs::metadata(mount.join("second/7")).unwrap();
            assert_eq!(seven.nlink(), 3);
            assert_eq!(seven.ino(), fs::metadata(mount.join("second/inner/deeper/seven")).unwrap().ino());
        },
    );
}

/// All that a copy of a tree has to have.
fn described(tree: &Path) -> String {
    shell(
        tree,
        "find . -type d -printf '%p %m %U %G %n %T@\\n' | sort
         find . -not -type d -printf '%p %y %m %U %G %n %s %T@ %l\\n' | sort
         find . -type f | sort | xargs sha256sum
         find . -not -type l | sort | xargs getfacl -n
         find . | sort | xargs getfattr -h -d -m '^user'",
    )
}

#[test]
fn tar_keeps_attributes_and_acls() {
    let tree = rich_tree();
    let archive = |from: &Path, to: &Path| {
        succeed(
            Command::new("tar")
                .args(["--create", "--sparse", "--xattrs", "--acls", "--file"])
                .arg(to)
                .arg("--directory")
                .arg(from)
                .arg("."),
        )
    };
    let extract = |from: &Path, to: &Path| {
        fs::create_dir(to).unwrap();
        succeed(
            Command::new("tar")
                .args(["--extract", "--preserve-permissions", "--xattrs", "--acls", "--file"])
                .arg(from)
                .arg("--directory")
                .arg(to),
        )
    };
    across_a_remount(
        |mount| {
            archive(tree.path(), &mount.join("first.tar"));
            extract(&mount.join("first.tar"), &mount.join("first"));
            archive(&mount.join("first"), &mount.join("second.tar"));
            extract(&mount.join("second.tar"), &mount.join("second"));
        },
        |mount| {
            let expected = described(tree.path());
            assert!(
                expected.contains("user:5:r-x") && expected.contains("user.colour=\"red\""),
                "{expected}"
            );
            for copy in ["first", "second"] {
                assert_eq!(described(&mount.join(copy)), expected, "{copy}");
            }
        },
    );
}

#[test]
fn cp_keeps_and_finds_holes() {
    const BYTES: u64 = 32 << 20;
    let allocated = |path: PathBuf| fs::metadata(path).unwrap().blocks() * 512;
    across_a_remount(
        |mount| {
            shell(
                mount,
                "truncate -s 32M holes
                 for at in 0 1000 5000 8191; do printf data | dd of=holes bs=4096 seek=$at conv=notrunc status=none; done
                 head -c 32M /dev/zero > zeros; head -c 3M /dev/urandom > random; sync -f .
                 cp --sparse=auto holes auto; cp --sparse=always zeros always; cp --sparse=never holes never
                 cp --reflink=auto random clone; cp --reflink=auto holes clone-with-holes
                 cp --archive --sparse=always --reflink=never holes archive; sync -f .",
            );
        },
        |mount| {
            for (copy, of) in [
                ("auto", "holes"),
                ("always", "zeros"),
                ("never", "holes"),
                ("clone", "random"),
                ("clone-with-holes", "holes"),
                ("archive", "holes"),
            ] {
                succeed(Command::new("cmp").current_dir(mount).args([copy, of]));
            }
            for sparse in ["holes", "auto", "always", "clone-with-holes", "archive"] {
                assert_eq!(fs::metadata(mount.join(sparse)).unwrap().len(), BYTES, "{sparse}");
                assert!(
                    allocated(mount.join(sparse)) <= 64 << 10,
                    "{sparse}: {}",
                    allocated(mount.join(sparse))
                );
            }
            assert!(allocated(mount.join("never")) >= BYTES);
        },
    );
}
