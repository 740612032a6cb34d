//! The suite `smbtorture`: Samba's own test suites on two shares of one private server, one on Blocktree and one on
//! ext4, with the settings that `blocktree samba-config` prints.
//!
//! Each part runs on one share after the other. Many cases wait for a moment and then look whether something has
//! happened, so on a busy machine one may fail for no reason: a case in which only Blocktree fails is run again.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::ground::Ground;
use super::report::{Report, Verdict};
use super::{Form, Suite};
use xtask::command::{outcome, output};
use xtask::samba::{Server, share_elsewhere, share_name};
use xtask::scratch::Scratch;

pub(super) struct Smbtorture;

/// The parts that are quick.
const SHORT: [&str; 15] = [
    "smb2.connect",
    "smb2.read",
    "smb2.rw",
    "smb2.lock",
    "smb2.create",
    "smb2.dir",
    "smb2.rename",
    "smb2.streams",
    "smb2.acls",
    "smb2.ea",
    "smb2.getinfo",
    "smb2.setinfo",
    "smb2.compound",
    "smb2.durable-open",
    "smb2.delete-on-close-perms",
];

/// These wait for minutes.
const LONG: [&str; 3] = ["smb2.notify", "smb2.oplock", "smb2.lease"];

/// How often a case in which only Blocktree fails is run again.
const REPETITIONS: usize = 4;

/// No part takes half as long, in seconds.
const PATIENCE: &str = "900";

impl Suite for Smbtorture {
    fn name(&self) -> &'static str {
        "smbtorture"
    }

    fn is_short(&self) -> bool {
        true
    }

    fn run(&self, ground: &Ground, form: Form) -> Result<Report> {
        let shared = Shared::new(&[ground], ground)?;
        let mut report = Report::default();
        for part in parts(form) {
            shared
                .torture(&shared.shares[0], part)?
                .into_iter()
                .for_each(|(case, verdict)| report.add(case, verdict));
        }
        Ok(report)
    }

    fn run_on_both(&self, grounds: [&Ground; 2], form: Form) -> Result<[Report; 2]> {
        let [blocktree, _] = grounds;
        let shared = Shared::new(&grounds, blocktree)?;
        let mut reports = [Report::default(), Report::default()];
        for part in parts(form) {
            for (share, report) in shared.shares.iter().zip(&mut reports) {
                shared
                    .torture(share, part)?
                    .into_iter()
                    .for_each(|(case, verdict)| report.add(case, verdict));
            }
        }
        let [ours, ext4] = &mut reports;
        for case in ext4.passed_only_here(ours) {
            for _ in 0..REPETITIONS {
                let again = shared.torture(&shared.shares[0], &case)?;
                if again == [(case.clone(), Verdict::Passed)] {
                    println!("{case} failed on blocktree, and passed when it was run again");
                    ours.add(case, Verdict::Passed);
                    break;
                }
            }
        }
        Ok(reports)
    }
}

fn parts(form: Form) -> Vec<&'static str> {
    let long: &[&str] = if form == Form::Long { &LONG } else { &[] };
    [&SHORT, long].concat()
}

/// Folders as shares of a server. The server ends before its folder goes.
pub(super) struct Shared {
    server: Server,
    shares: Vec<String>,
    folder: Scratch,
}

impl Shared {
    /// Shares all of these with the settings that suit one of them, which is a Blocktree.
    pub(super) fn new(grounds: &[&Ground], blocktree: &Ground) -> Result<Self> {
        let settings = output(Command::new(blocktree.program()).arg("samba-config").arg(blocktree.folder()))?;
        share_name(&settings).context("samba-config prints no share")?;
        let mut sections = String::new();
        let mut shares = Vec::new();
        for ground in grounds {
            let name = ground.filesystem().to_string();
            sections += &share_elsewhere(&settings, &name, &ground.folder());
            shares.push(name);
            fs::set_permissions(ground.folder(), Permissions::from_mode(0o777))?;
        }
        let folder = Scratch::new(&std::env::temp_dir(), "samba")?;
        let server = Server::start(&folder.join("server"), &sections)?;
        Ok(Self { server, shares, folder })
    }

    pub(super) fn server(&self) -> &Server {
        &self.server
    }

    /// The name of one of the shares, in the order of the grounds.
    pub(super) fn share(&self, number: usize) -> &str {
        &self.shares[number]
    }

    /// Runs a part of smbtorture, or one case of it.
    fn torture(&self, share: &str, part: &str) -> Result<Vec<(String, Verdict)>> {
        let client = self.server.client("smbtorture", share);
        let outcome = outcome(
            Command::new("timeout")
                .arg(PATIENCE)
                .arg(client.get_program())
                .args(client.get_args())
                .args(["--format=subunit", "--option=torture:progress=no", part])
                .current_dir(self.folder.join("")),
        )?;
        let said = String::from_utf8_lossy(&outcome.stdout);
        let cases = parse(part, &said);
        let errors = String::from_utf8_lossy(&outcome.stderr);
        ensure!(!cases.is_empty(), "smbtorture ran nothing of {part}: {said}{errors}");
        Ok(cases)
    }
}

/// The stream of `subunit`: a line `test: CASE`, and later `success: CASE`, or what else became of it with the reason
/// on the lines up to a `]`. A case without a verdict is one in which smbtorture died.
fn parse(part: &str, said: &str) -> Vec<(String, Verdict)> {
    let mut cases: Vec<(String, Verdict)> = Vec::new();
    let mut lines = said.lines();
    while let Some(line) = lines.next() {
        let Some((word, case)) = line.split_once(": ") else { continue };
        let name = full_name(part, case.trim_end_matches(" ["));
        let mut why = || {
            let why: Vec<_> = lines.by_ref().take_while(|line| *line != "]").map(str::trim).collect();
            why.join("; ")
        };
        let verdict = match word {
            "test" => {
                cases.push((name, Verdict::Failed("it did not end".to_owned())));
                continue;
            }
            "success" => Verdict::Passed,
            "failure" | "error" => Verdict::Failed(why()),
            "skip" => Verdict::Skipped(why()),
            _ => continue,
        };
        if let Some(case) = cases.iter_mut().rev().find(|(case, _)| *case == name) {
            case.1 = verdict;
        }
    }
    cases
}

/// By which smbtorture runs this case alone: a part can be one case, or be the case that is meant.
fn full_name(part: &str, case: &str) -> String {
    match part.rsplit('.').next() == Some(case) {
        true => part.to_owned(),
        false => format!("{part}.{case}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_says_is_understood() {
        let said = "smbtorture 4.17.12-Debian\nUsing seed 1\ntest: first\ntime: 2026-11-24 13:37:05.072154\n\
                    Creating base directory\nsuccess: first\ntest: second\nCHECK: nothing\nfailure: second [\n\
                    (../../x.c:1) Incorrect status\nNT_STATUS_OK\n]\ntest: third\nskip: third [\nno lease\n]\n\
                    test: last\nSegmentation fault\n";
        let failed = |why: &str| Verdict::Failed(why.into());
        assert_eq!(
            parse("smb2.part", said),
            [
                ("smb2.part.first".to_owned(), Verdict::Passed),
                ("smb2.part.second".to_owned(), failed("(../../x.c:1) Incorrect status; NT_STATUS_OK")),
                ("smb2.part.third".to_owned(), Verdict::Skipped("no lease".to_owned())),
                ("smb2.part.last".to_owned(), failed("it did not end")),
            ]
        );
    }

    #[test]
    fn a_case_is_named_as_it_is_run_alone() {
        assert_eq!(full_name("smb2.connect", "connect"), "smb2.connect");
        assert_eq!(full_name("smb2.notify", "valid-req"), "smb2.notify.valid-req");
        assert_eq!(full_name("smb2.notify.valid-req", "valid-req"), "smb2.notify.valid-req");
    }
}
