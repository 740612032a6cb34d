//! The table as Markdown, for docs/benchmarks.md.

use std::fmt::Write as _;

use crate::results::{Cell, Results, number};
use crate::subject::Role;

/// One row for each number, one column for each subject, and what Blocktree is worth beside them.
pub(crate) fn table(results: &Results) -> String {
    let names: Vec<&str> = results.columns.iter().map(|column| column.name).collect();
    let mut text = format!("| job | unit | {} | × ext4 | × best peer |\n", names.join(" | "));
    text += &format!("| --- | --- |{} ---: | --- |\n", " ---: |".repeat(names.len()));
    for (i, row) in results.rows.iter().enumerate() {
        let _ = write!(text, "| {} | {} |", row.title, row.unit.text());
        for j in 0..names.len() {
            let _ = write!(text, " {} |", shown(results.cell(i, j)));
        }
        let ext4 = results.column("ext4").and_then(|column| results.ratio(i, column));
        let peer = results.best_peer(i).map(|(name, ratio)| format!("{ratio:.2} ({name})"));
        let ext4 = ext4.map_or("–".into(), |ratio| format!("{ratio:.2}"));
        let _ = writeln!(text, " {ext4} | {} |", peer.as_deref().unwrap_or("–"));
    }
    text + "\n" + &verdicts(results) + &versions(results)
}

/// Median, and where there are several, smallest and largest.
fn shown(cell: &Cell) -> String {
    match (cell.median(), cell.spread()) {
        (Some(median), Some((least, most))) if cell.values.len() > 1 => {
            format!("{} ({}–{})", number(median), number(least), number(most))
        }
        (Some(median), _) => number(median),
        _ => "–".into(),
    }
}

fn verdicts(results: &Results) -> String {
    let verdicts = results.verdicts();
    let missed: Vec<_> = verdicts.iter().filter(|verdict| !verdict.is_met).collect();
    let mut text = format!("{} of {} targets are met.", verdicts.len() - missed.len(), verdicts.len());
    if !missed.is_empty() {
        text += " These are not:\n\n| job | wanted | reached |\n| --- | --- | ---: |\n";
        for verdict in missed {
            let _ =
                writeln!(text, "| {} | {} | {} |", verdict.title, verdict.wanted, number(verdict.reached));
        }
    }
    text.trim_end().to_owned() + "\n\n"
}

fn versions(results: &Results) -> String {
    let mut text = String::new();
    for column in &results.columns {
        let kind = match column.role {
            Role::Ours => "",
            Role::Floor => ", a floor",
            Role::Peer => ", a peer",
        };
        let what = match &column.left_out {
            Some(reason) => format!("left out: {reason}"),
            None => column.version.clone(),
        };
        let fsync = if column.is_durable {
            ""
        } else {
            "; its fsync does not wait for the disk, so it is no peer where one is part of the job"
        };
        let _ = writeln!(text, "- {}{kind}: {what}{fsync}", column.name);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::tests::sample;

    #[test]
    fn table_has_medians_spreads_and_gaps() {
        let text = table(&sample());
        let rows: Vec<&str> = text.lines().collect();
        assert_eq!(
            rows[2],
            "| random-write & more | per second | 90.0 (80.0–100) | 200 | 9.00 (6.00–12.0) | – | 900 | 0.45 | 10.00 (gocryptfs) |"
        );
        assert_eq!(rows[3], "| memory & more | MiB | 50.0 | – | 100 | 25.0 | – | – | 0.50 (encfs) |");
        assert!(text.contains("3 of 4 targets are met. These are not:"), "{text}");
        assert!(text.contains("| random-write & more | 0.7 × ext4 | 0.450 |"));
    }
}
