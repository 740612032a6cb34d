//! An app's source folder, as its author has it: [`PROJECT_FILE`] says what the package is to contain.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{
    Connect, FORMAT, Limits, Manifest, PackageError, Reason, Recipient, Socket, Trigger, Version, Wanted,
    pack,
};
use crate::limits::PACKAGE_BYTES_MAX;

pub const PROJECT_FILE: &str = "app.toml";
/// What the code is called in a package.
const COMPONENT: &str = "app.wasm";

/// The contents of [`PROJECT_FILE`].
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Project {
    pub name: String,
    pub version: Version,
    pub summary: String,
    /// The built code, relative to the folder.
    pub component: PathBuf,
    /// The command that builds it, run by a shell in the folder.
    pub build: Option<String>,
    /// A folder whose files come along, under `files/`.
    pub files: Option<PathBuf>,
    #[serde(default)]
    pub grants: Vec<Wanted>,
    #[serde(default)]
    pub triggers: Vec<Trigger>,
    #[serde(default)]
    pub limits: Limits,
    pub serve: Option<Reason>,
    pub policy: Option<Reason>,
    pub receive: Option<Reason>,
    #[serde(default)]
    pub send: Vec<Recipient>,
    #[serde(default)]
    pub connect: Vec<Connect>,
    #[serde(default)]
    pub sockets: Vec<Socket>,
}

#[derive(Debug, thiserror::Error)]
pub enum ProjectError {
    #[error("cannot read {path}: {error}")]
    Read { path: PathBuf, error: std::io::Error },
    #[error("{path}: {error}")]
    Toml { path: PathBuf, error: Box<toml::de::Error> },
    #[error("{path} is no WebAssembly that an app can be made of: {reason}")]
    Component { path: PathBuf, reason: String },
    #[error("the name of {0} is not UTF-8")]
    Name(PathBuf),
    #[error("{0} is neither a file nor a folder")]
    Kind(PathBuf),
    #[error(transparent)]
    Package(#[from] PackageError),
}

impl Project {
    pub fn read(folder: &Path) -> Result<Self, ProjectError> {
        let path = folder.join(PROJECT_FILE);
        let text =
            fs::read_to_string(&path).map_err(|error| ProjectError::Read { path: path.clone(), error })?;
        toml::from_str(&text).map_err(|error| ProjectError::Toml { path, error: Box::new(error) })
    }

    /// An unsigned package of what was built.
    pub fn pack(&self, folder: &Path) -> Result<Vec<u8>, ProjectError> {
        let path = folder.join(&self.component);
        let code = read(&path)?;
        let code = componentize(&code).map_err(|reason| ProjectError::Component { path, reason })?;
        let mut files = vec![(COMPONENT.to_owned(), code)];
        if let Some(below) = &self.files {
            collect(&folder.join(below), "files", &mut files)?;
        }
        let manifest = Manifest {
            format: FORMAT,
            name: self.name.clone(),
            version: self.version,
            summary: self.summary.clone(),
            author: String::new(),
            component: COMPONENT.to_owned(),
            grants: self.grants.clone(),
            triggers: self.triggers.clone(),
            limits: self.limits,
            serve: self.serve.clone(),
            policy: self.policy.clone(),
            receive: self.receive.clone(),
            send: self.send.clone(),
            connect: self.connect.clone(),
            sockets: self.sockets.clone(),
            files: Vec::new(),
        };
        Ok(pack(manifest, &files)?)
    }
}

/// What compilers for targets without WASI make is a module that describes its imports in a section of its own;
/// this makes a component of it. A component stays as it is.
pub fn componentize(code: &[u8]) -> Result<Vec<u8>, String> {
    // https://webassembly.github.io/spec/core/binary/modules.html: the last two bytes are the layer.
    const MODULE: &[u8] = b"\0asm\x01\0\0\0";
    const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";
    if code.starts_with(COMPONENT) {
        return Ok(code.to_vec());
    }
    if !code.starts_with(MODULE) {
        return Err("it does not begin as WebAssembly does".to_owned());
    }
    let encode = || wit_component::ComponentEncoder::default().validate(true).module(code)?.encode();
    encode().map_err(|error| format!("{error:#}"))
}

/// All files below a folder, in the order of their names.
fn collect(folder: &Path, prefix: &str, files: &mut Vec<(String, Vec<u8>)>) -> Result<(), ProjectError> {
    let failed = |error| ProjectError::Read { path: folder.to_owned(), error };
    let mut entries = fs::read_dir(folder).map_err(failed)?.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let name = entry.file_name().into_string().map_err(|_| ProjectError::Name(path.clone()))?;
        let name = format!("{prefix}/{name}");
        let kind = entry.file_type().map_err(failed)?;
        if kind.is_dir() {
            collect(&path, &name, files)?;
        } else if kind.is_file() {
            files.push((name, read(&path)?));
        } else {
            return Err(ProjectError::Kind(path));
        }
    }
    Ok(())
}

/// A file that may be a part of a package.
fn read(path: &Path) -> Result<Vec<u8>, ProjectError> {
    let failed = |error| ProjectError::Read { path: path.to_owned(), error };
    if fs::metadata(path).map_err(failed)?.len() > PACKAGE_BYTES_MAX as u64 {
        return Err(PackageError::TooLong.into());
    }
    fs::read(path).map_err(failed)
}
