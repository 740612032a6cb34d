//! What whoever has a store open does for it when capabilities are asked for, given or ended: a command, where nobody has it
//! mounted, or the daemon of a mount, which is called through the control channel.
//!
//! Invariants:
//! 1. A right comes from a signature that was made by who asks. Whoever has the store open adds none of its own, and hands
//!    keys only to whom a certificate names that leads to the root.
//! 2. A certificate is good for [`GOOD_SECONDS`], so that one that was seen once gives nothing later.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, anyhow, bail};
use blocktree_engine::Store;
use blocktree_engine::crypto::{PrincipalId, PublicKeys, Rights, hexadecimal};
use blocktree_engine::format::{BlockId, CertificateBytes, RevocationBytes};
use blocktree_vfs::control::CapabilityCall;
use blocktree_vfs::{FileKind, Fs, TreePath};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::paths;

/// How long a certificate is good for, from when it was signed.
const GOOD_SECONDS: u64 = 10 * 60;

/// What a call gives.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Answer {
    Listed(Vec<Description>),
    Found(Place),
    Done,
}

/// A capability.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Description {
    /// `write`, `read` or `keep`.
    pub(crate) kind: String,
    /// Hexadecimal; none of a keeper.
    pub(crate) serial: Option<String>,
    /// The id of the principal, and the line by which it is known.
    pub(crate) principal: String,
    pub(crate) line: String,
    /// What it is for; none where the name cannot be read.
    pub(crate) path: Option<String>,
    /// Seconds since 1970; none: never.
    pub(crate) expires: Option<u64>,
    pub(crate) pass_on: bool,
    /// Why it does not count.
    pub(crate) refused: Option<String>,
}

/// Where a right is to be given, or ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) store_id: [u8; 16],
    pub(crate) root_principal: PrincipalId,
    /// The store's newest record.
    pub(crate) record: u64,
    /// The directory.
    pub(crate) block: BlockId,
}

/// Answers calls about the store behind a mount, one at a time.
pub(crate) fn answerer(fs: Arc<Fs>) -> impl Fn(&[u8]) -> Vec<u8> + Send + Sync {
    let one_at_a_time = Mutex::new(());
    move |call| {
        let _one = one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner);
        let call = CapabilityCall::decode(call).context("the request makes no sense; is it another version?");
        let answer = call.and_then(|call| carry_out(fs.store(), Some(&fs), &call));
        let answer = answer.map_err(|error| Failure::from(error).to_string());
        // Structs of numbers and strings always have a JSON form.
        serde_json::to_vec(&answer).unwrap_or_default()
    }
}

/// Does what a call says. `tree` is the tree of the store, as far as whoever has that open sees one.
pub(crate) fn carry_out(store: &Store, tree: Option<&Fs>, call: &CapabilityCall) -> anyhow::Result<Answer> {
    match call {
        CapabilityCall::List => list(store, tree).map(Answer::Listed),
        CapabilityCall::Find(path) => find(store, tree, path).map(Answer::Found),
        CapabilityCall::Give(certificate) => give(store, certificate).map(|()| Answer::Done),
        CapabilityCall::Revoke(revocation) => revoke(store, revocation).map(|()| Answer::Done),
    }
}

fn list(store: &Store, tree: Option<&Fs>) -> anyhow::Result<Vec<Description>> {
    const WHAT: &str = "cannot read the capabilities";
    let (writecaps, readcaps) = (store.writecaps(), store.readcaps().context(WHAT)?);
    let blocks = writecaps.iter().map(|cap| cap.certificate.block());
    let blocks: BTreeSet<BlockId> = blocks.chain(readcaps.iter().map(|cap| cap.block)).collect();
    let paths = tree.map(|tree| paths::in_tree(tree, &blocks)).unwrap_or_default();
    let path = |block: BlockId| paths.get(&block).map(|path| path.display().to_string());
    let describe = |kind: &str, serial: Option<u64>, keys: PublicKeys, path, expires: u64| Description {
        kind: kind.to_owned(),
        serial: serial.map(|serial| format!("{serial:016x}")),
        principal: hexadecimal(&keys.id()),
        line: keys.to_string(),
        path,
        expires: (expires != u64::MAX).then_some(expires),
        pass_on: false,
        refused: None,
    };
    let writers = writecaps.iter().map(|cap| {
        let certificate = &cap.certificate;
        let (serial, block) = (certificate.serial(), certificate.block());
        let path = if block == Store::ROOT { Some("/".to_owned()) } else { path(block) };
        Description {
            pass_on: certificate.rights().contains(Rights::PASS_ON),
            refused: cap.refused.map(|why| why.to_string()),
            ..describe("write", Some(serial), certificate.subject(), path, certificate.expires())
        }
    });
    let readers = readcaps
        .iter()
        .map(|cap| describe("read", Some(cap.serial), cap.recipient, path(cap.block), cap.expires));
    let known = |keys: &PublicKeys| {
        writecaps.iter().any(|cap| cap.certificate.subject() == *keys && cap.refused.is_none())
            || readcaps.iter().any(|cap| cap.recipient == *keys)
    };
    let slots = store.access_list().context(WHAT)?;
    let keepers = slots.iter().filter(|slot| !known(&slot.principal));
    let keepers = keepers.map(|slot| describe("keep", None, slot.principal, None, u64::MAX));
    Ok(writers.chain(readers).chain(keepers).collect())
}

fn find(store: &Store, tree: Option<&Fs>, path: &str) -> anyhow::Result<Place> {
    let (store_id, root_principal) = (store.store_id(), store.root_principal());
    let path: TreePath = path.parse()?;
    let block = match path.names_in(&root_principal)? {
        [] => Store::ROOT,
        names => directory(tree.context("the tree cannot be read")?, names)?,
    };
    Ok(Place { store_id, root_principal, record: store.newest_record(), block })
}

/// The block of the directory that these names lead to.
pub(crate) fn directory(tree: &Fs, names: &[String]) -> anyhow::Result<BlockId> {
    let mut at = Fs::ROOT;
    for name in names {
        let stat = tree.lookup(at, name.as_bytes())?;
        tree.forget(stat.ino, 1);
        if stat.kind != FileKind::Directory {
            bail!("{name} is not a directory; share the one that it is in");
        }
        at = stat.ino;
    }
    Ok(at)
}

fn give(store: &Store, certificate: &CertificateBytes) -> anyhow::Result<()> {
    let age = now().abs_diff(certificate.not_before.get());
    if age > GOOD_SECONDS {
        bail!("the certificate is {age} seconds old, and good for {GOOD_SECONDS}; are the clocks right?");
    }
    store.give(certificate).context("cannot give the capability")
}

fn revoke(store: &Store, revocation: &RevocationBytes) -> anyhow::Result<()> {
    let serial = revocation.serial.get();
    let readcaps = store.readcaps().context("cannot read the capabilities")?;
    if readcaps.iter().any(|cap| cap.serial == serial) {
        bail!(
            "{serial:016x} lets a principal read: `blocktree cap unshare` takes the directory back, with new keys"
        );
    }
    let subject = store.writecaps().into_iter().find(|cap| cap.certificate.serial() == serial);
    let subject = subject.ok_or_else(|| no_such(serial))?.certificate.subject();
    store.end_writecap(revocation).context("cannot revoke the writecap")?;
    // Without another one, it gets no keys any more from copies that are made from now on.
    let is_other =
        store.writecaps().iter().any(|cap| cap.certificate.subject() == subject && cap.refused.is_none())
            || readcaps.iter().any(|cap| cap.recipient == subject);
    match is_other {
        true => Ok(()),
        false => store.revoke_access(&subject).context("cannot take the access slot away"),
    }
}

pub(crate) fn no_such(serial: u64) -> anyhow::Error {
    anyhow!("there is no capability {serial:016x}; `blocktree cap list` shows those that there are")
}

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use blocktree_engine::crypto::{Certificate, KdfCost, Principal, Revocation};
    use blocktree_engine::device::MemoryDevice;
    use blocktree_engine::{CreateOptions, Grant, OpenOptions, read_signer};

    use super::*;

    const SECTORS: u64 = 8192;

    /// A store with one directory, `/photos`, and its root.
    fn store() -> (Store, Fs, Principal) {
        let device = Arc::new(MemoryDevice::new(SECTORS));
        let create = CreateOptions { capacity_sectors: SECTORS, kdf: KdfCost::TRIVIAL };
        let options = OpenOptions { background: false, ..OpenOptions::default() };
        let store = Store::create_with(device.clone(), b"pass", &create, &options).unwrap();
        Fs::format(&store, 0, 0).unwrap();
        let fs = Fs::mount(store.clone(), blocktree_vfs::MountOptions::default()).unwrap();
        let caller = blocktree_vfs::Caller { uid: 0, gid: 0, pid: 1, umask: 0 };
        fs.mkdir(&caller, Fs::ROOT, b"photos", 0o755).unwrap();
        let root = read_signer(&*device, b"pass").unwrap();
        assert_eq!(root.public().id(), store.root_principal());
        (store, fs, root)
    }

    fn certificate(store: &Store, issuer: &Principal, grant: &Grant) -> CapabilityCall {
        CapabilityCall::Give(*Certificate::issue(issuer, &grant.terms(store.store_id())).bytes())
    }

    #[test]
    fn what_was_signed_is_good_once_and_for_a_while() {
        let (store, fs, root) = store();
        let ask = |call: &CapabilityCall| carry_out(&store, Some(&fs), call);
        let Ok(Answer::Found(place)) = ask(&CapabilityCall::Find("/photos".into())) else {
            panic!("it is there")
        };
        assert!(ask(&CapabilityCall::Find("/nowhere".into())).is_err());
        let phone = Principal::generate();
        let read = Grant {
            subject: phone.public(),
            block: place.block,
            rights: Rights::READ,
            not_before: now(),
            expires: u64::MAX,
        };
        let share = certificate(&store, &root, &read);
        assert_eq!(ask(&share).unwrap(), Answer::Done);
        assert!(ask(&share).unwrap_err().root_cause().to_string().contains("already"));
        assert_eq!((store.readcaps().unwrap().len(), store.writecaps().len()), (1, 1), "it is no writecap");
        for age in [GOOD_SECONDS + 5, u64::MAX] {
            let old = Grant { not_before: now().saturating_sub(age), ..read };
            assert!(ask(&certificate(&store, &root, &old)).is_err());
        }
        // Others, the node included where it has less, sign for nobody.
        assert!(ask(&certificate(&store, &phone, &read)).is_err());
        for senseless in [
            Grant { block: Store::ROOT, ..read },
            Grant { rights: Rights::ALL, ..read },
            Grant { rights: Rights(0), ..read },
            Grant { rights: Rights::WRITE, ..read },
            Grant { block: 12345, ..read },
        ] {
            assert!(ask(&certificate(&store, &root, &senseless)).is_err(), "{senseless:?}");
        }

        let write =
            certificate(&store, &root, &Grant { rights: Rights(Rights::READ.0 | Rights::WRITE.0), ..read });
        ask(&write).unwrap();
        let CapabilityCall::Give(bytes) = write else { panic!() };
        let serial = bytes.serial.get();
        let end = |issuer: &Principal, record| {
            ask(&CapabilityCall::Revoke(*Revocation::issue(issuer, store.store_id(), serial, record).bytes()))
        };
        assert!(end(&phone, place.record).is_err(), "it is not the phone's to end");
        assert!(end(&root, store.newest_record() + 100).is_err(), "with a record that is to come");
        end(&root, store.newest_record()).unwrap();
        assert!(ask(&CapabilityCall::Give(bytes)).is_err(), "a revoked one stays revoked");
        let refused = store.writecaps().into_iter().find(|cap| cap.certificate.serial() == serial).unwrap();
        assert!(refused.refused.is_some());
        assert_eq!(store.access_list().unwrap().len(), 1, "it reads on");
    }

    #[test]
    fn a_daemon_answers_calls_and_nothing_else() {
        let (_, fs, _) = store();
        let answer = answerer(Arc::new(fs));
        let parse = |bytes: &[u8]| serde_json::from_slice::<Result<Answer, String>>(&answer(bytes)).unwrap();
        assert!(
            matches!(parse(&CapabilityCall::List.encode()), Ok(Answer::Listed(found)) if found.len() == 1)
        );
        assert!(matches!(parse(b"hello, daemon"), Err(why) if why.contains("no sense")));
        assert!(
            matches!(parse(&CapabilityCall::Find("photos".into()).encode()), Err(why) if why.contains("begins"))
        );
    }
}
