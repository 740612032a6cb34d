//! Attackers: whoever can write the disk, whoever also keeps the store (has its structure key), whoever also reads it
//! (has the keys of its blocks). After each attack, the owner mounts the store where it was mounted before; all that is
//! shown must be true. `docs/threat-model.md` says what each attacker can do and which test here shows it.
//!
//! | variable | |
//! | --- | --- |
//! | `BLOCKTREE_SEED=n` | where the choices of bits and sectors start from |
//! | `BLOCKTREE_SIM_SECONDS=n` | new choices for so long |

mod collision;
mod disk;
mod former;
mod gone_bad;
mod insight;
mod keys;
mod nonces;
mod shared;
mod victim;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use blocktree_engine::device::{Image, SplitMix64};

use victim::{Outcome, Victim};

/// Puts an image in the owner's hands.
type Attempt<'a> = dyn FnMut(&'static str, &Image) + 'a;

/// What came of the attacks, by kind.
#[derive(Default)]
struct Tally(BTreeMap<&'static str, BTreeMap<Outcome, u64>>);

impl Tally {
    fn count(&self, outcome: Outcome) -> u64 {
        self.0.values().filter_map(|outcomes| outcomes.get(&outcome)).sum()
    }

    fn print(&self, name: &str) {
        let attacks: u64 = self.0.values().flat_map(BTreeMap::values).sum();
        for (what, outcomes) in &self.0 {
            println!("  {what}: {outcomes:?}");
        }
        println!(
            "tally: {name}: attacks {attacks}, refused {}, noticed {}, harmless {}, cut tails {}",
            self.count(Outcome::Refused),
            self.count(Outcome::Noticed),
            self.count(Outcome::Harmless),
            self.count(Outcome::CutTail)
        );
    }
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

/// Has an attacker do everything once, or for as long as the environment says. Only `may_cut` may look as if the
/// newest records had never been written.
fn attack(
    name: &str,
    may_cut: &[&str],
    mut attacker: impl FnMut(&Victim, &mut SplitMix64, &mut Attempt<'_>),
) -> Tally {
    let victim = Victim::new();
    let end = Instant::now() + Duration::from_secs(variable("BLOCKTREE_SIM_SECONDS").unwrap_or(0));
    let mut tally = Tally::default();
    let mut seed = variable("BLOCKTREE_SEED").unwrap_or(1);
    loop {
        println!("{name}: seed {seed}");
        attacker(&victim, &mut SplitMix64(seed), &mut |what, image| {
            let outcome = victim.judge(image).unwrap_or_else(|lie| panic!("{what}, seed {seed}: {lie}"));
            assert!(outcome != Outcome::CutTail || may_cut.contains(&what), "{what}, seed {seed}: cut off");
            *tally.0.entry(what).or_default().entry(outcome).or_default() += 1;
        });
        seed += 1;
        if Instant::now() >= end {
            break;
        }
    }
    tally.print(name);
    tally
}

#[test]
fn no_sector_is_changed_unnoticed() {
    let may_cut = [
        "flip a bit",
        "zero a sector",
        "move a sector",
        "swap two sectors",
        "replay a sector",
        "splice a sector of a fork",
        "plant a sector of another store",
    ];
    let tally = attack("sectors", &may_cut, disk::sectors);
    // The newest record and its data: not many.
    assert!(tally.count(Outcome::CutTail) * 20 < tally.count(Outcome::Noticed));
    assert!(tally.count(Outcome::Refused) > 50);
}

#[test]
fn no_structure_is_moved_or_replayed_unnoticed() {
    let may_cut = ["remove a record", "move a record", "replay nodes and data", "replay the log"];
    attack("structures", &may_cut, |victim, _, attempt| disk::structures(victim, attempt));
}

#[test]
fn no_image_is_rolled_back_forked_or_cut_off_unnoticed() {
    let tally = attack("images", &[], |victim, _, attempt| disk::images(victim, attempt));
    let refused: u64 = tally.count(Outcome::Refused);
    assert_eq!(tally.0.values().flat_map(BTreeMap::values).sum::<u64>(), refused, "all of them");
}

#[test]
fn a_keeper_changes_nothing_unnoticed() {
    let may_cut = ["empty a record", "change what a record sets", "change whose items a record sets"];
    let may_cut = [&may_cut[..], &["say that a record was not durable"]].concat();
    attack("keeper", &may_cut, keys::keeper);
}

#[test]
fn a_reader_changes_nothing_unnoticed() {
    attack("reader", &[], |victim, _, attempt| keys::reader(victim, attempt));
}

/// Each node of the index destroyed in turn, and several together: after a repair the tree fits, and shows nothing that was
/// not there.
#[test]
fn a_damaged_tree_is_repaired_and_nothing_is_made_up() {
    let victim = Victim::plain();
    let nodes: Vec<u64> = insight::Insight::of(&victim.image).nodes.iter().map(|node| node.sector).collect();
    let mut rng = SplitMix64(variable("BLOCKTREE_SEED").unwrap_or(1));
    let mut lost = 0;
    for node in &nodes {
        lost += victim.damage_and_repair(&[node + rng.below(4)]);
    }
    for _ in 0..10 {
        let some: Vec<u64> = nodes.iter().copied().filter(|_| rng.one_in(3)).collect();
        lost += victim.damage_and_repair(&some);
    }
    println!("tally: repair: destroyed {}, lost {lost}", nodes.len());
    assert!(lost > 0);
}

#[test]
fn no_nonce_is_used_twice_whatever_becomes_of_a_store() {
    nonces::collect(&Victim::new(), variable("BLOCKTREE_SEED").unwrap_or(1));
}

#[test]
fn what_a_writer_gone_bad_signs_is_read_or_refused() {
    gone_bad::sign_anything(&Victim::new(), variable("BLOCKTREE_SEED").unwrap_or(1));
}

/// What is not detected, and is said to be so: on a machine that never mounted the store, an older copy is believed.
#[test]
fn a_stranger_believes_an_older_copy() {
    let victim = Victim::new();
    assert!(victim.judge_without_anchor(&victim.image) == Ok(Outcome::Harmless));
    for old in [&victim.past[0], &victim.fork] {
        assert!(victim.judge_without_anchor(old).is_err(), "it shows an older tree");
        assert_eq!(victim.judge(old), Ok(Outcome::Refused));
    }
}

#[test]
fn a_reader_of_a_directory_reads_nothing_else() {
    shared::nothing_else_is_readable();
}

#[test]
fn a_former_reader_reads_nothing_new_and_then_nothing_old() {
    former::nothing_is_readable_any_more();
}

#[test]
fn readers_and_keepers_get_what_they_were_given() {
    shared::readers_and_keepers();
}

#[test]
fn a_second_node_writes_until_it_is_revoked() {
    shared::a_second_node();
}

#[test]
fn a_writer_of_a_directory_changes_nothing_else() {
    shared::a_writer_gone_bad(variable("BLOCKTREE_SEED").unwrap_or(1));
}
