//! Keeps files that may be executed out of a folder: none is made there, none becomes executable, and none is moved in,
//! nor a directory in which one could be. What was there before stays, and may go.

wit_bindgen::generate!({ path: "../../wit", world: "guard" });

use blocktree::app::log::{self, Level};
use blocktree::app::types::Kind;
use exports::blocktree::app::policy::{Guest, Operation, Subject, Verdict};

/// The right to execute, of owner, group and others.
const EXECUTE: u32 = 0o111;

struct Guard;
export!(Guard);

impl Guest for Guard {
    fn judge(operation: Operation) -> Verdict {
        let (about, comes_from_elsewhere) = match &operation {
            Operation::Create(about) | Operation::Attributes(about) => (about, false),
            Operation::Rename(renamed) => (&renamed.to, renamed.old_path.is_none()),
            Operation::Modify(_) | Operation::Remove(_) => return Verdict::Allow,
        };
        if is_executable(about) || (comes_from_elsewhere && about.kind == Kind::Directory) {
            log::write(Level::Info, &format!("refused {}", about.path));
            return Verdict::Refuse;
        }
        Verdict::Allow
    }
}

/// A symbolic link has all permissions, and they mean nothing.
fn is_executable(about: &Subject) -> bool {
    about.kind == Kind::File && about.permissions & EXECUTE != 0
}
