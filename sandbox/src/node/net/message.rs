//! What stands on an HTTP/1.1 connection (RFC 9112): heads, and bodies in their framings. The parser of heads is `httparse`.
//!
//! 1. Whatever comes, what is kept of it is bounded: heads, lines, trailers.
//! 2. A message that could be read in two ways is refused: two lengths, a length and chunks, spaces in odd places.

use std::io::{self, Read};

use crate::ipc::{self, Header};
use crate::limits::{HTTP_HEAD_BYTES_MAX, HTTP_HEADERS_MAX};

/// Read from a connection at once.
const PIECE_BYTES: usize = 64 << 10;
/// A line with the length of a chunk.
const LINE_BYTES_MAX: usize = 256;

#[derive(Debug, thiserror::Error)]
pub(super) enum MessageError {
    #[error("the connection has ended")]
    Ended,
    #[error("the message is malformed")]
    Malformed,
    #[error("the head is too long")]
    TooLong,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Bytes of a connection, of which some were read ahead.
pub(super) struct Reader<S> {
    pub(super) stream: S,
    ahead: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct RequestHead {
    pub(super) method: String,
    pub(super) target: String,
    /// HTTP/1.1, not 1.0.
    pub(super) is_newer: bool,
    pub(super) headers: Vec<Header>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct ResponseHead {
    pub(super) status: u16,
    pub(super) headers: Vec<Header>,
}

/// A head, and how long it was; `None` if it goes on.
type Parsed<T> = Result<Option<(usize, T)>, MessageError>;

/// How a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// After so many more bytes.
    Length(u64),
    /// With the last chunk; so many bytes of the present one are left.
    Chunks { left: u64, is_first: bool },
    /// With the connection.
    ToEnd,
}

impl<S: Read> Reader<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, ahead: Vec::new() }
    }

    /// More bytes behind those that are there; false at the end of the connection.
    fn fill(&mut self) -> io::Result<bool> {
        let start = self.ahead.len();
        self.ahead.resize(start + PIECE_BYTES, 0);
        let count = self.stream.read(&mut self.ahead[start..]);
        self.ahead.truncate(start + count.as_ref().map_or(0, |count| *count));
        Ok(count? > 0)
    }

    pub(super) fn request_head(&mut self) -> Result<RequestHead, MessageError> {
        self.head(parse_request)
    }

    /// What a server answers, behind what it says in between.
    pub(super) fn response_head(&mut self) -> Result<ResponseHead, MessageError> {
        const INTERIM_MAX: usize = 8;
        for _ in 0..INTERIM_MAX {
            let head = self.head(parse_response)?;
            if head.status >= 200 {
                return Ok(head);
            }
        }
        Err(MessageError::Malformed)
    }

    fn head<T>(&mut self, parse: fn(&[u8]) -> Parsed<T>) -> Result<T, MessageError> {
        loop {
            let known = &self.ahead[..self.ahead.len().min(HTTP_HEAD_BYTES_MAX)];
            if let Some((length, head)) = parse(known)? {
                self.ahead.drain(..length);
                return Ok(head);
            }
            if self.ahead.len() >= HTTP_HEAD_BYTES_MAX {
                return Err(MessageError::TooLong);
            }
            let was_empty = self.ahead.is_empty();
            if !self.fill()? {
                return Err(if was_empty { MessageError::Ended } else { MessageError::Malformed });
            }
        }
    }

    /// The next bytes of a body; none at its end.
    pub(super) fn body(&mut self, framing: &mut Framing) -> Result<Vec<u8>, MessageError> {
        match framing {
            Framing::Length(0) => Ok(Vec::new()),
            Framing::Length(left) => {
                let bytes = self.piece(*left)?;
                *left -= bytes.len() as u64;
                Ok(bytes)
            }
            Framing::ToEnd => match self.piece(u64::MAX) {
                Err(MessageError::Ended) => {
                    *framing = Framing::Length(0);
                    Ok(Vec::new())
                }
                other => other,
            },
            Framing::Chunks { left, is_first } => {
                if *left == 0 {
                    if !std::mem::take(is_first) && !self.line()?.is_empty() {
                        return Err(MessageError::Malformed);
                    }
                    *left = chunk_length(&self.line()?)?;
                    if *left == 0 {
                        self.skip_trailers()?;
                        *framing = Framing::Length(0);
                        return Ok(Vec::new());
                    }
                }
                let bytes = self.piece(*left)?;
                *left -= bytes.len() as u64;
                Ok(bytes)
            }
        }
    }

    /// Some bytes, and no more than so many.
    fn piece(&mut self, bytes_max: u64) -> Result<Vec<u8>, MessageError> {
        if self.ahead.is_empty() && !self.fill()? {
            return Err(MessageError::Ended);
        }
        let count = usize::try_from(bytes_max).unwrap_or(usize::MAX).min(self.ahead.len());
        Ok(self.ahead.drain(..count).collect())
    }

    /// A line without its end.
    fn line(&mut self) -> Result<Vec<u8>, MessageError> {
        loop {
            if let Some(end) = self.ahead.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.ahead[..end].to_vec();
                self.ahead.drain(..end + 2);
                return if line.len() > LINE_BYTES_MAX { Err(MessageError::TooLong) } else { Ok(line) };
            }
            if self.ahead.len() > LINE_BYTES_MAX {
                return Err(MessageError::TooLong);
            }
            if !self.fill()? {
                return Err(MessageError::Ended);
            }
        }
    }

    fn skip_trailers(&mut self) -> Result<(), MessageError> {
        for _ in 0..=HTTP_HEADERS_MAX {
            if self.line()?.is_empty() {
                return Ok(());
            }
        }
        Err(MessageError::TooLong)
    }
}

fn chunk_length(line: &[u8]) -> Result<u64, MessageError> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
    let text = std::str::from_utf8(digits).unwrap_or_default();
    let is_number = (1..=15).contains(&text.len()) && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    let length = u64::from_str_radix(text, 16).ok().filter(|_| is_number);
    length.ok_or(MessageError::Malformed)
}

fn parse_request(bytes: &[u8]) -> Parsed<RequestHead> {
    let mut headers = [httparse::EMPTY_HEADER; HTTP_HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let Some(length) = length_of(request.parse(bytes))? else { return Ok(None) };
    let head = RequestHead {
        method: request.method.unwrap_or_default().to_owned(),
        target: request.path.unwrap_or_default().to_owned(),
        is_newer: request.version == Some(1),
        headers: listed(request.headers),
    };
    Ok(Some((length, head)))
}

fn parse_response(bytes: &[u8]) -> Parsed<ResponseHead> {
    let mut headers = [httparse::EMPTY_HEADER; HTTP_HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let Some(length) = length_of(response.parse(bytes))? else { return Ok(None) };
    let status = response.code.unwrap_or_default();
    Ok(Some((length, ResponseHead { status, headers: listed(response.headers) })))
}

/// How long a head is; `None` if it goes on.
fn length_of(parsed: httparse::Result<usize>) -> Result<Option<usize>, MessageError> {
    match parsed {
        Ok(httparse::Status::Partial) => Ok(None),
        Ok(httparse::Status::Complete(length)) => Ok(Some(length)),
        Err(httparse::Error::TooManyHeaders) => Err(MessageError::TooLong),
        Err(_) => Err(MessageError::Malformed),
    }
}

/// Names in lower case. What is no UTF-8 in a value is replaced.
fn listed(headers: &[httparse::Header<'_>]) -> Vec<Header> {
    let header = |header: &httparse::Header<'_>| {
        (header.name.to_ascii_lowercase(), String::from_utf8_lossy(header.value).into_owned())
    };
    headers.iter().map(header).collect()
}

/// The values of a header.
pub(super) fn values<'a>(headers: &'a [Header], name: &'a str) -> impl Iterator<Item = &'a str> {
    headers.iter().filter(move |header| header.0 == name).map(|header| header.1.as_str())
}

/// How the body behind these headers ends. `None` if they do not say that there is one.
pub(super) fn framing(headers: &[Header], may_be_chunked: bool) -> Result<Option<Framing>, MessageError> {
    let mut lengths = values(headers, "content-length");
    let mut codings = values(headers, "transfer-encoding");
    match (lengths.next(), codings.next()) {
        (None, None) => Ok(None),
        (Some(length), None) if lengths.next().is_none() => {
            let length = content_length(length).ok_or(MessageError::Malformed)?;
            Ok(Some(Framing::Length(length)))
        }
        (None, Some(coding))
            if codings.next().is_none() && may_be_chunked && coding.eq_ignore_ascii_case("chunked") =>
        {
            Ok(Some(Framing::Chunks { left: 0, is_first: true }))
        }
        _ => Err(MessageError::Malformed),
    }
}

/// The length that a header says, if it says one.
pub(super) fn content_length(value: &str) -> Option<u64> {
    let is_number = (1..=18).contains(&value.len()) && value.bytes().all(|digit| digit.is_ascii_digit());
    value.parse().ok().filter(|_| is_number)
}

/// Refuses headers of an app that are too many or too long, or cannot be headers.
pub(super) fn check_headers(headers: &[Header]) -> Result<(), ipc::Error> {
    let bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if headers.len() > HTTP_HEADERS_MAX || bytes > HTTP_HEAD_BYTES_MAX {
        return Err(ipc::Error::TooLarge);
    }
    match headers.iter().all(|(name, value)| is_header_name(name) && is_header_value(value)) {
        true => Ok(()),
        false => Err(ipc::Error::Malformed),
    }
}

/// Whether this can be the name of a header.
pub(super) fn is_header_name(name: &str) -> bool {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(is_token)
}

/// Whether this can be the value of a header: one line.
fn is_header_value(value: &str) -> bool {
    value.bytes().all(|byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f))
}

/// Reads whatever these bytes may be on a connection.
#[cfg(feature = "fuzzing")]
pub fn read_http(bytes: &[u8]) {
    let read = |reader: &mut Reader<&[u8]>, mut framing: Framing| {
        let mut length = 0;
        while let Ok(part) = reader.body(&mut framing) {
            length += part.len();
            assert!(length <= bytes.len());
            if part.is_empty() {
                return;
            }
        }
    };
    let mut reader = Reader::new(bytes);
    while let Ok(head) = reader.request_head() {
        let Ok(framing) = framing(&head.headers, head.is_newer) else { break };
        read(&mut reader, framing.unwrap_or(Framing::Length(0)));
    }
    let mut reader = Reader::new(bytes);
    if let Ok(head) = reader.response_head() {
        let framing = framing(&head.headers, true).ok().flatten();
        read(&mut reader, framing.unwrap_or(Framing::ToEnd));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn body(framing: Framing, bytes: &[u8]) -> Result<Vec<u8>, MessageError> {
        let (mut reader, mut framing, mut all) = (Reader::new(bytes), framing, Vec::new());
        loop {
            let part = reader.body(&mut framing)?;
            if part.is_empty() {
                return Ok(all);
            }
            all.extend(part);
        }
    }

    #[test]
    fn bodies_end_where_they_say() {
        assert_eq!(body(Framing::Length(3), b"abcd").expect("a body"), b"abc");
        assert!(matches!(body(Framing::Length(5), b"abcd"), Err(MessageError::Ended)));
        assert_eq!(body(Framing::ToEnd, b"abcd").expect("a body"), b"abcd");
        let chunks = Framing::Chunks { left: 0, is_first: true };
        assert_eq!(
            body(chunks, b"3\r\nabc\r\n1;x=y\r\nd\r\n0\r\na: b\r\n\r\nrest").expect("a body"),
            b"abcd"
        );
        for wrong in [
            "",
            "3\r\nab",
            "3\r\nabcd\r\n0\r\n\r\n",
            "x\r\n",
            "-1\r\n",
            "+1\r\na\r\n",
            "\r\n",
            "0\r\n",
            "fffffffffffffffff\r\n",
        ] {
            assert!(body(chunks, wrong.as_bytes()).is_err(), "{wrong:?}");
        }
        assert!(matches!(body(chunks, "1".repeat(1000).as_bytes()), Err(MessageError::TooLong)));
        assert!(body(chunks, format!("0\r\n{}\r\n", "a: b\r\n".repeat(100)).as_bytes()).is_err());
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        let of = |headers: &[(&str, &str)]| {
            let headers: Vec<Header> =
                headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
            framing(&headers, true)
        };
        assert_eq!(of(&[("content-length", "5")]).expect("one"), Some(Framing::Length(5)));
        assert_eq!(of(&[]).expect("none"), None);
        let (length, chunked) = (("content-length", "5"), ("transfer-encoding", "chunked"));
        for wrong in [
            &[length, length][..],
            &[length, chunked],
            &[chunked, chunked],
            &[("transfer-encoding", "gzip, chunked")],
            &[("content-length", "+5")],
            &[("content-length", "5, 5")],
            &[("content-length", "")],
        ] {
            assert!(of(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn heads_have_an_end() {
        let head = |text: &str| Reader::new(text.as_bytes()).request_head();
        let parsed = head("GET /a?b HTTP/1.1\r\nHost: X\r\n\r\nrest").expect("a head");
        assert_eq!((parsed.method.as_str(), parsed.target.as_str(), parsed.is_newer), ("GET", "/a?b", true));
        assert_eq!(parsed.headers, [("host".to_owned(), "X".to_owned())]);
        assert!(matches!(head(""), Err(MessageError::Ended)));
        assert!(matches!(head("GET / HT"), Err(MessageError::Malformed)));
        assert!(matches!(head("GET / HTTP/1.1\r\na : b\r\n\r\n"), Err(MessageError::Malformed)));
        assert!(matches!(head("GET / HTTP/1.1\r\na: b\r\n c\r\n\r\n"), Err(MessageError::Malformed)));
        assert!(matches!(head(&format!("GET /{}", "x".repeat(1 << 20))), Err(MessageError::TooLong)));
        assert!(matches!(
            head(&format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(100))),
            Err(MessageError::TooLong)
        ));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Reader::new(&bytes[..]).request_head();
            let _ = Reader::new(&bytes[..]).response_head();
            let _ = body(Framing::Chunks { left: 0, is_first: true }, &bytes);
        }
    }
}
