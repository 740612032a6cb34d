//! Charts as SVG: bars for a row of the table, and lines for how a cost grows.

use std::fmt::Write as _;

use super::html::escape;
use crate::results::{Results, number};
use crate::subject::Role;

const LABEL: f64 = 100.0;
const BAR: f64 = 18.0;
const LENGTH: f64 = 420.0;
const WIDTH: f64 = 700.0;

/// A bar for each subject, as long as its median, with a line from the smallest to the largest number.
pub(super) fn bars(results: &Results, row: usize) -> String {
    let most = (0..results.columns.len())
        .filter_map(|column| results.cell(row, column).spread())
        .map(|(_, most)| most)
        .fold(0.0, f64::max);
    let height = BAR * results.columns.len() as f64 + 4.0;
    let mut text = open(WIDTH, height, &results.rows[row].title);
    for (i, column) in results.columns.iter().enumerate() {
        let (cell, top) = (results.cell(row, i), BAR * i as f64 + 2.0);
        let middle = top + BAR / 2.0;
        let _ = write!(
            text,
            r#"<text x="{:.0}" y="{:.1}" class="name">{}</text>"#,
            LABEL - 6.0,
            middle + 4.0,
            column.name
        );
        let mut label = "–".to_owned();
        let mut end = LABEL;
        if let (Some(median), Some((least, greatest))) = (cell.median(), cell.spread())
            && most > 0.0
        {
            let place = |value: f64| LABEL + LENGTH * value / most;
            end = place(greatest);
            let class = match column.role {
                Role::Ours => "ours",
                Role::Floor => "floor",
                Role::Peer => "peer",
            };
            let _ = write!(
                text,
                r#"<rect x="{LABEL}" y="{:.1}" width="{:.1}" height="{:.1}" class="{class}"/>"#,
                top + 2.0,
                place(median) - LABEL,
                BAR - 4.0
            );
            let _ = write!(
                text,
                r#"<line x1="{:.1}" y1="{middle:.1}" x2="{end:.1}" y2="{middle:.1}" class="spread"/>"#,
                place(least)
            );
            label = number(median);
            if column.role != Role::Ours
                && let Some(ratio) = results.ratio(row, i)
            {
                let _ = write!(label, "  (ours × {ratio:.2})");
            }
        }
        let why =
            cell.errors.last().map(|error| format!("<title>{}</title>", escape(error))).unwrap_or_default();
        let _ = write!(text, r#"<text x="{:.1}" y="{:.1}">{why}{label}</text>"#, end + 6.0, middle + 4.0);
    }
    text + "</svg>\n"
}

/// How a cost grows: the points of one line.
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) is_ours: bool,
    /// Size and cost, both above zero.
    pub(crate) points: Vec<(f64, f64)>,
    /// With cost proportional to size to the power of this.
    pub(crate) exponent: Option<f64>,
}

/// Lines in a logarithmic plane: what grows with a power of the size is straight, and steep by that power.
pub(crate) fn growth_chart(title: &str, size_unit: &str, cost_unit: &str, series: &[Series]) -> String {
    const HEIGHT: f64 = 260.0;
    const LEFT: f64 = 60.0;
    const RIGHT: f64 = 470.0;
    const TOP: f64 = 14.0;
    const BOTTOM: f64 = 220.0;
    let points = || series.iter().flat_map(|series| &series.points);
    let bounds = |values: &mut dyn Iterator<Item = f64>| -> Option<(f64, f64)> {
        let (least, most) =
            values.map(f64::ln).fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), value| {
                (least.min(value), most.max(value))
            });
        // Some room, and never nothing.
        (least <= most).then_some((least - 0.2, most + 0.2))
    };
    let mut text = open(WIDTH, HEIGHT, title);
    let (Some(sizes), Some(costs)) =
        (bounds(&mut points().map(|point| point.0)), bounds(&mut points().map(|point| point.1)))
    else {
        return text + r#"<text x="60" y="40">nothing was measured</text></svg>"#;
    };
    let x = |size: f64| LEFT + (RIGHT - LEFT) * (size.ln() - sizes.0) / (sizes.1 - sizes.0);
    let y = |cost: f64| BOTTOM - (BOTTOM - TOP) * (cost.ln() - costs.0) / (costs.1 - costs.0);
    let _ = write!(
        text,
        r#"<path d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}" class="axis"/><text x="{LEFT}" y="{:.0}">{}</text>"#,
        BOTTOM + 34.0,
        escape(&format!("{size_unit} → {cost_unit} ↑")),
    );
    let mut shown: Vec<f64> = points().map(|point| point.0).collect();
    shown.sort_by(f64::total_cmp);
    shown.dedup();
    for size in shown {
        let _ = write!(
            text,
            r#"<text x="{:.1}" y="{:.0}" class="tick">{}</text>"#,
            x(size),
            BOTTOM + 16.0,
            number(size)
        );
    }
    for (i, series) in series.iter().enumerate() {
        let class = if series.is_ours { "ours".to_owned() } else { format!("line{}", i % 5) };
        let line: Vec<String> =
            series.points.iter().map(|&(size, cost)| format!("{:.1},{:.1}", x(size), y(cost))).collect();
        let _ = write!(text, r#"<polyline points="{}" class="{class}"/>"#, line.join(" "));
        for &(size, cost) in &series.points {
            let _ =
                write!(text, r#"<circle cx="{:.1}" cy="{:.1}" r="3" class="{class}"/>"#, x(size), y(cost));
            if series.is_ours {
                let _ = write!(
                    text,
                    r#"<text x="{:.1}" y="{:.1}" class="tick">{}</text>"#,
                    x(size),
                    y(cost) - 6.0,
                    number(cost)
                );
            }
        }
        let exponent = series.exponent.map(|exponent| format!(": size^{exponent:.3}")).unwrap_or_default();
        let at = TOP + 18.0 * (i as f64 + 1.0);
        let _ = write!(
            text,
            r#"<rect x="485" y="{:.0}" width="12" height="4" class="{class}"/><text x="502" y="{at:.0}">{}{exponent}</text>"#,
            at - 6.0,
            escape(&series.name)
        );
    }
    text + "</svg>\n"
}

fn open(width: f64, height: f64, title: &str) -> String {
    let title = escape(title);
    format!(
        r#"<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-label="{title}">"#
    )
}
