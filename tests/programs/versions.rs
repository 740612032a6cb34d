//! Version control.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{across_a_remount, succeed};

#[test]
fn git_repository() {
    let git = |folder: &Path, arguments: &[&str]| {
        succeed(
            Command::new("git")
                .current_dir(folder)
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
            git(&work, &["init", "--quiet"]);
            git(&work, &["add", "--all"]);
            git(&work, &["commit", "--quiet", "--message", "one"]);
            for i in 0..20 {
                fs::write(work.join(format!("file-{i}")), format!("{i}\n").repeat(1000)).unwrap();
                git(&work, &["add", "--all"]);
                git(&work, &["commit", "--quiet", "--message", "more"]);
            }
            git(&work, &["gc", "--quiet", "--prune=now"]);
            git(&work, &["checkout", "--quiet", "-b", "other", "HEAD~10"]);
            git(&work, &["checkout", "--quiet", "-"]);
            let clone = mount.join("clone");
            git(&work, &["clone", "--quiet", "--no-local", ".", clone.to_str().expect("UTF-8")]);
        },
        |mount| {
            for folder in ["work", "clone"] {
                let git = |arguments: &[&str]| git(&mount.join(folder), arguments);
                git(&["fsck", "--full", "--strict", "--no-progress"]);
                assert_eq!(git(&["status", "--porcelain"]), "");
                assert_eq!(git(&["rev-list", "--count", "HEAD"]), "21\n");
            }
        },
    );
}
