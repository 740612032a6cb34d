//! One request to an app, as the app's own thread has it. The thread of the connection does what it is told here.
//!
//! 1. An answer that ends before the app has said so breaks off for the client, and is no short answer.
//! 2. The app's thread waits for a client only so long, for the whole exchange.

use std::time::{Duration, Instant};

use super::message::{check_headers, content_length};
use super::pipe::{Giver, Taker, Why, pipe};
use crate::ipc::{Error, Header, HttpRequest};
use crate::limits::HTTP_PATIENCE;

/// What the thread of a connection has to do.
pub(super) enum Task {
    /// Read more of the body.
    Read,
    Respond(Head),
    Write(Vec<u8>),
    /// The answer is whole.
    Finish,
}

/// The head of an answer.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: u16,
    pub(super) headers: Vec<Header>,
    /// If the app has said how long the body is.
    pub(super) length: Option<u64>,
}

/// More of a body, nothing at its end; or it broke off.
pub(super) type More = Option<Vec<u8>>;

/// Tasks that wait for the client.
const TASKS_MAX: usize = 4;

pub(in crate::node) struct Exchange {
    request: HttpRequest,
    /// What has come already.
    ahead: Option<Vec<u8>>,
    is_all: bool,
    tasks: Giver<Task>,
    body: Taker<More>,
    has_responded: bool,
    patience: Duration,
}

/// The other side of an exchange.
pub(super) struct Connected {
    pub(super) tasks: Taker<Task>,
    pub(super) body: Giver<More>,
}

impl Exchange {
    /// With the first part of the request's body, which may be all of it.
    pub(super) fn new(request: HttpRequest, ahead: Vec<u8>, is_all: bool) -> (Self, Connected) {
        let (give_task, tasks) = pipe(TASKS_MAX);
        let (give_body, body) = pipe(1);
        let exchange = Self {
            request,
            ahead: Some(ahead),
            is_all,
            tasks: give_task,
            body,
            has_responded: false,
            patience: HTTP_PATIENCE,
        };
        (exchange, Connected { tasks, body: give_body })
    }

    pub(in crate::node) fn request(&self) -> &HttpRequest {
        &self.request
    }

    /// Nobody waits for an answer any more.
    pub(in crate::node) fn is_over(&self) -> bool {
        self.tasks.is_left()
    }

    fn wait<T>(&mut self, attempt: impl FnOnce(&Self, Instant) -> Result<T, Why>) -> Result<T, Error> {
        let begun = Instant::now();
        let outcome = attempt(self, begun + self.patience);
        self.patience = self.patience.saturating_sub(begun.elapsed());
        outcome.map_err(|why| match why {
            Why::Left => Error::Failed,
            Why::TimedOut => Error::TimedOut,
        })
    }

    fn give(&mut self, task: Task) -> Result<(), Error> {
        self.wait(|exchange, end| exchange.tasks.give(task, end))
    }

    /// More of the request's body; nothing at its end.
    pub(in crate::node) fn read(&mut self) -> Result<Vec<u8>, Error> {
        if let Some(ahead) = self.ahead.take().filter(|ahead| !ahead.is_empty()) {
            return Ok(ahead);
        }
        if self.is_all {
            return Ok(Vec::new());
        }
        self.give(Task::Read)?;
        let more = self.wait(|exchange, end| exchange.body.take(end))?.ok_or(Error::Failed)?;
        self.is_all = more.is_empty();
        Ok(more)
    }

    pub(in crate::node) fn respond(&mut self, status: u16, headers: Vec<Header>) -> Result<(), Error> {
        // Others are about the connection, which is not the app's.
        if !(200..600).contains(&status) {
            return Err(Error::Malformed);
        }
        if self.has_responded {
            return Err(Error::Exists);
        }
        let head = head(status, headers)?;
        self.give(Task::Respond(head))?;
        self.has_responded = true;
        Ok(())
    }

    pub(in crate::node) fn write(&mut self, bytes: Vec<u8>) -> Result<(), Error> {
        if !self.has_responded {
            return Err(Error::NotFound);
        }
        if bytes.is_empty() { Ok(()) } else { self.give(Task::Write(bytes)) }
    }

    /// The app has said all that it says. Without this, the answer breaks off.
    pub(in crate::node) fn finish(mut self) {
        if self.has_responded {
            // If the client does not take it, it breaks off for that one.
            let _ = self.give(Task::Finish);
        }
    }

    /// The same, if that waits for nobody; otherwise the exchange itself, to be finished later.
    pub(in crate::node) fn finish_at_once(self) -> Option<Self> {
        let waits = self.has_responded && self.tasks.give(Task::Finish, Instant::now()) == Err(Why::TimedOut);
        waits.then_some(self)
    }
}

/// What an app answers, without what is about the connection.
fn head(status: u16, headers: Vec<Header>) -> Result<Head, Error> {
    const OF_THE_CONNECTION: [&str; 9] = [
        "connection",
        "date",
        "keep-alive",
        "proxy-authenticate",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "content-length",
    ];
    check_headers(&headers)?;
    let (mut kept, mut length) = (Vec::new(), None);
    for (name, value) in headers {
        let name = name.to_ascii_lowercase();
        if name == "content-length" {
            let said = content_length(&value).filter(|_| length.is_none());
            length = Some(said.ok_or(Error::Malformed)?);
        }
        if !OF_THE_CONNECTION.contains(&name.as_str()) {
            kept.push((name, value));
        }
    }
    Ok(Head { status, headers: kept, length })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{HTTP_HEAD_BYTES_MAX, HTTP_HEADERS_MAX};

    fn header(name: &str, value: &str) -> Header {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn who_does_not_take_an_answer_does_not_hold_up_what_comes_behind_it() {
        let begin = || {
            let request =
                HttpRequest { method: "GET".into(), path: "/".into(), query: None, headers: Vec::new() };
            Exchange::new(request, Vec::new(), true)
        };
        // Nobody takes anything yet, and there is room for no more.
        let (mut exchange, connected) = begin();
        exchange.respond(200, Vec::new()).expect("taken");
        (1..TASKS_MAX).for_each(|_| exchange.write(b"more".to_vec()).expect("taken"));
        let exchange = exchange.finish_at_once().expect("it would wait");
        let soon = || Instant::now() + Duration::from_secs(60);
        assert!(matches!(connected.tasks.take(soon()), Ok(Task::Respond(_))));
        assert!(exchange.finish_at_once().is_none());
        let rest: Vec<_> = std::iter::from_fn(|| connected.tasks.take(soon()).ok()).collect();
        assert!(matches!(rest[..], [.., Task::Write(_), Task::Finish]), "it is whole");
        // Without an answer there is none to end.
        let (exchange, connected) = begin();
        assert!(exchange.finish_at_once().is_none());
        assert!(connected.tasks.take(soon()).is_err());
    }

    #[test]
    fn an_app_says_nothing_about_the_connection() {
        let headers =
            vec![header("ETag", "\"1\""), header("connection", "upgrade"), header("content-length", "7")];
        let said = head(200, headers).expect("accepted");
        assert_eq!((said.headers, said.length), (vec![header("etag", "\"1\"")], Some(7)));
        for wrong in
            [header("a b", "1"), header("", ""), header("a", "1\r\nb: 2"), header("content-length", "+1")]
        {
            assert_eq!(head(200, vec![wrong.clone()]).unwrap_err(), Error::Malformed, "{wrong:?}");
        }
        let twice = vec![header("content-length", "1"), header("content-length", "1")];
        assert_eq!(head(200, twice).unwrap_err(), Error::Malformed);
        assert_eq!(head(200, vec![header("a", "b"); HTTP_HEADERS_MAX + 1]).unwrap_err(), Error::TooLarge);
        assert_eq!(
            head(200, vec![header("a", &"b".repeat(HTTP_HEAD_BYTES_MAX))]).unwrap_err(),
            Error::TooLarge
        );
    }
}
