//! Does what files below the grant `box` say, one command a line, and logs what came of it: how tests see what an app
//! can do, and what becomes of one that misbehaves.

wit_bindgen::generate!({ path: "../../wit", world: "everything" });

use std::cell::RefCell;

use blocktree::app::http_client;
use blocktree::app::http_exchange::Exchange;
use blocktree::app::log::Level;
use blocktree::app::types::Error;
use blocktree::app::{clock, files, kv, locks, log, messages, random, sockets};
use exports::blocktree::app::events::{Event, Guest};
use exports::blocktree::app::{http_handler, policy};

thread_local! {
    /// Locks that it keeps from one command to the next.
    static TAKEN: RefCell<Vec<locks::Lock>> = const { RefCell::new(Vec::new()) };
    /// The connection that it keeps.
    static CONNECTED: RefCell<Option<sockets::Connection>> = const { RefCell::new(None) };
}

struct Probe;
export!(Probe);

impl Guest for Probe {
    fn handle(event: Event) -> Result<(), String> {
        let path = match event {
            Event::Written(change) => {
                say(&format!("written {}", change.path));
                change.path
            }
            Event::Created(change) => return Ok(say(&format!("created {}", change.path))),
            Event::Deleted(change) => return Ok(say(&format!("deleted {}", change.path))),
            Event::Attributes(change) => return Ok(say(&format!("attributes {}", change.path))),
            Event::Renamed(rename) => {
                return Ok(say(&format!("renamed {:?} {}", rename.old_path, rename.path)));
            }
            Event::Message(message) => {
                let text = String::from_utf8_lossy(&message.bytes).into_owned();
                say(&format!("message from {}: {text}", message.app));
                return if text == "fail" { Err("as I was told".to_owned()) } else { Ok(()) };
            }
            Event::Timer(name) => return Ok(say(&format!("timer {name}"))),
            Event::Overflow => return Ok(say("overflow")),
        };
        if !path.ends_with(".do") {
            return Ok(());
        }
        let file = files::open("box", &path).map_err(|error| format!("{path}: {error:?}"))?;
        let text = file.read(0, 1 << 20).map_err(|error| format!("{path}: {error:?}"))?;
        for line in String::from_utf8_lossy(&text).lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let outcome = run(&words)?;
            say(&format!("{line} -> {outcome}"));
        }
        Ok(())
    }
}

fn say(text: &str) {
    log::write(Level::Info, text);
}

fn told<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result {
        Ok(value) => format!("ok {value:?}"),
        Err(error) => error.name().to_owned(),
    }
}

fn run(words: &[&str]) -> Result<String, String> {
    Ok(match words {
        ["read", grant, path] => {
            told(read(grant, path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
        }
        ["write", grant, path, text] => told(write(grant, path, text.as_bytes())),
        ["edit", grant, path, text] => {
            told(files::edit(grant, path).and_then(|file| file.write(0, text.as_bytes())))
        }
        ["size", grant, path] => told(files::stat(grant, path).map(|found| found.size)),
        ["list", grant, path] => told(list(grant, path)),
        ["remove", grant, path] => told(files::remove(grant, path)),
        ["mkdir", grant, path] => told(files::make_directory(grant, path)),
        ["rename", grant, path, to] => told(files::rename(grant, path, to)),
        ["abandon", grant, path] => told(files::create(grant, path).and_then(|file| file.write(0, b"half"))),
        ["hoard", grant, path] => {
            let mut open = Vec::new();
            loop {
                match files::open(grant, path) {
                    Ok(file) => open.push(file),
                    Err(error) => break format!("{} after {}", error.name(), open.len()),
                }
            }
        }
        ["lock", grant, path] => told(locks::take(grant, path).map(|lock| {
            let token = lock.token();
            TAKEN.with_borrow_mut(|taken| taken.push(lock));
            token
        })),
        ["hoard-locks", grant] => {
            let mut taken = Vec::new();
            loop {
                match locks::take(grant, &taken.len().to_string()) {
                    Ok(lock) => taken.push(lock),
                    Err(error) => break format!("{} after {}", error.name(), taken.len()),
                }
            }
        }
        ["unlock"] => format!("ok {}", TAKEN.take().len()),
        ["fenced", grant, path, text, lock, token] => {
            let token = token.parse().map_err(|_| "a number".to_owned())?;
            told(files::create(grant, path).and_then(|file| {
                file.fence(grant, lock, token)?;
                file.write(0, text.as_bytes())?;
                file.finish()
            }))
        }
        // The lock is lost between two writes.
        ["zombie", grant, path, lock] => told(files::edit(grant, path).and_then(|file| {
            let taken = locks::take(grant, lock)?;
            file.fence(grant, lock, taken.token())?;
            file.write(0, b"first")?;
            drop(taken);
            Ok(file.write(0, b"later").map_err(|error| error.name()))
        })),
        ["send", app, text] => told(messages::send(app, text.as_bytes())),
        ["send-large", app, bytes] => {
            let bytes: usize = bytes.parse().map_err(|_| "a number".to_owned())?;
            told(messages::send(app, &vec![b'x'; bytes]))
        }
        ["send-many", app] => {
            let mut sent = 0;
            loop {
                match messages::send(app, format!("{sent}").as_bytes()) {
                    Ok(()) => sent += 1,
                    Err(error) => break format!("{} after {sent}", error.name()),
                }
            }
        }
        ["set", key, value] => told(kv::set(key, value.as_bytes())),
        ["get", key] => {
            told(kv::get(key).map(|value| value.map(|value| String::from_utf8_lossy(&value).into_owned())))
        }
        ["delete", key] => told(kv::delete(key)),
        ["keys", prefix] => told(kv::keys(prefix)),
        ["large", grant, path, bytes] => {
            let bytes: usize = bytes.parse().map_err(|_| "a number".to_owned())?;
            let data: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8).collect();
            let came_back =
                write(grant, path, &data).and_then(|()| read(grant, path)).map(|back| back == data);
            told(came_back)
        }
        ["fetch", method, url] => match fetch(method, url) {
            Ok((status, body)) => format!("{status} {}", String::from_utf8_lossy(&body)),
            Err(failure) => failure.name().to_owned(),
        },
        ["connect", host, port] => match connect(host, port)? {
            Ok(connection) => {
                CONNECTED.set(Some(connection));
                "ok".to_owned()
            }
            Err(failure) => failure.name().to_owned(),
        },
        ["hoard-connections", host, port] => {
            let mut open = Vec::new();
            loop {
                match connect(host, port)? {
                    Ok(connection) => open.push(connection),
                    Err(failure) => break format!("{} after {}", failure.name(), open.len()),
                }
            }
        }
        ["say", text] => {
            with_connection(|connection| Ok(connection.write(text.as_bytes(), PATIENCE_MS)?.to_string()))
        }
        ["hear", milliseconds] => {
            let milliseconds = milliseconds.parse().map_err(|_| "a number".to_owned())?;
            with_connection(|connection| {
                connection.read(milliseconds).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            })
        }
        ["say-much", milliseconds] => {
            let milliseconds = milliseconds.parse().map_err(|_| "a number".to_owned())?;
            with_connection(|connection| {
                loop {
                    connection.write(&vec![b'x'; 1 << 20], milliseconds)?;
                }
            })
        }
        ["hang-up"] => format!("ok {}", CONNECTED.take().is_some()),
        ["echo", host, port, bytes] => {
            let bytes: usize = bytes.parse().map_err(|_| "a number".to_owned())?;
            match connect(host, port)?.and_then(|connection| echo(&connection, bytes)) {
                Ok(came_back) => format!("ok {came_back}"),
                Err(failure) => failure.name().to_owned(),
            }
        }
        ["clock"] => format!("{}", clock::now() > 1_600_000_000_000_000_000 && clock::monotonic() < u64::MAX),
        ["random"] => format!("{}", random::bytes(32) != random::bytes(32)),
        ["fail"] => return Err("as I was told".to_owned()),
        ["panic"] => panic!("as I was told"),
        ["loop"] => loop {
            std::hint::black_box(0);
        },
        ["recurse"] => format!("{}", recurse(1)),
        ["bomb"] => {
            let mut all: Vec<Vec<u8>> = Vec::new();
            loop {
                all.push(vec![1; 16 << 20]);
            }
        }
        ["flood"] => {
            let text = "x".repeat(100_000);
            for _ in 0..1000 {
                say(&text);
            }
            "done".to_owned()
        }
        _ => "what?".to_owned(),
    })
}

/// More than anything takes that works.
const PATIENCE_MS: u32 = 10_000;

fn connect(host: &str, port: &str) -> Result<Result<sockets::Connection, sockets::Failure>, String> {
    Ok(sockets::connect(host, port.parse().map_err(|_| "a number".to_owned())?))
}

fn with_connection(run: impl FnOnce(&sockets::Connection) -> Result<String, sockets::Failure>) -> String {
    CONNECTED.with_borrow(|connected| match connected.as_ref().map(run) {
        Some(Ok(text)) => format!("ok {text}"),
        Some(Err(failure)) => failure.name().to_owned(),
        None => "none".to_owned(),
    })
}

/// Whether so many bytes come back as they were sent, and then no more.
fn echo(connection: &sockets::Connection, bytes: usize) -> Result<bool, sockets::Failure> {
    let data: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8).collect();
    let (mut sent, mut back) = (0, Vec::new());
    // By turns, so that neither side is full of what the other has to take.
    while sent < data.len() {
        let end = data.len().min(sent + (1 << 20));
        sent += perhaps(connection.write(&data[sent..end], 10))? as usize;
        back.extend(perhaps(connection.read(10))?);
    }
    connection.shut_down()?;
    loop {
        let part = connection.read(PATIENCE_MS)?;
        if part.is_empty() {
            return Ok(back == data);
        }
        back.extend(part);
    }
}

/// Nothing, where nothing could be done in time.
fn perhaps<T: Default>(done: Result<T, sockets::Failure>) -> Result<T, sockets::Failure> {
    match done {
        Err(sockets::Failure::TimedOut) => Ok(T::default()),
        done => done,
    }
}

/// Status and body of what another host answers.
fn fetch(method: &str, url: &str) -> Result<(u16, Vec<u8>), http_client::Failure> {
    let headers = vec![("x-probe".to_owned(), "1".to_owned()), ("host".to_owned(), "other".to_owned())];
    let body = if method == "POST" { b"posted".to_vec() } else { Vec::new() };
    let request = http_client::Request { method: method.to_owned(), url: url.to_owned(), headers, body };
    let response = http_client::send(&request)?;
    let mut bytes = Vec::new();
    loop {
        let part = response.read()?;
        if part.is_empty() {
            return Ok((response.status(), bytes));
        }
        bytes.extend(part);
    }
}

impl policy::Guest for Probe {
    /// Does what the name of the file says.
    fn judge(operation: policy::Operation) -> policy::Verdict {
        use policy::Operation;
        let (what, about) = match &operation {
            Operation::Create(about) => ("create", about),
            Operation::Modify(about) => ("modify", about),
            Operation::Remove(about) => ("remove", about),
            Operation::Rename(renamed) => ("rename", &renamed.to),
            Operation::Attributes(about) => ("attributes", about),
        };
        let name = about.path.rsplit('/').next().unwrap_or_default();
        if let Some(command) = name.strip_prefix("judge-") {
            let words: Vec<&str> = command.split('+').collect();
            let outcome = run(&words).unwrap_or_default();
            say(&format!("judged {command} -> {outcome}"));
        }
        let old = match &operation {
            Operation::Rename(renamed) => format!(" from {:?}", renamed.old_path),
            _ => String::new(),
        };
        say(&format!("asked {what} {} {:o}{old}", about.path, about.permissions));
        if name.starts_with(what) { policy::Verdict::Refuse } else { policy::Verdict::Allow }
    }
}

impl http_handler::Guest for Probe {
    fn handle(request: http_handler::Request, exchange: Exchange) -> Result<(), String> {
        let told = |error: Error| error.name().to_owned();
        let respond = |status: u16, headers: &[(&str, &str)]| {
            let headers: Vec<_> =
                headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
            exchange.respond(status, &headers).map_err(told)
        };
        match request.path.as_str() {
            "/echo" => {
                let query = request.query.as_deref().unwrap_or("none");
                let mut body = Vec::new();
                loop {
                    let part = exchange.read().map_err(told)?;
                    if part.is_empty() {
                        break;
                    }
                    body.extend(part);
                }
                respond(200, &[("x-method", &request.method), ("x-query", query)])?;
                body.chunks(1 << 20).try_for_each(|part| exchange.write(part)).map_err(told)
            }
            "/half" => {
                respond(200, &[])?;
                exchange.write(b"half").map_err(told)?;
                Err("as I was told".to_owned())
            }
            "/endless" => {
                respond(200, &[])?;
                loop {
                    exchange.write(&vec![b'x'; 1 << 20]).map_err(told)?;
                }
            }
            "/twice" => {
                respond(200, &[])?;
                let again = respond(500, &[]);
                exchange.write(format!("{again:?}").as_bytes()).map_err(told)
            }
            "/split" => {
                let wrong = respond(200, &[("x-a", "1\r\nx-b: 2")]);
                respond(200, &[("transfer-encoding", "gzip"), ("connection", "upgrade")])?;
                exchange.write(format!("{wrong:?}").as_bytes()).map_err(told)
            }
            "/files" => {
                respond(200, &[])?;
                let names = list("box", "").map_err(told)?;
                exchange.write(names.join("\n").as_bytes()).map_err(told)
            }
            "/silent" => Ok(()),
            "/fail" => Err("as I was told".to_owned()),
            "/panic" => panic!("as I was told"),
            "/loop" => loop {
                std::hint::black_box(0);
            },
            _ => respond(404, &[]),
        }
    }
}

#[allow(unconditional_recursion)]
fn recurse(depth: u64) -> u64 {
    std::hint::black_box(recurse(std::hint::black_box(depth + 1)) + depth)
}

fn read(grant: &str, path: &str) -> Result<Vec<u8>, Error> {
    let file = files::open(grant, path)?;
    let mut bytes = Vec::new();
    loop {
        let mut part = file.read(bytes.len() as u64, 1 << 20)?;
        if part.is_empty() {
            return Ok(bytes);
        }
        bytes.append(&mut part);
    }
}

fn write(grant: &str, path: &str, bytes: &[u8]) -> Result<(), Error> {
    let file = files::create(grant, path)?;
    for (number, part) in bytes.chunks(1 << 20).enumerate() {
        file.write((number << 20) as u64, part)?;
    }
    file.finish()
}

fn list(grant: &str, path: &str) -> Result<Vec<String>, Error> {
    let (mut names, mut after) = (Vec::new(), None);
    loop {
        let (entries, next) = files::list(grant, path, after.as_deref())?;
        names.extend(entries.into_iter().map(|entry| entry.name));
        after = next;
        if after.is_none() {
            names.sort();
            return Ok(names);
        }
    }
}
