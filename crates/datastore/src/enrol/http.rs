//! The four requests that hosts make which join or renew: HTTP/1.1 on the datastore's port.

use std::{convert::Infallible, net::IpAddr, time::Duration};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    MESSAGE_LIMIT, Refusal, Registrar,
    message::{ClockAnswer, Refused, SERVICE, WhoAmI},
};
use crate::tls::Peer;

/// How long one connection may take, all in all.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the head of a request may take.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);

/// Answers the requests of one connection. `peer` is the host if it has shown a certificate that counts.
pub(crate) async fn serve<S>(stream: S, registrar: Registrar, from: IpAddr, peer: Option<(Peer, i64)>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request| {
        let (registrar, peer) = (registrar.clone(), peer.clone());
        async move { Ok::<_, Infallible>(answer(&registrar, from, peer.as_ref(), request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(PATIENCE, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%from, %error, "a connection that was not for gRPC has broken"),
        Err(_) => tracing::debug!(%from, "a connection that was not for gRPC took too long"),
    }
}

async fn answer(
    registrar: &Registrar,
    from: IpAddr,
    peer: Option<&(Peer, i64)>,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let path = request.uri().path().to_owned();
    let outcome = match (request.method(), path.as_str(), peer) {
        (&Method::GET, "/v1/clock", _) => {
            let now = registrar.now();
            Ok(json(StatusCode::OK, &ClockAnswer { service: SERVICE.to_owned(), now }))
        }
        (&Method::POST, "/v1/enrol", _) => body(request).await.and_then(|asked| registrar.enrol(&asked, from)).map(ok),
        (&Method::POST, "/v1/renew", Some((peer, _))) => {
            body(request).await.and_then(|asked| registrar.renew(&asked, peer)).map(ok)
        }
        (&Method::GET, "/v1/whoami", Some((peer, valid_until))) => {
            Ok(json(StatusCode::OK, &WhoAmI { host: peer.host.clone(), valid_until: *valid_until }))
        }
        (_, "/v1/renew" | "/v1/whoami", None) => Err(Refusal::Stranger),
        (method, path, _) => Err(Refusal::BadRequest { cause: format!("there is no {method} {path}") }),
    };
    outcome.unwrap_or_else(|refused| json(status(&refused), &Refused { message: refused.to_string(), refused }))
}

fn status(refusal: &Refusal) -> StatusCode {
    match refusal {
        Refusal::TooManyTries { .. } => StatusCode::TOO_MANY_REQUESTS,
        Refusal::NameTaken { .. } => StatusCode::CONFLICT,
        Refusal::BadName { .. } | Refusal::BadRequest { .. } => StatusCode::BAD_REQUEST,
        Refusal::Failed { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::FORBIDDEN,
    }
}

async fn body<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Refusal> {
    let refuse = |cause: String| Refusal::BadRequest { cause };
    let read = Limited::new(request.into_body(), MESSAGE_LIMIT).collect().await;
    let bytes = read.map_err(|error| refuse(error.to_string()))?.to_bytes();
    // The parser's words may quote what was sent, which may be a token.
    serde_json::from_slice(&bytes).map_err(|_| refuse("it is not the JSON that belongs here".to_owned()))
}

fn ok<T: Serialize>(value: T) -> Response<Full<Bytes>> {
    json(StatusCode::OK, &value)
}

/// An answer in JSON.
fn json<T: Serialize>(status: StatusCode, value: &T) -> Response<Full<Bytes>> {
    let text = serde_json::to_vec(value).expect("messages are plain structures");
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}
