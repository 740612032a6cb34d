//! Readcaps: which blocks a principal may read, and how the key of each block below them is found.
//!
//! The owner opens a block through its header. Everybody else starts from a block that a readcap names, and comes
//! from each directory to what is in it: the layer above knows where a directory's entries keep the keys of its
//! children, and hands them over with [`super::Store::block_in`].

use zerocopy::{FromBytes, IntoBytes};

use super::keys::{Keys, wrap_key_of};
use super::{Block, Core, Store};
use crate::crypto::{Principal, PublicKeys, Purpose, Secret, Unopenable, open_key, open_sealed, seal_to};
use crate::error::{Error, Result};
use crate::format::{
    BlockHeader, BlockId, ItemKind, Key, KeyBytes, Malformed, ReadcapBytes, ReadcapSecrets, SYSTEM_BLOCK,
    WRAPPED_KEY_BYTES,
};

const CONTEXT: &str = "blocktree readcap v1";
/// A flag of a readcap: it comes with a key that wraps those of new blocks.
const WRAPS: u32 = 1;

/// A readcap that the holder of the store's keys opened.
pub(super) struct Readcap {
    pub(super) serial: u64,
    pub(super) block: BlockId,
    pub(super) epoch: u32,
    pub(super) block_key: Secret,
    pub(super) wrap_key: Option<Secret>,
}

/// What anybody with the structure key sees of a readcap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadcapInfo {
    pub serial: u64,
    pub block: BlockId,
    pub epoch: u32,
    /// Seconds since 1970; `u64::MAX` where it does not end.
    pub expires: u64,
    pub recipient: PublicKeys,
    /// It lets the holder make blocks.
    pub writes: bool,
}

/// Reads a readcap item.
pub(crate) fn decode_readcap(key: &Key, value: &[u8]) -> std::result::Result<ReadcapBytes, Malformed> {
    let malformed = |why| Malformed { what: "readcap", why };
    let bytes = ReadcapBytes::read_from_bytes(value).map_err(|_| malformed("wrong length"))?;
    if bytes.version.get() != 1 {
        return Err(malformed("of another version"));
    }
    if bytes.serial.get() != key.offset || key.offset == 0 {
        return Err(malformed("at another's place"));
    }
    if bytes.flags.get() & !WRAPS != 0 || bytes.block.get() == SYSTEM_BLOCK {
        return Err(malformed("a field is out of range"));
    }
    Ok(bytes)
}

/// Seals a block's key to a principal. Only the owner can let it wrap keys of blocks that it makes.
pub(super) fn seal_readcap(
    keys: &Keys,
    info: &ReadcapInfo,
    block_key: &Secret,
) -> std::result::Result<ReadcapBytes, Unopenable> {
    let wrap_key = match (&keys.owner, info.writes) {
        (Some(owner), true) => *wrap_key_of(owner, info.serial).bytes(),
        (None, true) => return Err(Unopenable),
        (_, false) => [0; 32],
    };
    let mut bytes = ReadcapBytes {
        version: 1.into(),
        flags: u32::from(info.writes).into(),
        block: info.block.into(),
        epoch: info.epoch.into(),
        reserved: 0.into(),
        expires: info.expires.into(),
        serial: info.serial.into(),
        recipient: info.recipient.to_bytes(),
        sealed: zerocopy::FromZeros::new_zeroed(),
    };
    let secrets = ReadcapSecrets { block_key: *block_key.bytes(), wrap_key };
    let place = place(&bytes);
    let purpose = Purpose { context: CONTEXT, store_id: &keys.store_id, place: &place };
    let sealed = seal_to(&info.recipient, &purpose, secrets.as_bytes())?;
    bytes.sealed = sealed.as_slice().try_into().map_err(|_| Unopenable)?;
    Ok(bytes)
}

/// Opens a readcap that was sealed to `holder`.
pub(super) fn open_readcap(
    store_id: &[u8; 16],
    holder: &Principal,
    bytes: &ReadcapBytes,
) -> std::result::Result<Readcap, Unopenable> {
    let place = place(bytes);
    let purpose = Purpose { context: CONTEXT, store_id, place: &place };
    let plain = open_sealed(holder, &purpose, &bytes.sealed)?;
    let secrets = ReadcapSecrets::read_from_bytes(&plain).map_err(|_| Unopenable)?;
    let wraps = bytes.flags.get() & WRAPS != 0;
    Ok(Readcap {
        serial: bytes.serial.get(),
        block: bytes.block.get(),
        epoch: bytes.epoch.get(),
        block_key: Secret::new(secrets.block_key),
        wrap_key: wraps.then(|| Secret::new(secrets.wrap_key)),
    })
}

impl Store {
    /// The readcaps that whoever opened the store holds: serial and block of each.
    pub fn own_readcaps(&self) -> Vec<(u64, BlockId)> {
        self.core.keys.readcaps.iter().map(|cap| (cap.serial, cap.block)).collect()
    }

    /// The block that one of the holder's own readcaps gives. `None` where it is gone.
    pub fn shared_block(&self, serial: u64) -> Result<Option<Block>> {
        let caps = &self.core.keys.readcaps;
        let cap = caps.iter().find(|cap| cap.serial == serial).ok_or(Error::NoKey)?;
        self.core.block_with(cap.block, |header| {
            // Where they differ, the owner has replaced the key and taken the readcap away.
            if header.epoch.get() != cap.epoch { Err(Unopenable) } else { Ok(cap.block_key.clone()) }
        })
    }

    /// A handle on a block that `directory` has an entry for, which holds the block's key wrapped under the
    /// directory's. The owner needs no such key.
    pub fn block_in(
        &self,
        directory: &Block,
        id: BlockId,
        wrapped: &[u8; WRAPPED_KEY_BYTES],
    ) -> Result<Option<Block>> {
        if self.core.keys.owner.is_some() {
            return self.core.block(id);
        }
        self.core.block_with(id, |_| open_key(&directory.keys().item, &id.to_le_bytes(), wrapped))
    }
}

impl Core {
    /// A handle on a block whose key `open` finds, unless there is one already.
    fn block_with(
        &self,
        id: BlockId,
        open: impl Fn(&BlockHeader) -> std::result::Result<Secret, Unopenable>,
    ) -> Result<Option<Block>> {
        let open = |header: &BlockHeader| open(header).map_err(|_| Error::NoKey);
        match self.reclaim_of(id).is_some_and(|reclaim| reclaim.destroy) {
            true => Ok(None),
            false => self.block_opened(id, open),
        }
    }
}

/// What a readcap's seal is bound to: its place in the index, and all that it says in the clear.
fn place(bytes: &ReadcapBytes) -> Vec<u8> {
    let key = Key::new(SYSTEM_BLOCK, ItemKind::READCAP, bytes.serial.get());
    [KeyBytes::from(key).as_bytes(), bytes.bound_bytes()].concat()
}

impl From<&ReadcapBytes> for ReadcapInfo {
    fn from(bytes: &ReadcapBytes) -> Self {
        Self {
            serial: bytes.serial.get(),
            block: bytes.block.get(),
            epoch: bytes.epoch.get(),
            expires: bytes.expires.get(),
            recipient: PublicKeys::from_bytes(&bytes.recipient),
            writes: bytes.flags.get() & WRAPS != 0,
        }
    }
}
