use proptest::prelude::*;
use zerocopy::IntoBytes;

use super::*;

fn parse<'a>(opcode: u32, arguments: &'a [u8]) -> Option<Operation<'a>> {
    let header = InHeader { opcode, unique: 3, nodeid: 4, uid: 5, gid: 6, pid: 7, ..InHeader::default() };
    let request = Request::parse(&header, Arguments::joined(arguments)).ok()?;
    let Request { unique, ino, uid, gid, pid, operation } = request;
    assert_eq!((unique, ino, uid, gid, pid), (3, 4, 5, 6, 7));
    Some(operation)
}

fn message(structure: &(impl IntoBytes + zerocopy::Immutable), rest: &[u8]) -> Vec<u8> {
    [structure.as_bytes(), rest].concat()
}

#[test]
fn names_end_at_their_nul() {
    let Some(Operation::Lookup { name }) = parse(opcode::LOOKUP, b"name\0") else { panic!() };
    assert_eq!(name, b"name");
    assert!(parse(opcode::LOOKUP, b"name").is_none(), "no NUL");
    assert!(parse(opcode::LOOKUP, b"").is_none());
    let Some(Operation::Symlink { name, target }) = parse(opcode::SYMLINK, b"a\0/b c\0") else { panic!() };
    assert_eq!((name, target), (&b"a"[..], &b"/b c"[..]));
    assert!(parse(opcode::SYMLINK, b"a\0b").is_none());
}

#[test]
fn both_renames_are_one() {
    let bytes = message(&RenameIn { newdir: 9 }, b"from\0to\0");
    let Some(Operation::Rename { wanted, name, new_name }) = parse(opcode::RENAME, &bytes) else { panic!() };
    assert_eq!((wanted.newdir, wanted.flags, name, new_name), (9, 0, &b"from"[..], &b"to"[..]));
    let bytes = message(&Rename2In { newdir: 9, flags: 2, padding: 0 }, b"from\0to\0");
    let Some(Operation::Rename { wanted, name, new_name }) = parse(opcode::RENAME2, &bytes) else { panic!() };
    assert_eq!((wanted.newdir, wanted.flags, name, new_name), (9, 2, &b"from"[..], &b"to"[..]));
}

#[test]
fn the_structure_may_stand_apart() {
    let header = InHeader { opcode: opcode::WRITE, ..InHeader::default() };
    let wanted = WriteIn { size: 4, ..WriteIn::default() };
    // What follows the structure there says nothing.
    let structure = message(&wanted, &[0xff; 88]);
    let parse =
        |rest| Request::parse(&header, Arguments::apart(&structure, rest)).map(|found| found.operation);
    let Ok(Operation::Write(found, data)) = parse(b"data and more") else { panic!() };
    assert_eq!((found, data), (wanted, &b"data"[..]));
    assert!(parse(b"dat").is_err());
    let header = InHeader { opcode: opcode::LOOKUP, ..InHeader::default() };
    let Ok(found) = Request::parse(&header, Arguments::apart(&structure, b"name\0")) else { panic!() };
    assert!(matches!(found.operation, Operation::Lookup { name: b"name" }));
}

#[test]
fn as_many_bytes_as_the_request_says() {
    let wanted = WriteIn { size: 4, offset: 1 << 40, ..WriteIn::default() };
    let bytes = message(&wanted, b"datagram");
    let Some(Operation::Write(found, data)) = parse(opcode::WRITE, &bytes) else { panic!() };
    assert_eq!((found, data), (wanted, &b"data"[..]));
    assert!(parse(opcode::WRITE, &message(&WriteIn { size: 9, ..wanted }, b"datagram")).is_none());
    assert!(parse(opcode::WRITE, &message(&WriteIn { size: u32::MAX, ..wanted }, b"datagram")).is_none());
    let wanted = SetxattrIn { size: 2, ..SetxattrIn::default() };
    let bytes = message(&wanted, b"user.a\0xy");
    let Some(Operation::SetXattr { name, value, .. }) = parse(opcode::SETXATTR, &bytes) else { panic!() };
    assert_eq!((name, value), (&b"user.a"[..], &b"xy"[..]));
}

#[test]
fn a_batch_is_as_long_as_it_says() {
    let inodes = [ForgetOne { nodeid: 1, nlookup: 2 }, ForgetOne { nodeid: 3, nlookup: 4 }];
    let bytes = message(&BatchForgetIn { count: 2, dummy: 0 }, inodes.as_bytes());
    let Some(Operation::BatchForget(found)) = parse(opcode::BATCH_FORGET, &bytes) else { panic!() };
    assert!(found.iter().eq(inodes));
    for count in [3, u32::MAX] {
        let bytes = message(&BatchForgetIn { count, dummy: 0 }, inodes.as_bytes());
        assert!(parse(opcode::BATCH_FORGET, &bytes).is_none());
    }
}

#[test]
fn what_is_not_known_is_no_error() {
    assert!(matches!(parse(4096, b""), Some(Operation::Unknown)));
    assert!(matches!(parse(0, b"\xff"), Some(Operation::Unknown)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

    /// Whatever the bytes: no panic, and nothing beyond the message.
    #[test]
    fn any_bytes_are_taken(opcode in 0..64_u32, bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let within = |part: &[u8]| bytes.as_ptr_range().contains(&part.as_ptr()) && part.len() <= bytes.len();
        match parse(opcode, &bytes) {
            Some(Operation::Lookup { name } | Operation::Unlink { name } | Operation::RemoveXattr { name }) => {
                prop_assert!(within(name) && !name.contains(&0));
            }
            Some(Operation::Symlink { name, target }) => prop_assert!(within(name) && within(target)),
            Some(Operation::Write(wanted, data)) => {
                prop_assert_eq!(wanted.size as usize, data.len());
                prop_assert!(data.is_empty() || within(data));
            }
            Some(Operation::SetXattr { wanted, value, .. }) => {
                prop_assert_eq!(wanted.size as usize, value.len());
                prop_assert!(value.is_empty() || within(value));
            }
            Some(Operation::BatchForget(inodes)) => prop_assert!(inodes.iter().count() * 16 < bytes.len()),
            _ => {}
        }
    }

    /// Each length that is too short for its structure is refused.
    #[test]
    fn short_structures_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..88)) {
        prop_assert!(parse(opcode::SETATTR, &bytes).is_none());
        prop_assert_eq!(parse(opcode::READ, &bytes).is_some(), bytes.len() >= 40);
        prop_assert_eq!(parse(opcode::COPY_FILE_RANGE, &bytes).is_some(), bytes.len() >= 56);
    }
}
