//! An item of the journal, its notes, and what they say.
#![no_main]

use blocktree_engine::format::{decode_journal_item, decode_notes, encode_journal_head, encode_note};
use blocktree_vfs::layout::Note;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(note) = Note::decode(data) {
        assert_eq!(note.encode(), data);
    }
    if let Ok((head, part, sealed)) = decode_journal_item(data) {
        let mut again = Vec::new();
        encode_journal_head(&mut again, &head, part.as_ref());
        again.extend_from_slice(sealed);
        assert_eq!(again, data);
    }
    let Some((last, bytes)) = data.split_first_chunk::<8>() else { return };
    let last = u64::from_le_bytes(*last);
    let mut again = Vec::new();
    let mut is_whole = true;
    for note in decode_notes(last, bytes) {
        match note {
            Ok((seq, note)) => {
                let _ = Note::decode(note);
                encode_note(&mut again, last, seq, note);
            }
            Err(_) => is_whole = false,
        }
    }
    assert!(!is_whole || again == bytes);
});
