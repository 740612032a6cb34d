use zerocopy::IntoBytes;

use super::*;
use crate::crypto::{Principal, Terms};

const STORE: [u8; 16] = [3; 16];
const NOW: Moment = Moment { seconds: 500, seq: 10 };

/// A store that belongs to `root`, and what it knows.
struct World {
    root: Principal,
    authors: Authors,
    serials: u64,
}

impl World {
    fn new() -> Self {
        let root = Principal::generate();
        let authors = Authors::new(STORE, root.public().id());
        Self { root, authors, serials: 0 }
    }

    fn terms(&mut self, subject: &Principal) -> Terms {
        self.serials += 1;
        let (block, rights, not_before, expires) = (WHOLE_STORE, Rights::ALL, 100, 1000);
        let serial = self.serials;
        Terms { store_id: STORE, subject: subject.public(), block, rights, not_before, expires, serial }
    }

    /// Notes that one gives another the right to everything; returns the serial.
    fn give(&mut self, issuer: &Principal, subject: &Principal) -> u64 {
        let terms = self.terms(subject);
        self.authors.add(Certificate::issue(issuer, &terms).bytes()).unwrap();
        terms.serial
    }

    fn give_from_root(&mut self, subject: &Principal) -> u64 {
        let root = self.root.clone();
        self.give(&root, subject)
    }

    fn links(&self, author: &Principal, at: Moment) -> Result<usize, CertificateError> {
        let chain = self.authors.whole_store(&author.public().signing, at)?;
        Ok(chain.links().len())
    }

    fn revoke(&mut self, issuer: &Principal, serial: u64, seq: u64) {
        let revocation = Revocation::issue(issuer, STORE, serial, seq);
        let key = Key::new(SYSTEM_BLOCK, ItemKind::REVOCATION, serial);
        self.authors.note(&key, revocation.bytes().as_bytes()).unwrap();
    }
}

fn principals<const N: usize>() -> [Principal; N] {
    [(); N].map(|()| Principal::generate())
}

#[test]
fn a_chain_is_found_and_holds_for_its_time() {
    let mut world = World::new();
    let [a, b, stranger] = principals();
    world.give_from_root(&a);
    world.give(&a, &b);
    assert_eq!((world.links(&a, NOW), world.links(&b, NOW)), (Ok(1), Ok(2)));
    assert_eq!(world.links(&stranger, NOW), Err(CertificateError::Missing));
    for seconds in [99, 1000] {
        assert_eq!(world.links(&b, Moment { seconds, ..NOW }), Err(CertificateError::Time));
    }
    // Who has a right from somebody without one has none.
    let [c, d] = principals();
    world.give(&c, &d);
    assert_eq!(world.links(&d, NOW), Err(CertificateError::Issuer));
}

#[test]
fn chains_that_lead_nowhere_are_none() {
    let mut world = World::new();
    let [a, b, own] = principals();
    world.give(&own, &own);
    assert_eq!(world.links(&own, NOW), Err(CertificateError::Loop));
    world.give(&a, &b);
    world.give(&b, &a);
    assert_eq!(world.links(&a, NOW), Err(CertificateError::Loop));
    // The way out of a loop is found all the same.
    world.give_from_root(&a);
    assert_eq!((world.links(&a, NOW), world.links(&b, NOW)), (Ok(1), Ok(2)));

    let mut last = a.clone();
    for length in 2..=CHAIN_MAX + 1 {
        let next = Principal::generate();
        world.give(&last, &next);
        let found = if length <= CHAIN_MAX { Ok(length) } else { Err(CertificateError::TooLong) };
        assert_eq!(world.links(&next, NOW), found);
        last = next;
    }
}

/// However many certificates somebody writes, looking for a chain among them ends soon.
#[test]
fn a_thicket_of_certificates_is_not_searched_for_ever() {
    let mut world = World::new();
    let crowd: [Principal; 24] = principals();
    for issuer in &crowd {
        for subject in crowd.iter().filter(|subject| subject.public() != issuer.public()) {
            world.give(issuer, subject);
        }
    }
    for author in &crowd {
        let why = world.links(author, NOW).unwrap_err();
        assert!(matches!(why, CertificateError::TooLong | CertificateError::Loop), "{why}");
    }
}

#[test]
fn what_is_foreign_or_not_in_its_place_is_not_noted() {
    let mut world = World::new();
    let [a, b] = principals();
    let terms = world.terms(&a);
    let foreign = Certificate::issue(&world.root, &Terms { store_id: [4; 16], ..terms });
    assert_eq!(world.authors.add(foreign.bytes()), Err(CertificateError::Store));
    let good = Certificate::issue(&world.root, &terms);
    let at = |serial| Key::new(SYSTEM_BLOCK, ItemKind::WRITECAP, serial);
    let bytes = good.bytes().as_bytes();
    assert_eq!(world.authors.note(&at(terms.serial + 1), bytes), Err(CertificateError::Misplaced));
    for length in 0..bytes.len() {
        let cut = world.authors.note(&at(terms.serial), &bytes[..length]);
        assert_eq!(cut, Err(CertificateError::Version), "{length} bytes");
    }
    assert_eq!(world.links(&a, NOW), Err(CertificateError::Missing));
    world.authors.note(&at(terms.serial), bytes).unwrap();
    // Another one with the serial that is taken.
    let late = Terms { subject: b.public(), ..terms };
    world.authors.add(Certificate::issue(&world.root, &late).bytes()).unwrap();
    assert_eq!((world.links(&a, NOW), world.links(&b, NOW)), (Ok(1), Err(CertificateError::Missing)));
}

#[test]
fn who_gave_a_right_ends_it_and_nobody_else() {
    let mut world = World::new();
    let [a, b, stranger] = principals();
    let first = world.give_from_root(&a);
    let second = world.give(&a, &b);
    world.revoke(&stranger, second, 0);
    world.revoke(&b, first, 0);
    assert_eq!(world.links(&b, NOW), Ok(2));
    world.revoke(&a, second, NOW.seq);
    assert_eq!(world.links(&b, NOW), Ok(2), "up to that record");
    let later = Moment { seq: NOW.seq + 1, ..NOW };
    assert_eq!(world.links(&b, later), Err(CertificateError::Revoked));
    // The earliest end counts; and what was given on ends with what it was given by.
    world.revoke(&world.root.clone(), first, NOW.seq - 1);
    assert_eq!(world.links(&a, NOW), Err(CertificateError::Revoked));
    assert_eq!(world.links(&b, NOW), Err(CertificateError::Revoked));
}
