//! The side of `calicoctl`.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header,
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

use super::{
    ADMIN_SOCKET, Guest,
    message::{
        CompactAnswer, CompactRequest, InviteAnswer, InviteRequest, Refused, RevokeAnswer, RevokeRequest, StatusAnswer,
    },
};
use crate::Report;

/// How long an answer may take. A check or a backup reads the whole database.
const PATIENCE: Duration = Duration::from_secs(120);
/// The longest answer but a backup, in bytes.
const ANSWER_LIMIT: usize = 64 << 20;

/// Asks the datastore of this host.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
}

impl Default for Client {
    fn default() -> Self {
        Self::new(Path::new(ADMIN_SOCKET))
    }
}

/// Why there is no answer, or a refusal.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// No datastore runs on this host.
    #[error("no datastore runs on this host: nobody serves {}", path.display())]
    NotRunning {
        /// The socket.
        path: PathBuf,
    },
    /// The caller is not root.
    #[error("{} is root's alone", path.display())]
    Denied {
        /// The socket.
        path: PathBuf,
    },
    /// The datastore says no.
    #[error("{message}")]
    Refused {
        /// What it says.
        message: String,
        /// What caused it, outermost first.
        causes: Vec<String>,
        /// The way out.
        hint: Option<String>,
    },
    /// The connection broke, or the answer makes no sense.
    #[error("talking to the datastore of this host failed: {cause}")]
    Broken {
        /// Why.
        cause: String,
    },
    /// What it sent could not be written.
    #[error("what the datastore sent cannot be written")]
    Write(#[source] io::Error),
}

impl AdminError {
    /// Whether the datastore is just not there.
    pub fn is_not_running(&self) -> bool {
        matches!(self, Self::NotRunning { .. })
    }
}

impl Client {
    /// A client of the socket at `path`. Nothing is opened yet.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Invites a host.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn invite(&self, request: &InviteRequest) -> Result<InviteAnswer, AdminError> {
        self.ask(Method::POST, "/v1/invite", request).await
    }

    /// Shuts a host out.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn revoke(&self, host: &str) -> Result<RevokeAnswer, AdminError> {
        self.ask(Method::POST, "/v1/revoke", &RevokeRequest { host: host.to_owned() }).await
    }

    /// All hosts that ever joined.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn hosts(&self) -> Result<Vec<Guest>, AdminError> {
        self.ask(Method::GET, "/v1/hosts", &()).await
    }

    /// How the datastore is.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn status(&self) -> Result<StatusAnswer, AdminError> {
        self.ask(Method::GET, "/v1/status", &()).await
    }

    /// Lets the datastore read back what is on its disk.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn check(&self) -> Result<Report, AdminError> {
        self.ask(Method::POST, "/v1/check", &()).await
    }

    /// Gives up history up to `revision`, the present one if left out, and the space that it took.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn compact(&self, revision: Option<i64>) -> Result<CompactAnswer, AdminError> {
        self.ask(Method::POST, "/v1/compact", &CompactRequest { revision }).await
    }

    /// Writes a backup into `to`: its revision and its size in bytes. A backup that was not received to the end is an
    /// error.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn backup(&self, to: &mut (impl AsyncWrite + Unpin)) -> Result<(i64, u64), AdminError> {
        let response = self.send(Method::GET, "/v1/backup", &()).await?;
        if response.status() != StatusCode::OK {
            return Err(refusal(response.status(), &whole(response).await?));
        }
        let number = |name: &str| response.headers().get(name)?.to_str().ok()?.parse::<i64>().ok();
        let (Some(revision), Some(length)) = (number("x-revision"), number("content-length")) else {
            return Err(broken("the answer does not say what it is"));
        };
        let mut body = response.into_body();
        let mut written = 0u64;
        loop {
            let frame = timeout(PATIENCE, body.frame()).await.map_err(|_| too_slow())?;
            let Some(frame) = frame else { break };
            if let Ok(piece) = frame.map_err(broken)?.into_data() {
                to.write_all(&piece).await.map_err(AdminError::Write)?;
                written += piece.len() as u64;
            }
        }
        to.flush().await.map_err(AdminError::Write)?;
        if i64::try_from(written) != Ok(length) {
            return Err(broken(format!("it ended after {written} of {length} bytes")));
        }
        Ok((revision, written))
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        request: &impl Serialize,
    ) -> Result<T, AdminError> {
        let response = self.send(method, path, request).await?;
        let status = response.status();
        let body = whole(response).await?;
        if status != StatusCode::OK {
            return Err(refusal(status, &body));
        }
        serde_json::from_slice(&body).map_err(|error| broken(format!("the answer is no such: {error}")))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        request: &impl Serialize,
    ) -> Result<Response<Incoming>, AdminError> {
        let stream = UnixStream::connect(&self.path).await.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                AdminError::NotRunning { path: self.path.clone() }
            }
            io::ErrorKind::PermissionDenied => AdminError::Denied { path: self.path.clone() },
            _ => broken(error),
        })?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // It ends with the answer; its error is the answer's.
        tokio::spawn(async move { drop(connection.await) });
        let body = serde_json::to_vec(request).expect("requests are plain structures");
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "datastore")
            .body(Full::new(Bytes::from(body)))
            .expect("method, path and header are constants");
        timeout(PATIENCE, sender.send_request(request)).await.map_err(|_| too_slow())?.map_err(broken)
    }
}

async fn whole(response: Response<Incoming>) -> Result<Bytes, AdminError> {
    let body = Limited::new(response.into_body(), ANSWER_LIMIT).collect();
    Ok(timeout(PATIENCE, body).await.map_err(|_| too_slow())?.map_err(broken)?.to_bytes())
}

fn refusal(status: StatusCode, body: &[u8]) -> AdminError {
    match serde_json::from_slice::<Refused>(body) {
        Ok(Refused { error, causes, hint }) => AdminError::Refused { message: error, causes, hint },
        Err(_) => broken(format!("the answer is {status}")),
    }
}

fn broken(cause: impl ToString) -> AdminError {
    AdminError::Broken { cause: cause.to_string() }
}

fn too_slow() -> AdminError {
    broken(format!("no answer within {} s", PATIENCE.as_secs()))
}
