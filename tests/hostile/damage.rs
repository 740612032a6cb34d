//! Bytes of a volume that are not what was written.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::Command;

use blocktree_engine::format::{Layout, RecordHeader, Superblock};
use blocktree_engine::limits::{SECTOR_BYTES, STORE_SECTORS_MIN};

use super::support::{Mount, Place, finish};
use super::{
    can_mount, check, mount_refused, pattern, right_or_eio, sectors_with_eio, small_store, try_mount,
};

const SIZE: &str = "64M";
const VOLUME_SECTORS: u64 = (64 << 20) / SECTOR_BYTES as u64;
/// Sectors of the file whose data is damaged.
const VICTIM_SECTORS: u64 = 256;

/// The volume of a store that nobody has open.
struct Volume {
    file: File,
    path: PathBuf,
    /// As it is when nothing is damaged.
    whole: Vec<u8>,
}

impl Volume {
    fn of(place: &Place) -> Self {
        let path = place.store().join("volume");
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let whole = fs::read(&path).unwrap();
        Self { file, path, whole }
    }

    fn layout() -> Layout {
        Layout::for_capacity(VOLUME_SECTORS)
    }

    fn sector(&self, sector: u64) -> &[u8] {
        &self.whole[sector as usize * SECTOR_BYTES..][..SECTOR_BYTES]
    }

    fn flip(&self, sector: u64, offset: u64) {
        let at = sector * SECTOR_BYTES as u64 + offset;
        let mut byte = [0];
        self.file.read_exact_at(&mut byte, at).unwrap();
        self.file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
    }

    fn write(&self, sector: u64, bytes: &[u8]) {
        self.file.write_all_at(bytes, sector * SECTOR_BYTES as u64).unwrap();
    }

    fn restore(&self) {
        self.file.set_len(0).unwrap();
        self.file.write_all_at(&self.whole, 0).unwrap();
    }

    /// The runs of sectors that differ from an older state, behind the log.
    fn changed_since(&self, older: &[u8]) -> Vec<(u64, u64)> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for sector in Self::layout().reserved_end()..VOLUME_SECTORS {
            if older[sector as usize * SECTOR_BYTES..][..SECTOR_BYTES] == *self.sector(sector) {
                continue;
            }
            match runs.last_mut() {
                Some((start, sectors)) if *start + *sectors == sector => *sectors += 1,
                _ => runs.push((sector, 1)),
            }
        }
        runs
    }
}

/// A store with many small files and a victim, and where the victim's data is.
struct Scene {
    place: Place,
    volume: Volume,
    data_sector: u64,
    /// Sectors that came with the victim and are not its data: index nodes.
    others: Vec<u64>,
    /// The volume before the victim was written.
    older: Vec<u8>,
}

const SMALL_FILES: u64 = 300;

fn small(number: u64) -> Vec<u8> {
    pattern(number + 1000, 100 + number as usize * 7)
}

fn victim() -> Vec<u8> {
    pattern(7, VICTIM_SECTORS as usize * SECTOR_BYTES)
}

impl Scene {
    fn new() -> Self {
        let place = small_store(SIZE);
        let mount = place.mount();
        fs::create_dir(mount.path("folder")).unwrap();
        for number in 0..SMALL_FILES {
            fs::write(mount.path(&format!("folder/{number}")), small(number)).unwrap();
        }
        mount.umount();
        let older = fs::read(place.store().join("volume")).unwrap();
        let mount = place.mount();
        fs::write(mount.path("folder/victim"), victim()).unwrap();
        mount.umount();
        let volume = Volume::of(&place);
        assert_eq!(volume.whole.len() as u64, VOLUME_SECTORS * SECTOR_BYTES as u64);
        let runs = volume.changed_since(&older);
        let &(start, sectors) = runs.iter().max_by_key(|(_, sectors)| *sectors).unwrap();
        assert!(sectors >= VICTIM_SECTORS, "{runs:?}");
        let data_sector = start + 100;
        let others = runs.iter().filter(|run| run.0 != start).map(|run| run.0).collect();
        Self { place, volume, data_sector, others, older }
    }

    /// Everything but the victim is there; returns the victim's damaged sectors.
    #[track_caller]
    fn only_victim_is_damaged(&self, mount: &Mount) -> Vec<usize> {
        for number in 0..SMALL_FILES {
            assert!(right_or_eio(&mount.path(&format!("folder/{number}")), &small(number)), "file {number}");
        }
        sectors_with_eio(&mount.path("folder/victim"), &victim()).unwrap()
    }

    #[track_caller]
    fn nothing_is_damaged(&self, mount: Mount) {
        assert_eq!(self.only_victim_is_damaged(&mount), Vec::<usize>::new());
        mount.umount();
    }

    #[track_caller]
    fn mount_ro(&self) -> Mount {
        self.place.mount_with(&["-o", "ro"])
    }
}

#[test]
fn a_volume_that_is_not_whole_or_not_ours_is_refused() {
    if !can_mount() {
        return;
    }
    let place = small_store(SIZE);
    let mount = place.mount();
    fs::write(mount.path("file"), "kept").unwrap();
    mount.umount();
    let volume = Volume::of(&place);
    let bytes = volume.whole.len() as u64;
    let not_a_store = ["not a Blocktree store", "backup"];

    for length in [bytes / 2, bytes - SECTOR_BYTES as u64, bytes - 1] {
        volume.file.set_len(length).unwrap();
        mount_refused(&place, &["shorter", "backup"]);
        let ran = check(&place, &[]);
        assert!(ran.code == 4 && ran.stdout.contains("a part of it is missing"), "{ran:?}");
        volume.restore();
    }
    for length in [0, 1, 4096, 65536] {
        volume.file.set_len(length).unwrap();
        mount_refused(&place, &not_a_store);
        check(&place, &["--repair"]).failed(1, &not_a_store);
        assert_eq!(fs::metadata(&volume.path).unwrap().len(), length);
        volume.restore();
    }
    volume.file.set_len(0).unwrap();
    volume.file.set_len(bytes).unwrap();
    mount_refused(&place, &not_a_store);
    finish(&mut place.on_store(&["info"], &[])).failed(1, &not_a_store);
    if finish(Command::new("mkfs.ext4").arg("-q").arg(&volume.path)).code == 0 {
        mount_refused(&place, &not_a_store);
        check(&place, &["--repair"]).failed(1, &not_a_store);
    }
    volume.file.write_all_at(&pattern(1, bytes as usize), 0).unwrap();
    mount_refused(&place, &not_a_store);
    finish(&mut place.on_store(&["snapshot", "list"], &[])).failed(1, &not_a_store);

    volume.restore();
    let mount = place.mount();
    assert_eq!(fs::read(mount.path("file")).unwrap(), b"kept");
}

#[test]
fn another_version_is_named() {
    if !can_mount() {
        return;
    }
    let place = small_store(SIZE);
    let volume = Volume::of(&place);
    let layout = Volume::layout();
    // Right behind the magic number, in both.
    const VERSION: u64 = 8;
    for sectors in [&layout.keyslots()[..], &layout.superblocks()[..]] {
        // One copy alone does not matter.
        volume.flip(sectors[0], VERSION);
        drop(place.mount_with(&["-o", "ro"]));
        for &sector in &sectors[1..] {
            volume.flip(sector, VERSION);
        }
        mount_refused(&place, &["another version of Blocktree", "use that version"]);
        volume.restore();
    }
}

#[test]
fn copies_of_superblock_and_key_slot_stand_in_for_each_other() {
    if !can_mount() {
        return;
    }
    let scene = Scene::new();
    let Scene { place, volume, .. } = &scene;
    let layout = Volume::layout();
    let all = layout.superblocks();
    // What a crash can leave is no damage.
    let repaired = |damaged: &[u64], codes: [i32; 2]| {
        let ran = check(place, &[]);
        assert_eq!(ran.code, codes[0], "{ran:?}");
        for sector in damaged {
            assert!(ran.stdout.contains(&format!("at sector {sector}: ")), "{ran:?}");
        }
        let ran = check(place, &["--repair"]);
        assert_eq!(ran.code, codes[1], "{ran:?}");
        assert_eq!(check(place, &[]).code, 0);
        assert!(fs::read(&volume.path).unwrap() == volume.whole, "repaired to something else");
    };

    let keyslots = layout.keyslots();
    for (damaged, codes) in
        [(&all[..2], [0, 0]), (&all[2..], [0, 0]), (&keyslots[..1], [4, 1]), (&keyslots[1..], [4, 1])]
    {
        for sector in damaged {
            volume.flip(*sector, 100);
        }
        scene.nothing_is_damaged(scene.mount_ro());
        repaired(damaged, codes);
    }
    // One is left: the store does not open, but can be repaired.
    for sector in &all[1..] {
        volume.flip(*sector, 2000);
    }
    mount_refused(place, &["no two copies of the superblock are valid", "check --repair"]);
    repaired(&all[1..], [4, 1]);
    // None is left.
    for sector in all {
        volume.flip(sector, 300);
    }
    mount_refused(place, &["superblock", "wrong signature", "backup"]);
    let ran = check(place, &["--repair"]);
    assert!(ran.code == 4 && ran.stdout.contains("no copy of it is valid"), "{ran:?}");
    volume.restore();

    for (offset, says) in [(0, "not a Blocktree store"), (30, "wrong passphrase"), (400, "wrong passphrase")]
    {
        for sector in layout.keyslots() {
            volume.flip(sector, offset);
        }
        mount_refused(place, &[says]);
        check(place, &["--repair"]).failed(1, &[says]);
        volume.restore();
    }
    for sector in layout.keyslots() {
        // More memory than there is must not be believed.
        volume.file.write_all_at(&[0xff; 4], sector * SECTOR_BYTES as u64 + 12).unwrap();
    }
    mount_refused(place, &["key slot", "out of range", "backup"]);
    volume.restore();

    // Older copies: the newest that two copies agree on counts.
    for stale in [&all[..1], &all[..2], &all[2..]] {
        for &sector in stale {
            volume.write(sector, &scene.older[sector as usize * SECTOR_BYTES..][..SECTOR_BYTES]);
        }
        scene.nothing_is_damaged(scene.mount_ro());
        volume.restore();
    }
}

#[test]
fn damaged_data_is_an_error_of_its_own_range_only() {
    if !can_mount() {
        return;
    }
    let scene = Scene::new();
    let Scene { place, volume, data_sector, .. } = &scene;
    let older = &scene.older[*data_sector as usize * SECTOR_BYTES..][..SECTOR_BYTES];
    type Damage<'a> = &'a dyn Fn();
    let cases: [Damage<'_>; 4] = [
        &|| volume.flip(*data_sector, 4095),
        // Old copies, of nothing and of other data.
        &|| volume.write(*data_sector, older),
        &|| volume.write(*data_sector, volume.sector(data_sector + 1)),
        &|| volume.write(*data_sector, &[0; SECTOR_BYTES]),
    ];
    for damage in cases {
        damage();
        let ran = check(place, &[]);
        assert_eq!(ran.code, 4, "{ran:?}");
        assert!(ran.stdout.contains("/folder/victim: ") && ran.stdout.contains(": 1 problem."), "{ran:?}");
        let mount = scene.mount_ro();
        assert_eq!(scene.only_victim_is_damaged(&mount).len(), 1);
        mount.umount();
        volume.restore();
    }
    volume.flip(*data_sector, 0);
    let ran = check(place, &["--repair"]);
    assert!(ran.code == 4 && ran.stdout.contains("/folder/victim: "), "{ran:?}");
    let mount = place.mount();
    assert_eq!(finish(super::program().arg("scrub").arg(place.mountpoint())).code, 4);
    let bad = scene.only_victim_is_damaged(&mount);
    assert_eq!(bad.len(), 1);
    // Whoever writes it anew has it whole again, even a part of it at a time.
    let file = File::options().write(true).open(mount.path("folder/victim")).unwrap();
    let at = bad[0] * SECTOR_BYTES;
    let part = file.write_all_at(&victim()[at..at + 10], at as u64).and_then(|()| file.sync_all());
    assert_eq!(part.unwrap_err().raw_os_error(), Some(libc::EIO), "what is around it is lost");
    file.write_all_at(&victim()[at..at + SECTOR_BYTES], at as u64).unwrap();
    file.sync_all().unwrap();
    drop(file);
    scene.nothing_is_damaged(mount);
    assert_eq!(check(place, &[]).code, 0);
}

#[test]
fn damaged_index_nodes_never_give_wrong_answers() {
    if !can_mount() {
        return;
    }
    let scene = Scene::new();
    let Scene { place, volume, .. } = &scene;
    assert!(!scene.others.is_empty());
    let mut was_refused = false;
    let mut was_partial = false;
    for &sector in scene.others.iter().take(5) {
        volume.flip(sector, 1234);
        let ran = check(place, &[]);
        assert_eq!(ran.code, 4, "{ran:?}");
        match try_mount(place, &["-o", "ro"]) {
            Err(ran) => {
                was_refused = true;
                ran.failed(1, &["corrupt", "blocktree check"]);
            }
            Ok(mount) => {
                let is_there =
                    |number: &u64| right_or_eio(&mount.path(&format!("folder/{number}")), &small(*number));
                let there = (0..SMALL_FILES).filter(is_there).count() as u64;
                was_partial |= there < SMALL_FILES;
                // What cannot be listed is not silently left out.
                match fs::read_dir(mount.path("folder")).and_then(Iterator::collect::<Result<Vec<_>, _>>) {
                    Ok(entries) => assert_eq!(entries.len() as u64, SMALL_FILES + 1),
                    Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}"),
                }
            }
        }
        // A repair goes on without it: what is there is right, and the store takes changes.
        let ran = check(place, &["--repair"]);
        assert!(ran.code == 1 && ran.stdout.contains("index node"), "{ran:?}");
        assert_eq!(check(place, &[]).code, 0);
        // The volume is put back to what it was afterwards, so nothing is to remember this.
        let mount = place.mount_with(&["-o", "anchor=none"]);
        for number in 0..SMALL_FILES {
            let path = mount.path(&format!("folder/{number}"));
            if path.exists() {
                right_or_eio(&path, &small(number));
            }
        }
        fs::write(mount.path("written after the repair"), "kept").unwrap();
        mount.umount();
        assert_eq!(check(place, &[]).code, 0);
        volume.restore();
    }
    assert!(was_refused || was_partial, "none of {:?} was an index node", scene.others);
    scene.nothing_is_damaged(scene.mount_ro());
}

#[test]
fn a_damaged_log_is_told_from_a_torn_one() {
    if !can_mount() {
        return;
    }
    let place = small_store(SIZE);
    let mount = place.mount();
    const FILES: u64 = 12;
    let contents = |number: u64| pattern(number, 5000);
    for number in 0..FILES {
        fs::write(mount.path(&number.to_string()), contents(number)).unwrap();
        File::open(mount.path(&number.to_string())).unwrap().sync_all().unwrap();
    }
    mount.signal("KILL");
    drop(mount);
    let volume = Volume::of(&place);
    let layout = Volume::layout();
    let superblock = Superblock::decode(volume.sector(layout.superblocks()[0])).unwrap();
    let mut records: Vec<(u64, u64)> = (Layout::LOG_START..Layout::LOG_START + layout.log_sectors())
        .filter_map(|sector| Some((RecordHeader::decode(volume.sector(sector)).ok()?, sector)))
        .map(|(head, sector)| (head.seq.get(), sector))
        .filter(|(seq, _)| *seq > superblock.seq.get())
        .collect();
    records.sort_unstable();
    assert!(records.len() as u64 >= FILES, "{records:?}");

    for (index, offset) in [(0, 0), (0, 8), (records.len() / 2, 300), (records.len() - 3, 60)] {
        let (seq, sector) = records[index];
        volume.flip(sector, offset);
        mount_refused(&place, &["the log is damaged at record", &seq.to_string(), "durable", "backup"]);
        let ran = check(&place, &[]);
        assert!(ran.code == 4 && ran.stdout.contains("the log is damaged"), "{ran:?}");
        assert!(
            ran.stdout.contains("A repair would give up") && ran.stdout.contains("created    /11"),
            "{ran:?}"
        );
        // Only on purpose. The anchor knows no more than the last checkpoint, and lets it be.
        let ran = check(&place, &["--repair"]);
        assert!(ran.code == 1 && ran.stdout.contains("created    /11\n"), "{ran:?}");
        assert_eq!(check(&place, &[]).code, 0);
        // Nor may it learn what will be undone here.
        let mount = place.mount_with(&["-o", "anchor=none"]);
        assert!(!mount.path("11").exists());
        for entry in fs::read_dir(mount.path("")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let bytes = fs::read(mount.path(&name)).unwrap();
            assert!(bytes.is_empty() || bytes == contents(name.parse().unwrap()), "file {name}");
        }
        mount.umount();
        volume.restore();
    }
    // Nothing says that the last one was durable: it is like a crash before it, and only what it brought is gone.
    let (_, sector) = *records.last().unwrap();
    volume.flip(sector, 300);
    let mount = place.mount_with(&["-o", "ro"]);
    for number in 0..FILES - 1 {
        assert!(right_or_eio(&mount.path(&number.to_string()), &contents(number)), "file {number}");
    }
    if let Ok(bytes) = fs::read(mount.path(&(FILES - 1).to_string())) {
        assert!(bytes.is_empty() || bytes == contents(FILES - 1));
    }
    mount.umount();
    volume.restore();
    let mount = place.mount();
    for number in 0..FILES {
        assert!(right_or_eio(&mount.path(&number.to_string()), &contents(number)), "file {number}");
    }
    mount.umount();
    assert_eq!(check(&place, &[]).code, 0);
}

const _: () = assert!(VOLUME_SECTORS >= STORE_SECTORS_MIN);
