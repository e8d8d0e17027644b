//! One connection to a datastore, for requests in HTTP/1.1.

use std::{sync::Arc, time::Duration};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, body::Bytes, client::conn::http1::SendRequest, header};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::TcpStream, task::AbortHandle, time::timeout};
use tokio_rustls::TlsConnector;

use super::{super::MESSAGE_LIMIT, Address, JoinError, broken};
use crate::{enrol::message::Refused, tls::ALPN_HTTP};

/// How long it may take until somebody answers.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// How long a handshake or an answer may take.
const ANSWER_PATIENCE: Duration = Duration::from_secs(15);

pub(super) struct Talk {
    address: Address,
    sender: SendRequest<Full<Bytes>>,
    connection: AbortHandle,
}

impl Talk {
    /// Connects.
    pub(super) async fn begin(address: &Address, mut config: ClientConfig) -> Result<Self, JoinError> {
        let unreachable = |cause: String| JoinError::Unreachable { address: address.clone(), cause };
        let stream = match timeout(CONNECT_PATIENCE, TcpStream::connect((address.host.as_str(), address.port))).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(unreachable(error.to_string())),
            Err(_) => return Err(unreachable(format!("no answer within {} s", CONNECT_PATIENCE.as_secs()))),
        };
        config.alpn_protocols = vec![ALPN_HTTP.to_vec()];
        let name = ServerName::try_from(address.host.clone()).map_err(|error| broken(address, error))?;
        let handshake = TlsConnector::from(Arc::new(config)).connect(name, stream);
        let stream = match timeout(ANSWER_PATIENCE, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(not_tls(address, &error)),
            Err(_) => return Err(not_calico(address, "it does not answer in TLS".to_owned())),
        };
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(|error| broken(address, error))?;
        // Its end is the requests' end, and its error theirs.
        let connection = tokio::spawn(async move { drop(connection.await) }).abort_handle();
        Ok(Self { address: address.clone(), sender, connection })
    }

    pub(super) async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, JoinError> {
        self.ask(Method::GET, path, Bytes::new()).await
    }

    pub(super) async fn post<T: DeserializeOwned>(
        &mut self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, JoinError> {
        let body = serde_json::to_vec(body).expect("messages are plain structures");
        self.ask(Method::POST, path, body.into()).await
    }

    async fn ask<T: DeserializeOwned>(&mut self, method: Method, path: &str, body: Bytes) -> Result<T, JoinError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "datastore")
            .body(Full::new(body))
            .expect("method, path and header are constants");
        let answer = async {
            let response = self.sender.send_request(request).await.map_err(|error| words(&error))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MESSAGE_LIMIT).collect().await;
            Ok((status, body.map_err(|error| error.to_string())?.to_bytes()))
        };
        let (status, body) = match timeout(ANSWER_PATIENCE, answer).await {
            Ok(answer) => answer.map_err(|cause: String| broken(&self.address, cause))?,
            Err(_) => return Err(broken(&self.address, format!("no answer within {} s", ANSWER_PATIENCE.as_secs()))),
        };
        if status != StatusCode::OK {
            return Err(match serde_json::from_slice::<Refused>(&body) {
                Ok(refused) => JoinError::Refused(refused.refused),
                Err(_) => broken(&self.address, format!("the answer is {status}{}", message(&body))),
            });
        }
        serde_json::from_slice(&body).map_err(|error| broken(&self.address, format!("the answer is no such: {error}")))
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// The words of a refusal whose reason this version does not know.
fn message(body: &[u8]) -> String {
    let value: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let message = value.as_ref().and_then(|value| value.get("message")).and_then(serde_json::Value::as_str);
    message.map(|message| format!(": {message}")).unwrap_or_default()
}

fn not_calico(address: &Address, cause: String) -> JoinError {
    JoinError::NotCalico { address: address.clone(), cause }
}

/// Why no TLS connection came about.
fn not_tls(address: &Address, error: &std::io::Error) -> JoinError {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidMessage(_)) => not_calico(address, "it does not speak TLS".to_owned()),
        Some(rustls::Error::PeerIncompatible(_)) => not_calico(address, format!("it does not speak TLS 1.3 ({error})")),
        Some(rustls::Error::NoApplicationProtocol) => not_calico(address, "it knows no joining".to_owned()),
        Some(rustls::Error::AlertReceived(rustls::AlertDescription::NoApplicationProtocol)) => {
            not_calico(address, "it knows no joining".to_owned())
        }
        Some(error) => broken(address, error),
        None if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            not_calico(address, "it closed the connection instead of speaking TLS".to_owned())
        }
        None => broken(address, error),
    }
}

/// The innermost error has the words that help; an alert of TLS says why the certificate was refused.
fn words(error: &hyper::Error) -> String {
    let mut inner: &dyn std::error::Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    let words = inner.to_string();
    if words.contains("CertificateRevoked") {
        return "it has shut this host out (calicoctl node revoke)".to_owned();
    }
    if words.contains("CertificateExpired") {
        return "this host's certificate has ended".to_owned();
    }
    words
}
