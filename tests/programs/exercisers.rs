//! Programs that do many operations and compare with what they must give.

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::process::Command;

use super::{across_a_remount, assert_clean, roomy_store, succeed};

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

/// Lets fsx do so many operations on a file for each seed, with these settings above the weights.
fn exercise(seeds: Range<u32>, operations: u32, settings: &str, more_weights: &str) {
    let place = roomy_store();
    let mount = place.mount();
    let config = place.path("fsx.toml");
    fs::write(&config, format!("{settings}\n[weights]\n{WEIGHTS}{more_weights}")).unwrap();
    for seed in seeds {
        succeed(
            fsx()
                .args(["-N", &operations.to_string(), "-S", &seed.to_string(), "-P"])
                .arg(place.path(""))
                .arg("-f")
                .arg(&config)
                .arg(mount.path(&format!("file {seed}"))),
        );
    }
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
    // In short lives: fsx keeps what it has mapped, and every mapping makes each truncation slower.
    exercise(1..9, 25_000, settings, "fsync = 0.02\nfdatasync = 0.02\n");
}

#[test]
fn fsx_with_much_syncing() {
    exercise(
        1..2,
        10_000,
        "flen = 4194304\nopsize.max = 524288",
        "fsync = 3\nfdatasync = 3\ninvalidate = 1\n",
    );
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
