//! Takes requests at a loopback address, and hands `/NAME/…` to the app of this name.
//!
//! 1. Connections, requests that wait for one app, heads, bodies, and the time for each of them have bounds.
//! 2. The app is called only when the head, and the first part of the body, have come: who sends slowly holds up nobody.
//! 3. A connection on which anything was not as it should be ends; nothing is read behind that.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::exchange::{Connected, Exchange, Head, Task};
use super::message::{Framing, MessageError, Reader, RequestHead, framing, values};
use super::origin::{self, Foreign};
use super::stream::{Stop, Timed};
use crate::ipc::HttpRequest;
use crate::limits::{
    HTTP_ANSWER_TIME, HTTP_BODY_AHEAD_BYTES, HTTP_BODY_BYTES_MAX, HTTP_BODY_TIME, HTTP_CONNECTIONS_MAX,
    HTTP_HEAD_TIME, HTTP_PATIENCE,
};
use crate::node::worker::{Shared, seconds};

/// Apps that run, by name.
type Routes = Arc<Mutex<BTreeMap<String, Arc<Shared>>>>;

/// Between two looks for a connection where there is no more room, and whether it is time to end.
const PAUSE: Duration = Duration::from_millis(20);
/// What a thread of a connection has in local variables is little.
const STACK_BYTES: usize = 256 << 10;
/// What is taken of a body that nobody wants, so that the answer arrives.
const DRAIN_BYTES: usize = 1 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(1);

/// Where requests arrive.
pub(in crate::node) struct Front {
    pub(in crate::node) address: SocketAddr,
    pub(in crate::node) routes: Routes,
    stop: Stop,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Front {
    /// Listens no more, and has all connections end.
    pub(in crate::node) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        // It wakes at the next connection.
        let _ = TcpStream::connect_timeout(&self.address, DRAIN_TIME);
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }
}

/// Takes requests until [`Front::stop`].
pub(in crate::node) fn serve(listener: TcpListener) -> io::Result<Front> {
    let (address, routes, stop) = (listener.local_addr()?, Routes::default(), Stop::default());
    let service =
        Service { address, routes: Arc::clone(&routes), stop: Arc::clone(&stop), count: AtomicUsize::new(0) };
    let service = Arc::new(service);
    let thread =
        std::thread::Builder::new().name("http".into()).spawn(move || accept(&listener, &service))?;
    Ok(Front { address, routes, stop, thread: Mutex::new(Some(thread)) })
}

struct Service {
    address: SocketAddr,
    routes: Routes,
    stop: Stop,
    /// Connections.
    count: AtomicUsize,
}

/// Counts a connection while it is there.
struct Counted(Arc<Service>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::AcqRel);
    }
}

fn accept(listener: &TcpListener, service: &Arc<Service>) {
    while !service.stop.load(Ordering::Acquire) {
        // Others wait in the kernel; each that is here ends after some seconds without a request.
        if service.count.load(Ordering::Acquire) >= HTTP_CONNECTIONS_MAX {
            std::thread::sleep(PAUSE);
            continue;
        }
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot take a connection");
                std::thread::sleep(PAUSE);
                continue;
            }
        };
        service.count.fetch_add(1, Ordering::AcqRel);
        let counted = Counted(Arc::clone(service));
        let serve = move || counted.0.converse(stream);
        let spawned =
            std::thread::Builder::new().name("http-client".into()).stack_size(STACK_BYTES).spawn(serve);
        if let Err(error) = spawned {
            tracing::warn!(%error, "cannot start a thread for a connection");
        }
    }
}

type Connection = Reader<Timed>;

/// An answer of the node's own.
struct Own {
    status: u16,
    text: &'static str,
    more: Option<(&'static str, String)>,
}

impl Own {
    fn new(status: u16, text: &'static str) -> Self {
        Self { status, text, more: None }
    }

    fn nothing() -> Self {
        Self::new(404, "there is nothing here\n")
    }
}

impl Service {
    fn converse(&self, stream: TcpStream) {
        let mut connection = Reader::new(Timed::new(stream, Arc::clone(&self.stop), Instant::now()));
        while self.exchange(&mut connection).unwrap_or(false) {}
        connection.stream.finish();
        // Whoever is still sending would else be told that the connection broke, before reading the answer.
        connection.stream.set_end(Instant::now() + DRAIN_TIME);
        let mut drained = 0;
        while let Ok(bytes) = connection.body(&mut Framing::ToEnd).map(|bytes| bytes.len())
            && bytes > 0
            && drained < DRAIN_BYTES
        {
            drained += bytes;
        }
    }

    /// One request and its answer; whether another may follow.
    fn exchange(&self, connection: &mut Connection) -> io::Result<bool> {
        connection.stream.set_end(Instant::now() + HTTP_HEAD_TIME);
        let refused = match connection.request_head() {
            Ok(head) => return self.answer(connection, &head),
            Err(MessageError::TooLong) => Own::new(431, "the head is too long\n"),
            Err(MessageError::Malformed) => Own::new(400, "this is no request\n"),
            Err(MessageError::Ended | MessageError::Io(_)) => return Ok(false),
        };
        connection.stream.set_end(Instant::now() + HTTP_PATIENCE);
        send_own(connection, &refused, false).map(|()| false)
    }

    fn answer(&self, connection: &mut Connection, head: &RequestHead) -> io::Result<bool> {
        let is_head = head.method == "HEAD";
        match self.hand_over(connection, head) {
            Ok((connected, body)) => {
                let is_last =
                    values(&head.headers, "connection").any(|value| value.eq_ignore_ascii_case("close"));
                let mut answering =
                    Answering { connection, body, is_newer: head.is_newer, is_head, begun: None };
                let is_whole = answering.run(&connected)?;
                let is_read = answering.body == Framing::Length(0);
                Ok(is_whole && is_read && head.is_newer && !is_last)
            }
            Err(own) => {
                connection.stream.set_end(Instant::now() + HTTP_PATIENCE);
                send_own(connection, &own, is_head).map(|()| false)
            }
        }
    }

    /// Gives the request to its app. The second answer is what is left of its body.
    fn hand_over(
        &self,
        connection: &mut Connection,
        head: &RequestHead,
    ) -> Result<(Connected, Framing), Own> {
        origin::check(self.address, &head.target, &head.headers).map_err(|foreign| match foreign {
            Foreign::Host => Own::new(421, "this is another host\n"),
            Foreign::Page => Own::new(403, "a page of another origin may not ask this\n"),
        })?;
        let (path, query) = match head.target.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (head.target.as_str(), None),
        };
        let path = path.strip_prefix('/').ok_or(Own::new(400, "this is no path\n"))?;
        let (name, below) = path.split_once('/').map_or((path, None), |(name, below)| (name, Some(below)));
        let app =
            self.routes.lock().get(name).cloned().filter(|app| app.serves()).ok_or_else(Own::nothing)?;
        let Some(below) = below else {
            return Err(Own { more: Some(("location", format!("/{name}/"))), ..Own::new(308, "") });
        };
        let request = HttpRequest {
            method: head.method.clone(),
            path: format!("/{below}"),
            query,
            headers: head.headers.clone(),
        };
        let (ahead, body) = body_ahead(connection, head)?;
        let (exchange, connected) = Exchange::new(request, ahead, body == Framing::Length(0));
        match app.take(exchange) {
            true => Ok((connected, body)),
            false => {
                let own = Own::new(503, "too many requests wait for this app\n");
                Err(Own { more: Some(("retry-after", "1".to_owned())), ..own })
            }
        }
    }
}

/// The first part of a body, and how the rest ends.
fn body_ahead(connection: &mut Connection, head: &RequestHead) -> Result<(Vec<u8>, Framing), Own> {
    let malformed = |_| Own::new(400, "the body could end in two ways\n");
    let framing = framing(&head.headers, head.is_newer).map_err(malformed)?;
    let mut framing = framing.unwrap_or(Framing::Length(0));
    if matches!(framing, Framing::Length(length) if length > HTTP_BODY_BYTES_MAX) {
        return Err(Own::new(413, "the request is too long\n"));
    }
    connection.stream.set_end(Instant::now() + HTTP_BODY_TIME);
    let waits = values(&head.headers, "expect").any(|value| value.eq_ignore_ascii_case("100-continue"));
    if waits && framing != Framing::Length(0) {
        // If that fails, so will the body.
        let _ = connection.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n");
    }
    let mut ahead = Vec::new();
    while ahead.len() < HTTP_BODY_AHEAD_BYTES {
        let bytes = connection.body(&mut framing).map_err(|error| match error {
            MessageError::Io(error) if error.kind() == ErrorKind::TimedOut => {
                Own::new(408, "the body comes too slowly\n")
            }
            _ => Own::new(400, "the body breaks off\n"),
        })?;
        if bytes.is_empty() {
            // Also where the last chunk is still to come: there is none.
            framing = Framing::Length(0);
            break;
        }
        ahead.extend(bytes);
    }
    Ok((ahead, framing))
}

/// The answer of an app on its way.
struct Answering<'a> {
    connection: &'a mut Connection,
    body: Framing,
    is_newer: bool,
    is_head: bool,
    begun: Option<Begun>,
}

/// How the body of an answer goes.
enum Begun {
    /// There is none, whatever the app writes.
    Without,
    Length(u64),
    Chunks,
    ToEnd,
}

impl Answering<'_> {
    /// Does what the app's thread says; whether the answer is whole, and does not end with the connection.
    fn run(&mut self, connected: &Connected) -> io::Result<bool> {
        let mut taken = HTTP_BODY_AHEAD_BYTES as u64;
        let end = Instant::now() + HTTP_ANSWER_TIME;
        loop {
            // Once it has begun, the app's own time ends it.
            let end = if self.begun.is_some() { Instant::now() + HTTP_ANSWER_TIME } else { end };
            let task = connected.tasks.take(end);
            self.connection.stream.set_end(Instant::now() + HTTP_PATIENCE);
            match task {
                Ok(Task::Read) => {
                    let more = self.connection.body(&mut self.body).ok();
                    taken += more.as_ref().map_or(0, |bytes| bytes.len() as u64);
                    let more = more.filter(|_| taken <= HTTP_BODY_BYTES_MAX);
                    let _ = connected.body.give(more, Instant::now());
                }
                Ok(Task::Respond(head)) => self.respond(&head)?,
                Ok(Task::Write(bytes)) => self.write(&bytes)?,
                Ok(Task::Finish) => return self.finish(),
                Err(why) if self.begun.is_none() => {
                    let own = match why {
                        super::pipe::Why::Left => Own::new(500, "the app did not answer\n"),
                        super::pipe::Why::TimedOut => Own::new(504, "the app took too long\n"),
                    };
                    return send_own(self.connection, &own, self.is_head).map(|()| false);
                }
                Err(_) => return Ok(false),
            }
        }
    }

    fn respond(&mut self, head: &Head) -> io::Result<()> {
        let mut text = start(head.status);
        for (name, value) in &head.headers {
            text += &format!("{name}: {value}\r\n");
        }
        let has_none = self.is_head || matches!(head.status, 204 | 304);
        if let Some(length) = head.length.filter(|_| head.status != 204) {
            text += &format!("content-length: {length}\r\n");
        }
        self.begun = Some(match head.length {
            _ if has_none => Begun::Without,
            Some(length) => Begun::Length(length),
            None if self.is_newer => {
                text += "transfer-encoding: chunked\r\n";
                Begun::Chunks
            }
            None => Begun::ToEnd,
        });
        text += "\r\n";
        self.connection.stream.write_all(text.as_bytes())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let stream = &mut self.connection.stream;
        match &mut self.begun {
            None | Some(Begun::Without) => Ok(()),
            Some(Begun::Length(left)) => {
                // More than the app has said would be taken for another answer.
                *left = left.checked_sub(bytes.len() as u64).ok_or(ErrorKind::InvalidData)?;
                stream.write_all(bytes)
            }
            Some(Begun::Chunks) => {
                stream.write_all(format!("{:x}\r\n", bytes.len()).as_bytes())?;
                stream.write_all(bytes)?;
                stream.write_all(b"\r\n")
            }
            Some(Begun::ToEnd) => stream.write_all(bytes),
        }
    }

    fn finish(&mut self) -> io::Result<bool> {
        match self.begun {
            Some(Begun::Without | Begun::Length(0)) => Ok(true),
            Some(Begun::Chunks) => self.connection.stream.write_all(b"0\r\n\r\n").map(|()| true),
            Some(Begun::Length(_) | Begun::ToEnd) | None => Ok(false),
        }
    }
}

fn send_own(connection: &mut Connection, own: &Own, is_head: bool) -> io::Result<()> {
    let Own { status, text, more } = own;
    let mut answer = start(*status);
    if let Some((name, value)) = more {
        answer += &format!("{name}: {value}\r\n");
    }
    answer += &format!("content-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\n", text.len());
    answer += "connection: close\r\n\r\n";
    if !is_head {
        answer += text;
    }
    connection.stream.write_all(answer.as_bytes())
}

/// The beginning of any answer: an app's pages are for its own, and are what they say they are.
fn start(status: u16) -> String {
    format!(
        "HTTP/1.1 {status} {}\r\ndate: {}\r\nx-content-type-options: nosniff\r\n\
         cross-origin-resource-policy: same-origin\r\n",
        reason(status),
        date(seconds()),
    )
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        206 => "Partial Content",
        304 => "Not Modified",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        500 => "Internal Server Error",
        _ => "",
    }
}

/// As RFC 9110, section 5.6.7, has it; of seconds since 1970.
fn date(seconds: u64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // https://howardhinnant.github.io/date_algorithms.html: years begin in March there.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let year = era * 400 + year + u64::from(month >= 10);
    format!(
        "{}, {day:02} {} {year} {:02}:{:02}:{:02} GMT",
        DAYS[(days % 7) as usize],
        MONTHS[((month + 2) % 12) as usize],
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_827_696, "Tue, 29 Feb 2000 12:34:56 GMT"),
            (4_102_444_799, "Thu, 31 Dec 2099 23:59:59 GMT"),
        ] {
            assert_eq!(date(seconds), text);
        }
    }
}
