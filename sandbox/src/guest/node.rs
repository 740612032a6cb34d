//! Asks the node.

use crate::ipc::{Channel, Data, Error, FromGuest, Reply, Request, ToGuest, Window};
use crate::limits::{DATA_BYTES_MAX, INLINE_BYTES_MAX};

pub(super) struct Node {
    pub(super) channel: Channel,
    pub(super) window: Window,
    /// The node has gone, or said what it should not have: nothing works any more.
    pub(super) is_broken: bool,
}

impl Node {
    pub(super) fn new(channel: Channel, window: Window) -> Self {
        Self { channel, window, is_broken: false }
    }

    pub(super) fn ask(&mut self, request: Request) -> Result<Reply, Error> {
        if self.is_broken {
            return Err(Error::Failed);
        }
        if self.channel.send(&FromGuest::Request(request)).is_ok()
            && let Ok(ToGuest::Answer(answer)) = self.channel.receive(None)
        {
            return answer;
        }
        self.is_broken = true;
        Err(Error::Failed)
    }

    /// As [`Self::ask`], where the only answer is that it was done.
    pub(super) fn ask_to(&mut self, request: Request) -> Result<(), Error> {
        self.ask(request).map(drop)
    }

    /// Puts data where a request can name it.
    pub(super) fn outgoing(&mut self, bytes: Vec<u8>) -> Result<Data, Error> {
        match bytes.len() {
            0..=INLINE_BYTES_MAX => Ok(Data::Inline(bytes)),
            length if length <= DATA_BYTES_MAX => {
                self.window.put(&bytes).map_err(|_| Error::Failed)?;
                Ok(Data::Window(length as u32))
            }
            _ => Err(Error::TooLarge),
        }
    }

    pub(super) fn incoming(&mut self, data: Data) -> Result<Vec<u8>, Error> {
        match data {
            Data::Inline(bytes) => Ok(bytes),
            Data::Window(length) => self.window.get(length as usize).map_err(|_| Error::Failed),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A node that answers like this, until nobody asks any more.
    pub(in crate::guest) fn answering(
        mut answer: impl FnMut(Request) -> Result<Reply, Error> + Send + 'static,
    ) -> Node {
        let (mut near, far) = Channel::pair().expect("sockets");
        std::thread::spawn(move || {
            while let Ok(FromGuest::Request(request)) = near.receive(None)
                && near.send(&ToGuest::Answer(answer(request))).is_ok()
            {}
        });
        Node::new(Channel::new(far), Window::new().expect("a window"))
    }
}
