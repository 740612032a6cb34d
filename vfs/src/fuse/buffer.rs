//! Where an event loop's messages lie: one buffer for requests and one for answers, made once and used for all.
//!
//! They begin in the middle of a page, so that what is long, the data of a READ or WRITE, begins with a page.

use zerocopy::IntoBytes;

use super::kernel::WRITE_BYTES_MAX;
use super::protocol::{InHeader, OutHeader, WriteIn};

const PAGE_BYTES: usize = 4096;

/// Bytes of which those from `before` on begin with a page.
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
}

impl Aligned {
    fn new(before: usize, after: usize) -> Self {
        // From the system, zero, and not there until it is used.
        let bytes = vec![0; before + after + PAGE_BYTES];
        let start = bytes.as_ptr().wrapping_add(before).align_offset(PAGE_BYTES);
        Self { bytes, start }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..]
    }
}

/// For requests.
pub(super) struct RequestBuffer(Aligned);

impl RequestBuffer {
    pub(super) fn new() -> Self {
        let headers = size_of::<InHeader>() + size_of::<WriteIn>();
        Self(Aligned::new(headers, WRITE_BYTES_MAX as usize))
    }

    /// All of it: what the kernel may fill.
    pub(super) fn bytes(&mut self) -> &mut [u8] {
        self.0.bytes()
    }
}

/// For what is long in requests over io_uring and in their answers.
pub(super) struct PayloadBuffer(Aligned);

impl PayloadBuffer {
    pub(super) fn new() -> Self {
        Self(Aligned::new(0, WRITE_BYTES_MAX as usize))
    }

    pub(super) fn bytes(&mut self) -> &mut [u8] {
        self.0.bytes()
    }
}

/// For answers.
pub(super) struct AnswerBuffer(Aligned);

impl AnswerBuffer {
    pub(super) fn new() -> Self {
        Self(Aligned::new(size_of::<OutHeader>(), WRITE_BYTES_MAX as usize))
    }

    /// Where the body goes.
    pub(super) fn body(&mut self) -> &mut [u8] {
        &mut self.0.bytes()[size_of::<OutHeader>()..]
    }

    /// The message with the first bytes of the body.
    pub(super) fn message(&mut self, unique: u64, error: i32, body_bytes: usize) -> &[u8] {
        let bytes = size_of::<OutHeader>() + body_bytes;
        let header = OutHeader { len: bytes as u32, error, unique };
        let message = &mut self.0.bytes()[..bytes];
        message[..size_of::<OutHeader>()].copy_from_slice(header.as_bytes());
        message
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromBytes;

    use super::*;

    #[test]
    fn data_begins_with_a_page() {
        let mut request = RequestBuffer::new();
        let data = &request.bytes()[size_of::<InHeader>() + size_of::<WriteIn>()..];
        assert_eq!(data.as_ptr().addr() % PAGE_BYTES, 0);
        assert!(data.len() >= WRITE_BYTES_MAX as usize);
        let mut answer = AnswerBuffer::new();
        assert_eq!(answer.body().as_ptr().addr() % PAGE_BYTES, 0);
        answer.body()[..3].copy_from_slice(b"abc");
        let message = answer.message(5, -2, 3);
        assert_eq!(
            OutHeader::read_from_bytes(&message[..16]),
            Ok(OutHeader { len: 19, error: -2, unique: 5 })
        );
        assert_eq!(&message[16..], b"abc");
    }
}
