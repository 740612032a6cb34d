//! Finds notes: Markdown files below the grant `notes`, by the words in them. The index is among the app's own values,
//! and answers HTTP: `/?q=WORDS` is a page, `/search.json?q=WORDS` the same for programs.

mod index;
mod page;

wit_bindgen::generate!({ path: "../../wit", world: "service" });

use std::cell::RefCell;

use blocktree::app::http_exchange::Exchange;
use blocktree::app::log::{self, Level};
use blocktree::app::types::{Error, Kind};
use blocktree::app::{files, kv};
use exports::blocktree::app::events::{self, Event};
use exports::blocktree::app::http_handler::{self, Request};

use crate::index::{Index, Note};

const GRANT: &str = "notes";
/// Of a longer note, only the start is looked at.
const NOTE_BYTES_MAX: usize = 4 << 20;
const READ_BYTES: u32 = 1 << 20;
const RESULTS_MAX: usize = 50;
/// Says that all notes were looked at once.
const SCANNED: &str = "scanned";

thread_local! {
    /// Read from the app's values when the instance is new.
    static INDEX: RefCell<Option<Index>> = const { RefCell::new(None) };
}

struct Search;
export!(Search);

impl events::Guest for Search {
    fn handle(event: Event) -> Result<(), String> {
        with_index(|index| match event {
            Event::Written(change) => look_at(index, &change.path),
            Event::Renamed(rename) => {
                if let Some(old) = rename.old_path {
                    forget(index, &old)?;
                }
                scan(index, &rename.path)
            }
            Event::Deleted(change) => forget(index, &change.path),
            Event::Overflow => {
                kv::delete(SCANNED)?;
                scan_all(index)
            }
            _ => Ok(()),
        })
        .map_err(|error| format!("{error:?}"))
    }
}

impl http_handler::Guest for Search {
    fn handle(request: Request, exchange: Exchange) -> Result<(), String> {
        answer(&request, &exchange).map_err(|error| format!("{error:?}"))
    }
}

fn answer(request: &Request, exchange: &Exchange) -> Result<(), Error> {
    if !matches!(request.method.as_str(), "GET" | "HEAD") {
        return page::send(exchange, 405, "text/plain; charset=utf-8", "only GET and HEAD are answered\n");
    }
    let asked = page::query(request.query.as_deref().unwrap_or_default());
    let is_json = match request.path.as_str() {
        "/" => false,
        "/search.json" => true,
        _ => return page::send(exchange, 404, "text/plain; charset=utf-8", "there is nothing here\n"),
    };
    let found = with_index(|index| Ok(index.find(&asked, RESULTS_MAX)))?;
    if is_json {
        page::send(exchange, 200, "application/json", &page::json(&found))
    } else {
        let line = |note: &Note| excerpt(&note.path, &asked);
        page::send(exchange, 200, "text/html; charset=utf-8", &page::html(&asked, &found, line))
    }
}

fn with_index<T>(work: impl FnOnce(&mut Index) -> Result<T, Error>) -> Result<T, Error> {
    INDEX.with_borrow_mut(|index| {
        let index = match index {
            Some(index) => index,
            None => index.insert(Index::load()?),
        };
        if kv::get(SCANNED)?.is_none() {
            scan_all(index)?;
        }
        work(index)
    })
}

/// Looks at everything. What was interrupted goes on: notes that are as they were are not read again.
fn scan_all(index: &mut Index) -> Result<(), Error> {
    let gone: Vec<String> = index
        .paths()
        .filter(|path| matches!(files::stat(GRANT, path), Err(Error::NotFound | Error::NotADirectory)))
        .collect();
    for path in gone {
        index.remove(&path)?;
    }
    scan(index, "")?;
    kv::set(SCANNED, b"1")
}

/// A note, or all notes below a directory.
fn scan(index: &mut Index, path: &str) -> Result<(), Error> {
    let mut folders = vec![path.to_owned()];
    while let Some(path) = folders.pop() {
        match files::stat(GRANT, &path) {
            Ok(status) if status.kind == Kind::Directory => {}
            Ok(status) if status.kind == Kind::File => {
                look_at(index, &path)?;
                continue;
            }
            Ok(_) | Err(Error::NotFound) => continue,
            Err(error) => return Err(error),
        }
        let mut after = None;
        loop {
            let (entries, next) = files::list(GRANT, &path, after.as_deref())?;
            for entry in entries {
                let below = if path.is_empty() { entry.name } else { format!("{path}/{}", entry.name) };
                match entry.kind {
                    Kind::Directory => folders.push(below),
                    Kind::File => look_at(index, &below)?,
                    _ => {}
                }
            }
            after = next;
            if after.is_none() {
                break;
            }
        }
    }
    Ok(())
}

fn look_at(index: &mut Index, path: &str) -> Result<(), Error> {
    if !path.ends_with(".md") {
        return Ok(());
    }
    let status = match files::stat(GRANT, path) {
        Ok(status) if status.kind == Kind::File => status,
        Ok(_) => return Ok(()),
        // It has gone since; there will be an event that says so.
        Err(Error::NotFound) => return Ok(()),
        Err(error) => return Err(error),
    };
    if index.knows(path, status.size, status.modified) {
        return Ok(());
    }
    let text = read(path, NOTE_BYTES_MAX)?;
    let words = index.set(Note::of(path, status.size, status.modified, &text))?;
    log::write(Level::Debug, &format!("{path}: {words} different words"));
    Ok(())
}

/// A note, or all below a directory.
fn forget(index: &mut Index, path: &str) -> Result<(), Error> {
    let below = format!("{path}/");
    let gone: Vec<String> = index.paths().filter(|one| one == path || one.starts_with(&below)).collect();
    gone.iter().try_for_each(|path| index.remove(path))
}

fn read(path: &str, bytes_max: usize) -> Result<String, Error> {
    let file = files::open(GRANT, path)?;
    let mut bytes = Vec::new();
    while bytes.len() < bytes_max {
        let mut part = file.read(bytes.len() as u64, READ_BYTES)?;
        if part.is_empty() {
            break;
        }
        bytes.append(&mut part);
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The first line of a note that has one of the words.
fn excerpt(path: &str, asked: &str) -> String {
    let words: Vec<String> = index::words(asked).collect();
    let text = read(path, READ_BYTES as usize).unwrap_or_default();
    let has =
        |line: &&str| index::words(line).any(|one| words.iter().any(|word| one.starts_with(word.as_str())));
    text.lines().find(has).unwrap_or_default().chars().take(200).collect()
}
