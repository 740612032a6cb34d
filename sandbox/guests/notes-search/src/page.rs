//! What is sent to browsers and programs.

use crate::blocktree::app::http_exchange::Exchange;
use crate::blocktree::app::types::Error;
use crate::index::Note;

const WRITE_BYTES: usize = 1 << 20;

pub(crate) fn send(exchange: &Exchange, status: u16, kind: &str, body: &str) -> Result<(), Error> {
    let headers = [
        ("content-type", kind.to_owned()),
        ("content-length", body.len().to_string()),
        // What is in notes is text here, whatever it is there.
        (
            "content-security-policy",
            "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'".to_owned(),
        ),
        ("cache-control", "no-store".to_owned()),
    ];
    exchange.respond(status, &headers.map(|(name, value)| (name.to_owned(), value)))?;
    body.as_bytes().chunks(WRITE_BYTES).try_for_each(|part| exchange.write(part))
}

/// The value of `q` in a query.
pub(crate) fn query(query: &str) -> String {
    let value = query.split('&').find_map(|pair| pair.strip_prefix("q=")).unwrap_or_default();
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digit = |at: usize| after.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &after[2..];
            }
            (b'+', ..) => {
                bytes.push(b' ');
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

pub(crate) fn json(found: &[Note]) -> String {
    let note = |note: &Note| format!("{{\"path\":{},\"title\":{}}}", quoted(&note.path), quoted(&note.title));
    format!("[{}]\n", found.iter().map(note).collect::<Vec<_>>().join(","))
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for one in text.chars() {
        match one {
            '"' | '\\' => quoted.extend(['\\', one]),
            one if one < ' ' => quoted += &format!("\\u{:04x}", u32::from(one)),
            one => quoted.push(one),
        }
    }
    quoted + "\""
}

pub(crate) fn html(asked: &str, found: &[Note], line: impl Fn(&Note) -> String) -> String {
    let mut page = format!(
        "<!doctype html><meta charset=utf-8><title>Notes</title>\
         <style>body{{font:16px sans-serif;max-width:40em;margin:2em auto}}small{{color:#666}}</style>\
         <form><input name=q value=\"{}\" autofocus> <button>Search</button></form>\n",
        escaped(asked)
    );
    for note in found {
        page += &format!(
            "<p><b>{}</b> <small>{}</small><br>{}</p>\n",
            escaped(&note.title),
            escaped(&note.path),
            escaped(&line(note))
        );
    }
    if found.is_empty() && !asked.is_empty() {
        page += "<p>Nothing was found.</p>\n";
    }
    page
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
