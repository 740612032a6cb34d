//! The ioctls of chattr(1) and lsattr(1): `FS_IOC_GETFLAGS`, `FS_IOC_SETFLAGS`, `FS_IOC_FSGETXATTR` and
//! `FS_IOC_FSSETXATTR`, as the kernel hands them to a FUSE filesystem. It checks who may before it does.
//!
//! Key function: [`answer`]. The rules are in `fs/flags.rs`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{FileFlags, Fs, FsError, Ino, Result};

/// `_IOR('f', 1, long)` and `_IOW('f', 2, long)`, which nevertheless carry an `int`.
const GET_FLAGS: u32 = 0x8008_6601;
const SET_FLAGS: u32 = 0x4008_6602;
/// `_IOR('X', 31, struct fsxattr)` and `_IOW('X', 32, struct fsxattr)`.
const GET_EXTENDED: u32 = 0x801c_581f;
const SET_EXTENDED: u32 = 0x401c_5820;

/// `FS_IMMUTABLE_FL` and so on, and `FS_XFLAG_IMMUTABLE` and so on (`linux/fs.h`).
const BITS: [(u32, u32); 4] = [(0x10, 0x08), (0x20, 0x10), (0x40, 0x80), (0x80, 0x40)];

/// `struct fsxattr`.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct ExtendedFlags {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    copy_extent_size: u32,
    padding: [u8; 8],
}
const _: () = assert!(size_of::<ExtendedFlags>() == 28);

/// Answers one of these ioctls; `None` for any other.
pub fn answer(fs: &Fs, ino: Ino, number: u32, input: &[u8]) -> Option<Result<Vec<u8>>> {
    Some(match number {
        GET_FLAGS => fs.file_flags(ino).map(|flags| bits(flags, |(flag, _)| flag).to_ne_bytes().to_vec()),
        SET_FLAGS => match u32::read_from_prefix(input) {
            Ok((wanted, _)) => set(fs, ino, wanted, |(flag, _)| flag),
            Err(_) => Err(FsError::Invalid("flags are an int")),
        },
        GET_EXTENDED => fs.file_flags(ino).map(|flags| {
            ExtendedFlags { flags: bits(flags, |(_, flag)| flag), ..Default::default() }.as_bytes().to_vec()
        }),
        SET_EXTENDED => match ExtendedFlags::read_from_bytes(input) {
            Ok(ExtendedFlags { flags, extent_size: 0, project: 0, copy_extent_size: 0, .. }) => {
                set(fs, ino, flags, |(_, flag)| flag)
            }
            Ok(_) => Err(FsError::NotSupported("projects and extents of a chosen size")),
            Err(_) => Err(FsError::Invalid("flags are a struct fsxattr")),
        },
        _ => return None,
    })
}

fn bits(flags: FileFlags, of: fn((u32, u32)) -> u32) -> u32 {
    let set = [flags.immutable, flags.append_only, flags.no_dump, flags.no_atime];
    BITS.into_iter().zip(set).filter(|&(_, is_set)| is_set).fold(0, |bits, (bit, _)| bits | of(bit))
}

fn set(fs: &Fs, ino: Ino, wanted: u32, of: fn((u32, u32)) -> u32) -> Result<Vec<u8>> {
    let known = BITS.into_iter().fold(0, |known, bit| known | of(bit));
    if wanted & !known != 0 {
        return Err(FsError::NotSupported("this flag"));
    }
    let [immutable, append_only, no_dump, no_atime] = BITS.map(|bit| wanted & of(bit) != 0);
    fs.set_file_flags(ino, FileFlags { immutable, append_only, no_dump, no_atime })?;
    Ok(Vec::new())
}
