//! Databases, which trust what fsync, locks and memory maps promise.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::support::{can_mount, is_alive, wait_until};
use super::{across_a_remount, across_a_remount_with, succeed};

fn sqlite(mount: &Path, script: &str) -> String {
    succeed(
        Command::new("sqlite3")
            .args(["-batch", "-bail", "-cmd", ".timeout 60000"])
            .arg(mount.join("test.db"))
            .arg(script),
    )
}

/// Two writers at once, which need locks, and in WAL mode memory that they share.
fn write_from_two_sides(mount: &Path) {
    std::thread::scope(|scope| {
        for writer in 0..2 {
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
}

/// In this mode of its journal, SQLite keeps what it committed, and nothing of what it did not.
fn sqlite_in(journal_mode: &str) {
    across_a_remount(
        |mount| {
            let mode = sqlite(
                mount,
                &format!(
                    "PRAGMA journal_mode = {journal_mode};
                     CREATE TABLE t (id INTEGER PRIMARY KEY, a INTEGER, b BLOB);
                     CREATE INDEX t_a ON t (a);"
                ),
            );
            assert_eq!(mode.trim(), journal_mode);
            write_from_two_sides(mount);
            sqlite(mount, "DELETE FROM t WHERE id % 3 = 0; VACUUM; UPDATE t SET a = a + 1;");
            // Killed in a transaction, when a part of it is in the file already, since the cache is small.
            let killed = Command::new("sqlite3")
                .args(["-batch", "-bail"])
                .arg(mount.join("test.db"))
                .args([
                    "-cmd",
                    "PRAGMA cache_size = 10; BEGIN; UPDATE t SET b = randomblob(300); DELETE FROM t;",
                ])
                .arg(".system kill -9 $PPID")
                .stdin(Stdio::null())
                .output()
                .unwrap();
            assert!(!killed.status.success(), "{killed:?}");
        },
        |mount| {
            let found = sqlite(mount, "PRAGMA integrity_check; SELECT count(*), min(id), max(id) FROM t;");
            assert_eq!(found, "ok\n6666|1|9998\n");
            assert_eq!(sqlite(mount, "PRAGMA journal_mode;").trim(), journal_mode);
        },
    );
}

#[test]
fn sqlite_in_wal_mode() {
    sqlite_in("wal");
}

#[test]
fn sqlite_with_a_rollback_journal() {
    sqlite_in("delete");
}

/// A PostgreSQL server of our own, as its user. Stopped when this is dropped.
struct Postgres {
    programs: PathBuf,
    data: PathBuf,
    sockets: tempfile::TempDir,
}

impl Postgres {
    fn on(mount: &Path) -> Self {
        let sockets = tempfile::tempdir().unwrap();
        fs::set_permissions(sockets.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let versions = fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed");
        let newest = versions.map(|version| version.unwrap().path()).max().expect("a version of PostgreSQL");
        Self { programs: newest.join("bin"), data: mount.join("database/data"), sockets }
    }

    /// One of its programs, as the user postgres: it refuses to run as root.
    fn program(&self, name: &str) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"])
            .arg(self.programs.join(name));
        command
            .current_dir(self.sockets.path())
            .env("PGHOST", self.sockets.path())
            .env("PGDATABASE", "postgres");
        command.env("PGDATA", &self.data).env("PGUSER", "postgres").stdin(Stdio::null());
        command
    }

    fn initialize(&self) {
        let folder = self.data.parent().unwrap();
        fs::create_dir(folder).unwrap();
        succeed(Command::new("chown").arg("postgres:").arg(folder));
        succeed(self.program("initdb").args([
            "--auth=trust",
            "--no-locale",
            "--encoding=UTF8",
            "--data-checksums",
        ]));
        let settings = "\nlisten_addresses = ''\nshared_buffers = 16MB\nmax_wal_size = 64MB\n";
        let configuration = self.data.join("postgresql.conf");
        let text = fs::read_to_string(&configuration).unwrap() + settings;
        fs::write(configuration, text).unwrap();
    }

    fn try_start(&self) -> bool {
        let options = format!("-k {}", self.sockets.path().display());
        let log = self.sockets.path().join("log");
        let mut start = self.program("pg_ctl");
        start.args(["start", "--wait", "--silent", "--options", &options, "--log"]).arg(log);
        start.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
    }

    #[track_caller]
    fn start(&self) {
        let log = || fs::read_to_string(self.sockets.path().join("log")).unwrap_or_default();
        assert!(self.try_start(), "{}", log());
    }

    #[track_caller]
    fn stop(&self) {
        succeed(self.program("pg_ctl").args(["stop", "--wait", "--silent", "--mode=fast"]));
    }

    #[track_caller]
    fn ask(&self, query: &str) -> String {
        succeed(self.program("psql").args(["--no-psqlrc", "--tuples-only", "--no-align", "--command", query]))
            .trim()
            .to_owned()
    }

    /// The server's own process.
    fn postmaster(&self) -> Option<u32> {
        let text = fs::read_to_string(self.data.join("postmaster.pid")).ok()?;
        text.lines().next()?.parse().ok()
    }

    /// What pgbench changes in step: the balances of accounts, tellers and branches, and the history.
    #[track_caller]
    fn assert_consistent(&self) {
        let sums = self.ask(
            "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers),
                    (SELECT sum(bbalance) FROM pgbench_branches), (SELECT sum(delta) FROM pgbench_history)",
        );
        let sums: Vec<&str> = sums.split('|').collect();
        assert!(sums.len() == 4 && sums.iter().all(|sum| *sum == sums[0]), "{sums:?}");
        // Every table and index, page by page and key by key.
        succeed(self.program("pg_amcheck").args(["--install-missing", "--heapallindexed", "postgres"]));
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.postmaster().is_some_and(is_alive) {
            let _ = self.program("pg_ctl").args(["stop", "--wait", "--silent", "--mode=immediate"]).status();
        }
    }
}

#[test]
fn postgresql_survives_the_crash_of_its_server() {
    if !can_mount() {
        return;
    }
    across_a_remount_with(
        &["-o", "allow_other"],
        |mount| {
            succeed(Command::new("chmod").arg("755").arg(mount).arg(mount.parent().unwrap()));
            let postgres = Postgres::on(mount);
            postgres.initialize();
            postgres.start();
            succeed(postgres.program("pgbench").args(["--initialize", "--quiet", "--scale=1"]));
            let load = ["--client=4", "--jobs=2", "--no-vacuum"];
            succeed(postgres.program("pgbench").args(load).arg("--transactions=100"));
            assert_eq!(postgres.ask("SELECT count(*) FROM pgbench_history"), "400");

            // Killed while clients wait for their commits.
            let mut clients = postgres.program("pgbench");
            clients.args(load).arg("--transactions=1000000").stdout(Stdio::null()).stderr(Stdio::null());
            let mut clients = clients.spawn().unwrap();
            let count = || postgres.ask("SELECT count(*) FROM pgbench_history").parse::<u64>().unwrap();
            wait_until("clients have done something", || count() > 800);
            let committed = count();
            let postmaster = postgres.postmaster().expect("the server runs");
            succeed(Command::new("kill").args(["-9", &postmaster.to_string()]));
            assert!(!clients.wait().unwrap().success());
            // Its children have to notice first.
            wait_until("the server starts again", || !is_alive(postmaster) && postgres.try_start());
            assert!(count() >= committed, "{} transactions of {committed}", count());
            postgres.assert_consistent();
            postgres.stop();
        },
        |mount| {
            let postgres = Postgres::on(mount);
            // Of every page, while nobody changes them.
            succeed(postgres.program("pg_checksums").arg("--check"));
            postgres.start();
            postgres.assert_consistent();
            postgres.stop();
        },
    );
}
