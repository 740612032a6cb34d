//! Compares `docs/commands.md` with what the program says about itself: every command, every option.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

type Options = BTreeSet<String>;

fn help(command: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_blocktree")).args(command).arg("--help").output();
    let output = output.expect("blocktree runs");
    assert!(output.status.success(), "blocktree {} --help fails", command.join(" "));
    String::from_utf8(output.stdout).expect("help is text")
}

/// What stands on the page in place of options that many commands have.
const SHORT: [(&str, &str); 4] = [
    ("HOLDER", "--principal --root"),
    ("BACKUP-PASSPHRASE", "--backup-passphrase-file --backup-passphrase-from"),
    ("NEW-PASSPHRASE", "--new-passphrase-file --new-passphrase-from"),
    ("PASSPHRASE", "--passphrase-file --passphrase-from"),
];

/// Words such as `--size`, without those that every command has.
fn options(text: &str) -> Options {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
        .filter(|word| {
            word.strip_prefix("--").is_some_and(|name| name.starts_with(|c: char| c.is_ascii_lowercase()))
        })
        .filter(|word| !["--help", "--version"].contains(word))
        .map(str::to_owned)
        .collect()
}

/// The commands that a command has, as its help lists them.
fn subcommands(help: &str) -> Vec<String> {
    let list = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    list.take_while(|line| line.starts_with("  "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

/// Every command that does something, with its options.
fn real() -> BTreeMap<String, Options> {
    let mut commands = BTreeMap::new();
    collect(&[], &mut commands);
    commands
}

fn collect(command: &[&str], commands: &mut BTreeMap<String, Options>) {
    let text = help(command);
    let below = subcommands(&text);
    if below.is_empty() {
        commands.insert(command.join(" "), options(usage_and_options(&text)));
    }
    for sub in &below {
        collect(&[command, &[sub]].concat(), commands);
    }
}

/// Help without the prose above it, which may speak of options of others.
fn usage_and_options(help: &str) -> &str {
    &help[help.find("Usage:").expect("help shows the usage")..]
}

fn drawn() -> BTreeMap<String, Options> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/commands.md");
    let page = fs::read_to_string(page).expect("docs/commands.md");
    let sections = page.split("\n## blocktree ").skip(1);
    sections
        .map(|section| {
            // The next section may be of another program.
            let section = section.split("\n## ").next().unwrap_or(section);
            let (name, text) = section.split_once('\n').expect("a section has text");
            let text = SHORT.iter().fold(text.to_owned(), |text, (short, long)| text.replace(short, long));
            (name.to_owned(), options(&text))
        })
        .collect()
}

#[test]
fn page_and_help_agree() {
    assert_eq!(drawn(), real(), "docs/commands.md (left) differs from the help (right)");
}
