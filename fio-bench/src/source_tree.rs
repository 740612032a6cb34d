//! A source tree that is the same on every machine, as an archive: text in folders of folders, with sizes as in a
//! real one: most files of a few KiB, some of hundreds.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use xtask::command::execute;
use xtask::scratch::Scratch;

/// The name of its top folder.
pub(crate) const TREE: &str = "tree";
/// Stands in one of its files.
pub(crate) const NEEDLE: &str = "a needle in this haystack";

const SEED: u64 = 0x7ee;
const WORDS: [&str; 16] = [
    "let ", "return ", "struct ", "index", "offset", " = ", "(", ")", ";\n", "{\n", "}\n", "    ", "value",
    ".len()", "// why ", "&self",
];

/// Makes the archive of a tree of `count` files.
pub(crate) fn archive(scratch: &Scratch, count: usize) -> Result<PathBuf> {
    let (tree, archive) = (scratch.join(TREE), scratch.join("tree.tar"));
    write(&tree, count)?;
    execute(Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(scratch.join("")).arg(TREE))?;
    fs::remove_dir_all(tree)?;
    Ok(archive)
}

fn write(tree: &Path, count: usize) -> Result<()> {
    let mut random = StdRng::seed_from_u64(SEED);
    for i in 0..count {
        let folder = tree.join(format!("part-{:03}/module-{:02}", i / 240, i / 12 % 20));
        fs::create_dir_all(&folder)?;
        // Doubling eleven times at most, each less likely: a median of about 4 KiB, a mean of about 11.
        let mut bytes = random.random_range(300..3000);
        while bytes < 512 << 10 && random.random_bool(0.58) {
            bytes *= 2;
        }
        let mut text = String::with_capacity(bytes + 64);
        if i == count / 2 {
            text += NEEDLE;
        }
        while text.len() < bytes {
            text += WORDS[random.random_range(0..WORDS.len())];
        }
        fs::write(folder.join(format!("file_{i:05}.rs")), text)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archive_holds_the_tree() {
        let scratch = Scratch::new(&std::env::temp_dir(), "source tree test").unwrap();
        let archive = archive(&scratch, 30).unwrap();
        let list = xtask::command::output(Command::new("tar").arg("-tf").arg(archive)).unwrap();
        assert_eq!(list.lines().filter(|line| line.ends_with(".rs")).count(), 30);
        assert!(list.lines().all(|line| line.starts_with(TREE)));
    }
}
