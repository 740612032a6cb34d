//! What is on a block device already, so that `init` does not destroy it unasked.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use blocktree_engine::format::{KeySlotHeader, Layout, SUPERBLOCK_MAGIC};
use blocktree_engine::limits::{LOG_SECTORS_MIN, SECTOR_BYTES};

/// Where a format has its magic bytes.
struct Signature {
    name: &'static str,
    offset: u64,
    magic: &'static [u8],
}

const fn signature(name: &'static str, offset: u64, magic: &'static [u8]) -> Signature {
    Signature { name, offset, magic }
}

/// From each format's own documentation; the offsets are those that blkid(8) looks at.
const SIGNATURES: [Signature; 24] = [
    signature("an ext2, ext3 or ext4 filesystem", 0x438, b"\x53\xef"),
    signature("an XFS filesystem", 0, b"XFSB"),
    signature("a Btrfs filesystem", 0x10040, b"_BHRfS_M"),
    signature(
        "a bcachefs filesystem",
        0x1018,
        b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef",
    ),
    signature("an F2FS filesystem", 0x400, b"\x10\x20\xf5\xf2"),
    signature("an EROFS filesystem", 0x400, b"\xe2\xe1\xf5\xe0"),
    signature("a SquashFS filesystem", 0, b"hsqs"),
    signature("a ReiserFS filesystem", 0x10034, b"ReIsEr"),
    signature("a JFS filesystem", 0x8000, b"JFS1"),
    signature("an ISO 9660 filesystem", 0x8001, b"CD001"),
    signature("a UDF filesystem", 0x8001, b"BEA01"),
    signature("an NTFS filesystem", 3, b"NTFS    "),
    signature("an exFAT filesystem", 3, b"EXFAT   "),
    signature("a BitLocker volume", 3, b"-FVE-FS-"),
    signature("a FAT filesystem", 0x52, b"FAT32   "),
    signature("a FAT filesystem", 0x36, b"FAT1"),
    signature("a LUKS volume", 0, b"LUKS\xba\xbe"),
    signature("an LVM physical volume", 0x218, b"LVM2 001"),
    signature("a part of a RAID", 0x1000, b"\xfc\x4e\x2b\xa9"),
    signature("a part of a RAID", 0, b"\xfc\x4e\x2b\xa9"),
    signature("swap space", 0xff6, b"SWAPSPACE2"),
    signature("swap space", 0xff6, b"SWAP-SPACE"),
    signature("a GPT partition table", 0x200, b"EFI PART"),
    signature("an MBR partition table or boot sector", 0x1fe, b"\x55\xaa"),
];

/// ZFS writes its uberblocks to a ring of slots; any of them may be the first that was used.
const ZFS_MAGICS: [&[u8]; 2] = [b"\x0c\xb1\xba\x00\x00\x00\x00\x00", b"\x00\x00\x00\x00\x00\xba\xb1\x0c"];
const ZFS_RING: std::ops::Range<u64> = 128 << 10..256 << 10;

/// What the block device contains, if it is anything known.
pub(crate) fn find(path: &Path) -> io::Result<Option<&'static str>> {
    let device = File::open(path)?;
    let mut bytes = vec![0; ZFS_RING.end as usize];
    let mut length = 0;
    while length < bytes.len() {
        match device.read_at(&mut bytes[length..], length as u64) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(find_in(&bytes[..length]))
}

fn find_in(bytes: &[u8]) -> Option<&'static str> {
    let starts_at = |offset: u64, magic: &[u8]| {
        bytes.get(offset as usize..).is_some_and(|bytes| bytes.starts_with(magic))
    };
    // Any copy that is at the front whatever the size of the log; one may be damaged. Without the version.
    let layout = Layout::new(LOG_SECTORS_MIN);
    let copies = layout.superblocks().map(|sector| (sector, SUPERBLOCK_MAGIC));
    let copies = copies.into_iter().chain(layout.keyslots().map(|sector| (sector, KeySlotHeader::MAGIC)));
    if copies.into_iter().any(|(sector, magic)| starts_at(sector * SECTOR_BYTES as u64, &magic[..7])) {
        return Some("a Blocktree store");
    }
    if let Some(found) = SIGNATURES.iter().find(|known| starts_at(known.offset, known.magic)) {
        return Some(found.name);
    }
    let is_zfs = |slot| ZFS_MAGICS.iter().any(|magic| starts_at(slot, magic));
    ZFS_RING.step_by(1 << 10).any(is_zfs).then_some("a ZFS filesystem")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_signature_is_found_where_it_is() {
        for known in &SIGNATURES {
            let mut bytes = vec![0; ZFS_RING.end as usize];
            bytes[known.offset as usize..][..known.magic.len()].copy_from_slice(known.magic);
            assert_eq!(find_in(&bytes), Some(known.name));
        }
    }

    #[test]
    fn nothing_is_found_in_nothing() {
        assert_eq!(find_in(&[]), None);
        assert_eq!(find_in(&[0; 4096]), None);
        assert_eq!(find_in(&vec![0; 256 << 10]), None);
    }

    #[test]
    fn stores_and_zfs_are_found() {
        let mut bytes = vec![0; 256 << 10];
        bytes[(128 << 10) + 5 * 1024..][..8].copy_from_slice(ZFS_MAGICS[0]);
        assert_eq!(find_in(&bytes), Some("a ZFS filesystem"));
        let sector = Layout::new(LOG_SECTORS_MIN).superblocks()[1] as usize;
        bytes[sector * SECTOR_BYTES..][..8].copy_from_slice(&SUPERBLOCK_MAGIC);
        assert_eq!(find_in(&bytes), Some("a Blocktree store"));
    }
}
