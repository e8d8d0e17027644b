//! What the service on this host says of itself, asked over HTTP on localhost.

use std::{net::SocketAddr, time::Duration};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, body::Bytes};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;

use crate::failure::Failure;

/// Where the service answers if `CALICO_HEALTH_PORT` does not say otherwise.
pub(crate) const DEFAULT_PORT: u16 = 9099;
/// How long it may take. It answers from memory.
const PATIENCE: Duration = Duration::from_secs(3);
/// More than this is no health answer.
const ANSWER_LIMIT: usize = 4 << 20;

/// The whole service's health.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Health {
    /// What the service calls this host.
    #[serde(default)]
    pub(crate) node: String,
    /// Every component runs and answers.
    pub(crate) live: bool,
    /// Every component does its work.
    pub(crate) ready: bool,
    /// felix, confd, bird.
    #[serde(default)]
    pub(crate) components: Vec<Component>,
}

/// One process's health.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Component {
    /// Its name.
    pub(crate) name: String,
    /// Runs, and answered lately.
    pub(crate) live: bool,
    /// Does its work.
    pub(crate) ready: bool,
    /// Start of the process, seconds since 1970.
    #[serde(default)]
    pub(crate) since: Option<u64>,
    /// How often it was started again.
    #[serde(default)]
    pub(crate) restarts: u32,
    /// Why it is not ready, or what it does.
    #[serde(default)]
    pub(crate) reason: String,
    /// Records that it leaves out, each with the reason.
    #[serde(default)]
    pub(crate) problems: Vec<String>,
}

/// The health of the service on this host, `None` if no service answers.
///
/// # Errors
/// Something else answers, or nothing in time.
pub(crate) async fn ask(port: u16) -> Result<Option<Health>, Failure> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let failed = |cause: String| {
        Failure::new(format!("The health of calico-node cannot be read from {address}."))
            .because(cause)
            .hint("CALICO_HEALTH_PORT says which port the service uses; see what listens there: ss -ltnp")
    };
    match tokio::time::timeout(PATIENCE, fetch(address)).await {
        Err(_) => Err(failed(format!("no answer within {} s", PATIENCE.as_secs()))),
        Ok(Err(cause)) => Err(failed(cause)),
        Ok(Ok(None)) => Ok(None),
        Ok(Ok(Some(body))) => match serde_json::from_slice(&body) {
            Ok(health) => Ok(Some(health)),
            Err(error) => Err(failed(format!("the answer is not calico-node's: {error}"))),
        },
    }
}

/// The body of the answer, `None` if nobody listens.
async fn fetch(address: SocketAddr) -> Result<Option<Bytes>, String> {
    let stream = match TcpStream::connect(address).await {
        Ok(stream) => stream,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
    let request = Request::get("/healthz")
        .header("host", "localhost")
        .body(Empty::<Bytes>::new())
        .expect("method, path and header are constants");
    let answer = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        Limited::new(response.into_body(), ANSWER_LIMIT).collect().await.map_err(|error| error.to_string())
    };
    let connection = async {
        // Its end is the answer's end, and its error the answer's error.
        let _ = connection.await;
        std::future::pending::<()>().await
    };
    tokio::select! {
        answer = answer => Ok(Some(answer?.to_bytes())),
        () = connection => unreachable!("the connection's future never completes"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// A server that gives one answer.
    async fn answering(answer: String) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        port
    }

    #[tokio::test]
    async fn an_answer_is_read_whatever_its_status() {
        let body = r#"{"node":"h1","live":true,"ready":false,"components":[{"name":"felix","live":true,"ready":false,
            "pid":7,"since":1700000000,"restarts":2,"reason":"waiting","problems":["x"],"later":1}]}"#;
        let head = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: ";
        let port = answering(format!("{head}{}\r\n\r\n{body}", body.len())).await;
        let health = ask(port).await.unwrap().unwrap();
        assert_eq!((health.node.as_str(), health.live, health.ready), ("h1", true, false));
        assert_eq!((health.components[0].restarts, health.components[0].problems.len()), (2, 1));
    }

    #[tokio::test]
    async fn nobody_there_is_no_service_and_a_stranger_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        assert_eq!(ask(port).await.unwrap(), None);
        let port = answering("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello".into()).await;
        assert!(ask(port).await.unwrap_err().to_string().contains("not calico-node's"));
        let port = answering("SSH-2.0-x\r\n".into()).await;
        assert!(ask(port).await.unwrap_err().to_string().contains("cannot be read"));
    }
}
