//! Small files, a hundred in each folder, and one large directory.

use anyhow::Result;

use super::{Job, Numbers, Scale, Unit};
use crate::small_files::{SmallFiles, Step};
use crate::subject::Subject;

const BYTES: usize = 4096;
const PER_FOLDER: usize = 100;

pub(super) fn jobs() -> Vec<Job> {
    let step = |name, title, step, is_cold| {
        Job::new(name, title, Unit::PerSecond, move |s: &mut Subject, x: &Scale| {
            ensure(s, x)?;
            if is_cold {
                s.make_cold()?;
            }
            files(s, x).measure(s, step)
        })
    };
    vec![
        Job::of_rows(
            "files-create",
            &[
                ("files-create", "create files of 4 KiB", Unit::PerSecond),
                ("space-small", "disk space taken by files of 4 KiB, to their size", Unit::Ratio),
            ],
            create,
        ),
        step("files-stat-warm", "stat files of 4 KiB, warm", Step::Stat, false),
        step("files-read-warm", "read files of 4 KiB, warm", Step::Read, false),
        step("files-stat-cold", "stat files of 4 KiB, cold", Step::Stat, true),
        step("files-walk-cold", "list and stat files of 4 KiB, cold", Step::Walk, true),
        step("files-read-cold", "read files of 4 KiB, cold", Step::Read, true),
        step("files-delete", "delete files of 4 KiB", Step::Delete, false),
        Job::of_rows(
            "directory",
            &[
                ("directory-create", "large directory: make empty files", Unit::PerSecond),
                ("directory-list", "large directory: list, cold", Unit::PerSecond),
                ("directory-stat", "large directory: stat some at random, cold", Unit::PerSecond),
                ("directory-delete", "large directory: delete files", Unit::PerSecond),
            ],
            directory,
        )
        .long(),
    ]
}

fn files(subject: &Subject, scale: &Scale) -> SmallFiles {
    SmallFiles {
        folder: subject.folder().join("small"),
        count: scale.small_files,
        per_folder: PER_FOLDER,
        bytes: BYTES,
    }
}

fn ensure(subject: &Subject, scale: &Scale) -> Result<()> {
    let files = files(subject, scale);
    if files.folder.exists() { Ok(()) } else { files.prepare(subject, Step::Create) }
}

fn create(subject: &mut Subject, scale: &Scale) -> Result<Numbers> {
    let files = files(subject, scale);
    let before = subject.taken_bytes()?;
    let rate = files.measure(subject, Step::Create)?;
    // Some write only when they are unmounted.
    subject.make_cold()?;
    let taken = subject.taken_bytes()?.saturating_sub(before);
    Ok(Some(vec![rate, taken as f64 / (scale.small_files * BYTES) as f64]))
}

fn directory(subject: &mut Subject, scale: &Scale) -> Result<Numbers> {
    let folder = subject.folder().join("directory");
    let files = SmallFiles { folder, count: scale.entries, per_folder: scale.entries, bytes: 0 };
    let create = files.measure(subject, Step::Create)?;
    subject.make_cold()?;
    let list = files.measure(subject, Step::List)?;
    subject.make_cold()?;
    let stat = files.measure(subject, Step::StatRandom)?;
    let delete = files.measure(subject, Step::Delete)?;
    Ok(Some(vec![create, list, stat, delete]))
}
