//! Real programs on a mounted store: each works, unmounts, mounts again, looks once more, and leaves a store that
//! `blocktree check` finds clean.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::{Place, finish, program};

/// A store that holds all that a test here writes.
fn roomy_store() -> Place {
    let place = Place::empty();
    finish(
        program().arg("init").arg(place.store()).args(["--size", "4G"]).args(place.passphrase_arguments()),
    )
    .ok();
    place
}

fn assert_clean(place: &Place) {
    finish(program().arg("check").arg(place.store()).args(place.passphrase_arguments())).ok();
}

/// Runs `work`, then `look` before and after the store is mounted anew; then checks it.
fn across_a_remount(work: impl FnOnce(&Path), look: impl Fn(&Path)) {
    let place = roomy_store();
    let mount = place.mount();
    work(&place.mountpoint());
    look(&place.mountpoint());
    mount.umount();
    let mount = place.mount();
    look(&place.mountpoint());
    mount.umount();
    assert_clean(&place);
}

/// Runs a program that has to succeed, however long it takes; what it says on standard output.
#[track_caller]
fn succeed(command: &mut Command) -> String {
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; `cargo xtask test` installs what tests need"));
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{stdout}{stderr}", output.status);
    stdout.into_owned()
}

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

#[test]
fn git_repository() {
    let git = |mount: &Path, arguments: &[&str]| {
        succeed(
            Command::new("git")
                .current_dir(mount.join("work"))
                .args([
                    "-c",
                    "user.name=Test",
                    "-c",
                    "user.email=test@localhost",
                    "-c",
                    "commit.gpgsign=false",
                ])
                .args(arguments),
        )
    };
    across_a_remount(
        |mount| {
            let work = mount.join("work");
            let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("engine");
            succeed(Command::new("cp").arg("--archive").arg(sources).arg(&work));
            git(mount, &["init", "--quiet"]);
            git(mount, &["add", "--all"]);
            git(mount, &["commit", "--quiet", "--message", "one"]);
            for i in 0..20 {
                fs::write(work.join(format!("file-{i}")), format!("{i}\n").repeat(1000)).unwrap();
                git(mount, &["add", "--all"]);
                git(mount, &["commit", "--quiet", "--message", "more"]);
            }
            git(mount, &["gc", "--quiet", "--prune=now"]);
            git(mount, &["checkout", "--quiet", "-b", "other", "HEAD~10"]);
            git(mount, &["checkout", "--quiet", "-"]);
        },
        |mount| {
            git(mount, &["fsck", "--full", "--strict", "--no-progress"]);
            assert_eq!(git(mount, &["status", "--porcelain"]), "");
            assert_eq!(git(mount, &["rev-list", "--count", "HEAD"]), "21\n");
        },
    );
}

#[test]
fn cargo_builds_and_finds_it_fresh() {
    let cargo = |mount: &Path, arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO"));
        command
            .current_dir(mount.join("hello"))
            .args(arguments)
            .env("CARGO_TARGET_DIR", mount.join("target"));
        succeed(&mut command)
    };
    across_a_remount(
        |mount| {
            fs::create_dir_all(mount.join("hello/src")).unwrap();
            fs::write(
                mount.join("hello/Cargo.toml"),
                "[package]\nname = \"hello\"\nversion = \"1.0.0\"\nedition = \"2024\"\n[workspace]\n",
            )
            .unwrap();
            fs::write(mount.join("hello/src/lib.rs"), "pub fn answer() -> u32 { 42 }\n").unwrap();
            fs::write(mount.join("hello/src/main.rs"), "fn main() { println!(\"{}\", hello::answer()); }\n")
                .unwrap();
            cargo(mount, &["build", "--offline", "--quiet"]);
        },
        |mount| {
            let executable = mount.join("target/debug/hello");
            assert_eq!(succeed(&mut Command::new(&executable)), "42\n");
            let built = fs::metadata(&executable).unwrap().modified().unwrap();
            // Times survived, so there is nothing to build.
            cargo(mount, &["build", "--offline", "--quiet"]);
            assert_eq!(fs::metadata(&executable).unwrap().modified().unwrap(), built);
        },
    );
}

#[test]
fn sqlite_in_wal_mode() {
    let sqlite = |mount: &Path, script: &str| {
        succeed(
            Command::new("sqlite3")
                .args(["-batch", "-bail", "-cmd", ".timeout 60000"])
                .arg(mount.join("test.db"))
                .arg(script),
        )
    };
    across_a_remount(
        |mount| {
            let mode = sqlite(
                mount,
                "PRAGMA journal_mode = WAL; CREATE TABLE t (id INTEGER PRIMARY KEY, a INTEGER, b BLOB);
                 CREATE INDEX t_a ON t (a);",
            );
            assert_eq!(mode, "wal\n");
            // Two writers and the readers' shared memory: mmap and locks have to work.
            std::thread::scope(|scope| {
                for writer in 0..2 {
                    let sqlite = &sqlite;
                    scope.spawn(move || {
                        for i in 0..10 {
                            let first = (writer * 10 + i) * 500;
                            sqlite(
                                mount,
                                &format!(
                                    "WITH RECURSIVE n(i) AS (SELECT {first} UNION ALL
                                         SELECT i + 1 FROM n WHERE i < {first} + 499)
                                     INSERT INTO t SELECT i, i * 7919 % 10007, randomblob(200) FROM n;"
                                ),
                            );
                        }
                    });
                }
            });
            sqlite(mount, "DELETE FROM t WHERE id % 3 = 0; VACUUM; UPDATE t SET a = a + 1;");
        },
        |mount| {
            let found = sqlite(mount, "PRAGMA integrity_check; SELECT count(*), min(id), max(id) FROM t;");
            assert_eq!(found, "ok\n6666|1|9998\n");
        },
    );
}

/// The program `fsx` from crates.io, where `cargo xtask test` puts it.
fn fsx() -> Command {
    let installed = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../tools/bin/fsx");
    let program = match std::env::var_os("BLOCKTREE_TEST_FSX") {
        Some(program) => program.into(),
        None if installed.is_file() => installed,
        None => "fsx".into(),
    };
    Command::new(program)
}

/// Lets fsx do so many operations on one file, with these settings above the weights.
fn exercise(operations: u32, settings: &str, more_weights: &str) {
    let place = roomy_store();
    let mount = place.mount();
    let config = place.path("fsx.toml");
    fs::write(&config, format!("{settings}\n[weights]\n{WEIGHTS}{more_weights}")).unwrap();
    succeed(
        fsx()
            .args(["-N", &operations.to_string(), "-S", "20250101", "-P"])
            .arg(place.path(""))
            .arg("-f")
            .arg(config)
            .arg(mount.path("file")),
    );
    mount.umount();
    assert_clean(&place);
}

const WEIGHTS: &str = "
    close_open = 1
    read = 10
    write = 10
    mapread = 10
    mapwrite = 10
    truncate = 5
    posix_fallocate = 2
    punch_hole = 5
    sendfile = 2
    posix_fadvise = 1
    copy_file_range = 3
";

#[test]
fn fsx_many_operations() {
    let settings = "flen = 262144\nnomsyncafterwrite = true\nopsize.max = 16384";
    exercise(200_000, settings, "fsync = 0.02\nfdatasync = 0.02\n");
}

#[test]
fn fsx_with_much_syncing() {
    exercise(10_000, "flen = 4194304\nopsize.max = 524288", "fsync = 3\nfdatasync = 3\ninvalidate = 1\n");
}

#[test]
fn fio_verifies_what_it_wrote() {
    // Whole sectors, more than a sector, and across the edges of sectors.
    for (block_bytes, blocks) in [(4096, 4096), (65536, 512), (3000, 5000)] {
        let fio = |mount: &Path, arguments: &[&str]| {
            let name = format!("verify-{block_bytes}");
            succeed(
                Command::new("fio")
                    .current_dir(mount)
                    .args(["--rw=randwrite", "--randrepeat=1", "--ioengine=psync", "--fallocate=none"])
                    .args(["--verify=crc32c", "--verify_fatal=1"])
                    .args([format!("--name={name}"), format!("--filename={name}")])
                    .args([format!("--bs={block_bytes}"), format!("--size={}", block_bytes * blocks)])
                    .args(arguments),
            )
        };
        across_a_remount(
            |mount| {
                fio(mount, &["--end_fsync=1", "--do_verify=1"]);
            },
            |mount| {
                fio(mount, &["--verify_only"]);
            },
        );
    }
}
