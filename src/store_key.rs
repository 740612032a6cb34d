//! By what a store is opened: its passphrase, or a principal's key.

use std::path::Path;

use anyhow::Context as _;
use blocktree_engine::Credential;
use blocktree_engine::crypto::{Principal, PrincipalId};

use crate::passphrase::{Passphrase, Source, obtain};
use crate::principals::Who;

/// What `--principal` and `--root` say.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct HolderArguments {
    /// Open the store with this principal's key instead of the store's passphrase: a name or a file
    #[arg(long, value_name = "PRINCIPAL")]
    pub(crate) principal: Option<Who>,
    /// With --principal: the id of the root principal that the store must belong to
    #[arg(long, value_name = "ID", requires = "principal", value_parser = parse_id)]
    pub(crate) root: Option<PrincipalId>,
}

/// A credential with what it is made of.
pub(crate) enum StoreKey {
    Passphrase(Passphrase),
    Principal { holder: Box<Principal>, root: Option<PrincipalId> },
}

impl StoreKey {
    /// Asks for what opens the store at `store`: its passphrase, or that of the principal's file, if it has one.
    pub(crate) fn obtain(
        source: Option<&Source>,
        arguments: &HolderArguments,
        store: &Path,
    ) -> anyhow::Result<Self> {
        match &arguments.principal {
            None => Ok(Self::Passphrase(obtain(source, store, false)?)),
            Some(who) => Ok(Self::of(who.open(source)?, arguments.root)),
        }
    }

    pub(crate) fn of(holder: Principal, root: Option<PrincipalId>) -> Self {
        Self::Principal { holder: Box::new(holder), root }
    }

    pub(crate) fn credential(&self) -> Credential<'_> {
        match self {
            Self::Passphrase(passphrase) => Credential::Passphrase(passphrase),
            Self::Principal { holder, root } => Credential::Principal { holder, root: *root },
        }
    }
}

/// The 64 hexadecimal digits of a principal's id.
pub(crate) fn parse_id(text: &str) -> Result<PrincipalId, String> {
    let digits = text.as_bytes();
    let value =
        |pair: &[u8]| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok());
    let bytes: Option<Vec<u8>> = digits.chunks(2).map(value).collect();
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| {
        "the id of a principal has 64 hexadecimal digits; `blocktree info` shows it".to_owned()
    })
}

/// The number that names a capability, as `blocktree cap list` prints it.
pub(crate) fn parse_serial(text: &str) -> Result<u64, String> {
    let parsed = u64::from_str_radix(text, 16).ok().filter(|serial| *serial != 0);
    parsed.ok_or_else(|| {
        "a capability is named by up to 16 hexadecimal digits; `blocktree cap list` shows them".into()
    })
}

/// Checks that the key of `Who` can be asked for, without keeping it: what the daemon does again.
pub(crate) fn passphrase_of(who: &Who, source: Option<&Source>) -> anyhow::Result<Passphrase> {
    let passphrase = who.passphrase(source)?;
    who.open_with(&passphrase).context("cannot use the principal")?;
    Ok(passphrase)
}
