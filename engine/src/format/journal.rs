//! The journal: what the author of a record noted about its changes, for the layers above, in items of a block that
//! only owners open, or its author alone. An item's offset is the last operation that it holds a note of.

use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{BlockId, LINK_BYTES, Malformed, malformed};

/// The clear part of an item of the journal; the secret part is its notes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct JournalBytes {
    /// Public signing key of the record's author: whoever verifies the record verifies this.
    pub author: [u8; 32],
    /// The offset of the item before this one, even if that was removed; 0 of the first.
    pub previous: U64,
    /// Bytes of the items up to this one with their keys, those that were removed included.
    pub position: U64,
}
const _: () = assert!(size_of::<JournalBytes>() == 48);

/// The clear part of an item of the journal goes on like this where its author writes only a part of the store: the
/// readcap with whose key it is sealed, and the blocks that its notes name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalPart {
    pub readcap: u64,
    pub blocks: Vec<BlockId>,
}

impl JournalPart {
    /// Bytes of one that names so many blocks.
    pub const fn bytes(blocks: usize) -> usize {
        size_of::<U64>() + LINK_BYTES * blocks
    }
}

/// Appends the clear part of an item.
pub fn encode_journal_head(out: &mut Vec<u8>, head: &JournalBytes, part: Option<&JournalPart>) {
    let bytes = size_of::<JournalBytes>() + part.map_or(0, |part| JournalPart::bytes(part.blocks.len()));
    out.extend_from_slice(&(bytes as u16).to_le_bytes());
    out.extend_from_slice(head.as_bytes());
    if let Some(part) = part {
        out.extend_from_slice(&part.readcap.to_le_bytes());
        part.blocks.iter().for_each(|block| out.extend_from_slice(&block.to_le_bytes()));
    }
}

/// The clear part of an item, and its sealed notes.
pub fn decode_journal_item(value: &[u8]) -> Result<(JournalBytes, Option<JournalPart>, &[u8]), Malformed> {
    const SHORT: Malformed = malformed("journal", "item cut short");
    let (length, rest) = value.split_first_chunk::<2>().ok_or(SHORT)?;
    let (clear, sealed) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length))).ok_or(SHORT)?;
    let (head, part) = JournalBytes::read_from_prefix(clear).map_err(|_| SHORT)?;
    let (numbers, rest) = part.as_chunks::<LINK_BYTES>();
    if !rest.is_empty() {
        return Err(malformed("journal", "a part of a number"));
    }
    let mut numbers = numbers.iter().map(|number| u64::from_le_bytes(*number));
    let part = numbers.next().map(|readcap| JournalPart { readcap, blocks: numbers.collect() });
    Ok((head, part, sealed))
}

/// Appends a number, seven bits to a byte, the lowest first; all bytes but the last have the highest bit (LEB128).
pub fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Takes a number from the front. `None` if it is cut short, too large, or longer than it need be.
pub fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        if part << shift >> shift != part || (byte == 0 && shift > 0) {
            return None;
        }
        number |= part << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// Appends a note of operation `seq` to those of an item whose last operation is `last`.
pub fn encode_note(out: &mut Vec<u8>, last: u64, seq: u64, note: &[u8]) {
    put_number(out, last - seq);
    put_number(out, note.len() as u64);
    out.extend_from_slice(note);
}

/// The notes of an item whose last operation is `last`, in order; ends after the first malformed one.
pub fn decode_notes(last: u64, bytes: &[u8]) -> impl Iterator<Item = Result<(u64, &[u8]), Malformed>> {
    let mut rest = bytes;
    let mut before = 0;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let note = decode_note(last, &mut rest).and_then(|(seq, note)| match seq < before {
            true => Err(malformed("journal", "notes out of order")),
            false => Ok((seq, note)),
        });
        match note {
            Ok((seq, _)) => before = seq,
            Err(_) => rest = &[],
        }
        Some(note)
    })
}

fn decode_note<'a>(last: u64, rest: &mut &'a [u8]) -> Result<(u64, &'a [u8]), Malformed> {
    const SHORT: Malformed = malformed("journal", "note cut short");
    let back = take_number(rest).ok_or(SHORT)?;
    let seq = last.checked_sub(back).ok_or(malformed("journal", "note before the first operation"))?;
    let length = take_number(rest).and_then(|length| usize::try_from(length).ok()).ok_or(SHORT)?;
    let (note, behind) = rest.split_at_checked(length).ok_or(SHORT)?;
    *rest = behind;
    Ok((seq, note))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        for number in [0, 1, 127, 128, 300, 1 << 40, u64::MAX - 1, u64::MAX] {
            let mut bytes = Vec::new();
            put_number(&mut bytes, number);
            let mut rest = &bytes[..];
            assert_eq!((take_number(&mut rest), rest), (Some(number), &[][..]));
            assert_eq!(take_number(&mut &bytes[..bytes.len() - 1]), None);
        }
        assert_eq!(take_number(&mut &[0x80, 0][..]), None, "longer than it need be");
        assert_eq!(take_number(&mut &[0xff; 10][..]), None, "too large");
    }

    #[test]
    fn notes_come_back() {
        let notes = [(5, &b"one"[..]), (5, b""), (1 << 40, b"three")];
        let mut bytes = Vec::new();
        notes.iter().for_each(|(seq, note)| encode_note(&mut bytes, 1 << 40, *seq, note));
        let read: Vec<_> = decode_notes(1 << 40, &bytes).map(Result::unwrap).collect();
        assert_eq!(read, notes);
        assert!(decode_notes(1 << 40, &bytes[..bytes.len() - 1]).last().unwrap().is_err());
        assert!(decode_notes(3, &bytes).next().unwrap().is_err(), "before the first operation");
    }

    #[test]
    fn heads_come_back() {
        let head = JournalBytes { author: [7; 32], previous: 3.into(), position: 9.into() };
        for part in [None, Some(vec![]), Some(vec![5, u64::MAX])] {
            let part = part.map(|blocks| JournalPart { readcap: 8, blocks });
            let mut value = Vec::new();
            encode_journal_head(&mut value, &head, part.as_ref());
            value.extend_from_slice(b"sealed");
            assert_eq!(decode_journal_item(&value), Ok((head, part, &b"sealed"[..])));
            for end in 0..value.len() - b"sealed".len() {
                assert!(decode_journal_item(&value[..end]).is_err());
            }
        }
        let value = [&49_u16.to_le_bytes()[..], head.as_bytes(), b"x"].concat();
        assert!(decode_journal_item(&value).is_err());
    }

    #[test]
    fn notes_out_of_order_are_refused() {
        let mut bytes = Vec::new();
        encode_note(&mut bytes, 9, 8, b"");
        encode_note(&mut bytes, 9, 7, b"");
        assert!(decode_notes(9, &bytes).nth(1).unwrap().is_err());
    }
}
