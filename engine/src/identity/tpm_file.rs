//! A secret that one TPM keeps, in a file: what that TPM made of it, and what it asks for before it gives it out.
//!
//! Only the TPM that made it can open it. All that is in the file may be known to anybody.

use zerocopy::{FromBytes, IntoBytes};

use crate::crypto::tagged_hash;
use crate::format::{FORMAT_VERSION, Malformed, OTHER_VERSION, TpmFileHeader, malformed};
use crate::limits::SEALED_FILE_BYTES_MAX;

const WHAT: &str = "TPM file";
const CHECK_BYTES: usize = 32;
const PIN: u32 = 1;

/// A secret that is sealed to a TPM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TpmFile {
    /// The PCRs of the SHA-256 bank that must be as they were, a bit each.
    pub pcrs: u32,
    /// A PIN is needed.
    pub has_pin: bool,
    /// The object as the TPM writes it: TPMT_PUBLIC and TPM2B_PRIVATE's buffer.
    pub public: Vec<u8>,
    pub private: Vec<u8>,
}

impl TpmFile {
    pub fn to_bytes(&self) -> Vec<u8> {
        let header = TpmFileHeader {
            magic: TpmFileHeader::MAGIC,
            version: FORMAT_VERSION.into(),
            pcrs: self.pcrs.into(),
            flags: if self.has_pin { PIN } else { 0 }.into(),
            public_bytes: (self.public.len() as u32).into(),
            private_bytes: (self.private.len() as u32).into(),
        };
        let mut file = [header.as_bytes(), &self.public, &self.private].concat();
        file.extend_from_slice(&check_sum(&file));
        file
    }

    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let Ok((header, rest)) = TpmFileHeader::read_from_prefix(bytes) else {
            return Err(malformed(WHAT, "it is too short"));
        };
        if header.magic != TpmFileHeader::MAGIC {
            return Err(malformed(WHAT, "it is another kind of file"));
        }
        if header.version.get() != FORMAT_VERSION {
            return Err(malformed(WHAT, OTHER_VERSION));
        }
        let [public, private] = [header.public_bytes, header.private_bytes].map(|bytes| bytes.get() as usize);
        let length = public.checked_add(private).and_then(|length| length.checked_add(CHECK_BYTES));
        let is_whole = length == Some(rest.len()) && bytes.len() <= SEALED_FILE_BYTES_MAX;
        let (all, check) = bytes.split_at(bytes.len() - CHECK_BYTES.min(bytes.len()));
        if !is_whole || check != check_sum(all) || header.flags.get() & !PIN != 0 {
            return Err(malformed(WHAT, "it is damaged or cut off"));
        }
        Ok(Self {
            pcrs: header.pcrs.get(),
            has_pin: header.flags.get() & PIN != 0,
            public: rest[..public].to_vec(),
            private: rest[public..public + private].to_vec(),
        })
    }
}

fn check_sum(bytes: &[u8]) -> [u8; CHECK_BYTES] {
    tagged_hash("blocktree TPM file v1", &[bytes])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_damage_is_noticed() {
        let file = TpmFile { pcrs: 0x80, has_pin: true, public: vec![1; 78], private: vec![2; 190] };
        let bytes = file.to_bytes();
        assert_eq!(TpmFile::parse(&bytes), Ok(file));
        for at in 0..bytes.len() {
            assert!(TpmFile::parse(&bytes[..at]).is_err(), "cut at {at}");
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert!(TpmFile::parse(&flipped).is_err(), "byte {at}");
        }
        assert!(TpmFile::parse(&[&bytes[..], b"x"].concat()).is_err());
    }
}
