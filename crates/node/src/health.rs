//! Health over HTTP on localhost: `/healthz` (JSON, 200 when ready, else 503), `/liveness`, `/readiness`, and
//! `/metrics` in Prometheus' text form.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use miette::{Context, IntoDiagnostic, Result, miette};
use tokio::net::{TcpListener, TcpStream};

use crate::{
    board::{Board, Health},
    metrics,
};

/// Default port, as upstream's Felix has it.
pub(crate) const DEFAULT_PORT: u16 = 9099;
/// How long an answer may take; it comes from memory.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// More than this is no health answer.
const ANSWER_LIMIT: usize = 4 << 20;

/// Opens the port. Localhost only: health names records of the datastore.
pub(crate) async fn listen(port: u16) -> Result<TcpListener> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    TcpListener::bind(address).await.map_err(|error| {
        miette!(
            help = "another program uses the port, or another calico-node runs here; choose one with --health-port",
            "the health port {address} cannot be opened: {error}"
        )
    })
}

/// Answers until the task is dropped.
pub(crate) async fn serve(listener: TcpListener, board: Arc<Board>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "health connection not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let board = board.clone();
        tokio::spawn(async move {
            let answer = service_fn(|request| std::future::ready(Ok::<_, Infallible>(answer(&request, &board))));
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
            // A client that hangs up or stalls is its own loss, and must not hold the connection for ever.
            let _ = tokio::time::timeout(Duration::from_secs(10), connection).await;
        });
    }
}

fn answer(request: &Request<Incoming>, board: &Board) -> Response<Full<Bytes>> {
    let typed = |content: &'static str, status: StatusCode, body: String| {
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        response.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static(content));
        response
    };
    let respond = |status, body| typed("application/json", status, body);
    let good = |good: bool| if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if request.method() != Method::GET {
        return respond(StatusCode::METHOD_NOT_ALLOWED, "{}\n".to_owned());
    }
    let health = board.health(Instant::now());
    if request.uri().path() == "/metrics" {
        return typed(metrics::CONTENT_TYPE, StatusCode::OK, metrics::text(&health));
    }
    let body = format!("{}\n", serde_json::to_string(&health).expect("plain strings and numbers serialise"));
    match request.uri().path() {
        "/healthz" | "/readiness" => respond(good(health.ready), body),
        "/liveness" => respond(good(health.live), body),
        _ => respond(StatusCode::NOT_FOUND, "{\"error\":\"/healthz, /readiness, /liveness or /metrics\"}\n".to_owned()),
    }
}

/// Asks the service on this host.
pub(crate) async fn ask(port: u16) -> Result<Health> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let body = tokio::time::timeout(ANSWER_PATIENCE, fetch(address, "/healthz")).await.map_err(|_| {
        miette!(
            help = format!("see what listens there: ss -ltnp 'sport = {port}'"),
            "calico-node does not answer at {address} within {} s",
            ANSWER_PATIENCE.as_secs()
        )
    })??;
    serde_json::from_slice(&body)
        .into_diagnostic()
        .wrap_err_with(|| format!("{address} answers, but it is not calico-node's health"))
}

async fn fetch(address: SocketAddr, path: &str) -> Result<Bytes> {
    let stream = TcpStream::connect(address).await.map_err(|error| {
        miette!(
            help = "start it with `calicoctl node`, or with `calico-node run`",
            "calico-node does not answer at {address}: {error}"
        )
    })?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.into_diagnostic()?;
    let connection = tokio::spawn(connection);
    let request = Request::get(path)
        .header("host", "localhost")
        .body(Full::<Bytes>::default())
        .expect("method and header are constants, and so are all paths");
    let response = sender.send_request(request).await.into_diagnostic().wrap_err("calico-node gave no answer")?;
    let body = Limited::new(response.into_body(), ANSWER_LIMIT).collect().await;
    connection.abort();
    Ok(body.map_err(|error| miette!("calico-node's answer broke off: {error}"))?.to_bytes())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use calico_model::AgentHealth;

    #[tokio::test]
    async fn served_and_asked() {
        let listener = listen(0).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let board = Arc::new(Board::new("h1", &["bird", "felix"], &[]));
        let server = tokio::spawn(serve(listener, board.clone()));
        board.started("felix", Some(1));
        board.reported(
            "felix",
            AgentHealth {
                ready: true,
                reason: "in force".into(),
                problems: vec!["a bad record".into()],
                problem_count: 1,
                gauges: [("felix_active_local_policies".to_owned(), 7)].into(),
            },
        );
        let scraped = fetch(SocketAddr::from(([127, 0, 0, 1], port)), "/metrics").await.unwrap();
        let scraped = String::from_utf8(scraped.to_vec()).unwrap();
        assert!(scraped.contains("\nfelix_active_local_policies 7\n"), "{scraped}");
        let health = ask(port).await.unwrap();
        assert!(!health.ready, "bird is not started");
        assert_eq!(health.components[1].problems, ["a bad record"]);
        board.started("bird", Some(2));
        board.reported("bird", AgentHealth { ready: true, ..AgentHealth::default() });
        assert!(ask(port).await.unwrap().ready);
        server.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_hangs_is_not_waited_for() {
        let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let error = ask(mute.local_addr().unwrap().port()).await.unwrap_err();
        assert!(error.to_string().contains("within 5 s"), "{error}");
    }

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let taken = listen(0).await.unwrap();
        let error = listen(taken.local_addr().unwrap().port()).await.unwrap_err();
        assert!(error.to_string().contains("cannot be opened"));
    }
}
