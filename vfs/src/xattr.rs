//! Extended attributes in an inode's items: buckets of them by the hash of their names, in pieces.
//!
//! Callers hold the inode's `operation` lock where they change something. A reader without it may meet a bucket
//! between two versions of its pieces; it sees that by their headers and reads again.

use std::collections::BTreeMap;

use blocktree_engine::{Store, Transaction};

use crate::directory::NameHash;
use crate::inode::Inode;
use crate::layout::{
    ITEM_XATTR, Malformed, decode_bucket, decode_piece, encode_bucket, encode_piece, xattr_bucket_of,
};
use crate::{FsError, Result};

type Records = crate::layout::XattrRecords;

/// A bucket: where it is, of how many pieces, and what is in it.
pub(crate) struct Bucket {
    pub(crate) at: u64,
    pieces: u8,
    records: Records,
}

/// Items asked for at once: a value of the greatest length.
const SCAN_LIMIT: usize = 20;
/// How often a reader tries to find the pieces of one version.
const READ_ATTEMPTS: usize = 64;

fn malformed(inode: &Inode, what: Malformed) -> FsError {
    FsError::Malformed { ino: inode.ino, what: what.0 }
}

/// The pieces' bytes of one bucket put together, or where they end.
struct Assembly {
    bytes: Vec<u8>,
    expected: usize,
    pieces: u8,
}

/// Reads the first bucket from `from` on: where it is, how many pieces it has, and its records.
fn next_bucket(store: &Store, inode: &Inode, from: u64, only: bool) -> Result<Option<(u64, u8, Records)>> {
    for _ in 0..READ_ATTEMPTS {
        match try_bucket(store, inode, from, only)? {
            Ok(found) => return Ok(found),
            Err(Malformed(_)) => continue,
        }
    }
    // Nobody changes it that often: it is what stands there. Say what is wrong with it.
    let _guard = inode.lock()?;
    try_bucket(store, inode, from, only)?.map_err(|what| malformed(inode, what))
}

type Attempt<T> = std::result::Result<T, Malformed>;

fn try_bucket(
    store: &Store,
    inode: &Inode,
    from: u64,
    only: bool,
) -> Result<Attempt<Option<(u64, u8, Records)>>> {
    let mut limit = 1;
    let mut at = from;
    let mut assembly: Option<Assembly> = None;
    let mut bucket = from;
    loop {
        let items = store.scan(&inode.block, ITEM_XATTR, at, limit)?;
        if items.is_empty() {
            return Ok(match assembly {
                None => Ok(None),
                Some(_) => Err(Malformed("extended attribute: a piece is missing")),
            });
        }
        for (offset, item) in items {
            let (header, piece) = match decode_piece(&item.secret) {
                Ok(decoded) => decoded,
                Err(what) => return Ok(Err(what)),
            };
            let total = header.bucket_bytes.get() as usize;
            let assembly = match &mut assembly {
                None => {
                    bucket = xattr_bucket_of(offset);
                    if only && bucket != from {
                        return Ok(Ok(None));
                    }
                    if offset != bucket {
                        return Ok(Err(Malformed("extended attribute: the first piece is missing")));
                    }
                    assembly.insert(Assembly {
                        bytes: Vec::with_capacity(total),
                        expected: total,
                        pieces: header.pieces,
                    })
                }
                Some(assembly) => {
                    if offset != at || assembly.expected != total {
                        return Ok(Err(Malformed("extended attribute: pieces of two versions")));
                    }
                    assembly
                }
            };
            assembly.bytes.extend_from_slice(piece);
            at = offset + 1;
            if assembly.bytes.len() >= assembly.expected {
                if assembly.bytes.len() > assembly.expected {
                    return Ok(Err(Malformed("extended attribute: a piece is too long")));
                }
                return Ok(
                    decode_bucket(&assembly.bytes).map(|records| Some((bucket, assembly.pieces, records)))
                );
            }
        }
        limit = SCAN_LIMIT;
    }
}

/// The value of one attribute.
pub(crate) fn get(store: &Store, inode: &Inode, names: NameHash, name: &[u8]) -> Result<Option<Vec<u8>>> {
    let newest = xattr_bucket_of(names.of(inode, name));
    for bucket in std::iter::once(newest).chain(older_buckets(store, inode, name)) {
        let found = next_bucket(store, inode, bucket, true)?;
        let records = found.map(|(_, _, records)| records).unwrap_or_default();
        if let Some((_, value)) = records.into_iter().find(|(held, _)| held == name) {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

/// Where an attribute may stand too, if a crash came while the inode got a new key.
fn older_buckets(store: &Store, inode: &Inode, name: &[u8]) -> Vec<u64> {
    match store.has_older_items(&inode.block) {
        true => inode.block.older_name_hashes(name).into_iter().map(xattr_bucket_of).collect(),
        false => Vec::new(),
    }
}

/// The first bucket from `from` on.
pub(crate) fn bucket_from(store: &Store, inode: &Inode, from: u64) -> Result<Option<Bucket>> {
    let found = next_bucket(store, inode, from, false)?;
    Ok(found.map(|(at, pieces, records)| Bucket { at, pieces, records }))
}

/// All buckets, and that those are all; or some of them, where they hold more than so many bytes.
pub(crate) fn buckets(store: &Store, inode: &Inode, bytes_max: usize) -> Result<(Vec<Bucket>, bool)> {
    let mut buckets = Vec::new();
    let (mut from, mut bytes) = (0, 0);
    while let Some(bucket) = bucket_from(store, inode, from)? {
        bytes += bucket.records.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        if bytes > bytes_max {
            return Ok((buckets, false));
        }
        let next = bucket.at.checked_add(256);
        buckets.push(bucket);
        match next {
            Some(next) => from = next,
            None => break,
        }
    }
    Ok((buckets, true))
}

/// Puts the attributes of these buckets where the hashes of their names want them. One that is there already is newer.
pub(crate) fn move_buckets(
    store: &Store,
    transaction: &mut Transaction,
    inode: &Inode,
    buckets: &[Bucket],
    hash: &dyn Fn(&[u8]) -> u64,
) -> Result<()> {
    let mut moved: BTreeMap<u64, Records> = BTreeMap::new();
    for bucket in buckets {
        for piece in 0..u64::from(bucket.pieces) {
            transaction.delete(&inode.block, ITEM_XATTR, bucket.at | piece);
        }
        for (name, value) in &bucket.records {
            moved.entry(xattr_bucket_of(hash(name))).or_default().push((name.clone(), value.clone()));
        }
    }
    for (at, records) in moved {
        let is_here = buckets.iter().any(|bucket| bucket.at == at);
        let found = if is_here { None } else { next_bucket(store, inode, at, true)? };
        let mut all = found.map_or(Vec::new(), |(_, _, records)| records);
        for (name, value) in records {
            if all.iter().all(|(held, _)| *held != name) {
                all.push((name, value));
            }
        }
        put_bucket(transaction, inode, at, &all)?;
    }
    Ok(())
}

/// All names.
pub(crate) fn names(store: &Store, inode: &Inode) -> Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    let mut from = 0;
    while let Some((bucket, _, records)) = next_bucket(store, inode, from, false)? {
        names.extend(records.into_iter().map(|(name, _)| name));
        match bucket.checked_add(256) {
            Some(next) => from = next,
            None => break,
        }
    }
    Ok(names)
}

/// Sets (or with `None` removes) one attribute, under the inode's lock; at most once a transaction and bucket.
pub(crate) fn set(
    store: &Store,
    transaction: &mut Transaction,
    inode: &Inode,
    names: NameHash,
    name: &[u8],
    value: Option<&[u8]>,
) -> Result<()> {
    let bucket = xattr_bucket_of(names.of(inode, name));
    let found = try_bucket(store, inode, bucket, true)?.map_err(|what| malformed(inode, what))?;
    let (pieces, mut records) = found.map_or((0, Vec::new()), |(_, pieces, records)| (pieces, records));
    records.retain(|(held, _)| held != name);
    if let Some(value) = value {
        records.push((name.to_vec(), value.to_vec()));
    }
    replace_bucket(transaction, inode, bucket, pieces, &records)?;
    for older in older_buckets(store, inode, name).into_iter().filter(|older| *older != bucket) {
        let found = try_bucket(store, inode, older, true)?.map_err(|what| malformed(inode, what))?;
        let Some((_, pieces, mut records)) = found else { continue };
        records.retain(|(held, _)| held != name);
        replace_bucket(transaction, inode, older, pieces, &records)?;
    }
    Ok(())
}

/// Puts a bucket in place of one of so many pieces.
fn replace_bucket(
    transaction: &mut Transaction,
    inode: &Inode,
    bucket: u64,
    pieces: u8,
    records: &Records,
) -> Result<()> {
    let written = put_bucket(transaction, inode, bucket, records)?;
    for piece in written..u64::from(pieces) {
        transaction.delete(&inode.block, ITEM_XATTR, bucket | piece);
    }
    Ok(())
}

/// Gives a new inode its first attributes.
pub(crate) fn put_first(transaction: &mut Transaction, inode: &Inode, names: NameHash, records: &Records) {
    let mut buckets: BTreeMap<u64, Records> = BTreeMap::new();
    for (name, value) in records {
        let bucket = xattr_bucket_of(names.of(inode, name));
        buckets.entry(bucket).or_default().push((name.clone(), value.clone()));
    }
    for (bucket, records) in buckets {
        let fits = put_bucket(transaction, inode, bucket, &records);
        debug_assert!(fits.is_ok(), "two ACLs fit a bucket");
    }
}

/// Answers how many pieces there are now.
fn put_bucket(transaction: &mut Transaction, inode: &Inode, bucket: u64, records: &Records) -> Result<u64> {
    let bytes = encode_bucket(records).ok_or(FsError::AttributesFull)?;
    let mut count = 0;
    for (number, piece) in (0..).zip(encode_piece(&bytes)) {
        transaction.put(&inode.block, ITEM_XATTR, bucket | number, &[], &piece);
        count = number + 1;
    }
    Ok(count)
}
