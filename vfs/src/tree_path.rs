//! Paths in the tree of a store as people write them: `/a/b`, or `/<root principal>/a/b`.
//!
//! With the id of the root principal in front, a path certifies itself: the id is the hash of the keys that all rights come
//! from, so another store, whoever offers it, does not pass for the one that is meant.

use std::fmt;
use std::str::FromStr;

use blocktree_engine::crypto::{PrincipalId, hexadecimal};

use crate::layout::NAME_BYTES_MAX;

/// The longest path, as the kernel has it, without the zero at its end.
const PATH_BYTES_MAX: usize = 4095;

/// A path from the root of a tree.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TreePath {
    root: Option<PrincipalId>,
    names: Vec<String>,
}

/// Why a text is no path in a tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreePathError {
    #[error("a path in the tree begins with /")]
    Relative,
    #[error("a path in the tree has no ..")]
    Above,
    #[error("a path in the tree, or a name in it, is too long")]
    TooLong,
    #[error("a path in the tree has no zero bytes")]
    Zero,
}

/// The path is one in another store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the path is one in the store of the root principal {meant}, and this store is that of {found}")]
pub struct OtherRoot {
    pub meant: String,
    pub found: String,
}

impl FromStr for TreePath {
    type Err = TreePathError;

    /// The first name is a root principal's id if it has 64 hexadecimal digits; `/./` in front of a name says that it is
    /// none.
    fn from_str(text: &str) -> Result<Self, TreePathError> {
        let path = text.strip_prefix('/').ok_or(TreePathError::Relative)?;
        if text.len() > PATH_BYTES_MAX {
            return Err(TreePathError::TooLong);
        }
        let mut names = path.split('/').peekable();
        let root = names.peek().and_then(|first| parse_id(first));
        if root.is_some() {
            names.next();
        }
        let names: Vec<String> =
            names.filter(|name| !name.is_empty() && *name != ".").map(str::to_owned).collect();
        if names.iter().any(|name| name == "..") {
            return Err(TreePathError::Above);
        }
        if names.iter().any(|name| name.len() > NAME_BYTES_MAX) {
            return Err(TreePathError::TooLong);
        }
        if names.iter().any(|name| name.contains('\0')) {
            return Err(TreePathError::Zero);
        }
        Ok(Self { root, names })
    }
}

impl TreePath {
    /// The names from the root of the tree on, if the path is one in the store of this root principal.
    pub fn names_in(&self, root: &PrincipalId) -> Result<&[String], OtherRoot> {
        match self.root {
            Some(meant) if meant != *root => {
                Err(OtherRoot { meant: hexadecimal(&meant), found: hexadecimal(root) })
            }
            _ => Ok(&self.names),
        }
    }

    /// The root principal that it names.
    pub fn root(&self) -> Option<&PrincipalId> {
        self.root.as_ref()
    }

    /// The same path, certified by this root principal.
    pub fn certified_by(&self, root: PrincipalId) -> Self {
        Self { root: Some(root), names: self.names.clone() }
    }
}

impl fmt::Display for TreePath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(root) = &self.root {
            write!(formatter, "/{}", hexadecimal(root))?;
        } else if self.names.first().is_some_and(|name| parse_id(name).is_some()) {
            formatter.write_str("/.")?;
        }
        if self.root.is_none() && self.names.is_empty() {
            return formatter.write_str("/");
        }
        self.names.iter().try_for_each(|name| write!(formatter, "/{name}"))
    }
}

fn parse_id(text: &str) -> Option<PrincipalId> {
    let digits = text.as_bytes();
    let mut id = PrincipalId::default();
    if digits.len() != 2 * id.len() {
        return None;
    }
    for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
        let value = |digit: u8| char::from(digit).to_digit(16);
        *byte = (value(pair[0])? << 4 | value(pair[1])?) as u8;
    }
    Some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> TreePath {
        text.parse().unwrap()
    }

    #[test]
    fn paths_are_lists_of_names() {
        let root = [0xab; 32];
        for text in ["/a/b", "//a/./b/", "/./a/b"] {
            assert_eq!(parse(text).names_in(&root).unwrap(), ["a", "b"]);
            assert_eq!(parse(text).to_string(), "/a/b");
        }
        assert!(parse("/").names_in(&root).unwrap().is_empty());
        assert_eq!(parse("/").to_string(), "/");
        let error = |text: &str| text.parse::<TreePath>().unwrap_err();
        assert_eq!(error("a/b"), TreePathError::Relative);
        assert_eq!(error(""), TreePathError::Relative);
        assert_eq!(error("/a/../b"), TreePathError::Above);
        assert_eq!(error("/a\0"), TreePathError::Zero);
        assert_eq!(error(&format!("/{}", "x".repeat(NAME_BYTES_MAX + 1))), TreePathError::TooLong);
        assert_eq!(error(&"/x".repeat(PATH_BYTES_MAX)), TreePathError::TooLong);
    }

    #[test]
    fn a_root_in_front_must_be_the_stores() {
        let (root, other) = ([0xab; 32], [0xcd; 32]);
        let text = format!("/{}/a/b", hexadecimal(&root));
        let path = parse(&text);
        assert_eq!(path, parse("/a/b").certified_by(root));
        assert_eq!((path.to_string(), path.root()), (text.clone(), Some(&root)));
        assert_eq!(path.names_in(&root).unwrap(), ["a", "b"]);
        assert!(path.names_in(&other).unwrap_err().to_string().contains(&hexadecimal(&other)));
        assert_eq!(parse(&text.to_uppercase()).root(), Some(&root));
        // One that looks like an id, and is a name.
        let name = parse(&format!("/.{text}"));
        assert_eq!((name.root(), parse(&name.to_string())), (None, name.clone()));
        assert_eq!(name.names_in(&other).unwrap().len(), 3);
    }
}
