//! Rights that do not hold yet, end soon, or ended.

use std::sync::atomic::Ordering;

use super::forged::header_key;
use super::refused::{append, end_of_log};
use super::*;
use crate::OpenError;
use crate::crypto::CertificateError;
use crate::limits::EXPIRY_MARGIN_NS;
use crate::store::now_ns;

fn now() -> u64 {
    now_ns() / 1_000_000_000
}

fn open(world: &World) -> Result<Store, OpenError> {
    let credential = Credential::Principal { holder: &world.writer, root: None };
    Store::open_as(world.device.clone(), &credential, &options())
}

#[test]
fn a_right_that_ended_writes_nothing() {
    let expires = now() + 1000;
    let ended_ns = expires * 1_000_000_000;
    let world = World::with_right(0, expires);
    let store = open(&world).unwrap();
    let [_, _, file] = world.opened(&store);
    store.sync(apply(&store, |transaction| transaction.write(&file, 0, b"good").unwrap())).unwrap();
    drop(file);
    // A program that writes all the same: the record does not count, nor does what follows it.
    let mut place = end_of_log(&store);
    let first = place.1;
    for _ in 0..2 {
        let late = Forged { time_ns: ended_ns, ..Forged::default() };
        append(&world, &store, &late.delete(header_key(world.file)), &mut place);
    }
    drop(store);
    let owner = world.open();
    let refused = owner.refused_record().unwrap();
    assert_eq!((refused.seq, refused.why), (first, Refusal::Author(CertificateError::Time)));
    assert_eq!(&content(&owner, world.file, 1)[..4], b"good", "what it wrote before stays");

    // The store says how late it is, whatever a machine's clock does.
    owner.core.sealer.lock().time_ns = ended_ns;
    make(&owner, &owner.block(Store::ROOT).unwrap().unwrap(), b"later");
    owner.close().unwrap();
    drop(owner);
    world.assert_clean();
    let store = open(&world).unwrap();
    assert!(store.is_read_only() && store.writes_below().is_none());
    let _ = world.opened(&store);
    let grant = Grant {
        subject: world.writer.public(),
        block: world.top,
        rights: Rights::WRITE,
        not_before: 0,
        expires,
    };
    assert!(world.open().issue_writecap(None, &grant).is_err(), "nor is one given that ended");
}

#[test]
fn a_right_that_has_not_begun_writes_nothing() {
    let world = World::with_right(now() + 1000, u64::MAX);
    let store = open(&world).unwrap();
    assert!(store.is_read_only() && store.writes_below().is_none());
    let [_, _, file] = world.opened(&store);
    let mut transaction = store.transaction();
    let early = transaction.write(&file, 0, b"early").and_then(|()| transaction.apply());
    assert!(matches!(early, Err(Error::ReadOnly)));
    drop(file);
    let mut place = end_of_log(&store);
    let next_block = Some(store.core.next_block.load(Ordering::Relaxed));
    let forged = Forged { next_block, time_ns: now_ns(), ..Forged::default() };
    append(&world, &store, &forged.delete(header_key(world.file)), &mut place);
    drop(store);
    let refused = world.open().refused_record().cloned().unwrap();
    assert_eq!(refused.why, Refusal::Author(CertificateError::Time));
    world.assert_clean();
}

/// What was taken before that is still made durable.
#[test]
fn a_right_that_is_about_to_end_seals_what_was_taken() {
    let world = World::with_right(0, now() + EXPIRY_MARGIN_NS / 1_000_000_000 + 4);
    let store = open(&world).unwrap();
    let [_, _, file] = world.opened(&store);
    let taken = apply(&store, |transaction| transaction.write(&file, 0, b"in time").unwrap());
    while store.core.check_writable().is_ok() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(matches!(store.core.check_writable(), Err(Error::Expired)));
    store.sync(taken).unwrap();
    drop(file);
    store.close().unwrap();
    drop(store);
    assert_eq!(&content(&world.open(), world.file, 1)[..7], b"in time");
    world.assert_clean();
}

/// What was applied must still be sealed while the right holds, so nothing more is taken a while before it ends.
#[test]
fn a_right_that_is_about_to_end_takes_nothing_more() {
    let world = World::with_right(0, now() + EXPIRY_MARGIN_NS / 1_000_000_000 - 1);
    let store = open(&world).unwrap();
    assert!(!store.is_read_only());
    let [_, _, file] = world.opened(&store);
    let mut transaction = store.transaction();
    transaction.write(&file, 0, b"late").unwrap();
    assert!(matches!(transaction.apply(), Err(Error::Expired)));
    drop(file);
    store.close().unwrap();
    drop(store);
    assert_eq!(content(&world.open(), world.file, 1)[0], 7);
    world.assert_clean();
}
