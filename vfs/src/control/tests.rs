use proptest::prelude::*;

use super::*;

struct Fake {
    text: String,
    snapshots: Vec<SnapshotEntry>,
}

impl Fake {
    fn new(text_bytes: usize, snapshots: usize) -> Self {
        let snapshots = (0..snapshots)
            .map(|index| SnapshotEntry::new(&format!("s{index}"), index as u64, 7).unwrap())
            .collect();
        Self { text: "x".repeat(text_bytes), snapshots }
    }
}

impl Service for Fake {
    fn info(&self) -> String {
        self.text.clone()
    }
    fn sync(&self) -> Result<(), Refusal> {
        Ok(())
    }
    fn scrub_start(&self) -> Result<(), Refusal> {
        Err(Refusal::Exists)
    }
    fn scrub_status(&self) -> ScrubStatus {
        ScrubStatus { state: SCRUB_RUNS, done: 3, total: 9, ..ScrubStatus::default() }
    }
    fn scrub_stop(&self) {}
    fn snapshot_create(&self, name: &str) -> Result<(), Refusal> {
        if name == "taken" { Err(Refusal::Exists) } else { Ok(()) }
    }
    fn snapshot_list(&self) -> Result<Vec<SnapshotEntry>, Refusal> {
        Ok(self.snapshots.clone())
    }
    fn snapshot_delete(&self, _name: &str) -> Result<(), Refusal> {
        Err(Refusal::NotFound)
    }
    fn history(&self, path: &[u8], _: u64, limit: u32, stamp: u32) -> Result<(u32, Arc<str>), Refusal> {
        assert_eq!((path, limit), (&b"/a"[..], 3));
        Ok((if stamp == 0 { 7 } else { stamp }, self.text.as_str().into()))
    }
    fn call(&self, callee: Callee, user: u32, chunk: &CallChunk) -> Result<CallChunk, Refusal> {
        let from = u64::from(user) + if callee == Callee::Apps { 0 } else { 1 };
        Ok(CallChunk::new(CALL_FETCH, from, chunk.offset, chunk.part()))
    }
}

const OWNER: Caller = Caller { user: 1000, owner: 1000 };
const STRANGER: Caller = Caller { user: 1001, owner: 1000 };
const ROOT: Caller = Caller { user: 0, owner: 1000 };

#[test]
fn numbers_are_distinct_and_encode_the_size() {
    for command in Command::ALL {
        assert!(command.bytes() <= MESSAGE_BYTES_MAX);
        assert_eq!((command.number() >> 16) & 0x3fff, command.bytes() as u32);
        assert_eq!(Command::from_number(command.number()), Some(command));
    }
    // _IOWR('B', 0, 16): what a C caller would compute.
    assert_eq!(Command::Hello.number(), 0xc010_4200);
}

#[test]
fn a_long_description_comes_in_chunks() {
    let fake = Fake::new(2 * INFO_CHUNK_BYTES + 5, 0);
    let mut text = Vec::new();
    loop {
        let request = InfoChunk::request(text.len() as u64);
        let reply = answer(&fake, STRANGER, Command::Info.number(), request.as_bytes()).unwrap();
        let chunk = InfoChunk::read_from_bytes(&reply).unwrap();
        text.extend_from_slice(chunk.text());
        if text.len() as u64 == chunk.total {
            break;
        }
        assert!(!chunk.text().is_empty());
    }
    assert_eq!(text, fake.text.as_bytes());
}

#[test]
fn a_history_comes_in_chunks_to_who_may_know_it() {
    let fake = Fake::new(2 * HISTORY_CHUNK_BYTES + 5, 0);
    let mut request = HistoryChunk::request(b"/a", u64::MAX, 3).unwrap();
    let number = Command::History.number();
    assert_eq!(answer(&fake, STRANGER, number, request.as_bytes()), Err(Refusal::NotPermitted));
    let mut text = Vec::new();
    loop {
        let reply = answer(&fake, OWNER, number, request.as_bytes()).unwrap();
        let chunk = HistoryChunk::read_from_bytes(&reply).unwrap();
        assert_eq!(chunk.stamp, 7);
        assert!(!chunk.text().is_empty());
        text.extend_from_slice(chunk.text());
        if text.len() as u64 == chunk.total {
            break;
        }
        (request.offset, request.stamp) = (text.len() as u64, chunk.stamp);
    }
    assert_eq!(text, fake.text.as_bytes());
    assert!(HistoryChunk::request(&[b'x'; HISTORY_CHUNK_BYTES + 1], 0, 1).is_none());
    for malformed in [
        HistoryChunk { limit: 0, ..request },
        HistoryChunk { limit: HISTORY_CHANGES_MAX + 1, ..request },
        HistoryChunk { length: HISTORY_CHUNK_BYTES as u32 + 1, ..request },
        HistoryChunk { length: 3, ..request },
    ] {
        assert_eq!(answer(&fake, OWNER, number, malformed.as_bytes()), Err(Refusal::Malformed));
    }
}

#[test]
fn snapshots_come_in_pages() {
    let fake = Fake::new(0, 2 * SNAPSHOTS_PER_PAGE + 1);
    let mut names = Vec::new();
    loop {
        let request = SnapshotPage::request(names.len() as u64);
        let reply = answer(&fake, STRANGER, Command::SnapshotList.number(), request.as_bytes()).unwrap();
        let page = SnapshotPage::read_from_bytes(&reply).unwrap();
        names.extend(page.entries().iter().map(|entry| entry.name().unwrap().to_owned()));
        if names.len() as u64 == page.total {
            break;
        }
        assert_ne!(page.count, 0);
    }
    assert_eq!(names.len(), 2 * SNAPSHOTS_PER_PAGE + 1);
    assert_eq!(names[14], "s14");
}

#[test]
fn only_root_and_the_owner_change_anything() {
    let fake = Fake::new(0, 0);
    let name = SnapshotName::new("monday").unwrap();
    let create = |caller| answer(&fake, caller, Command::SnapshotCreate.number(), name.as_bytes());
    assert!(create(OWNER).is_ok());
    assert!(create(ROOT).is_ok());
    assert_eq!(create(STRANGER), Err(Refusal::NotPermitted));
    let start = answer(&fake, STRANGER, Command::ScrubStart.number(), Plain::default().as_bytes());
    assert_eq!(start, Err(Refusal::NotPermitted));
    assert!(answer(&fake, STRANGER, Command::Sync.number(), Plain::default().as_bytes()).is_ok());
}

#[test]
fn another_version_is_refused() {
    let plain = Plain { version: VERSION + 1, reserved: 0 };
    let reply = answer(&Fake::new(0, 0), OWNER, Command::Sync.number(), plain.as_bytes());
    assert_eq!(reply, Err(Refusal::Version));
}

#[test]
fn bad_names_are_refused() {
    assert!(SnapshotName::new("").is_none());
    assert!(SnapshotName::new(&"n".repeat(SNAPSHOT_NAME_BYTES_MAX)).is_some());
    assert!(SnapshotName::new(&"n".repeat(SNAPSHOT_NAME_BYTES_MAX + 1)).is_none());
    let mut name = SnapshotName::new("x").unwrap();
    name.length = u32::MAX;
    let reply = answer(&Fake::new(0, 0), OWNER, Command::SnapshotCreate.number(), name.as_bytes());
    assert_eq!(reply, Err(Refusal::Malformed));
}

proptest! {
    #[test]
    fn no_request_panics(
        command in 0..=Command::ALL.len(),
        number: u32,
        versioned: bool,
        mut input in proptest::collection::vec(any::<u8>(), 0..MESSAGE_BYTES_MAX + 8),
    ) {
        let number = Command::ALL.get(command).map_or(number, |command| command.number());
        if versioned && input.len() >= 4 {
            input[..4].copy_from_slice(&VERSION.to_ne_bytes());
        }
        let fake = Fake::new(5000, 20);
        if let Ok(reply) = answer(&fake, OWNER, number, &input) {
            prop_assert_eq!(reply.len(), Command::from_number(number).unwrap().bytes());
        }
    }
}

#[test]
fn calls_are_the_owners_and_carry_what_they_say() {
    let fake = Fake::new(0, 0);
    let chunk = CallChunk::new(CALL_SEND, 7, 0, b"hello");
    for (command, from) in [(Command::Call, 1000), (Command::Capability, 1001)] {
        let number = command.number();
        assert_eq!(answer(&fake, STRANGER, number, chunk.as_bytes()), Err(Refusal::NotPermitted));
        let reply = answer(&fake, OWNER, number, chunk.as_bytes()).unwrap();
        let reply = CallChunk::read_from_bytes(&reply).unwrap();
        assert_eq!((reply.part(), reply.id), (&b"hello"[..], from));
    }
    // A length that is too long carries nothing.
    assert_eq!(CallChunk { length: u32::MAX, ..chunk }.part(), b"");
    let long = [1; CALL_CHUNK_BYTES + 3];
    assert_eq!(CallChunk::new(CALL_SEND, 7, CALL_CHUNK_BYTES as u64, &long).part().len(), 3);
    assert_eq!(CallChunk::new(CALL_SEND, 7, u64::MAX, &long).part(), b"");
}
