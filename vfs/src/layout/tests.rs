use proptest::prelude::*;
use zerocopy::IntoBytes;

use super::*;

fn attributes(kind: FileKind) -> Attributes {
    Attributes {
        kind,
        permissions: 0o6751,
        uid: 1,
        gid: u32::MAX - 1,
        nlink: 3,
        rdev: 0x0801,
        size: i64::MAX as u64,
        atime: Time::new(i64::MIN, 0),
        mtime: Time::new(-1, 999_999_999),
        ctime: Time::new(1 << 40, 5),
        btime: Time::new(i64::MAX, 1),
        parent: if kind == FileKind::Directory { 1 } else { 0 },
        xattr_count: 2,
        xattr_name_bytes: 40,
        has_access_acl: true,
        has_default_acl: false,
        has_capability: true,
        file_flags: FileFlags { immutable: true, no_atime: true, ..FileFlags::default() },
    }
}

#[test]
fn attributes_come_back() {
    for kind in [
        FileKind::Fifo,
        FileKind::CharacterDevice,
        FileKind::Directory,
        FileKind::BlockDevice,
        FileKind::Regular,
        FileKind::Symlink,
        FileKind::Socket,
    ] {
        let attributes = attributes(kind);
        assert_eq!(Attributes::decode(attributes.encode().as_bytes()).unwrap(), attributes);
        assert_eq!(FileKind::from_mode(kind.mode() | 0o777), Some(kind));
    }
}

#[test]
fn malformed_attributes_are_refused() {
    let good = attributes(FileKind::Regular).encode();
    let bad = |change: &dyn Fn(&mut InodeBytes)| {
        let mut bytes = good;
        change(&mut bytes);
        assert!(Attributes::decode(bytes.as_bytes()).is_err(), "{bytes:?}");
    };
    bad(&|bytes| bytes.version = 2);
    bad(&|bytes| bytes.kind = 3);
    bad(&|bytes| bytes.flags = 8);
    bad(&|bytes| bytes.file_flags = 16);
    bad(&|bytes| bytes.permissions = 0o10000.into());
    bad(&|bytes| bytes.size = (1 << 63).into());
    bad(&|bytes| bytes.parent = 1.into());
    bad(&|bytes| bytes.kind = FileKind::Directory as u8);
    bad(&|bytes| bytes.nlink = u32::MAX.into());
    bad(&|bytes| bytes.ctime.nanoseconds = 1_000_000_000.into());
    assert!(Attributes::decode(&good.as_bytes()[1..]).is_err());
}

#[test]
fn malformed_entries_are_refused() {
    let clear = 7u64.to_le_bytes();
    let good = encode_entry(7, FileKind::Regular, [9; 60], b"name");
    let entry = decode_entry(&clear, &good).unwrap();
    assert_eq!(
        entry,
        Entry { child: 7, kind: FileKind::Regular, name: b"name".to_vec(), wrapped_key: [9; 60] }
    );
    assert!(decode_entry(&8u64.to_le_bytes(), &good).is_err(), "both parts name one child");
    assert!(decode_entry(&clear[..7], &good).is_err());
    assert!(decode_entry(&clear, &good[..good.len() - 1]).is_err());
    for name in [&b"a/b"[..], b"a\0", b".", b".."] {
        assert!(decode_entry(&clear, &encode_entry(7, FileKind::Regular, [9; 60], name)).is_err());
    }
}

#[test]
fn buckets_leave_room_for_the_dots_and_fit_an_offset() {
    for hash in [0, 1, 511, u64::MAX] {
        let bucket = bucket_of(hash);
        assert!(bucket >= ENTRY_POSITION_FIRST && bucket + ENTRY_SLOTS - 1 <= i64::MAX as u64);
    }
}

proptest! {
    #[test]
    fn decoding_never_panics(clear in prop::collection::vec(any::<u8>(), 0..12), bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(note) = Note::decode(&bytes) {
            prop_assert_eq!(note.encode(), &bytes[..]);
        }
        let _ = Attributes::decode(&bytes);
        let _ = decode_entry(&clear, &bytes);
        let _ = decode_bucket(&bytes);
        let _ = decode_piece(&bytes);
    }

    #[test]
    fn buckets_come_back(records in prop::collection::vec((prop::collection::vec(any::<u8>(), 1..=255), prop::collection::vec(any::<u8>(), 0..5000)), 0..6)) {
        let bucket = encode_bucket(&records).unwrap();
        let mut joined = Vec::new();
        for piece in encode_piece(&bucket) {
            let (header, bytes) = decode_piece(&piece).unwrap();
            prop_assert_eq!(header.bucket_bytes.get() as usize, bucket.len());
            joined.extend_from_slice(bytes);
        }
        prop_assert_eq!(decode_bucket(&joined).unwrap(), records);
    }
}

fn note(kind: NoteKind) -> Note<'static> {
    Note {
        kind,
        time_ms: (1 << 48) - 1,
        actor: None,
        ino: 0,
        name: None,
        new_name: None,
        other: 0,
        whiteout: 0,
        directory: false,
    }
}

#[test]
fn notes_come_back() {
    let long = [b'n'; NAME_BYTES_MAX];
    let name = Some((u64::MAX, &long[..]));
    let notes = [
        Note { ino: 1, name, directory: true, ..note(NoteKind::Created) },
        Note { ino: u64::MAX, name, actor: Some([7; 32]), ..note(NoteKind::Linked) },
        Note { ino: 300, name: Some((1, b"x")), ..note(NoteKind::Unlinked) },
        Note { ino: 5, name, new_name: Some((2, b"y")), other: 9, whiteout: 8, ..note(NoteKind::Renamed) },
        Note { ino: 5, name, new_name: Some((2, b"y")), other: 9, ..note(NoteKind::Exchanged) },
        Note { ino: 5, ..note(NoteKind::Modified) },
        Note { ino: 5, name, ..note(NoteKind::Settled) },
        Note { ino: 5, time_ms: 0, ..note(NoteKind::Attributes) },
        note(NoteKind::Mounted),
        note(NoteKind::Unmounted),
    ];
    for note in notes {
        let bytes = note.encode();
        assert_eq!(Note::decode(&bytes).unwrap(), note);
        for length in 0..bytes.len() {
            assert!(Note::decode(&bytes[..length]).is_err(), "{note:?} cut to {length}");
        }
        assert!(Note::decode(&[&bytes[..], &[0]].concat()).is_err());
    }
}

#[test]
fn malformed_notes_are_refused() {
    let good = Note { ino: 5, name: Some((1, b"x")), ..note(NoteKind::Created) }.encode();
    let bad = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        assert!(Note::decode(&bytes).is_err(), "byte {at} is {byte}");
    };
    bad(0, 0);
    bad(0, 11);
    bad(0, NoteKind::Renamed as u8);
    bad(1, 0);
    bad(1, 128 | 6);
    bad(8, 0);
    bad(10, 0);
    bad(10, 2);
    bad(11, b'/');
    bad(11, b'.');
    bad(11, 0);
}
