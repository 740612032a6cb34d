//! A principal in a file: its public keys for everybody who has the file, its seeds under a passphrase.

use zeroize::Zeroizing;

use super::sealed_file::{Kind, Protection, SealedFile, SealedFileError};
use crate::crypto::{Principal, PublicKeys};
use crate::format::{Malformed, malformed};

const WHAT: &str = "principal file";

/// A file with a principal.
#[derive(Debug, Clone)]
pub struct PrincipalFile {
    public: PublicKeys,
    file: SealedFile,
}

impl PrincipalFile {
    /// The bytes of a file with this principal.
    pub fn seal(principal: &Principal, protection: Protection) -> Vec<u8> {
        SealedFile::seal(Kind::Principal, &principal.public().to_bytes(), principal.seeds(), protection)
    }

    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let file = SealedFile::parse(bytes, Kind::Principal)?;
        let public = file.clear().try_into().map_err(|_| malformed(WHAT, "its length is wrong"))?;
        Ok(Self { public: PublicKeys::from_bytes(public), file })
    }

    /// Whose it says to be. [`PrincipalFile::open`] shows whether that is so.
    pub fn public(&self) -> PublicKeys {
        self.public
    }

    /// Whether a passphrase is needed.
    pub fn is_protected(&self) -> bool {
        self.file.is_protected()
    }

    /// The principal. The passphrase does not matter where none is needed.
    pub fn open(&self, passphrase: &[u8]) -> Result<Principal, SealedFileError> {
        let secret = self.file.open(passphrase)?;
        let seeds = <[u8; 64]>::try_from(secret.as_slice()).map(Zeroizing::new);
        let principal = Principal::from_seeds(seeds.map_err(|_| malformed(WHAT, "its length is wrong"))?);
        if principal.public() != self.public {
            return Err(malformed(WHAT, "it holds the keys of another principal than it says").into());
        }
        Ok(principal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{KdfCost, Secret};

    #[test]
    fn the_same_principal_comes_back() {
        let principal = Principal::generate();
        for protection in [Protection::Passphrase(b"open", KdfCost::TRIVIAL), Protection::None] {
            let file = PrincipalFile::parse(&PrincipalFile::seal(&principal, protection)).unwrap();
            assert_eq!(file.public(), principal.public());
            assert_eq!(file.open(b"open").unwrap().seeds(), principal.seeds());
        }
    }

    #[test]
    fn keys_of_another_are_refused() {
        let [one, other] = [Principal::generate(), Principal::generate()];
        let file =
            SealedFile::seal(Kind::Principal, &one.public().to_bytes(), other.seeds(), Protection::None);
        let error = PrincipalFile::parse(&file).unwrap().open(b"").map(drop).unwrap_err();
        assert!(error.to_string().contains("another principal"), "{error}");
        let short = SealedFile::seal(Kind::Principal, &[0; 63], &[0; 64], Protection::None);
        assert!(PrincipalFile::parse(&short).is_err());
        let short = SealedFile::seal(Kind::Principal, &one.public().to_bytes(), &[0; 63], Protection::None);
        assert!(PrincipalFile::parse(&short).unwrap().open(b"").is_err());
    }

    #[test]
    fn a_seed_is_enough() {
        let principal = Principal::generate();
        let seed = Secret::new(principal.seeds()[..32].try_into().unwrap());
        assert_eq!(Principal::from_seed(&seed).public(), principal.public());
    }
}
