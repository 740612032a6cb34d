//! Results as people read them: a Markdown table, and an HTML page with charts that needs nothing else.

mod chart;
mod html;
mod markdown;

pub(crate) use chart::{Series, growth_chart};
pub(crate) use html::{compare_page, growth_page};
pub(crate) use markdown::table;
