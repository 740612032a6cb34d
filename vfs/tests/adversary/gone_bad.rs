//! Somebody who holds all keys, the signing one too, and writes what no honest program would. Nobody who opens the store
//! is to crash or hang from it; that they see what was signed is what signing is for.

use std::sync::Arc;

use blocktree_engine::crypto::Principal;
use blocktree_engine::device::{FaultyDevice, Image, SplitMix64};
use blocktree_engine::format::{Key, KeyBytes};
use blocktree_engine::{CheckOptions, check};
use zerocopy::IntoBytes;
use zeroize::Zeroizing;

use super::insight::{Insight, Record, edit_body, sign, write};
use super::victim::{PASSPHRASE, Victim};

pub(crate) fn sign_anything(victim: &Victim, seed: u64) {
    let mut rng = SplitMix64(seed);
    let insight = Insight::of(&victim.image);
    let signer = Principal::from_seeds(Zeroizing::new(insight.secrets.node_seeds));
    for round in 0..150 {
        let image = match rng.below(4) {
            // Items of a leaf.
            0 => {
                let leaves: Vec<usize> = insight.leaves().collect();
                let leaf = leaves[rng.below(leaves.len() as u64) as usize];
                let mut items = insight.items(leaf);
                let at = rng.below(items.len() as u64) as usize;
                if rng.one_in(3) {
                    let mut key = KeyBytes::from(items[at].0);
                    rng.damage(key.as_mut_bytes());
                    items[at].0 = Key::from(&key);
                    items.sort_by_key(|(key, _)| *key);
                    items.dedup_by_key(|(key, _)| *key);
                } else {
                    rng.damage(&mut items[at].1);
                }
                signed(&insight, insight.with_leaf(leaf, &items, true), &signer)
            }
            // A node as it comes.
            1 => {
                let node = rng.below(insight.nodes.len() as u64) as usize;
                let mut plain = insight.nodes[node].plain.clone();
                let end = if rng.one_in(2) { 256 } else { plain.len() };
                rng.damage(&mut plain[16..end]);
                signed(&insight, insight.with_node(node, plain, true), &signer)
            }
            // A superblock.
            2 => {
                let mut superblock = insight.superblock.clone();
                rng.damage(&mut superblock.as_mut_bytes()[32..272]);
                signed(&insight, (insight.image.clone(), superblock), &signer)
            }
            // A record.
            _ => {
                let at = rng.below(insight.records.len() as u64) as usize;
                let mut record: Record = insight.records[at].clone();
                if rng.one_in(2) {
                    record.body = edit_body(&record.body, |key, mut value| {
                        rng.damage(&mut value);
                        Some((key, value))
                    });
                } else {
                    rng.damage(&mut record.body);
                    rng.damage(&mut record.head.as_mut_bytes()[24..64]);
                }
                let mut image = insight.image.clone();
                insight.put_record(&mut image, &record, Some(&signer));
                image
            }
        };
        // Any answer will do.
        let _ = victim.judge(&image);
        let device = Arc::new(FaultyDevice::from_image(image.clone(), 0));
        let _ = check(device, PASSPHRASE, &CheckOptions { repair: round % 2 == 0 }, &mut |_, _| {});
        victim.use_anyhow(image, &mut rng);
    }
}

fn signed(
    insight: &Insight,
    (mut image, mut superblock): (Image, blocktree_engine::format::Superblock),
    signer: &Principal,
) -> Image {
    sign(&mut superblock, signer);
    for sector in insight.layout.superblocks() {
        write(&mut image, sector, superblock.as_bytes());
    }
    image
}
