//! Remembers when it was called for what, and times what it asks of the node; tells both over HTTP. `fio-bench apps`
//! does the rest.

wit_bindgen::generate!({ path: "../../wit", world: "service" });

use std::cell::RefCell;
use std::fmt::Write as _;
use std::hint::black_box;

use blocktree::app::http_exchange::Exchange;
use blocktree::app::types::Error;
use blocktree::app::{clock, files};
use exports::blocktree::app::events::{Event, Guest};
use exports::blocktree::app::http_handler;

const PIECE_BYTES: u32 = 1 << 20;

thread_local! {
    /// When it was called, and for which path.
    static HEARD: RefCell<Vec<(u64, String)>> = const { RefCell::new(Vec::new()) };
}

struct Stopwatch;
export!(Stopwatch);

impl Guest for Stopwatch {
    fn handle(event: Event) -> Result<(), String> {
        let now = clock::now();
        let path = match event {
            Event::Written(change) => change.path,
            Event::Renamed(rename) => rename.path,
            _ => return Ok(()),
        };
        HEARD.with_borrow_mut(|heard| heard.push((now, path)));
        Ok(())
    }
}

impl http_handler::Guest for Stopwatch {
    fn handle(request: http_handler::Request, exchange: Exchange) -> Result<(), String> {
        let words: Vec<&str> = request.path.trim_matches('/').split('/').collect();
        let answer = match words[..] {
            ["heard"] => Ok(heard()),
            ["count"] => Ok(HEARD.with_borrow(|heard| heard.len().to_string())),
            // What the runtime answers by itself, and what the node does.
            ["local", count] => timed(count, || Ok(clock::now())),
            ["asked", count] => timed(count, || files::stat("box", "").map(|found| found.modified)),
            ["read", path] => read(path),
            _ => Err("what?".to_owned()),
        }?;
        let told = |error: Error| error.name().to_owned();
        exchange.respond(200, &[("content-length".to_owned(), answer.len().to_string())]).map_err(told)?;
        answer.as_bytes().chunks(PIECE_BYTES as usize).try_for_each(|part| exchange.write(part)).map_err(told)
    }
}

/// A line for each call since it was asked the last time: nanoseconds since 1970, and the path.
fn heard() -> String {
    let mut text = String::new();
    for (time, path) in HEARD.take() {
        let _ = writeln!(text, "{time} {path}");
    }
    text
}

/// Nanoseconds for all of so many calls.
fn timed(count: &str, call: impl Fn() -> Result<u64, Error>) -> Result<String, String> {
    let count: u32 = count.parse().map_err(|_| "a number".to_owned())?;
    let start = clock::monotonic();
    for _ in 0..count {
        black_box(call().map_err(|error| error.name().to_owned())?);
    }
    Ok((clock::monotonic() - start).to_string())
}

/// Bytes of a file, and nanoseconds that reading them took.
fn read(path: &str) -> Result<String, String> {
    let told = |error: Error| error.name().to_owned();
    let file = files::open("box", path).map_err(told)?;
    let start = clock::monotonic();
    let mut bytes = 0;
    loop {
        let part = file.read(bytes, PIECE_BYTES).map_err(told)?;
        if part.is_empty() {
            return Ok(format!("{bytes} {}", clock::monotonic() - start));
        }
        bytes += black_box(part).len() as u64;
    }
}
