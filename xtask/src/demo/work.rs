//! What a user does: copy files, keep a repository and a database, take a snapshot.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use super::say;
use super::stage::{Stage, hashes};
use xtask::command::{execute, output, root};

const SNAPSHOT: &str = "before-spring-cleaning";

pub(crate) fn run(stage: &Stage) -> Result<()> {
    stage.mount()?;
    say("store", &format!("1 GiB, made in {} and mounted", stage.store().display()));
    let mount_point = stage.mount_point();

    let copy = mount_point.join("copy");
    fs::create_dir(&copy)?;
    let sources = ["docs", "engine", "vfs", "src", "xtask", "Cargo.lock"].map(|name| root().join(name));
    cp(&sources, &copy)?;
    let outside = stage.outside("plain");
    fs::create_dir(&outside)?;
    cp(&sources, &outside)?;
    let expected = hashes(&outside)?;
    ensure!(hashes(&copy)? == expected, "a copied file differs");
    say("copy", &format!("{} files copied; every SHA-256 is equal", expected.lines().count()));

    repository(&copy)?;
    say("git", "init, add, commit, fsck, gc: clean");
    let expected = hashes(&copy)?;

    let database = mount_point.join("accounts.db");
    sqlite(&database, FILL)?;
    ensure!(sqlite(&database, CHECK)? == "ok\n10000\n", "the database is damaged");
    say("sqlite", "10000 rows in WAL mode; integrity_check: ok");

    execute(stage.blocktree().args(["snapshot", "create"]).arg(&mount_point).arg(SNAPSHOT))?;
    fs::remove_file(copy.join("Cargo.lock"))?;
    say("snapshot", &format!("{SNAPSHOT} made, then a file deleted"));

    stage.unmount()?;
    stage.check_is_clean()?;
    say("check", "unmounted; structure, every hash and every signature: clean");

    execute(
        stage.blocktree().args(["snapshot", "mount"]).arg(stage.store()).arg(SNAPSHOT).arg(&mount_point),
    )?;
    ensure!(hashes(&copy)? == expected, "the snapshot differs from what it was made of");
    stage.unmount()?;
    say("snapshot", "mounted: the deleted file and all others are in it, every SHA-256 equal");

    stage.mount()?;
    ensure!(sqlite(&database, CHECK)? == "ok\n10000\n", "the database is damaged after a remount");
    stage.unmount()?;
    Ok(())
}

fn cp(sources: &[PathBuf], target: &Path) -> Result<()> {
    execute(Command::new("cp").arg("--archive").args(sources).arg(target))
}

fn repository(folder: &Path) -> Result<()> {
    for arguments in [
        &["init", "--quiet"][..],
        &["add", "--all"],
        &["commit", "--quiet", "--message", "all of it"],
        &["gc", "--quiet"],
        &["fsck", "--full", "--no-progress"],
    ] {
        let identity = ["user.name=Demo", "user.email=demo@localhost", "commit.gpgsign=false"];
        let identity = identity.iter().flat_map(|setting| ["-c", setting]);
        output(Command::new("git").arg("-C").arg(folder).args(identity).args(arguments))?;
    }
    Ok(())
}

const FILL: &str = "
    PRAGMA journal_mode = WAL;
    CREATE TABLE account (id INTEGER PRIMARY KEY, owner TEXT, balance INTEGER);
    CREATE INDEX by_owner ON account (owner);
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000)
        INSERT INTO account SELECT i, 'owner ' || (i * 7919 % 10007), i * i FROM n;";
const CHECK: &str = "PRAGMA integrity_check; SELECT count(*) FROM account;";

fn sqlite(database: &Path, script: &str) -> Result<String> {
    output(Command::new("sqlite3").arg("-batch").arg(database).arg(script))
}
