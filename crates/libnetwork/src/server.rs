//! Docker's plugin protocol over Unix sockets: `POST /<Driver>.<Method>` with JSON in and JSON out.
//!
//! Two sockets, since Docker finds a plugin by the name of its socket: `calico` is both drivers, `calico-ipam` the IPAM
//! driver by the name that people type for it. A socket that another process serves is refused by name; one that
//! nobody serves is what an earlier process left, and replaced. Whatever is sent gets an answer; a request that is not
//! understood an error.

use std::{
    convert::Infallible,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::{UnixListener, UnixStream};

use crate::{ipam::ADDRESS_SPACE, ipam::IpamDriver, network::NetworkDriver, protocol};

/// The network driver, and the IPAM driver too, as in 2016.
pub(crate) const NETWORK: &str = "calico";
/// The IPAM driver.
pub(crate) const IPAM: &str = "calico-ipam";

/// More than this is no request of Docker's.
const BODY_LIMIT: usize = 4 << 20;
/// How long a client may take to send its request, or to go on with the next.
const PATIENCE: Duration = Duration::from_secs(60);

/// A socket that cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketError {
    /// Somebody serves it.
    #[error(
        "{path} is served by another process: another calico-node, or a plugin of the same name; stop that one first"
    )]
    Taken {
        /// The socket.
        path: String,
    },
    /// The system's refusal.
    #[error("the plugin's socket {path} cannot be made: {cause}")]
    Io {
        /// The socket.
        path: String,
        /// The system's words.
        cause: io::Error,
    },
}

/// A socket of ours, removed in the end: Docker waits for the answer of one that is there.
#[derive(Debug)]
pub(crate) struct Socket {
    listener: UnixListener,
    path: PathBuf,
    name: &'static str,
}

impl Socket {
    /// Opens `<folder>/<name>.sock`, for root only.
    pub(crate) async fn open(folder: &Path, name: &'static str) -> Result<Self, SocketError> {
        let path = folder.join(format!("{name}.sock"));
        let shown = path.display().to_string();
        let failed = |cause| SocketError::Io { path: shown.clone(), cause };
        std::fs::create_dir_all(folder).map_err(failed)?;
        match UnixStream::connect(&path).await {
            Ok(_) => return Err(SocketError::Taken { path: shown }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(&path).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        }
        // Bound under another name and moved, so that nobody ever connects to a socket with looser permissions.
        let making = folder.join(format!(".{name}.{}", std::process::id()));
        let _ = std::fs::remove_file(&making);
        let listener = UnixListener::bind(&making).map_err(failed)?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        let placed = std::fs::set_permissions(&making, mode).and_then(|()| std::fs::rename(&making, &path));
        if let Err(cause) = placed {
            let _ = std::fs::remove_file(&making);
            return Err(failed(cause));
        }
        Ok(Self { listener, path, name })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "the plugin's socket is gone already");
        }
    }
}

/// Both drivers.
pub(crate) struct Drivers {
    pub(crate) network: NetworkDriver,
    pub(crate) ipam: IpamDriver,
}

/// Answers on a socket until the future is dropped. A request that is being answered then is answered all the same.
pub(crate) async fn serve(socket: &Socket, drivers: Arc<Drivers>) -> Infallible {
    loop {
        let stream = match socket.listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection of Docker's was not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (drivers, name) = (drivers.clone(), socket.name);
        tokio::spawn(async move {
            let answer = service_fn(|request| {
                let drivers = drivers.clone();
                async move { Ok::<_, Infallible>(answer(request, name, drivers).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(hyper_util::rt::TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .serve_connection(TokioIo::new(stream), answer);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection of Docker's ended");
            }
        });
    }
}

async fn answer(request: Request<Incoming>, socket: &'static str, drivers: Arc<Drivers>) -> Response<Full<Bytes>> {
    if request.method() != Method::POST {
        return reply(StatusCode::METHOD_NOT_ALLOWED, &refusal("a plugin's requests are POST"));
    }
    let method = request.uri().path().trim_start_matches('/').to_owned();
    let body = tokio::time::timeout(PATIENCE, Limited::new(request.into_body(), BODY_LIMIT).collect()).await;
    let body = match body {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) => return reply(StatusCode::BAD_REQUEST, &refusal(&format!("the body: {error}"))),
        Err(_) => return reply(StatusCode::REQUEST_TIMEOUT, &refusal("the body did not come")),
    };
    // On a task of its own: a client that hangs up must not stop halfway what it asked for.
    let work = tokio::spawn(async move { drivers.call(socket, &method, &body).await });
    match work.await {
        Ok(Ok(value)) => reply(StatusCode::OK, &value),
        Ok(Err(Refused::NotUnderstood(words))) => reply(StatusCode::BAD_REQUEST, &refusal(&words)),
        Ok(Err(Refused::Unknown(words))) => reply(StatusCode::NOT_FOUND, &refusal(&words)),
        // Not with 200: Docker's IPAM client does not look for an error then, and tells of an empty address instead.
        Ok(Err(Refused::Failed(words))) => reply(StatusCode::INTERNAL_SERVER_ERROR, &refusal(&words)),
        Err(_) => reply(StatusCode::INTERNAL_SERVER_ERROR, &refusal("the request met a defect; see calico-node's log")),
    }
}

fn refusal(words: &str) -> Value {
    json!({ "Err": words })
}

fn reply(status: StatusCode, value: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())));
    *response.status_mut() = status;
    let content = hyper::header::HeaderValue::from_static(protocol::CONTENT_TYPE);
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, content);
    response
}

/// Why a request got no answer of the protocol.
#[derive(Debug)]
pub(crate) enum Refused {
    /// It is not JSON, or not that of the method.
    NotUnderstood(String),
    /// There is no such method.
    Unknown(String),
    /// It was understood and could not be done.
    Failed(String),
}

impl Drivers {
    /// One request.
    pub(crate) async fn call(&self, socket: &str, method: &str, body: &[u8]) -> Result<Value, Refused> {
        tracing::debug!(method, body = %String::from_utf8_lossy(body), "request of Docker");
        let result = self.dispatch(socket, method, body).await;
        match &result {
            Ok(value) => tracing::debug!(method, %value, "answer to Docker"),
            Err(Refused::Failed(reason) | Refused::NotUnderstood(reason) | Refused::Unknown(reason)) => {
                tracing::warn!(method, reason, "a request of Docker was refused");
            }
        }
        result
    }

    async fn dispatch(&self, socket: &str, method: &str, body: &[u8]) -> Result<Value, Refused> {
        fn parse<T: DeserializeOwned>(method: &str, body: &[u8]) -> Result<T, Refused> {
            protocol::parse(method, body).map_err(Refused::NotUnderstood)
        }
        let (network, ipam) = (&self.network, &self.ipam);
        let done = match method {
            "Plugin.Activate" if socket == IPAM => Ok(json!({ "Implements": ["IpamDriver"] })),
            "Plugin.Activate" => Ok(json!({ "Implements": ["NetworkDriver", "IpamDriver"] })),
            "NetworkDriver.GetCapabilities" => Ok(json!({ "Scope": "local", "ConnectivityScope": "global" })),
            "NetworkDriver.CreateNetwork" => network.create_network(&parse(method, body)?).await,
            "NetworkDriver.DeleteNetwork" => network.delete_network(&parse(method, body)?).await,
            "NetworkDriver.CreateEndpoint" => network.create_endpoint(&parse(method, body)?).await,
            "NetworkDriver.Join" => network.join(&parse(method, body)?).await,
            "NetworkDriver.Leave" => network.leave(&parse(method, body)?).await,
            "NetworkDriver.DeleteEndpoint" => network.delete_endpoint(&parse(method, body)?).await,
            // Docker takes published ports from here for `docker ps` only as values of its own process, never as JSON.
            "NetworkDriver.EndpointOperInfo" => Ok(json!({ "Value": {} })),
            "NetworkDriver.ProgramExternalConnectivity" => network.publish(&parse(method, body)?).await,
            "NetworkDriver.RevokeExternalConnectivity" => network.withdraw(&parse(method, body)?).await,
            // Other hosts are found by BGP.
            "NetworkDriver.DiscoverNew" | "NetworkDriver.DiscoverDelete" => Ok(json!({})),
            "IpamDriver.GetCapabilities" => Ok(json!({ "RequiresMACAddress": false, "RequiresRequestReplay": false })),
            "IpamDriver.GetDefaultAddressSpaces" => Ok(json!({
                "LocalDefaultAddressSpace": ADDRESS_SPACE,
                "GlobalDefaultAddressSpace": ADDRESS_SPACE,
            })),
            "IpamDriver.RequestPool" => ipam.request_pool(&parse(method, body)?).await,
            "IpamDriver.ReleasePool" => ipam.release_pool(&parse::<protocol::ReleasePool>(method, body)?.pool_id).await,
            "IpamDriver.RequestAddress" => ipam.request_address(&parse(method, body)?).await,
            "IpamDriver.ReleaseAddress" => {
                ipam.release_address(&parse::<protocol::ReleaseAddress>(method, body)?.address).await
            }
            _ => return Err(Refused::Unknown(format!("{method} is no method of a network or IPAM driver"))),
        };
        done.map_err(Refused::Failed)
    }
}
