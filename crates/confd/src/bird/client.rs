//! The client of the control socket.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

use super::{BadReply, Reply, ReplyReader, Session, Status};

/// The longest request that BIRD reads; at 1,023 bytes it closes the connection.
const MAX_REQUEST: usize = 1_000;
/// How long a healthy daemon may take; the largest answers take half a second.
const PATIENCE: Duration = Duration::from_secs(5);

/// A failed conversation with BIRD.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nobody listens.
    #[error("BIRD does not listen on {}: {source}; is it running?", path.display())]
    Absent {
        /// The socket.
        path: PathBuf,
        /// The kernel's words.
        source: io::Error,
    },
    /// The connection ended instead of a greeting.
    #[error("BIRD closed the connection on {} before its greeting: it refused its configuration, see its log", path.display())]
    NoGreeting {
        /// The socket.
        path: PathBuf,
    },
    /// The connection ended in a conversation.
    #[error("BIRD went away during {command:?}")]
    Closed {
        /// What was asked.
        command: String,
    },
    /// No answer in time.
    #[error("BIRD did not answer {command:?} within {} s", PATIENCE.as_secs())]
    Timeout {
        /// What was asked.
        command: String,
    },
    /// BIRD said no.
    #[error("BIRD refused {command:?}: {text} (code {code})")]
    Refused {
        /// What was asked.
        command: String,
        /// BIRD's code, 8000 and above.
        code: u16,
        /// BIRD's words.
        text: String,
    },
    /// The answer is not of the protocol.
    #[error("the answer to {command:?} makes no sense: {source}")]
    Malformed {
        /// What was asked.
        command: String,
        /// What is wrong.
        source: BadReply,
    },
    /// A request that BIRD would not survive, or that would be two; nothing was sent.
    #[error("{0:?} is not a command for BIRD: one line of at most {MAX_REQUEST} bytes")]
    Command(String),
}

impl Error {
    /// True if the connection is still good: BIRD answered, but with no.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Command(_))
    }

    /// True if the daemon is not there at all.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent { .. } | Self::NoGreeting { .. })
    }
}

/// How a `configure` ended; in every case BIRD has accepted the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Configured {
    /// In force.
    Done,
    /// In force except for protocols that are still shutting down.
    InProgress,
    /// Behind a reconfiguration in progress.
    Queued,
}

/// A connection to BIRD's control socket. One request at a time; dropping it closes it.
///
/// A call that is dropped half-way leaves the connection unusable: connect again.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    reader: ReplyReader,
}

impl Client {
    /// Connects and reads the greeting.
    ///
    /// # Errors
    /// [`Error::Absent`], [`Error::NoGreeting`], [`Error::Timeout`].
    pub async fn connect(path: &Path) -> Result<Self, Error> {
        let absent = |source| Error::Absent { path: path.to_owned(), source };
        let stream = UnixStream::connect(path).await.map_err(absent)?;
        let mut client = Self { stream, reader: ReplyReader::new() };
        match client.receive("the greeting").await {
            Ok(Reply { code: 1, .. }) => Ok(client),
            Ok(reply) => Err(refused("the greeting", &reply)),
            Err(Error::Closed { .. }) => Err(Error::NoGreeting { path: path.to_owned() }),
            Err(other) => Err(other),
        }
    }

    /// Sends one command and waits for its reply, which may be a refusal.
    ///
    /// # Errors
    /// [`Error::Command`], [`Error::Closed`], [`Error::Timeout`], [`Error::Malformed`].
    pub async fn ask(&mut self, command: &str) -> Result<Reply, Error> {
        if command.len() > MAX_REQUEST || command.contains(['\n', '\r', '\0']) {
            return Err(Error::Command(command.to_owned()));
        }
        if self.stream.write_all(format!("{command}\n").as_bytes()).await.is_err() {
            return Err(Error::Closed { command: command.to_owned() });
        }
        self.receive(command).await
    }

    /// Gives up the right to change anything on this connection.
    ///
    /// # Errors
    /// As [`ask`](Self::ask), and [`Error::Refused`].
    pub async fn restrict(&mut self) -> Result<(), Error> {
        self.expect("restrict", &[16]).await.map(drop)
    }

    /// The daemon's state.
    ///
    /// # Errors
    /// As [`restrict`](Self::restrict).
    pub async fn status(&mut self) -> Result<Status, Error> {
        Ok(Status::parse(&self.expect("show status", &[13]).await?))
    }

    /// All BGP sessions, in the configuration's order.
    ///
    /// # Errors
    /// As [`restrict`](Self::restrict).
    pub async fn sessions(&mut self) -> Result<Vec<Session>, Error> {
        Ok(Session::parse_all(&self.expect("show protocols all", &[0]).await?))
    }

    /// Makes BIRD read its configuration file again. Sessions and routes that the change does not concern stay.
    ///
    /// # Errors
    /// As [`restrict`](Self::restrict); a [`Error::Refused`] with code 8002 names file, line and column, and the
    /// old configuration stays in force.
    pub async fn configure(&mut self) -> Result<Configured, Error> {
        match self.expect("configure", &[3, 4, 5]).await?.code {
            3 => Ok(Configured::Done),
            4 => Ok(Configured::InProgress),
            _ => Ok(Configured::Queued),
        }
    }

    /// Stops the daemon so that peers keep its routes until it is back: the stop for an upgrade. A SIGTERM or the
    /// command `down` would make the peers drop them.
    ///
    /// # Errors
    /// As [`restrict`](Self::restrict).
    pub async fn graceful_restart(&mut self) -> Result<(), Error> {
        self.expect("graceful restart", &[25]).await.map(drop)
    }

    /// `show protocols`, short: cheap enough to be asked often.
    pub(crate) async fn table(&mut self) -> Result<Reply, Error> {
        self.expect("show protocols", &[0]).await
    }

    async fn expect(&mut self, command: &str, codes: &[u16]) -> Result<Reply, Error> {
        let reply = self.ask(command).await?;
        if codes.contains(&reply.code) { Ok(reply) } else { Err(refused(command, &reply)) }
    }

    async fn receive(&mut self, command: &str) -> Result<Reply, Error> {
        match timeout(PATIENCE, self.read(command)).await {
            Ok(result) => result,
            Err(_elapsed) => Err(Error::Timeout { command: command.to_owned() }),
        }
    }

    async fn read(&mut self, command: &str) -> Result<Reply, Error> {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            if let Some(reply) = self.reader.next_reply() {
                return Ok(reply);
            }
            // A reset is how the daemon ends a connection that it never served.
            let count = self.stream.read(&mut buffer).await.unwrap_or(0);
            if count == 0 {
                return Err(Error::Closed { command: command.to_owned() });
            }
            self.reader
                .feed(&buffer[..count])
                .map_err(|source| Error::Malformed { command: command.to_owned(), source })?;
        }
    }
}

fn refused(command: &str, reply: &Reply) -> Error {
    Error::Refused { command: command.to_owned(), code: reply.code, text: reply.text().to_owned() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::net::UnixListener;

    use super::*;

    /// Serves one connection: writes `greeting`, then answers the n-th request with the n-th answer, then closes.
    fn serve(greeting: &'static str, answers: &'static [&'static str]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bird.ctl");
        let listener = UnixListener::bind(&path).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(greeting.as_bytes()).await.unwrap();
            for answer in answers {
                let mut request = Vec::new();
                while request.last() != Some(&b'\n') {
                    request.push(stream.read_u8().await.unwrap());
                }
                for byte in answer.as_bytes() {
                    stream.write_all(&[*byte]).await.unwrap();
                }
            }
        });
        (dir, path)
    }

    #[tokio::test]
    async fn a_conversation() {
        let (_dir, path) = serve(
            "0001 BIRD 2.0.12 ready.\n",
            &[
                "0016 Access restricted\n",
                "0002-Reading configuration from bird.conf\n8002 bird.conf:88:1 syntax error\n",
                "0002-Reading configuration from bird.conf\n0004 Reconfiguration in progress\n",
                "0025 Graceful restart requested\n",
            ],
        );
        let mut client = Client::connect(&path).await.unwrap();
        client.restrict().await.unwrap();
        let error = client.configure().await.unwrap_err();
        assert!(matches!(&error, Error::Refused { code: 8002, text, .. } if text.contains("bird.conf:88:1")));
        assert!(error.is_refusal());
        assert_eq!(client.configure().await.unwrap(), Configured::InProgress);
        client.graceful_restart().await.unwrap();
        assert!(matches!(client.status().await, Err(Error::Closed { command }) if command == "show status"));
    }

    #[tokio::test]
    async fn nobody_there() {
        let dir = tempfile::tempdir().unwrap();
        let error = Client::connect(&dir.path().join("bird.ctl")).await.unwrap_err();
        assert!(error.is_absent() && error.to_string().contains("is it running"), "{error}");
    }

    #[tokio::test]
    async fn a_daemon_that_refused_its_configuration() {
        let (_dir, path) = serve("", &[]);
        assert!(matches!(Client::connect(&path).await, Err(Error::NoGreeting { .. })));
    }

    #[tokio::test]
    async fn a_stranger_on_the_socket() {
        let (_dir, path) = serve("220 mail.example ESMTP\n", &[]);
        assert!(matches!(Client::connect(&path).await, Err(Error::Malformed { .. })));
    }

    #[tokio::test]
    async fn requests_that_would_be_two_or_too_long_are_not_sent() {
        let (_dir, path) = serve("0001 BIRD 2.0.12 ready.\n", &["0000 \n"]);
        let mut client = Client::connect(&path).await.unwrap();
        for bad in ["show status\ndown".to_owned(), "x".repeat(1_001), "a\0b".into()] {
            assert!(matches!(client.ask(&bad).await, Err(Error::Command(_))));
        }
        assert_eq!(client.ask("show protocols").await.unwrap().code, 0, "the connection is still good");
    }

    #[tokio::test(start_paused = true)]
    async fn a_daemon_that_hangs() {
        let (_dir, path) = serve("0001 BIRD 2.0.12 ready.\n", &["1000-BIRD 2.0.12\n", "0000 \n"]);
        let mut client = Client::connect(&path).await.unwrap();
        assert!(matches!(client.status().await, Err(Error::Timeout { .. })));
    }
}
