//! One netlink socket for requests.

use std::time::Duration;

use nlink::netlink::{
    AttrIter, MessageBuilder, MessageIter, NetlinkSocket, NlMsgHdr, NlMsgType, Protocol,
    message::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_HDRLEN},
};

use crate::error::{Error, KernelError};

/// The kernel answers at once; this only guards against waiting for ever.
const PATIENCE: Duration = Duration::from_secs(10);
/// A batch is one datagram, and a full table with large sets has some megabytes. Memory is only used while it is sent.
const SEND_BUFFER: usize = 64 << 20;
/// Room for the acknowledgements and errors of a large batch.
const RECEIVE_BUFFER: usize = 8 << 20;
/// The error message is cut after the request's header.
const NLM_F_CAPPED: u16 = 0x100;
/// The error message has attributes.
const NLM_F_ACK_TLVS: u16 = 0x200;
/// The attribute that holds the kernel's text.
const NLMSGERR_ATTR_MSG: u16 = 1;

/// A netlink socket for requests.
pub(crate) struct Socket {
    inner: NetlinkSocket,
}

/// The reply to one request.
pub(crate) enum Reply<'a> {
    /// Part of the answer: message type, payload.
    Data(u16, &'a [u8]),
    /// The end: success, or the error number and the kernel's text.
    End(Result<(), (i32, Option<String>)>),
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    pub(crate) fn open(protocol: Protocol, name: &'static str) -> Result<Self, Error> {
        let cannot = |source: std::io::Error| Error::Socket { protocol: name, source };
        let inner = NetlinkSocket::new(protocol).map_err(|e| cannot(std::io::Error::other(e)))?;
        // The forced form goes beyond the system's limits; without the right to it the plain one must do.
        if rustix::net::sockopt::set_socket_send_buffer_size_force(&inner, SEND_BUFFER).is_err() {
            rustix::net::sockopt::set_socket_send_buffer_size(&inner, SEND_BUFFER).map_err(|e| cannot(e.into()))?;
        }
        inner.set_rcvbuf(RECEIVE_BUFFER).map_err(|e| cannot(std::io::Error::other(e)))?;
        inner.set_strict_checking(true).map_err(|e| cannot(std::io::Error::other(e)))?;
        Ok(Self { inner })
    }

    /// Our port identifier.
    pub(crate) fn port(&self) -> u32 {
        self.inner.pid()
    }

    /// The next sequence number.
    pub(crate) fn next_sequence(&self) -> u32 {
        self.inner.next_seq()
    }

    /// Sends one datagram.
    pub(crate) async fn send(&self, what: &str, bytes: &[u8]) -> Result<(), Error> {
        self.inner.send(bytes).await.map_err(|error| match error.errno() {
            Some(errno) => KernelError::new(what, errno).into(),
            None => Error::Netlink { operation: what.to_owned(), reason: error.to_string() },
        })
    }

    /// One datagram that is queued already, if any.
    pub(crate) fn try_receive(&self, what: &str) -> Result<Option<Vec<u8>>, Error> {
        self.inner
            .try_recv_unicast()
            .map_err(|error| Error::Netlink { operation: what.to_owned(), reason: error.to_string() })
    }

    /// One datagram; waits for it if need be, but not for ever.
    pub(crate) async fn receive(&self, what: &str) -> Result<Vec<u8>, Error> {
        if let Some(data) = self.try_receive(what)? {
            return Ok(data);
        }
        let broken = |reason: String| Error::Netlink { operation: what.to_owned(), reason };
        match tokio::time::timeout(PATIENCE, self.inner.recv_unicast()).await {
            Ok(data) => data.map_err(|error| broken(error.to_string())),
            Err(_) => Err(broken(format!("no answer within {} s", PATIENCE.as_secs()))),
        }
    }

    /// Sends a request that is answered by an acknowledgement only.
    pub(crate) async fn acknowledged(&self, what: &str, mut request: MessageBuilder) -> Result<(), Error> {
        let sequence = self.next_sequence();
        request.set_seq(sequence);
        request.set_pid(self.port());
        let mut bytes = request.finish();
        set_flags(&mut bytes, NLM_F_REQUEST | NLM_F_ACK);
        self.send(what, &bytes).await?;
        self.collect(what, sequence, |_, _| {}).await.map(drop)
    }

    /// Sends a request for one object. The answer must be a single message.
    pub(crate) async fn get(
        &self,
        what: &str,
        request: MessageBuilder,
        each: impl FnMut(u16, &[u8]),
    ) -> Result<(), Error> {
        self.ask(what, request, NLM_F_REQUEST | NLM_F_ACK, each).await.map(drop)
    }

    /// Sends a request for all objects of a kind. Returns whether they changed while they were read.
    pub(crate) async fn dump(
        &self,
        what: &str,
        request: MessageBuilder,
        each: impl FnMut(u16, &[u8]),
    ) -> Result<bool, Error> {
        self.ask(what, request, NLM_F_REQUEST | NLM_F_DUMP, each).await
    }

    async fn ask(
        &self,
        what: &str,
        mut request: MessageBuilder,
        flags: u16,
        each: impl FnMut(u16, &[u8]),
    ) -> Result<bool, Error> {
        let sequence = self.next_sequence();
        request.set_seq(sequence);
        request.set_pid(self.port());
        let mut bytes = request.finish();
        set_flags(&mut bytes, flags);
        self.send(what, &bytes).await?;
        self.collect(what, sequence, each).await
    }

    /// Reads until the end of the answer to one request.
    async fn collect(&self, what: &str, sequence: u32, mut each: impl FnMut(u16, &[u8])) -> Result<bool, Error> {
        let mut interrupted = false;
        loop {
            let data = self.receive(what).await?;
            for message in MessageIter::new(&data) {
                let (header, payload) =
                    message.map_err(|e| Error::Netlink { operation: what.to_owned(), reason: e.to_string() })?;
                if header.nlmsg_seq != sequence {
                    continue;
                }
                interrupted |= header.is_dump_interrupted();
                match reply(header, payload) {
                    Reply::Data(kind, payload) => each(kind, payload),
                    Reply::End(Ok(())) => return Ok(interrupted),
                    Reply::End(Err((errno, detail))) => {
                        return Err(KernelError { operation: what.to_owned(), errno, detail }.into());
                    }
                }
            }
        }
    }
}

/// Reads what a message says.
pub(crate) fn reply<'a>(header: &NlMsgHdr, payload: &'a [u8]) -> Reply<'a> {
    match header.nlmsg_type {
        NlMsgType::ERROR | NlMsgType::DONE => Reply::End(outcome(header, payload)),
        kind => Reply::Data(kind, payload),
    }
}

fn outcome(header: &NlMsgHdr, payload: &[u8]) -> Result<(), (i32, Option<String>)> {
    let errno = payload.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
    if errno == 0 {
        return Ok(());
    }
    let mut skip = 4;
    if header.nlmsg_type == NlMsgType::ERROR {
        // The request that failed comes first: its header, and the rest of it unless it was cut.
        let whole = payload.get(4..8).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_ne_bytes(*b) as usize);
        skip += if header.nlmsg_flags & NLM_F_CAPPED != 0 { NLMSG_HDRLEN } else { whole.next_multiple_of(4) };
    }
    let attributes = if header.nlmsg_flags & NLM_F_ACK_TLVS != 0 { payload.get(skip..) } else { None };
    let text = AttrIter::new(attributes.unwrap_or_default())
        .find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG)
        .map(|(_, text)| String::from_utf8_lossy(text).trim_end_matches('\0').to_owned());
    Err((-errno, text))
}

/// Sets flags in a finished message.
pub(crate) fn set_flags(message: &mut [u8], flags: u16) {
    let old = u16::from_ne_bytes([message[6], message[7]]);
    message[6..8].copy_from_slice(&(old | flags).to_ne_bytes());
}

/// A NUL-terminated string attribute.
pub(crate) fn text(payload: &[u8]) -> String {
    String::from_utf8_lossy(payload).trim_end_matches('\0').to_owned()
}

/// A number in network order.
pub(crate) fn number(payload: &[u8]) -> u32 {
    payload.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_read_with_the_kernels_text() {
        let mut payload = (-16i32).to_ne_bytes().to_vec();
        payload.extend_from_slice(&[0; NLMSG_HDRLEN]);
        payload.extend_from_slice(&[9, 0, 1, 0]);
        payload.extend_from_slice(b"busy\0\0\0\0");
        let header = NlMsgHdr { nlmsg_flags: NLM_F_CAPPED | NLM_F_ACK_TLVS, ..NlMsgHdr::new(NlMsgType::ERROR, 0) };
        assert_eq!(outcome(&header, &payload), Err((16, Some("busy".to_owned()))));
        assert_eq!(outcome(&NlMsgHdr::new(NlMsgType::DONE, 0), &0i32.to_ne_bytes()), Ok(()));
        assert_eq!(outcome(&NlMsgHdr::new(NlMsgType::ERROR, 0), &(-2i32).to_ne_bytes()), Err((2, None)));
    }
}
