//! What the kernel alone takes to replace a chain: the rules as the kernel itself tells them, sent back to it as one
//! batch that was made before, and nothing of ours around it.

use std::time::{Duration, Instant};

use miette::{IntoDiagnostic, Result, miette};
use nlink::netlink::{
    AttrIter, MessageBuilder, MessageIter, NetlinkSocket, NlMsgType, Protocol,
    message::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REQUEST},
};

// Of `linux/netfilter/nfnetlink.h` and `nf_tables.h`.
const SUBSYSTEM: u8 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEWRULE: u16 = 10 << 8 | 6;
const GETRULE: u16 = 10 << 8 | 7;
const DELRULE: u16 = 10 << 8 | 8;
const IPV4: u8 = 2;
/// Attributes of a rule: table, chain, expressions, user data.
const TABLE: u16 = 1;
const CHAIN: u16 = 2;
const CONTENT: [u16; 2] = [4, 7];
/// Where the attributes of a message start.
const HEADER: usize = 4;
/// The kernel answers at once; this only guards against waiting for ever.
const PATIENCE: Duration = Duration::from_secs(10);

/// The transaction that replaces one chain's rules by the same.
pub(crate) struct Replacement {
    socket: NetlinkSocket,
    batch: Vec<u8>,
    /// Sequence number of the message whose acknowledgement says that all is done.
    last: u32,
}

impl Replacement {
    /// Reads the rules of a chain of the family `ip`.
    pub(crate) async fn of_chain(table: &str, chain: &str) -> Result<Self> {
        let socket = NetlinkSocket::new(Protocol::Netfilter).into_diagnostic()?;
        let rules = read(&socket, table, chain).await?;
        let mut batch = frame(BATCH_BEGIN).finish();
        batch.extend(rule(DELRULE, 0, table, chain).finish());
        let mut last = 0;
        for (number, content) in rules.iter().enumerate() {
            let acknowledged = number + 1 == rules.len();
            let flags = NLM_F_CREATE | NLM_F_APPEND | if acknowledged { NLM_F_ACK } else { 0 };
            let mut message = rule(NEWRULE, flags, table, chain);
            for (kind, value) in content {
                message.append_attr(*kind, value);
            }
            last = socket.next_seq();
            message.set_seq(last);
            batch.extend(message.finish());
        }
        batch.extend(frame(BATCH_END).finish());
        Ok(Self { socket, batch, last })
    }

    /// Has the kernel do it. Returns how long that took.
    pub(crate) async fn commit(&self) -> Result<Duration> {
        let start = Instant::now();
        self.socket.send(&self.batch).await.into_diagnostic()?;
        let done = |sequence: u32| sequence == self.last;
        answers(&self.socket, |kind, sequence, payload| {
            // The first word of an error message is the negative error number, zero in an acknowledgement.
            let errno = payload.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
            match kind {
                NlMsgType::ERROR if errno != 0 => Err(miette!("the kernel refuses the bare batch: error {}", -errno)),
                NlMsgType::ERROR => Ok(done(sequence)),
                _ => Ok(false),
            }
        })
        .await?;
        Ok(start.elapsed())
    }
}

fn frame(kind: u16) -> MessageBuilder {
    let mut message = MessageBuilder::new(kind, NLM_F_REQUEST);
    message.append_bytes(&[0, 0, 0, SUBSYSTEM]);
    message
}

fn rule(kind: u16, flags: u16, table: &str, chain: &str) -> MessageBuilder {
    let mut message = MessageBuilder::new(kind, NLM_F_REQUEST | flags);
    message.append_bytes(&[IPV4, 0, 0, 0]);
    message.append_attr_str(TABLE, table);
    message.append_attr_str(CHAIN, chain);
    message
}

/// A rule's content as the kernel tells it.
type Content = Vec<(u16, Vec<u8>)>;

async fn read(socket: &NetlinkSocket, table: &str, chain: &str) -> Result<Vec<Content>> {
    let mut request = rule(GETRULE, NLM_F_DUMP, table, chain);
    let asked = socket.next_seq();
    request.set_seq(asked);
    socket.send(&request.finish()).await.into_diagnostic()?;
    let mut rules = Vec::new();
    answers(socket, |kind, sequence, payload| {
        match kind {
            _ if sequence != asked => return Ok(false),
            NlMsgType::DONE => return Ok(true),
            NlMsgType::ERROR => return Err(miette!("the kernel does not list the rules of {chain}")),
            _ => {}
        }
        let attributes = AttrIter::new(payload.get(HEADER..).unwrap_or_default());
        let content = attributes.filter(|(kind, _)| CONTENT.contains(kind)).map(|(kind, value)| (kind, value.to_vec()));
        rules.push(content.collect());
        Ok(false)
    })
    .await?;
    if rules.is_empty() { Err(miette!("the chain {chain} has no rules")) } else { Ok(rules) }
}

/// Reads messages (type, sequence number, payload) until one is the last.
async fn answers(socket: &NetlinkSocket, mut is_last: impl FnMut(u16, u32, &[u8]) -> Result<bool>) -> Result<()> {
    loop {
        let received = tokio::time::timeout(PATIENCE, socket.recv_unicast()).await;
        let data = received.map_err(|_| miette!("no answer of the kernel within {PATIENCE:?}"))?.into_diagnostic()?;
        for message in MessageIter::new(&data) {
            let (header, payload) = message.into_diagnostic()?;
            if is_last(header.nlmsg_type, header.nlmsg_seq, payload)? {
                return Ok(());
            }
        }
    }
}
