//! Patterns of paths: `*` and `?` stay within a part of a path, `**` as a whole part stands for any number of parts,
//! and `{a,b}` for either text.

use crate::limits::GLOB_BYTES_MAX;

/// Alternatives of one pattern: `{a,b}` twice makes four. More are refused.
const ALTERNATIVES_MAX: usize = 64;

/// A pattern that can be matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    /// Any of these, each as its parts.
    alternatives: Vec<Vec<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GlobError {
    #[error("a pattern is empty or too long")]
    Length,
    #[error("a brace has no other")]
    Brace,
    #[error("too many alternatives")]
    Alternatives,
    #[error("a part of a pattern is empty, \".\" or \"..\"")]
    Part,
}

impl Glob {
    pub fn parse(text: &str) -> Result<Self, GlobError> {
        if text.is_empty() || text.len() > GLOB_BYTES_MAX {
            return Err(GlobError::Length);
        }
        let mut alternatives = Vec::new();
        for text in expand(text)? {
            let parts: Vec<String> = text.split('/').map(str::to_owned).collect();
            if parts.iter().any(|part| matches!(part.as_str(), "" | "." | "..")) {
                return Err(GlobError::Part);
            }
            alternatives.push(parts);
        }
        Ok(Self { alternatives })
    }

    /// Whether a path, parts between slashes, is one of those meant.
    pub fn matches(&self, path: &str) -> bool {
        let path: Vec<&str> = path.split('/').collect();
        self.alternatives.iter().any(|pattern| parts_match(pattern, &path))
    }
}

/// Writes braces out.
fn expand(text: &str) -> Result<Vec<String>, GlobError> {
    let mut done = vec![String::new()];
    let mut rest = text;
    while let Some(open) = rest.find(['{', '}']) {
        let (before, tail) = rest.split_at(open);
        let tail = tail.strip_prefix('{').ok_or(GlobError::Brace)?;
        let (inside, after) = tail.split_once('}').ok_or(GlobError::Brace)?;
        if inside.contains('{') {
            return Err(GlobError::Brace);
        }
        let choices: Vec<&str> = inside.split(',').collect();
        if done.len() * choices.len() > ALTERNATIVES_MAX {
            return Err(GlobError::Alternatives);
        }
        done = done
            .iter()
            .flat_map(|start| choices.iter().map(move |choice| format!("{start}{before}{choice}")))
            .collect();
        rest = after;
    }
    Ok(done.into_iter().map(|start| start + rest).collect())
}

fn parts_match(pattern: &[String], path: &[&str]) -> bool {
    // Which prefixes of the path the pattern's parts so far can have eaten.
    let mut reached = vec![false; path.len() + 1];
    reached[0] = true;
    for part in pattern {
        let mut next = vec![false; path.len() + 1];
        let mut any = false;
        for at in 0..=path.len() {
            if part == "**" {
                any |= reached[at];
                next[at] = any;
            } else if at > 0 && reached[at - 1] {
                next[at] = part_matches(part, path[at - 1]);
            }
        }
        reached = next;
    }
    reached[path.len()]
}

fn part_matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut at, mut from) = (0, 0);
    // Where the last star is, and how far the text was when it was met.
    let mut star: Option<(usize, usize)> = None;
    while from < text.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, from));
                at += 1;
            }
            Some(&one) if one == '?' || one == text[from] => {
                at += 1;
                from += 1;
            }
            _ => match star {
                Some((place, eaten)) => {
                    at = place + 1;
                    from = eaten + 1;
                    star = Some((place, eaten + 1));
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|one| *one == '*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(pattern: &str, yes: &[&str], no: &[&str]) {
        let glob = Glob::parse(pattern).expect("a pattern");
        yes.iter().for_each(|path| assert!(glob.matches(path), "{pattern} should match {path}"));
        no.iter().for_each(|path| assert!(!glob.matches(path), "{pattern} should not match {path}"));
    }

    #[test]
    fn patterns_match_what_they_say() {
        check("*.jpg", &["a.jpg", ".jpg"], &["a.png", "b/a.jpg", "a.jpg/b"]);
        check("**/*.{jpg,png}", &["a.jpg", "x/y/a.png"], &["a.gif", "a.jpg/b"]);
        check("**", &["a", "a/b/c"], &[]);
        check("a/**/z", &["a/z", "a/b/c/z"], &["a", "z", "b/a/z"]);
        check("?x*y", &["axy", "axby", "axyy"], &["xy", "ax", "axyz"]);
        check("ä*", &["ä", "äb"], &["a"]);
    }

    #[test]
    fn malformed_patterns_are_refused() {
        for (text, error) in [
            ("", GlobError::Length),
            ("{a", GlobError::Brace),
            ("a}", GlobError::Brace),
            ("{a{b}", GlobError::Brace),
            ("a//b", GlobError::Part),
            ("../b", GlobError::Part),
            ("/b", GlobError::Part),
            ("{1,2,3,4,5}{1,2,3,4,5}{1,2,3,4,5}", GlobError::Alternatives),
        ] {
            assert_eq!(Glob::parse(text), Err(error), "{text}");
        }
        assert_eq!(Glob::parse(&"a".repeat(GLOB_BYTES_MAX + 1)), Err(GlobError::Length));
    }

    /// The same by trying everything.
    fn slow(pattern: &[char], text: &[char]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some(('*', rest)) => (0..=text.len()).any(|at| slow(rest, &text[at..])),
            Some((one, rest)) => text
                .split_first()
                .is_some_and(|(first, text)| (*one == '?' || one == first) && slow(rest, text)),
        }
    }

    proptest! {
        #[test]
        fn stars_match_as_if_everything_was_tried(pattern in "[ab?*]{1,8}", text in "[ab]{0,8}") {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(part_matches(&pattern, &text), slow(&chars(&pattern), &chars(&text)));
        }
    }
}
