//! Ranges of a file, as HTTP asks for them (RFC 9110, section 14).

/// What is to be sent.
pub(crate) enum Part {
    All,
    Of {
        start: u64,
        length: u64,
    },
    /// Nothing: the file does not reach so far.
    Outside,
}

/// What the header `range` asks for, of a file of so many bytes. Several ranges at once are answered with all of it.
pub(crate) fn part(asked: &str, size: u64) -> Part {
    let Some(range) = asked.strip_prefix("bytes=").filter(|range| !range.contains(',')) else {
        return Part::All;
    };
    let Some((first, last)) = range.trim().split_once('-') else { return Part::All };
    let number =
        |text: &str| text.bytes().all(|digit| digit.is_ascii_digit()).then(|| text.parse::<u64>().ok());
    match (first, last) {
        ("", "") => Part::All,
        ("", last) => match number(last).flatten() {
            Some(0) => Part::Outside,
            Some(length) if size > 0 => {
                let length = length.min(size);
                Part::Of { start: size - length, length }
            }
            Some(_) => Part::Outside,
            None => Part::All,
        },
        (first, last) => match (number(first).flatten(), number(last).flatten()) {
            (Some(start), _) if start >= size => Part::Outside,
            (Some(start), _) if last.is_empty() => Part::Of { start, length: size - start },
            (Some(start), Some(end)) if end >= start => {
                Part::Of { start, length: end.min(size - 1) - start + 1 }
            }
            _ => Part::All,
        },
    }
}
