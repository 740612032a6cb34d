//! The page of results: docs/benchmarks.md. Each task owns what is between its two marks.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use xtask::command::{output, root};

/// Puts a task's results on the page, with what is needed to read them.
pub(crate) fn write(section: &str, command: &str, text: &str) -> Result<()> {
    let page = root().join("docs/benchmarks.md");
    let old = fs::read_to_string(&page).with_context(|| format!("cannot read {}", page.display()))?;
    let new = replace(&old, section, &format!("{}\n\n{text}", circumstances(command)?))?;
    fs::write(&page, new).with_context(|| format!("cannot write {}", page.display()))
}

fn replace(page: &str, section: &str, text: &str) -> Result<String> {
    let (begin, end) = (format!("<!-- {section}: begin -->"), format!("<!-- {section}: end -->"));
    let (before, rest) = page.split_once(&begin).with_context(|| format!("the page lacks {begin}"))?;
    let (_, after) = rest.split_once(&end).with_context(|| format!("the page lacks {end}"))?;
    Ok(format!("{before}{begin}\n\n{}\n\n{end}{after}", text.trim_end()))
}

/// The machine, its kernel, the day, and how to do it again.
pub(crate) fn circumstances(command: &str) -> Result<String> {
    let ask = |program: &str, arguments: &[&str]| -> Result<String> {
        Ok(output(Command::new(program).args(arguments))?.trim().to_owned())
    };
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, model)| model);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory_kib = memory.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0);
    Ok(format!(
        "{model}, {} cores, {} MiB of memory; Linux {}; {}.\n\n```\n{command}\n```",
        ask("nproc", &[])?,
        memory_kib >> 10,
        ask("uname", &["-r"])?,
        ask("date", &["-u", "+%Y-%m-%d"])?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let page = "a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb\n";
        let once = replace(page, "x", "new\n").unwrap();
        assert_eq!(once, "a\n<!-- x: begin -->\n\nnew\n\n<!-- x: end -->\nb\n");
        assert_eq!(replace(&once, "x", "new").unwrap(), once);
        assert!(replace(page, "y", "new").is_err());
    }
}
