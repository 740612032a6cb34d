//! Compares `docs/FORMAT.md` with the structs that it draws: every table of a struct, every number.
//!
//! A struct's table stands behind a line "Struct `Name`, N bytes:". A public `repr(C)` struct in
//! `engine/src/format/` without such a table fails the test, and so does a table without a struct.

use std::collections::BTreeMap;
use std::fs;
use std::mem::offset_of;
use std::path::{Path, PathBuf};

use blocktree_engine::format::*;
use blocktree_engine::limits::*;

/// A field: name, offset, size.
type Field = (String, usize, usize);

#[derive(Debug, PartialEq, Eq)]
struct Drawn {
    bytes: usize,
    fields: Vec<Field>,
}

/// The layout of a struct as the compiler has it.
macro_rules! layout {
    ($map:ident, $name:ident { $($field:ident),* $(,)? }) => {
        $map.insert(
            stringify!($name).to_owned(),
            Drawn {
                bytes: size_of::<$name>(),
                fields: vec![$((
                    stringify!($field).to_owned(),
                    offset_of!($name, $field),
                    field_size(|it: &$name| &it.$field),
                )),*],
            },
        );
    };
}

fn field_size<T, F>(_: fn(&T) -> &F) -> usize {
    size_of::<F>()
}

fn real() -> BTreeMap<String, Drawn> {
    let mut map = BTreeMap::new();
    layout!(
        map,
        Superblock {
            magic,
            version,
            reserved0,
            store_id,
            generation,
            volume_sectors,
            capacity_sectors,
            written_sectors,
            log_sectors,
            log_position,
            seq,
            record_hash,
            root,
            height,
            reserved1,
            nodes,
            space,
            next_block,
            time_ns,
            root_principal,
            author,
            anchors,
            chain,
            reserved2,
            signature,
        }
    );
    layout!(map, AnchorBytes { id, seq, record_hash });
    layout!(map, KeySlotHeader { magic, version, memory_kib, passes, lanes, salt, store_id, certificate });
    layout!(map, KeySlotSecrets { owner_key, structure_key, node_seeds, root_principal });
    layout!(map, RootSlotHeader { magic, version, memory_kib, passes, lanes, salt, store_id });
    layout!(map, RootSlotSecrets { root_seeds });
    layout!(map, AccessSector { magic, version, reserved0, generation, store_id, slots, reserved1, hash });
    layout!(map, AccessSlot { sealed });
    layout!(map, AccessSecrets { structure_key, owner_key, root_principal, flags, reserved });
    layout!(map, AccessBytes { principal, flags, reserved });
    layout!(
        map,
        CertificateBytes {
            version,
            rights,
            block,
            not_before,
            expires,
            serial,
            store_id,
            subject,
            issuer,
            signature,
        }
    );
    layout!(map, RevocationBytes { version, reserved, serial, seq, store_id, issuer, signature });
    layout!(map, ReadcapBytes { version, flags, block, epoch, reserved, expires, serial, recipient, sealed });
    layout!(map, ReadcapSecrets { block_key, wrap_key });
    layout!(
        map,
        RecordHeader {
            magic,
            version,
            sectors,
            body_bytes,
            reserved,
            seq,
            durable_seq,
            volume_sectors,
            next_block,
            time_ns,
            store_id,
            nonce,
            previous,
            author,
            signature,
        }
    );
    layout!(
        map,
        SealedFileHeader {
            magic,
            version,
            kind,
            memory_kib,
            passes,
            lanes,
            clear_bytes,
            secret_bytes,
            reserved,
            salt,
        }
    );
    layout!(map, CountedAnchorHeader { magic, version, index, value, store_id, root_principal, now, next });
    layout!(map, TpmFileHeader { magic, version, pcrs, flags, public_bytes, private_bytes });
    layout!(
        map,
        NodeStatementBytes { store_id, node, key_signature, node_signature, public_bytes, private_bytes }
    );
    layout!(map, BackupClear { store_id, root_principal, time_ns, set, needed, share, reserved });
    layout!(map, BackupSecrets { store_id, owner_key, structure_key, root_seeds, check });
    layout!(map, KeyBytes { block, kind, offset });
    layout!(map, NodeHeader { nonce, magic, level, reserved, count, birth });
    layout!(map, NodePtr { sector, birth, hash });
    layout!(map, Slot { key, offset, length });
    layout!(map, Child { lowest, ptr });
    layout!(map, SharedBytes { sectors, extents });
    layout!(map, ReclaimBytes { from, destroy });
    layout!(map, SnapshotBytes { state, reserved, height, seq, time_ns, next_block, root });
    layout!(map, LostBytes { from, to });
    layout!(map, JournalBytes { author, previous, position });
    layout!(map, DeadBytes { sectors, birth });
    layout!(map, RotationBytes { block, is_complete });
    layout!(map, StaleBytes { from, items });
    layout!(map, BlockHeader { owner_key, epoch, sectors, units, home, wrapped_by });
    layout!(map, ExtentHeader { sector, birth, nonce, epoch, sectors, skip, flags, unit_log2, cipher });
    layout!(map, SpaceEntry { hash, free, free_reserve, slot, reserved });
    layout!(map, SpaceTable { entries, reserved });
    map
}

fn engine() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn page() -> String {
    fs::read_to_string(engine().join("../docs/FORMAT.md")).expect("docs/FORMAT.md")
}

/// The cells of a table's row, or `None` where the line is not one.
fn cells(line: &str) -> Option<Vec<&str>> {
    let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    Some(inner.split('|').map(|cell| cell.trim().trim_matches('`')).collect())
}

/// The rows of the first table whose head begins with `head`, after the line `after` if given.
fn table(page: &str, head: &str) -> Vec<Vec<String>> {
    let rows: Vec<Vec<String>> = page
        .lines()
        .skip_while(|line| !line.starts_with(head))
        .skip(2)
        .map_while(cells)
        .map(|row| row.into_iter().map(str::to_owned).collect())
        .collect();
    assert!(!rows.is_empty(), "docs/FORMAT.md has no table {head}");
    rows
}

fn drawn(page: &str) -> BTreeMap<String, Drawn> {
    let mut map = BTreeMap::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(rest) = line.strip_prefix("Struct `") else { continue };
        let (name, rest) = rest.split_once("`, ").unwrap_or_else(|| panic!("not a struct's line: {line}"));
        let bytes = rest.strip_suffix(" bytes:").and_then(|n| n.parse().ok());
        let bytes = bytes.unwrap_or_else(|| panic!("no size: {line}"));
        let fields = lines
            .by_ref()
            .skip_while(|line| line.is_empty())
            .skip(2)
            .map_while(cells)
            .map(|row| {
                let number =
                    |cell: &str| cell.parse().unwrap_or_else(|_| panic!("{name}: not a number: {cell}"));
                (row[2].to_owned(), number(row[0]), number(row[1]))
            })
            .collect();
        assert!(map.insert(name.to_owned(), Drawn { bytes, fields }).is_none(), "{name} is drawn twice");
    }
    map
}

#[test]
fn structs_are_as_drawn() {
    let (real, drawn) = (real(), drawn(&page()));
    for (name, real) in &real {
        let drawn = drawn.get(name).unwrap_or_else(|| panic!("{name} is not drawn in docs/FORMAT.md"));
        assert_eq!(drawn, real, "{name}: docs/FORMAT.md (left) differs from the code (right)");
        let mut end = 0;
        for (field, offset, size) in &real.fields {
            assert_eq!(*offset, end, "{name}.{field}: a field before it is missing");
            end += size;
        }
        assert_eq!(end, real.bytes, "{name}: the last field is missing");
    }
    let unknown: Vec<_> = drawn.keys().filter(|name| !real.contains_key(*name)).collect();
    assert!(unknown.is_empty(), "docs/FORMAT.md draws what this test does not know: {unknown:?}");
}

#[test]
fn no_struct_is_left_out() {
    let real = real();
    for entry in fs::read_dir(engine().join("src/format")).expect("engine/src/format") {
        let text = fs::read_to_string(entry.expect("an entry").path()).expect("a source file");
        for part in text.split("#[repr(C)]\npub struct ").skip(1) {
            let name = part.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
            assert!(real.contains_key(name), "{name} is missing from this test and from docs/FORMAT.md");
        }
    }
}

#[test]
fn constants_are_as_drawn() {
    macro_rules! values {
        ($($name:ident),* $(,)?) => { [$((stringify!($name), $name as u64)),*] };
    }
    let real = values![
        SECTOR_BYTES,
        EXTENT_SECTORS_MAX,
        NODE_BYTES,
        NODE_SECTORS,
        ITEM_BYTES_MAX,
        ITEM_SEAL_BYTES,
        ATTRIBUTES_BYTES_MAX,
        WRAPPED_KEY_BYTES,
        REGION_SECTORS,
        REGION_HEADER_SECTORS,
        REGION_NODE_SECTORS,
        SPACE_FANOUT,
        SPACE_LEVELS,
        STORE_SECTORS_MIN,
        STORE_SECTORS_MAX,
        LOG_SECTORS_MIN,
        LOG_SECTORS_MAX,
        RECORD_SECTORS_MAX,
        ANCHORS_MAX,
        ACCESS_SECTORS,
        ACCESS_SLOTS,
        CHAIN_MAX,
        SUPERBLOCK_CHAIN_MAX,
        FORMAT_VERSION,
    ];
    let page = page();
    let rows = table(&page, "| constant |");
    let drawn: Vec<(&str, u64)> =
        rows.iter().map(|row| (row[0].as_str(), row[1].parse().expect("a number"))).collect();
    assert_eq!(drawn, real);
}

#[test]
fn magic_numbers_are_as_drawn() {
    let page = page();
    let slots = [
        KeySlotHeader::MAGIC,
        RootSlotHeader::MAGIC,
        ACCESS_MAGIC,
        SealedFileHeader::MAGIC,
        TpmFileHeader::MAGIC,
        CountedAnchorHeader::MAGIC,
    ];
    let others = [RECORD_MAGIC.as_slice(), &NODE_MAGIC.to_le_bytes()];
    for magic in slots.iter().map(|magic| &magic[..]).chain(others) {
        let text = format!("`magic` | `{}` |", std::str::from_utf8(magic).expect("letters"));
        assert!(page.contains(&text), "{text}");
    }
    assert_eq!(SUPERBLOCK_MAGIC, *b"BLKTREE\x01");
    assert!(page.contains("`magic` | `BLKTREE` and a byte of 1 |"));
}

#[test]
fn kinds_are_as_drawn() {
    macro_rules! kinds {
        ($($name:ident),* $(,)?) => { [$((stringify!($name), ItemKind::$name.0)),*] };
    }
    let real = kinds![
        HEADER, EXTENT, OLD_KEY, ACCESS, READCAP, REVOCATION, ROTATION, STALE, ORPHAN, RECLAIM, SHARED,
        SNAPSHOT, DEAD, WRITECAP, LOST, JOURNAL, FIRST_FREE,
    ];
    let page = page();
    let rows = table(&page, "| kind |");
    let drawn: Vec<(&str, u8)> =
        rows.iter().map(|row| (row[1].as_str(), row[0].parse().expect("a number"))).collect();
    assert_eq!(drawn, real);
}

#[test]
fn changes_are_as_drawn() {
    let key = Key::new(1, ItemKind::HEADER, 0);
    let changes = [
        ("put", Change::Put(key, &[7; 5])),
        ("delete", Change::Delete(key)),
        ("allocate", Change::Allocate { sector: 1, sectors: 1 }),
        ("free", Change::Free { sector: 1, sectors: 1 }),
    ];
    let page = page();
    let rows = table(&page, "| tag |");
    assert_eq!(rows.len(), changes.len());
    for ((name, change), row) in changes.iter().zip(rows) {
        let mut bytes = Vec::new();
        encode_change(&mut bytes, change);
        assert_eq!((row[0].parse(), row[1].as_str()), (Ok(bytes[0]), *name));
        let drawn = match row[2].strip_suffix(" + n") {
            Some(fixed) => fixed.parse::<usize>().expect("a number") + 5,
            None => row[2].parse().expect("a number"),
        };
        assert_eq!(drawn, bytes.len(), "{name}");
    }
}

#[test]
fn places_are_as_drawn() {
    let page = page();
    let rows = table(&page, "| part |");
    let place = |part: &str, log: u64| -> u64 {
        let row = rows.iter().find(|row| row[0] == part).unwrap_or_else(|| panic!("no part {part}"));
        match row[1].strip_suffix(" + L") {
            Some(fixed) => fixed.parse::<u64>().expect("a number") + log,
            None => row[1].parse().expect("a number"),
        }
    };
    for layout in Layout::candidates() {
        let log = layout.log_sectors();
        for (i, sector) in layout.superblocks().into_iter().enumerate() {
            assert_eq!(place(&format!("superblock {i}"), log), sector);
        }
        for (i, sector) in layout.keyslots().into_iter().enumerate() {
            assert_eq!(place(&format!("key slot {i}"), log), sector);
        }
        for (i, sector) in layout.rootslots().into_iter().enumerate() {
            assert_eq!(place(&format!("root slot {i}"), log), sector);
        }
        for (at, copies) in layout.access().enumerate() {
            let drawn = [0, 1].map(|i| place(&format!("access slots {i}"), log) + at as u64);
            assert_eq!(drawn, copies);
        }
        assert_eq!(layout.access().count() as u64, ACCESS_SECTORS);
        assert_eq!(place("log zone", log), Layout::LOG_START);
        assert_eq!(place("data", log), layout.reserved_end());
    }
    for (level, row) in table(&page, "| level |").iter().enumerate() {
        let homes = [0, 1].map(|slot| SpaceTable::home(level, 0, slot).to_string()).join(", ");
        assert_eq!((row[0].clone(), row[2].clone()), (level.to_string(), homes));
        let covers: u64 = row[1].parse().expect("a number");
        assert_eq!(SpaceTable::home(level, 1, 0), covers * REGION_SECTORS + 2 * level as u64);
    }
}
