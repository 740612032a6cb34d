//! Pages that stand alone: one file, no script, nothing loaded.

use std::fmt::Write as _;

use super::chart::bars;
use crate::results::{Results, number};

const STYLE: &str = "
:root { color-scheme: light dark; --ours: #1a7f37; --floor: #8c959f; --peer: #bc6c25; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { font-size: 1rem; margin: 1.6rem 0 .2rem; } pre { overflow-x: auto; }
table { border-collapse: collapse; } td, th { padding: .15rem .7rem; text-align: left; border-bottom: 1px solid #8884; }
svg { max-width: 100%; height: auto; } svg text { font-size: 12px; fill: currentColor; }
.name { text-anchor: end; } .tick { text-anchor: middle; }
.ours { fill: var(--ours); } .floor { fill: var(--floor); } .peer { fill: var(--peer); }
.spread, .axis { stroke: currentColor; fill: none; opacity: .6; }
polyline { fill: none !important; stroke-width: 2; } polyline.ours { stroke: var(--ours); }
.line0 { fill: #8c959f; stroke: #8c959f; } .line1 { fill: #0969da; stroke: #0969da; }
.line2 { fill: #bc6c25; stroke: #bc6c25; } .line3 { fill: #8250df; stroke: #8250df; }
.line4 { fill: #bf3989; stroke: #bf3989; }
.missed { color: #cf222e; font-weight: 600; }
";

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn page(title: &str, circumstances: &str, body: &str) -> String {
    let (title, circumstances) = (escape(title), escape(circumstances));
    format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title>\n\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style>\n\
         <h1>{title}</h1>\n<pre>{circumstances}</pre>\n{body}</html>\n"
    )
}

/// The results of a comparison: what was wanted, then a chart for each row.
pub(crate) fn compare_page(results: &Results, circumstances: &str) -> String {
    let mut body = String::from(
        "<p>Bars are medians, lines across them go from the smallest to the largest number. “ours ×” says how many \
         times as good Blocktree is: above 1 is better, whatever the unit. “–” was not possible; the reason shows on \
         pointing at it.</p>\n<ul>\n",
    );
    for column in &results.columns {
        let what = column.left_out.as_ref().map(|reason| format!("left out: {reason}"));
        let what = what.unwrap_or_else(|| column.version.clone());
        let _ = writeln!(body, "<li>{}: {}</li>", column.name, escape(&what));
    }
    body += "</ul>\n<table><tr><th>job</th><th>wanted</th><th>reached</th></tr>\n";
    for verdict in results.verdicts() {
        let class = if verdict.is_met { "met" } else { "missed" };
        let _ = writeln!(
            body,
            "<tr><td>{}</td><td>{}</td><td class=\"{class}\">{}</td></tr>",
            escape(&verdict.title),
            escape(&verdict.wanted),
            number(verdict.reached)
        );
    }
    body += "</table>\n";
    for (i, row) in results.rows.iter().enumerate() {
        let unit = row.unit;
        let better = if unit.more_is_better() { "more" } else { "less" };
        let _ = write!(
            body,
            "<h2>{}</h2><small>{}, {better} is better</small><br>\n{}",
            escape(&row.title),
            unit.text(),
            bars(results, i)
        );
    }
    page("Blocktree beside other filesystems", circumstances, &body)
}

/// Charts of how costs grow.
pub(crate) fn growth_page(charts: &[(String, String)], circumstances: &str) -> String {
    let mut body = String::from(
        "<p>Both axes are logarithmic. “size^0” is a cost that does not grow, “size^1” one that grows as fast as the \
         size.</p>\n",
    );
    for (title, chart) in charts {
        let _ = write!(body, "<h2>{}</h2>\n{chart}", escape(title));
    }
    page("How costs grow", circumstances, &body)
}

#[cfg(test)]
mod tests {
    use super::super::{Series, growth_chart};
    use super::*;
    use crate::results::tests::sample;

    #[test]
    fn page_holds_a_chart_for_each_row_and_escapes() {
        let text = compare_page(&sample(), "a <machine>");
        assert_eq!(text.matches("<svg").count(), 2);
        assert_eq!(text.matches("</svg>").count(), 2);
        assert!(text.contains("a &lt;machine&gt;") && text.contains("random-write &amp; more"));
        assert!(text.contains("<title>it fell over</title>–"));
        assert!(!text.contains("NaN") && !text.contains("inf"));
    }

    #[test]
    fn a_line_that_does_not_grow_is_drawn() {
        let series = Series {
            name: "blocktree".into(),
            is_ours: true,
            points: vec![(1.0, 2.0), (10.0, 2.0)],
            exponent: Some(0.0),
        };
        let chart = growth_chart("reads", "GiB", "µs", &[series]);
        assert!(chart.contains("blocktree: size^0.000") && !chart.contains("NaN"));
        assert_eq!(chart.matches("<circle").count(), 2);
        assert!(growth_chart("none", "GiB", "µs", &[]).contains("nothing was measured"));
    }
}
