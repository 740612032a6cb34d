//! Collects everything that stands under a nonce in all states that a store may get into: crashes, copies that go
//! separate ways, older copies that are used again. The same nonce must mean the same ciphertext.

use std::collections::HashMap;

use blocktree_engine::device::SplitMix64;
use blocktree_engine::format::{BlockHeader, ItemKind, WRAPPED_KEY_BYTES};

use super::insight::{Insight, read};
use super::victim::Victim;

/// Nonce (and place in what it seals), to what stands there.
#[derive(Default)]
struct Seen(HashMap<(Vec<u8>, u64), Vec<u8>>);

impl Seen {
    fn note(&mut self, nonce: &[u8], place: u64, sealed: Vec<u8>) {
        let before = self.0.entry((nonce.to_vec(), place)).or_insert_with(|| sealed.clone());
        assert!(*before == sealed, "the nonce {nonce:02x?} was used twice");
    }

    fn note_all(&mut self, insight: &Insight) {
        let image = &insight.image;
        for node in &insight.nodes {
            let bytes = read(image, node.sector, 4);
            self.note(&bytes[..16], 0, bytes.clone());
        }
        for record in &insight.records {
            let bytes = read(image, record.sector, record.head.sectors.get() as usize);
            self.note(&record.head.nonce, 0, bytes);
        }
        for (key, extent) in insight.extents() {
            for (index, hash) in (0..).zip(&extent.hashes) {
                let place = u64::from(extent.header.skip.get()) + index;
                // A clone is the same sectors, under the key of the first.
                self.note(&extent.header.nonce, place, hash.to_vec());
            }
            assert!(key.block > 0);
        }
        for (_, _, key, value) in insight.all_items() {
            let sealed = match key.kind {
                ItemKind::HEADER => {
                    let (header, sealed) = value.split_at(size_of::<BlockHeader>());
                    let wrapped = &header[..WRAPPED_KEY_BYTES];
                    self.note(&wrapped[..12], 0, wrapped.to_vec());
                    sealed
                }
                kind if kind >= ItemKind::FIRST_FREE => {
                    let clear = usize::from(u16::from_le_bytes([value[0], value[1]]));
                    &value[2 + clear..]
                }
                _ => continue,
            };
            self.note(&sealed[..12], 0, sealed.to_vec());
        }
    }
}

pub(crate) fn collect(victim: &Victim, seed: u64) {
    let mut rng = SplitMix64(seed);
    let mut seen = Seen::default();
    let mut images = vec![victim.image.clone(), victim.fork.clone(), victim.past[0].clone()];
    for image in &images {
        seen.note_all(&Insight::of(image));
    }
    let before = seen.0.len();
    for round in 0..25 {
        // Some earlier state once more, which then goes its own way and crashes.
        let image = images[rng.below(images.len() as u64) as usize].clone();
        let crashed = victim.live_on(image, round, &mut rng);
        seen.note_all(&Insight::of(&crashed));
        images.push(crashed);
    }
    println!("tally: nonces: nonces {}, images {}", seen.0.len(), images.len());
    assert!(seen.0.len() > before + 200, "{} of {before}", seen.0.len());
}
