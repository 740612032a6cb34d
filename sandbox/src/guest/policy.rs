//! What a component is asked about, in its own types.

use super::host::exports::blocktree::app::policy::{Move, Operation, Subject, Verdict};
use super::host::kind;
use crate::ipc;

/// An operation as the component takes it.
pub(super) fn operation(operation: ipc::Operation) -> Operation {
    match operation {
        ipc::Operation::Create(about) => Operation::Create(subject(about)),
        ipc::Operation::Modify(about) => Operation::Modify(subject(about)),
        ipc::Operation::Remove(about) => Operation::Remove(subject(about)),
        ipc::Operation::Rename(old_path, to) => Operation::Rename(Move { old_path, to: subject(to) }),
        ipc::Operation::Attributes(about) => Operation::Attributes(subject(about)),
    }
}

pub(super) fn is_allowed(verdict: Verdict) -> bool {
    verdict == Verdict::Allow
}

fn subject(subject: ipc::Subject) -> Subject {
    let ipc::Subject { grant, path, kind: of, permissions } = subject;
    Subject { grant, path, kind: kind(of), permissions }
}
