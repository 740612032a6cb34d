//! Every size and bound of the engine, in one place, derived from each other and asserted.

/// The unit of encryption, hashing and I/O, in bytes.
pub const SECTOR_BYTES: usize = 4096;
/// The longest run of sectors that one extent item covers.
pub const EXTENT_SECTORS_MAX: usize = 32;
/// Sectors that one hash covers at most, as a power of two: a whole extent.
pub const UNIT_LOG2_MAX: u8 = EXTENT_SECTORS_MAX.ilog2() as u8;
/// One node of the index, in bytes and in sectors.
pub const NODE_BYTES: usize = 16 * 1024;
pub const NODE_SECTORS: usize = NODE_BYTES / SECTOR_BYTES;
/// The longest value of one index item, so that a leaf always holds at least four.
pub const ITEM_BYTES_MAX: usize = 4000;
/// What sealing an item adds to its clear and its secret part: a length, a nonce and a tag.
pub const ITEM_SEAL_BYTES: usize = 2 + 12 + 16;
/// No index is higher: every inner node has at least two children, and all nodes fit the largest store.
pub const NODE_HEIGHT_MAX: u32 = (STORE_SECTORS_MAX / NODE_SECTORS as u64).ilog2() + 1;
/// The longest attributes that an upper layer may store with a block, in bytes.
pub const ATTRIBUTES_BYTES_MAX: usize = 2048;

/// Space is accounted in regions; a region's bitmap is exactly one sector.
pub const REGION_SECTORS: u64 = (SECTOR_BYTES * 8) as u64;
/// Sectors at the start of each region that hold the space table.
pub const REGION_HEADER_SECTORS: u64 = 8;
/// The part of each region, right behind its header, that only index nodes may use: 1/32.
pub const REGION_NODE_SECTORS: u64 = REGION_SECTORS / 32;
/// Entries of one sector of the space table.
pub const SPACE_FANOUT: usize = 100;
/// Levels of the space table above the bitmaps: 100^3 regions of 128 MiB are 122 TiB.
pub const SPACE_LEVELS: usize = 3;

/// A store is never smaller than this.
pub const STORE_SECTORS_MIN: u64 = (32 << 20) / SECTOR_BYTES as u64;
/// Nor larger: what the space table can address.
pub const STORE_SECTORS_MAX: u64 = REGION_SECTORS * 1_000_000;
/// A store that may grow is lengthened by at least this much at a time.
pub const GROW_SECTORS: u64 = (64 << 20) / SECTOR_BYTES as u64;
/// What a store in a directory may grow to where nobody says otherwise: 16 TiB.
pub const STORE_SECTORS_DEFAULT: u64 = (16 << 40) / SECTOR_BYTES as u64;
/// A new volume file is this long, or as long as the store may become: room for the longest log and some data.
pub const VOLUME_SECTORS_INITIAL: u64 = LOG_SECTORS_MAX + GROW_SECTORS;

/// The log zone is a power of two between these.
pub const LOG_SECTORS_MIN: u64 = (8 << 20) / SECTOR_BYTES as u64;
pub const LOG_SECTORS_MAX: u64 = (64 << 20) / SECTOR_BYTES as u64;
/// One record is never longer than this.
pub const RECORD_SECTORS_MAX: u64 = LOG_SECTORS_MIN / 4;

/// A checkpoint starts when the deltas in memory or the log in use pass these.
pub const MEMTABLE_BYTES_MAX: usize = 48 << 20;
/// Decrypted index nodes kept in memory.
pub const NODE_CACHE_BYTES: usize = 96 << 20;
/// Leaves that a checkpoint reads at once: 1 MiB.
pub const MERGE_AHEAD_NODES: usize = 64;
/// Blocks whose keys are kept expanded: some 300 bytes each.
pub const KEY_CACHE_BLOCKS: usize = 16 << 10;
/// Keys that a block had before, and that something of it may still stand under.
pub const OLDER_KEYS_MAX: usize = 64;

/// What one commit may weigh: an estimate of its record's length in bytes. Past the first, a commit starts in
/// the background; past the second, whoever adds more waits for it.
pub const BATCH_WEIGHT_COMMIT: usize = 512 << 10;
pub const BATCH_WEIGHT_MAX: usize = 1 << 20;
/// No batch weighs more, so that its record is never too long: estimates are upper bounds.
pub const RECORD_WEIGHT_MAX: usize = RECORD_SECTORS_MAX as usize * SECTOR_BYTES - (64 << 10);
/// An extent item in a record, less its hashes; and one with all of them.
pub const EXTENT_WEIGHT: usize = 160;
pub const EXTENT_WEIGHT_MAX: usize = EXTENT_WEIGHT + 32 * EXTENT_SECTORS_MAX;
/// What a range adds at most at its two ends: what remains of the extents that it cuts.
pub const CUT_ENDS_WEIGHT: usize = 2 * EXTENT_WEIGHT_MAX;
/// What an extent that is removed adds: its deletion, and that its sectors are free or dead. For each sector of a
/// shared one, a count may change.
pub const REMOVED_WEIGHT: usize = 60;
pub const SHARED_SECTOR_WEIGHT: usize = 60;
/// A block's header with its attributes, which changes with the number of its sectors.
pub const HEADER_WEIGHT: usize = ATTRIBUTES_BYTES_MAX + 200;
/// What a dirty sector adds to a record at most: its extent, and two remainders of the extent it cuts.
pub const DIRTY_SECTOR_WEIGHT: usize =
    EXTENT_WEIGHT_MAX + 2 * EXTENT_WEIGHT + REMOVED_WEIGHT + 2 * SHARED_SECTOR_WEIGHT;
/// Dirty data is written back, and made durable, at least this often.
pub const WRITE_BACK_SECONDS: u64 = 5;
/// Ciphertext on its way to the device.
pub const IN_FLIGHT_BYTES_MAX: usize = 32 << 20;
/// A device's own memory for I/O: all that is in flight, and reads. What does not fit comes from the heap.
pub const BUFFER_POOL_BYTES: usize = IN_FLIGHT_BYTES_MAX + (8 << 20);
/// The longest single request to a device; longer reads and writes are split.
pub const REQUEST_BYTES_MAX: usize = 1 << 20;
/// The same in sectors: writes and reads of the store are gathered up to this.
pub const REQUEST_SECTORS_MAX: u64 = (REQUEST_BYTES_MAX / SECTOR_BYTES) as u64;
/// A write of at least this many whole sectors is sealed at once instead of gathered.
pub const DIRECT_WRITE_SECTORS: usize = 16;
/// Extents that one transaction removes at once; more are reclaimed in the background, in steps of this.
pub const RECLAIM_STEP: usize = 1024;
/// What one step of a re-encryption seals anew, and how many extents it looks at.
pub const REENCRYPT_SECTORS: u64 = 2 * REQUEST_SECTORS_MAX;
pub const REENCRYPT_EXTENTS: usize = 256;

/// Sectors of access slots, at the front and again at the rear, and slots of one sector.
pub const ACCESS_SECTORS: u64 = 16;
pub const ACCESS_SLOTS: usize = 24;
/// Trees are never deeper than this, or they are damaged: longer than any path has parts.
pub const DEPTH_MAX: usize = 1 << 16;
/// The longest chain of writecaps from the root to a writer, and the longest to who may sign a superblock.
pub const CHAIN_MAX: usize = 8;
pub const SUPERBLOCK_CHAIN_MAX: usize = 2;

/// How many ids a record of a writer of a part of the store may use up at most, and the latest time that it may say (in the
/// year 2262): neither runs out by anybody's leap.
pub const BLOCK_IDS_PER_RECORD_MAX: u64 = 1 << 32;
pub const RECORD_TIME_NS_MAX: u64 = i64::MAX as u64;

/// So long before its writecap ends, a node takes no more changes: what it took is on the disk by then.
pub const EXPIRY_MARGIN_NS: u64 = 6 * WRITE_BACK_SECONDS * 1_000_000_000;

/// Argon2id parameters from a disk are refused above these: an attacker must not exhaust memory.
pub const KDF_MEMORY_KIB_MAX: u32 = 1 << 20;
pub const KDF_PASSES_MAX: u32 = 64;
/// A file of keys that people carry is never longer.
pub const SEALED_FILE_BYTES_MAX: usize = 4096;
/// Ways in which a machine may start before its TPM gives a secret out.
pub const APPROVALS_MAX: usize = 16;
/// Nor a request for a right.
pub const CAP_REQUEST_BYTES_MAX: usize = 8192;
/// A file of an attestation is never longer: two keys, and a certificate of an endorsement key of up to 4 KiB, are the most.
pub const ATTESTATION_FILE_BYTES_MAX: usize = 8192;

const _: () = assert!(STORE_SECTORS_MIN <= VOLUME_SECTORS_INITIAL);
const _: () = assert!(STORE_SECTORS_DEFAULT <= STORE_SECTORS_MAX);
const _: () = assert!(REQUEST_BYTES_MAX.is_multiple_of(SECTOR_BYTES));
const _: () = assert!(NODE_BYTES == NODE_SECTORS * SECTOR_BYTES);
const _: () = assert!(4 * (ITEM_BYTES_MAX + 21) + 32 <= NODE_BYTES);
const _: () = assert!(EXTENT_SECTORS_MAX * 32 + 128 <= ITEM_BYTES_MAX);
const _: () = assert!(ATTRIBUTES_BYTES_MAX + 256 <= ITEM_BYTES_MAX);
const _: () = assert!(LOG_SECTORS_MAX + 4096 < REGION_SECTORS);
const _: () = assert!(SPACE_FANOUT * 40 <= SECTOR_BYTES);
/// One transaction clones at most this many sectors.
pub const CLONE_SECTORS_MAX: u64 = (4 << 20) / SECTOR_BYTES as u64;
/// A range with more extents than this is not emptied in one transaction.
pub const PUNCH_EXTENTS_MAX: usize = 8 * RECLAIM_STEP;

/// Heads that a superblock remembers for anchors: each machine that mounts a store has one or two.
pub const ANCHORS_MAX: usize = 64;
/// An anchor is told of a new head at most this often while a store is in use.
pub const ANCHOR_SECONDS: u64 = 10;
/// A counter that wears out is incremented at most this often while a store is in use, beside once at either end.
pub const COUNTER_SECONDS: u64 = 3600;

/// The journal keeps the newest of its items: so many bytes with their keys, but no more than this share of the store.
pub const JOURNAL_BYTES_MAX: u64 = 32 << 20;
pub const JOURNAL_SHARE: u64 = 64;
/// Where the store is full, it does not grow past this, or past what it has by then: what removes must find nodes.
pub const JOURNAL_BYTES_FULL: u64 = 64 << 10;
/// What one operation may note: so many bytes in so many notes.
pub const NOTES_BYTES_MAX: usize = 3 << 10;
pub const NOTES_MAX: usize = 8;
/// Blocks that a note names.
pub const NOTE_BLOCKS_MAX: usize = 5;
/// What a note adds to a record: itself, its part of an item, its number and length, and the blocks that an item shows.
pub const fn note_weight(bytes: usize, blocks: usize) -> usize {
    bytes + bytes / 16 + 24 + 8 * blocks
}
/// Items of the journal that one record removes at most, besides two for each that it adds; and that are looked up at once.
pub const JOURNAL_TRIM_STEP: usize = 8;
pub const JOURNAL_LOOK_STEP: usize = 64;

/// A snapshot's name, in bytes.
pub const SNAPSHOT_NAME_BYTES_MAX: usize = 255;

// Cloned sector by sector, into a target that is as fragmented, it still fits one record.
const _: () = assert!(
    CLONE_SECTORS_MAX as usize * (2 * (EXTENT_WEIGHT + 32) + REMOVED_WEIGHT + 4 * SHARED_SECTOR_WEIGHT)
        + HEADER_WEIGHT
        + 32 * CUT_ENDS_WEIGHT
        < RECORD_WEIGHT_MAX
);

/// Data, and whatever else adds to a store, leaves at least this many nodes to the index, so that what fills a store can
/// be removed again; and removal leaves some to the removal of snapshots, which may hold what it removed.
pub const FULL_STORE_NODES: u64 = 64;
pub const SNAPSHOT_REMOVAL_NODES: u64 = 24;
const _: () = assert!(SNAPSHOT_REMOVAL_NODES < FULL_STORE_NODES);
/// Batches whose data may still be on its way to the device; their pages stay in memory until it is there.
pub const WRITING_BATCHES_MAX: usize = 32;
