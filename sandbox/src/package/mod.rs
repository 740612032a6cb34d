//! Packages: an app in one file.
//!
//! ```text
//! magic     8 bytes   "BTAPP\0\0" and the format, 1
//! length    4 bytes   of the manifest, little-endian
//! manifest            canonical JSON
//! keys     64 bytes   the author's public keys
//! signature 64 bytes  of the manifest, by the author
//! files               one after the other, as the manifest lists them
//! ```
//!
//! 1. The manifest has the length and the hash of every file, so one signature covers all.
//! 2. [`Package::parse`] answers what is whole; whether it is signed is in the type of what
//!    [`Package::verify`] answers.

mod endpoint;
mod glob;
mod host;
mod imports;
mod manifest;
mod project;
mod template;

use blocktree_engine::crypto::{Hash, Principal, PublicKeys, hash, hexadecimal, tagged_hash, verify};

pub use endpoint::{Endpoint, EndpointError};
pub use glob::{Glob, GlobError};
pub use host::host_of;
pub use imports::sockets_import;
pub(crate) use manifest::is_name;
pub use manifest::{
    Connect, FORMAT, FileEvent, Limits, Manifest, ManifestError, PackagedFile, Reason, Recipient, Rights,
    Socket, Trigger, Version, Wanted,
};
pub use project::{PROJECT_FILE, Project, ProjectError, componentize};
pub use template::{Language, template};

use crate::limits::{MANIFEST_BYTES_MAX, PACKAGE_BYTES_MAX};

const MAGIC: [u8; 8] = *b"BTAPP\0\0\x01";
const KEYS_BYTES: usize = 64;
const SIGNATURE_BYTES: usize = 64;

/// A package that is whole: what is in it is what its manifest says.
#[derive(Debug, Clone, Copy)]
pub struct Package<'a> {
    manifest_bytes: &'a [u8],
    keys: &'a [u8; KEYS_BYTES],
    signature: &'a [u8; SIGNATURE_BYTES],
    contents: &'a [u8],
}

/// A package whose author is known.
#[derive(Debug)]
pub struct Verified<'a> {
    pub package: Package<'a>,
    pub manifest: Manifest,
}

/// Why bytes are no package that can be trusted.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    #[error("this is no app package")]
    Magic,
    #[error("the package is longer than {PACKAGE_BYTES_MAX} bytes")]
    TooLong,
    #[error("the package is cut off")]
    Truncated,
    #[error("something stands behind the end of the package")]
    Trailing,
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error("the file {0} in the package is not the one of the manifest")]
    Hash(String),
    #[error(
        "the component imports {0}, and the manifest asks for no sockets: say in it whom the app connects to"
    )]
    Sockets(String),
    #[error("nobody has signed the package")]
    Unsigned,
    #[error("the package's author is not who the manifest says")]
    Author,
    #[error("the package's signature is wrong")]
    Signature,
}

impl<'a> Package<'a> {
    /// Takes a package apart and checks everything but the signature.
    pub fn parse(bytes: &'a [u8]) -> Result<(Self, Manifest), PackageError> {
        if bytes.len() > PACKAGE_BYTES_MAX {
            return Err(PackageError::TooLong);
        }
        let rest = bytes.strip_prefix(&MAGIC).ok_or(PackageError::Magic)?;
        let (length, rest) = rest.split_first_chunk::<4>().ok_or(PackageError::Truncated)?;
        let length = u32::from_le_bytes(*length) as usize;
        if length > MANIFEST_BYTES_MAX {
            return Err(ManifestError::TooLong.into());
        }
        let (manifest_bytes, rest) = rest.split_at_checked(length).ok_or(PackageError::Truncated)?;
        let (keys, rest) = rest.split_first_chunk().ok_or(PackageError::Truncated)?;
        let (signature, contents) = rest.split_first_chunk().ok_or(PackageError::Truncated)?;
        let package = Self { manifest_bytes, keys, signature, contents };
        let manifest = Manifest::from_canonical(manifest_bytes)?;
        let mut rest = contents;
        for file in &manifest.files {
            let length = usize::try_from(file.bytes).map_err(|_| PackageError::Truncated)?;
            let (bytes, after) = rest.split_at_checked(length).ok_or(PackageError::Truncated)?;
            if hexadecimal(&hash(bytes)) != file.hash {
                return Err(PackageError::Hash(file.path.clone()));
            }
            rest = after;
        }
        if !rest.is_empty() {
            return Err(PackageError::Trailing);
        }
        if manifest.sockets.is_empty()
            && let Some(import) = package.file(&manifest, &manifest.component).and_then(sockets_import)
        {
            return Err(PackageError::Sockets(import));
        }
        Ok((package, manifest))
    }

    /// Whether its author signed it.
    pub fn verify(bytes: &'a [u8]) -> Result<Verified<'a>, PackageError> {
        let (package, manifest) = Self::parse(bytes)?;
        if manifest.author.is_empty() {
            return Err(PackageError::Unsigned);
        }
        let keys = package.keys();
        if hexadecimal(&keys.id()) != manifest.author {
            return Err(PackageError::Author);
        }
        if !verify(&keys.signing, &signed_hash(package.manifest_bytes), package.signature) {
            return Err(PackageError::Signature);
        }
        Ok(Verified { package, manifest })
    }

    pub fn keys(&self) -> PublicKeys {
        PublicKeys::from_bytes(self.keys)
    }

    /// A file of the package; `manifest` is its own.
    pub fn file(&self, manifest: &Manifest, path: &str) -> Option<&'a [u8]> {
        let mut start = 0_usize;
        for file in &manifest.files {
            let end = start.checked_add(usize::try_from(file.bytes).ok()?)?;
            if file.path == path {
                return self.contents.get(start..end);
            }
            start = end;
        }
        None
    }
}

impl<'a> Verified<'a> {
    /// The code.
    pub fn component(&self) -> &'a [u8] {
        self.package.file(&self.manifest, &self.manifest.component).unwrap_or(&[])
    }
}

/// A package of these files that nobody has signed yet. The manifest's list of files is made here.
pub fn pack(mut manifest: Manifest, files: &[(String, Vec<u8>)]) -> Result<Vec<u8>, PackageError> {
    manifest.author.clear();
    manifest.files = files
        .iter()
        .map(|(path, bytes)| PackagedFile {
            path: path.clone(),
            bytes: bytes.len() as u64,
            hash: hexadecimal(&hash(bytes)),
        })
        .collect();
    manifest.check()?;
    let contents: Vec<&[u8]> = files.iter().map(|(_, bytes)| bytes.as_slice()).collect();
    let package = assemble(&manifest, [0; KEYS_BYTES], |_| [0; SIGNATURE_BYTES], &contents)?;
    // Its author hears at once what nobody would take.
    Package::parse(&package)?;
    Ok(package)
}

/// The same package, signed by `author`.
pub fn sign(bytes: &[u8], author: &Principal) -> Result<Vec<u8>, PackageError> {
    let (package, mut manifest) = Package::parse(bytes)?;
    let keys = author.public();
    manifest.author = hexadecimal(&keys.id());
    let sign = |manifest: &[u8]| author.sign(&signed_hash(manifest));
    assemble(&manifest, keys.to_bytes(), sign, &[package.contents])
}

fn assemble(
    manifest: &Manifest,
    keys: [u8; KEYS_BYTES],
    sign: impl FnOnce(&[u8]) -> [u8; SIGNATURE_BYTES],
    contents: &[&[u8]],
) -> Result<Vec<u8>, PackageError> {
    let manifest = manifest.to_canonical()?;
    if manifest.len() > MANIFEST_BYTES_MAX {
        return Err(ManifestError::TooLong.into());
    }
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&(manifest.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&manifest);
    bytes.extend_from_slice(&keys);
    bytes.extend_from_slice(&sign(&manifest));
    contents.iter().for_each(|part| bytes.extend_from_slice(part));
    if bytes.len() > PACKAGE_BYTES_MAX {
        return Err(PackageError::TooLong);
    }
    Ok(bytes)
}

fn signed_hash(manifest: &[u8]) -> Hash {
    tagged_hash("blocktree app package v1", &[manifest])
}

#[cfg(test)]
mod tests;
