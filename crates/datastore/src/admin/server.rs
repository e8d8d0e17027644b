//! The side of the datastore.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    path::Path,
    time::Duration,
};

use futures::{Stream, StreamExt};
use http_body_util::{BodyExt, Full, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Frame, Incoming},
    header,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{io::AsyncReadExt, net::UnixStream, task::JoinSet};

use super::message::{
    CompactAnswer, CompactRequest, InviteAnswer, InviteRequest, Refused, RevokeAnswer, RevokeRequest, StatusAnswer,
};
use crate::{
    Datastore,
    enrol::{OpenError, Registrar, join::Address},
    serve::{SocketError, socket},
};

/// How long the head of a request may take.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// The longest request, in bytes.
const REQUEST_LIMIT: usize = 64 << 10;
/// A backup is sent in pieces of so many bytes.
const PIECE: usize = 64 << 10;

type Body = UnsyncBoxBody<Bytes, io::Error>;
type Answer = Result<Response<Body>, (StatusCode, Refused)>;

/// Serves `socket` until `stop` is done. Requests that run then are dropped: what they write is whole or not there.
///
/// # Errors
/// The socket cannot be had.
pub async fn serve(
    path: &Path,
    registrar: Registrar,
    datastore: Datastore,
    stop: impl Future<Output = ()>,
) -> Result<(), SocketError> {
    socket::check(path)?;
    let bound = socket::bind(path)?;
    let listener = bound.listen()?;
    let mut requests = JoinSet::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => return Ok(()),
            Some(_) = requests.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(requests.spawn(attend(stream, registrar.clone(), datastore.clone()))),
                Err(error) => {
                    tracing::warn!(%error, "a connection of calicoctl could not be accepted");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            },
        }
    }
}

async fn attend(stream: UnixStream, registrar: Registrar, datastore: Datastore) {
    let service = service_fn(|request| {
        let (registrar, datastore) = (registrar.clone(), datastore.clone());
        async move {
            let answer = answer(&registrar, &datastore, request).await;
            Ok::<_, Infallible>(answer.unwrap_or_else(|(status, refused)| json(status, &refused)))
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection of calicoctl has broken");
    }
}

async fn answer(registrar: &Registrar, datastore: &Datastore, request: Request<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    match (request.method(), path.as_str()) {
        (&Method::POST, "/v1/invite") => invite(registrar, &body(request).await?),
        (&Method::POST, "/v1/revoke") => {
            let RevokeRequest { host } = body(request).await?;
            let revoked = registrar.revoke(&host).map_err(|error| refused(OpenError::from(error)))?;
            tracing::info!(host, connections = revoked.connections, "a host was shut out");
            Ok(ok(&RevokeAnswer { known: revoked.known, connections: revoked.connections }))
        }
        (&Method::GET, "/v1/hosts") => Ok(ok(&registrar.hosts())),
        (&Method::GET, "/v1/status") => {
            let (invitations, guests) = (registrar.open_invitations(), registrar.hosts());
            Ok(ok(&StatusAnswer::new(datastore.status(), registrar.listens_on(), invitations, &guests)))
        }
        (&Method::POST, "/v1/check") => Ok(ok(&datastore.check_now().await.map_err(failed)?)),
        (&Method::POST, "/v1/compact") => compact(datastore, body(request).await?).await,
        (&Method::GET, "/v1/backup") => backup(datastore).await,
        (method, path) => {
            let error = format!("the datastore offers no {method} {path}");
            let hint = Some("use a calicoctl of the same version as calico-node".to_owned());
            Err((StatusCode::NOT_FOUND, Refused { error, causes: Vec::new(), hint }))
        }
    }
}

fn invite(registrar: &Registrar, request: &InviteRequest) -> Answer {
    let host = match &request.address {
        Some(address) => address.trim().to_owned(),
        None => default_address().map_err(|error| {
            let hint = Some("say it with --address".to_owned());
            (StatusCode::CONFLICT, Refused { hint, ..Refused::of(&NoAddress(error), None) })
        })?,
    };
    let invited = registrar.invite(Duration::from_secs(request.ttl_seconds), &host).map_err(refused)?;
    tracing::info!(address = host, "a host was invited");
    Ok(ok(&InviteAnswer {
        token: invited.token.reveal(),
        fingerprint: invited.fingerprint.to_string(),
        address: Address { host, port: invited.port }.to_string(),
        port: invited.port,
        expires: invited.expires,
        opened: invited.opened,
    }))
}

#[derive(Debug, thiserror::Error)]
#[error("it cannot be told by which address other hosts reach this one")]
struct NoAddress(#[source] io::Error);

/// The address that this host uses towards others. Nothing is sent.
fn default_address() -> io::Result<String> {
    // Documentation addresses: no route but the default one leads there.
    let towards = |from: &str, to: &str| -> io::Result<IpAddr> {
        let socket = UdpSocket::bind(from)?;
        socket.connect(to.parse::<SocketAddr>().map_err(io::Error::other)?)?;
        Ok(socket.local_addr()?.ip())
    };
    towards("0.0.0.0:0", "192.0.2.1:9").or_else(|_| towards("[::]:0", "[2001:db8::1]:9")).map(|ip| ip.to_string())
}

async fn compact(datastore: &Datastore, request: CompactRequest) -> Answer {
    let revision = request.revision.unwrap_or_else(|| datastore.durable());
    match datastore.compact(revision).await {
        Ok(_) => {}
        // It has been done already, which is what was wanted.
        Err(_) if request.revision.is_none() && datastore.status().compacted >= revision => {}
        Err(error) => return Err(failed(error)),
    }
    let shrunk = datastore.shrink().await.map_err(failed)?;
    let compacted = datastore.status().compacted;
    Ok(ok(&CompactAnswer { compacted, before: shrunk.before, after: shrunk.after }))
}

/// Writes a backup beside the database, and sends it. The file has lost its name before the first piece is sent, so
/// nothing is left however it ends.
async fn backup(datastore: &Datastore) -> Answer {
    let folder = datastore.status().folder;
    let name = crate::pki::random::<8>().map_err(|error| refused(OpenError::from(error)))?;
    let path = crate::disk::sending(&folder, &crate::pki::hex(&name));
    let written = datastore.backup(&path).await.map_err(failed)?;
    let file = tokio::fs::File::open(&path).await;
    let removed = tokio::fs::remove_file(&path).await;
    let file = file.and_then(|file| removed.map(|()| file)).map_err(failed)?;
    let length = file.metadata().await.map_err(failed)?.len();
    let mut response = Response::new(StreamBody::new(pieces(file)).boxed_unsync());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, length.into());
    headers.insert("x-revision", written.revision.into());
    Ok(response)
}

fn pieces(file: tokio::fs::File) -> impl Stream<Item = io::Result<Frame<Bytes>>> + Send {
    let read = |mut file: tokio::fs::File| async move {
        let mut piece = Vec::with_capacity(PIECE);
        match (&mut file).take(PIECE as u64).read_to_end(&mut piece).await {
            Ok(0) => None,
            Ok(_) => Some((Ok(piece.into()), file)),
            Err(error) => Some((Err(error), file)),
        }
    };
    futures::stream::unfold(file, read).map(|piece: io::Result<Bytes>| piece.map(Frame::data))
}

fn refused(error: OpenError) -> (StatusCode, Refused) {
    let hint = error.way_out();
    (StatusCode::CONFLICT, Refused::of(&error, hint))
}

fn failed<E: std::error::Error + 'static>(error: E) -> (StatusCode, Refused) {
    (StatusCode::INTERNAL_SERVER_ERROR, Refused::of(&error, None))
}

async fn body<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, (StatusCode, Refused)> {
    let refuse = |error: String| (StatusCode::BAD_REQUEST, Refused { error, causes: Vec::new(), hint: None });
    let read = Limited::new(request.into_body(), REQUEST_LIMIT).collect().await;
    let bytes = read.map_err(|error| refuse(error.to_string()))?.to_bytes();
    serde_json::from_slice(&bytes).map_err(|error| refuse(format!("the request is not understood: {error}")))
}

fn ok(value: &impl Serialize) -> Response<Body> {
    json(StatusCode::OK, value)
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    let text = serde_json::to_vec(value).expect("answers are plain structures");
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}
