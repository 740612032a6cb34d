//! A frozen image of format version 1, which every later version must go on opening.
//!
//! `fixtures/v1.sparse` holds the sectors of a store that are not zero: `{sector: u64 LE, 4096 bytes}` each. It was
//! left by a crash: some of it stands in the index, some in the log. It is never made anew; what makes one runs here
//! on memory, and writes a file only where `BLOCKTREE_FIXTURE` names one.

use std::path::Path;
use std::sync::Arc;

use blocktree_engine::crypto::{CertificateError, KdfCost, Principal, Rights};
use blocktree_engine::device::MemoryDevice;
use blocktree_engine::format::ItemKind;
use blocktree_engine::{
    CheckOptions, CreateOptions, Credential, Grant, OpenOptions, Role, Store, check, read_master_keys,
    read_root,
};
use zeroize::Zeroizing;

const SECTORS: u64 = 8192;
const SECTOR: usize = 4096;
const PASSPHRASE: &[u8] = b"frozen";
const KIND: ItemKind = ItemKind::FIRST_FREE;

fn options() -> OpenOptions {
    OpenOptions { background: false, ..OpenOptions::default() }
}

/// Who has a part of the store: a reader of one block, and a node of its own.
fn principal(seed: u8) -> Principal {
    Principal::from_seeds(Zeroizing::new([seed; 64]))
}

fn bytes(seed: u8, sectors: usize) -> Vec<u8> {
    (0..sectors * SECTOR).map(|at| (at / 3) as u8 ^ seed).collect()
}

fn make() -> Vec<u8> {
    let device = Arc::new(MemoryDevice::new(SECTORS));
    let create = CreateOptions { capacity_sectors: SECTORS, kdf: KdfCost::TRIVIAL };
    let store = Store::create_with(device.clone(), PASSPHRASE, &create, &options()).unwrap();
    let mut transaction = store.transaction();
    let root = transaction.create(b"root");
    let other = transaction.create(b"other");
    transaction.put(&root, KIND, 42, b"clear", b"secret");
    transaction.write(&root, 5 * SECTOR as u64, &bytes(1, 20)).unwrap();
    transaction.write(&other, 100, b"a part of a sector").unwrap();
    transaction.apply().unwrap();
    store.snapshot_create("before").unwrap();
    let mut transaction = store.transaction();
    transaction.clone_range(&root, 5, &other, 10, 8).unwrap();
    transaction.punch(&root, 6, 9).unwrap();
    transaction.set_attributes(&other, b"changed");
    let orphan = transaction.create(b"orphan");
    transaction.orphan(&orphan);
    store.sync(transaction.apply().unwrap()).unwrap();
    let master = read_master_keys(&*device, PASSPHRASE).unwrap();
    let (reader, node) = (principal(1).public(), principal(2).public());
    store.grant_access(&reader, false).unwrap();
    store.grant_access(&node, true).unwrap();
    store.share(&other, &reader, u64::MAX, false).unwrap();
    let (block, rights, not_before, expires) = (1, Rights::ALL, 0, u64::MAX);
    let grant = Grant { subject: node, block, rights, not_before, expires };
    store.issue_writecap(Some(&master.root), &grant).unwrap();
    let ended = store.issue_writecap(None, &Grant { subject: reader, block: 2, ..grant }).unwrap();
    store.revoke_writecap(None, ended).unwrap();
    store.checkpoint().unwrap();
    let mut transaction = store.transaction();
    transaction.write(&root, 7 * SECTOR as u64, &bytes(9, 1)).unwrap();
    transaction.put(&root, KIND, 43, b"", b"in the log");
    store.sync(transaction.apply().unwrap()).unwrap();
    device.snapshot()
}

fn sparse(image: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for (sector, bytes) in image.chunks_exact(SECTOR).enumerate() {
        if bytes.iter().any(|byte| *byte != 0) {
            out.extend_from_slice(&(sector as u64).to_le_bytes());
            out.extend_from_slice(bytes);
        }
    }
    out
}

fn whole(sparse: &[u8]) -> Vec<u8> {
    let mut image = vec![0; SECTORS as usize * SECTOR];
    for entry in sparse.chunks_exact(8 + SECTOR) {
        let sector = u64::from_le_bytes(entry[..8].try_into().unwrap()) as usize;
        image[sector * SECTOR..][..SECTOR].copy_from_slice(&entry[8..]);
    }
    image
}

fn is_as_it_was_left(image: Vec<u8>) {
    let device = Arc::new(MemoryDevice::from_bytes(image.clone()));
    let store = Store::open(device, PASSPHRASE, &options()).unwrap();
    let (root, other) = (store.block(1).unwrap().unwrap(), store.block(2).unwrap().unwrap());
    assert_eq!(&store.attributes(&root).unwrap()[..], b"root");
    assert_eq!(&store.attributes(&other).unwrap()[..], b"changed");
    let item = store.get(&root, KIND, 42).unwrap().unwrap();
    assert_eq!((&item.clear[..], &item.secret[..]), (&b"clear"[..], &b"secret"[..]));
    assert_eq!(&store.get(&root, KIND, 43).unwrap().unwrap().secret[..], b"in the log");
    let mut expected = [vec![0; 5 * SECTOR], bytes(1, 20)].concat();
    let shared = expected[5 * SECTOR..13 * SECTOR].to_vec();
    expected[6 * SECTOR..9 * SECTOR].fill(0);
    expected[7 * SECTOR..8 * SECTOR].copy_from_slice(&bytes(9, 1));
    let mut read = vec![1; expected.len()];
    store.read(&root, 0, &mut read).unwrap();
    assert!(read == expected);
    read.truncate(shared.len());
    store.read(&other, 10 * SECTOR as u64, &mut read).unwrap();
    assert!(read == shared);
    assert_eq!(store.orphans().unwrap().len(), 1);
    let names: Vec<String> = store.snapshot_list().into_iter().map(|snapshot| snapshot.name).collect();
    assert_eq!(names, ["before"]);
    drop(store);

    let device = Arc::new(MemoryDevice::from_bytes(image.clone()));
    let before = OpenOptions { snapshot: Some("before".into()), ..options() };
    let store = Store::open(device, PASSPHRASE, &before).unwrap();
    let other = store.block(2).unwrap().unwrap();
    assert_eq!(&store.attributes(&other).unwrap()[..], b"other");
    let mut part = [0; 18];
    store.read(&other, 100, &mut part).unwrap();
    assert_eq!(&part, b"a part of a sector");

    for (seed, role) in [(1, Role::Reader), (2, Role::Owner)] {
        let holder = principal(seed);
        let device = Arc::new(MemoryDevice::from_bytes(image.clone()));
        let credential = Credential::Principal { holder: &holder, root: None };
        let store = Store::open_as(device, &credential, &options()).unwrap();
        assert_eq!((store.role(), store.is_read_only()), (role, role == Role::Reader), "{role:?}");
        let refused: Vec<_> = store.writecaps().iter().map(|cap| cap.refused).collect();
        assert_eq!(refused.len(), 3);
        assert_eq!(refused.iter().flatten().collect::<Vec<_>>(), [&CertificateError::Revoked]);
    }
    let device = MemoryDevice::from_bytes(image.clone());
    let root = read_root(&device, PASSPHRASE).unwrap();
    assert_eq!(read_master_keys(&device, PASSPHRASE).unwrap().root.public(), root.public());

    let device = Arc::new(MemoryDevice::from_bytes(image));
    let report = check(device, PASSPHRASE, &CheckOptions::default(), &mut |_, _| {}).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
}

#[test]
fn version_1_opens() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1.sparse");
    is_as_it_was_left(whole(&std::fs::read(path).unwrap()));
}

#[test]
fn what_is_made_now_is_the_same() {
    let made = sparse(&make());
    is_as_it_was_left(whole(&made));
    if let Some(path) = std::env::var_os("BLOCKTREE_FIXTURE") {
        std::fs::write(path, made).unwrap();
    }
}
