use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use tempfile::TempDir;

use super::*;

const STORE: [u8; 16] = [0xa1; 16];

/// When a counter's machine crashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Crash {
    BeforeIncrement,
    AfterIncrement,
}

#[derive(Debug, Default)]
struct State {
    counters: BTreeMap<u32, (Secret, u64)>,
    increments: u64,
    crash: Option<Crash>,
    /// What the keys of counters are to ask for.
    pcrs: u32,
}

/// Counters in memory.
#[derive(Debug, Clone, Default)]
struct Memory(Arc<Mutex<State>>);

impl Memory {
    fn with<T>(
        &self,
        place: &CounterPlace,
        work: impl FnOnce(&mut (Secret, u64)) -> T,
    ) -> Result<T, AnchorError> {
        let gone = AnchorError::Counter("it is gone".into());
        self.0.lock().counters.get_mut(&place.index).map(work).ok_or(gone)
    }
}

impl Counter for Memory {
    fn create(&self) -> Result<CounterPlace, AnchorError> {
        let mut state = self.0.lock();
        state.increments += 1;
        let highest = state.counters.values().map(|(_, value)| *value).max().unwrap_or(40);
        let index = state.counters.keys().max().map_or(0, |last| last + 1);
        state.counters.insert(index, (Secret::random(), highest + 1));
        let key =
            Sealed { pcrs: state.pcrs, has_pin: false, public: vec![1], private: vec![2], approvals: None };
        Ok(CounterPlace { index, key })
    }

    fn renew(&self, place: &CounterPlace, _: &Secret) -> Result<CounterPlace, AnchorError> {
        let key = Sealed { pcrs: self.0.lock().pcrs, ..place.key.clone() };
        Ok(CounterPlace { index: place.index, key })
    }

    fn key(&self, place: &CounterPlace) -> Result<Secret, AnchorError> {
        self.with(place, |(key, _)| key.clone())
    }

    fn value(&self, place: &CounterPlace, _: &Secret) -> Result<u64, AnchorError> {
        self.with(place, |(_, value)| *value)
    }

    fn increment(&self, place: &CounterPlace, _: &Secret) -> Result<u64, AnchorError> {
        let crash = self.0.lock().crash.take();
        let crashed = || AnchorError::Counter("the machine crashed".into());
        if crash == Some(Crash::BeforeIncrement) {
            return Err(crashed());
        }
        self.0.lock().increments += 1;
        let value = self.with(place, |(_, value)| {
            *value += 1;
            *value
        })?;
        if crash.is_some() { Err(crashed()) } else { Ok(value) }
    }

    fn remove(&self, place: &CounterPlace) -> Result<(), AnchorError> {
        self.with(place, |_| ())?;
        self.0.lock().counters.remove(&place.index);
        Ok(())
    }
}

/// A machine with a counter and a disk for the file.
struct Machine {
    folder: TempDir,
    counter: Memory,
}

impl Machine {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), counter: Memory::default() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("anchor")
    }

    fn file(&self) -> Vec<u8> {
        fs::read(self.path()).unwrap()
    }

    /// As another process opens it.
    fn anchor(&self, interval: Duration) -> CountedAnchor<Memory> {
        CountedAnchor::at(self.path(), self.counter.clone(), interval)
    }

    /// One that has just been opened.
    fn session(&self, interval: Duration) -> CountedAnchor<Memory> {
        let anchor = self.anchor(interval);
        anchor.read(&STORE).unwrap();
        anchor
    }

    fn seq(&self) -> u64 {
        self.anchor(Duration::ZERO).read(&STORE).unwrap().unwrap().head.seq
    }

    fn refusal(&self, file: &[u8]) -> AnchorError {
        fs::write(self.path(), file).unwrap();
        self.anchor(Duration::ZERO).read(&STORE).unwrap_err()
    }

    fn increments(&self) -> u64 {
        self.counter.0.lock().increments
    }
}

fn anchored(seq: u64) -> Anchored {
    Anchored { store_id: STORE, id: [7; 8], head: Head { seq, hash: [seq as u8; 32] }, root: Some([3; 32]) }
}

/// A machine whose anchor knows change 1.
fn machine() -> Machine {
    let machine = Machine::new();
    assert!(matches!(machine.anchor(Duration::ZERO).read(&STORE), Err(AnchorError::Missing)));
    machine.anchor(Duration::ZERO).write(&anchored(1)).unwrap();
    assert_eq!(machine.seq(), 1);
    machine
}

#[test]
fn an_old_copy_of_the_file_is_refused() {
    let machine = machine();
    let mut copies = vec![machine.file()];
    for seq in 2..8 {
        let session = machine.session(Duration::ZERO);
        session.write(&anchored(seq)).unwrap();
        session.write(&anchored(seq + 1)).unwrap();
        session.finish().unwrap();
        assert_eq!(machine.seq(), seq + 1);
        copies.push(machine.file());
    }
    let newest = copies.pop().unwrap();
    for copy in copies {
        assert!(matches!(machine.refusal(&copy), AnchorError::Older { .. }));
    }
    fs::write(machine.path(), newest).unwrap();
    assert_eq!(machine.seq(), 8);
}

#[test]
fn no_crash_leaves_a_file_that_does_not_count_or_an_old_one_that_does() {
    for crashes in [
        &[Crash::BeforeIncrement][..],
        &[Crash::AfterIncrement],
        &[Crash::BeforeIncrement, Crash::BeforeIncrement],
        &[Crash::BeforeIncrement, Crash::AfterIncrement, Crash::BeforeIncrement],
    ] {
        let machine = machine();
        let mut copies = vec![machine.file()];
        let mut told = 1;
        for (seq, crash) in (2..).zip(crashes) {
            let session = machine.session(Duration::ZERO);
            machine.counter.0.lock().crash = Some(*crash);
            session.write(&anchored(seq)).unwrap_err();
            copies.push(machine.file());
            // Either what it knew or what it was told of since.
            assert!((told..=seq).contains(&machine.seq()), "{crashes:?}");
            told = machine.seq();
        }
        machine.session(Duration::ZERO).write(&anchored(100)).unwrap();
        let newest = machine.file();
        for copy in copies {
            assert!(matches!(machine.refusal(&copy), AnchorError::Older { .. }), "{crashes:?}");
        }
        fs::write(machine.path(), newest).unwrap();
        assert_eq!(machine.seq(), 100);
    }
}

#[test]
fn heads_in_the_middle_of_a_session_do_not_wear_the_counter_out() {
    let machine = machine();
    let before = machine.increments();
    let session = machine.session(Duration::MAX);
    session.write(&anchored(2)).unwrap();
    let first = machine.file();
    for seq in 3..50 {
        session.write(&anchored(seq)).unwrap();
        assert_eq!(machine.seq(), seq, "the disk alone is watched as ever");
    }
    assert_eq!(machine.increments(), before + 1);
    let middle = machine.file();
    session.finish().unwrap();
    session.finish().unwrap();
    assert_eq!((machine.increments(), machine.seq()), (before + 2, 49));
    let last = machine.file();
    for copy in [&first, &middle[..]] {
        // The one in the middle was written before the one that made it last.
        assert!(matches!(machine.refusal(copy), AnchorError::Older { .. }));
    }
    // A session in which nothing is told costs nothing.
    fs::write(machine.path(), last).unwrap();
    machine.session(Duration::MAX).finish().unwrap();
    assert_eq!(machine.increments(), before + 2);
}

#[test]
fn a_key_that_is_kept_otherwise_stands_in_the_next_file() {
    let machine = machine();
    let kept = || CountedFile::parse(&machine.file()).unwrap().counter.key.pcrs;
    machine.counter.0.lock().pcrs = 0x10;
    let session = machine.session(Duration::ZERO);
    assert_eq!(kept(), 0, "who only reads writes nothing");
    session.write(&anchored(2)).unwrap();
    assert_eq!((kept(), machine.seq()), (0x10, 2));
}

#[test]
fn what_was_not_written_under_the_key_is_refused() {
    let machine = machine();
    let whole = machine.file();
    assert_eq!(CountedFile::parse(&whole).unwrap().to_bytes(), whole);
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        // Where it is another counter's place, there is none.
        let refused = machine.refusal(&flipped);
        assert!(matches!(refused, AnchorError::Damaged(_) | AnchorError::Counter(_)), "byte {at}: {refused}");
        assert!(matches!(machine.refusal(&whole[..at]), AnchorError::Damaged(_)), "cut at {at}");
    }
    assert!(matches!(machine.refusal(&[&whole[..], &[0; 4096]].concat()), AnchorError::Damaged(_)));
    fs::write(machine.path(), &whole).unwrap();
    let other = machine.anchor(Duration::ZERO).read(&[1; 16]).unwrap_err();
    assert!(matches!(other, AnchorError::Damaged(why) if why.contains("another store")));
}

#[test]
fn a_counter_that_is_gone_or_another_is_noticed_and_can_be_replaced() {
    let machine = machine();
    let accept = |seq| {
        // What is accepted begins anew.
        let anchor = machine.anchor(Duration::ZERO);
        anchor.read(&STORE).unwrap_err();
        anchor.write(&anchored(seq)).unwrap();
        anchor.write(&anchored(seq + 1)).unwrap();
        assert_eq!(machine.seq(), seq + 1);
    };
    machine.counter.0.lock().counters.get_mut(&0).unwrap().1 -= 1;
    assert!(matches!(machine.refusal(&machine.file()), AnchorError::SetBack { .. }));
    accept(5);
    assert_eq!(machine.counter.0.lock().counters.len(), 1, "the former one is removed");
    machine.counter.0.lock().counters.clear();
    assert!(matches!(machine.refusal(&machine.file()), AnchorError::Counter(_)));
    accept(8);

    // Where the file cannot be written, no counter is left behind.
    let counter = Memory::default();
    let nowhere = CountedAnchor::at(machine.folder.path().join("none/file"), counter.clone(), Duration::ZERO);
    assert!(matches!(nowhere.write(&anchored(1)), Err(AnchorError::Write(_))));
    assert!(counter.0.lock().counters.is_empty());
}
