//! The tutorial, as a reader does it: its commands are run one block after the other.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::stage::Stage;
use crate::support::{can_mount, finish, wait_until};

/// What the page says that the logs of its apps show.
const SHOWN: [(&str, &str); 2] = [("word-count", "first.txt: 3 words"), ("words", "second.txt: 2 words")];

/// The blocks of commands of a page: those that are not marked as something else.
fn blocks(page: &str) -> Vec<&str> {
    let parts = page.split("\n```").enumerate().filter(|(number, _)| number % 2 == 1);
    parts.filter_map(|(_, block)| block.strip_prefix('\n')).collect()
}

#[test]
fn the_tutorial_does_what_it_says() {
    if !can_mount() {
        return;
    }
    let mut stage = Stage::new();
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/apps-tutorial.md"));
    let page = page.expect("the page");
    for (_, line) in SHOWN {
        assert!(page.contains(&format!("`{line}`")), "the page says what is shown");
    }
    let folder = stage.place.path("reader");
    fs::create_dir(&folder).expect("made");
    let mut environment = xtask::guests::environment().expect("a compiler");
    let own = Path::new(env!("CARGO_BIN_EXE_blocktree")).parent().expect("a folder").to_owned();
    let path = &mut environment.iter_mut().find(|(name, _)| *name == "PATH").expect("a path").1;
    let paths = std::iter::once(own).chain(std::env::split_paths(path)).collect::<Vec<_>>();
    *path = std::env::join_paths(paths).expect("a path");
    // The apps of these tests are built into one folder, in place of the one beside the sources, and with the same tools.
    let built = xtask::guests::build().expect("the example apps are built");
    let home = std::env::var_os("HOME").unwrap_or_default();
    let of_home = |variable: &str, name: &str| {
        std::env::var_os(variable).unwrap_or_else(|| Path::new(&home).join(name).into())
    };
    let (cargo, rustup) = (of_home("CARGO_HOME", ".cargo"), of_home("RUSTUP_HOME", ".rustup"));
    let mut commands = 0;
    for block in blocks(&page) {
        // Done here by the environment.
        if block.starts_with("rustup target add") {
            continue;
        }
        let block = block.replace("/mnt", &stage.place.mountpoint().to_string_lossy());
        // It asks for a passphrase, and there is nobody to type one.
        let block = block.replace("principal create me", "principal create me --no-passphrase");
        let mut command = Command::new("bash");
        command.args(["-ec", &block]).current_dir(&folder).envs(environment.iter().cloned());
        command.env_remove("RUSTFLAGS").env_remove("XDG_CONFIG_HOME").env_remove("XDG_DATA_HOME");
        command.env("HOME", &folder).env("CARGO_HOME", &cargo).env("RUSTUP_HOME", &rustup);
        finish(&mut command).ok();
        commands += block.lines().count();
        if block.contains("app new --language typescript words") {
            std::os::unix::fs::symlink(xtask::guests::typescript::tools(), folder.join("words/node_modules"))
                .expect("linked");
        }
        let made = folder.join("word-count/target/wasm32-unknown-unknown/release");
        if block.contains("app new word-count") {
            fs::create_dir_all(made.parent().expect("a folder")).expect("made");
            std::os::unix::fs::symlink(&built, made).expect("linked");
        }
    }
    assert!(commands >= 14, "these are too few: {commands}");
    for (app, line) in SHOWN {
        wait_until(&format!("{app} has counted"), || stage.logs(app).contains(line));
    }
    stage.umount();
}
