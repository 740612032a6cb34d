//! Shows the folder `folder` as a website: `index.html` for a directory, `404.html` for what is not there, entity tags and
//! ranges. What begins with a dot is not shown.

mod range;

wit_bindgen::generate!({ path: "../../wit", world: "server" });

use blocktree::app::files::{self, File};
use blocktree::app::http_exchange::Exchange;
use blocktree::app::types::{Error, Kind, Status};
use exports::blocktree::app::http_handler::{Guest, Request};

use crate::range::{Part, part};

const GRANT: &str = "folder";
const READ_BYTES: u64 = 1 << 20;

struct Site;
export!(Site);

impl Guest for Site {
    fn handle(request: Request, exchange: Exchange) -> Result<(), String> {
        answer(&request, &exchange).map_err(|error| format!("{error:?}"))
    }
}

fn answer(request: &Request, exchange: &Exchange) -> Result<(), Error> {
    if !matches!(request.method.as_str(), "GET" | "HEAD") {
        return text(exchange, 405, &[("allow", "GET, HEAD")], "only GET and HEAD are answered\n");
    }
    let Some(path) = decoded(&request.path) else {
        return text(exchange, 400, &[], "this is no path\n");
    };
    let path = path.trim_start_matches('/');
    if path.split('/').any(|part| part.starts_with('.')) {
        return not_found(exchange);
    }
    let (name, is_directory) = match path.strip_suffix('/') {
        Some(above) => (format!("{above}/index.html"), true),
        None if path.is_empty() => ("index.html".to_owned(), true),
        None => (path.to_owned(), false),
    };
    match files::stat(GRANT, &name) {
        Ok(status) if status.kind == Kind::File => send(request, exchange, &name, &status),
        Ok(status) if status.kind == Kind::Directory && !is_directory => {
            // As it was asked for, so that what stands for itself and what does not stay apart.
            let last = request.path.rsplit('/').next().unwrap_or_default();
            text(exchange, 308, &[("location", &format!("./{last}/"))], "")
        }
        Ok(_) | Err(Error::NotFound | Error::NotAFile | Error::NotADirectory | Error::Malformed) => {
            not_found(exchange)
        }
        Err(Error::NotGranted) => text(exchange, 403, &[], "the folder is not granted\n"),
        Err(error) => Err(error),
    }
}

fn text(exchange: &Exchange, status: u16, more: &[(&str, &str)], body: &str) -> Result<(), Error> {
    let mut headers = vec![("content-type".to_owned(), "text/plain; charset=utf-8".to_owned())];
    headers.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    headers.push(("content-length".to_owned(), body.len().to_string()));
    exchange.respond(status, &headers)?;
    exchange.write(body.as_bytes())
}

fn not_found(exchange: &Exchange) -> Result<(), Error> {
    const PAGE: &str = "404.html";
    let page = files::stat(GRANT, PAGE).ok().filter(|status| status.kind == Kind::File);
    let (Some(status), Ok(file)) = (page, files::open(GRANT, PAGE)) else {
        return text(exchange, 404, &[], "there is nothing here\n");
    };
    let headers = [("content-type", kind_of(PAGE).to_owned()), ("content-length", status.size.to_string())];
    exchange.respond(404, &headers.map(|(name, value)| (name.to_owned(), value)))?;
    stream(exchange, &file, 0, status.size)
}

/// A file, or a part of it, or that the client has it already.
fn send(request: &Request, exchange: &Exchange, name: &str, status: &Status) -> Result<(), Error> {
    let tag = format!("\"{:x}-{:x}-{:x}\"", status.size, status.modified, status.changed);
    let header = |wanted: &str| {
        request.headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
    };
    let mut headers: Vec<(String, String)> = vec![
        ("etag".into(), tag.clone()),
        ("cache-control".into(), "no-cache".into()),
        ("accept-ranges".into(), "bytes".into()),
    ];
    let has = |tags: &str| {
        tags.split(',')
            .any(|one| matches!(one.trim().trim_start_matches("W/"), one if one == tag || one == "*"))
    };
    if header("if-none-match").is_some_and(has) {
        return exchange.respond(304, &headers);
    }
    let asked = header("range").filter(|_| header("if-range").is_none_or(|one| one == tag));
    let (code, start, length) = match asked.map_or(Part::All, |asked| part(asked, status.size)) {
        Part::All => (200, 0, status.size),
        Part::Of { start, length } => {
            let last = start + length - 1;
            headers.push(("content-range".into(), format!("bytes {start}-{last}/{}", status.size)));
            (206, start, length)
        }
        Part::Outside => {
            let range = format!("bytes */{}", status.size);
            return text(exchange, 416, &[("content-range", &range)], "the file is shorter\n");
        }
    };
    let file = match files::open(GRANT, name) {
        Ok(file) => file,
        Err(Error::NotFound) => return not_found(exchange),
        Err(error) => return Err(error),
    };
    headers.push(("content-type".into(), kind_of(name).into()));
    headers.push(("content-length".into(), length.to_string()));
    exchange.respond(code, &headers)?;
    if request.method == "HEAD" { Ok(()) } else { stream(exchange, &file, start, length) }
}

fn stream(exchange: &Exchange, file: &File, mut at: u64, mut left: u64) -> Result<(), Error> {
    while left > 0 {
        let bytes = file.read(at, left.min(READ_BYTES) as u32)?;
        if bytes.is_empty() {
            // Somebody cut it off; so is the answer.
            return Err(Error::Failed);
        }
        exchange.write(&bytes)?;
        at += bytes.len() as u64;
        left -= bytes.len() as u64;
    }
    Ok(())
}

/// A path without its percent signs. `None` if it is not UTF-8, or a slash or a zero was hidden in it.
fn decoded(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first != b'%' {
            bytes.push(*first);
            rest = after;
            continue;
        }
        let (digits, after) = after.split_at_checked(2)?;
        let digit = |digit: u8| char::from(digit).to_digit(16);
        let byte = (digit(digits[0])? * 16 + digit(digits[1])?) as u8;
        if matches!(byte, b'/' | 0) {
            return None;
        }
        bytes.push(byte);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

/// What a file is, by the end of its name.
fn kind_of(name: &str) -> &'static str {
    let end = name.rsplit('/').next().unwrap_or(name).rsplit_once('.').map_or("", |(_, end)| end);
    match end.to_ascii_lowercase().as_str() {
        "html" | "htm" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "json" => "application/json",
        "txt" | "md" => "text/plain; charset=utf-8",
        "xml" => "application/xml",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "ico" => "image/x-icon",
        "pdf" => "application/pdf",
        "woff2" => "font/woff2",
        "wasm" => "application/wasm",
        "mp3" => "audio/mpeg",
        "mp4" => "video/mp4",
        "webm" => "video/webm",
        _ => "application/octet-stream",
    }
}
