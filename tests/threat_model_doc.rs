//! Holds `docs/threat-model.md` against the tests: each line of its tables names tests, and all of them exist.

use std::fs;
use std::path::Path;

/// The pieces of `text` between backquotes.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_line_names_a_test_that_exists() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(top.join("docs/threat-model.md")).unwrap();
    let rows = page.lines().filter(|line| {
        line.starts_with("| ") && !line.starts_with("| ---") && !line.ends_with("| shown by |")
    });
    let mut named = 0;
    for row in rows {
        let shown_by = row.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
        for place in shown_by.split(';') {
            let [file, tests @ ..] = &quoted(place)[..] else { panic!("names no test: {row}") };
            let source = fs::read_to_string(top.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
            assert!(!tests.is_empty(), "names no test: {row}");
            for test in tests {
                // Those of a module are indented.
                let found = ["", "    "]
                    .iter()
                    .any(|indent| source.contains(&format!("#[test]\n{indent}fn {test}()")));
                assert!(found, "{file} has no test {test}");
                named += 1;
            }
        }
    }
    assert!(named > 20, "{named}");
}
