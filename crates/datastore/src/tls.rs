//! The datastore for other hosts: TLS 1.3 on TCP, with a certificate for every host.
//!
//! A connection with a certificate that counts is the datastore's and is handed out by [`Listener::accept`]. One
//! without, or one that speaks HTTP/1.1, is for joining and renewing, and stays here. Nothing of a stranger ever
//! reaches gRPC.
//!
//! The port is open only while somebody is expected: an invitation is open, or a host belongs. What strangers can cost
//! is bounded: so many unfinished connections by source and in all, so many seconds for each.

mod door;
mod guests;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, UnixTime},
    server::{
        NoServerSessionStorage, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    time_provider::TimeProvider,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::{mpsc, oneshot},
    task::{AbortHandle, JoinSet},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    enrol::{self, Clock, Cut, Entry, Registrar, WeakRegistrar},
    pki::{Authority, Facts, Identity, PkiError},
};
pub(crate) use door::Door;
use guests::Guests;

/// How long a handshake may take.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);
/// How long one that is refused has to close its end, and how many bytes are read of it meanwhile.
const LAST_WORDS_PATIENCE: Duration = Duration::from_secs(2);
const MOST_UNHEARD: usize = 64 << 10;
/// How often it is looked whether the port is to be open, and whose certificate has ended.
const KEEP_UP_EVERY: Duration = Duration::from_secs(10);
/// The pause after the system could not give a connection: too many files are open.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(200);
/// The protocol of gRPC, and that of joining.
const ALPN_GRPC: &[u8] = b"h2";
pub(crate) const ALPN_HTTP: &[u8] = b"http/1.1";

/// The host at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The node's name, from its certificate.
    pub host: String,
    /// The certificate's number.
    pub serial: String,
    /// From where it came.
    pub from: SocketAddr,
    /// To which address of this host.
    pub to: SocketAddr,
}

/// Where other hosts' connections come from. Dropping it closes the port; connections that were handed out go on.
#[derive(Debug)]
pub struct Listener {
    accepted: mpsc::Receiver<Connection>,
    worker: AbortHandle,
}

impl Listener {
    /// Listens as the registrar says, from now on. Must be called within a Tokio runtime.
    pub fn new(registrar: Registrar) -> Self {
        let (sender, accepted) = mpsc::channel(16);
        let worker = tokio::spawn(work(registrar, sender)).abort_handle();
        Self { accepted, worker }
    }

    /// The next connection of a host. Never fails; losing the future loses no connection.
    pub async fn accept(&mut self) -> (Connection, Peer) {
        match self.accepted.recv().await {
            Some(connection) => {
                let peer = connection.peer.clone();
                (connection, peer)
            }
            // The worker never ends by itself; while a runtime shuts down nobody comes any more.
            None => std::future::pending().await,
        }
    }

    /// All connections, as servers of gRPC want them.
    pub fn incoming(self) -> impl futures::Stream<Item = io::Result<Connection>> + Send {
        futures::stream::unfold(self, |mut listener| async move {
            let (connection, _) = listener.accept().await;
            Some((Ok(connection), listener))
        })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.worker.abort();
    }
}

/// A connection of a host, until either end closes it, the host is shut out or its certificate ends.
#[derive(Debug)]
pub struct Connection {
    stream: TlsStream<TcpStream>,
    peer: Peer,
    cut: oneshot::Receiver<Cut>,
    /// Why it was cut.
    is_cut: Option<Cut>,
    _entry: Entry,
}

impl Connection {
    /// Wakes the task that waits for the connection when it is to end.
    fn check_cut(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.is_cut.is_none()
            && let Poll::Ready(cut) = Pin::new(&mut self.cut).poll(cx)
        {
            // Its list is gone only with the registrar, which ends everything.
            let cut = cut.unwrap_or(Cut::Revoked);
            tracing::info!(host = self.peer.host, from = %self.peer.from, why = cut.words(), "a connection was cut");
            self.is_cut = Some(cut);
        }
        match self.is_cut {
            Some(cut) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, cut.words())),
            None => Ok(()),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check_cut(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check_cut(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_cut(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl tonic::transport::server::Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

/// Opens and closes the port, and does the handshakes, for ever.
async fn work(registrar: Registrar, accepted: mpsc::Sender<Connection>) {
    let mut handshakes = JoinSet::new();
    let guests = Guests::default();
    let mut changed = registrar.door().watch();
    let mut tick = tokio::time::interval(KEEP_UP_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut in_trouble = false;
    loop {
        let listener = changed.borrow_and_update().clone();
        tokio::select! {
            _ = tick.tick() => match registrar.keep_up() {
                Ok(()) => in_trouble = false,
                Err(error) if in_trouble => tracing::debug!(%error, "the datastore's port is still closed"),
                Err(error) => {
                    in_trouble = true;
                    tracing::error!(%error, "the datastore's port cannot be opened for other hosts; trying again");
                }
            },
            _ = changed.changed() => {}
            // A host that has joined may end its handshake and go; the rest are forgotten with the set.
            Some(_) = handshakes.join_next() => {}
            stream = accept(listener.as_deref()) => match stream {
                Ok((stream, from)) => match guests.enter(from.ip()) {
                    Some(guest) => {
                        let (registrar, accepted) = (registrar.clone(), accepted.clone());
                        handshakes.spawn(async move {
                            receive(stream, from, registrar, accepted).await;
                            drop(guest);
                        });
                    }
                    None => tracing::debug!(%from, "turned away: too many connections that have not said who they are"),
                },
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(EXHAUSTED_PAUSE).await;
                }
            },
        }
    }
}

async fn accept(listener: Option<&tokio::net::TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

/// Finds out who has come, and hands the connection to those who deal with such.
async fn receive(stream: TcpStream, from: SocketAddr, registrar: Registrar, accepted: mpsc::Sender<Connection>) {
    let from = SocketAddr::new(from.ip().to_canonical(), from.port());
    let stream = match tokio::time::timeout(HANDSHAKE_PATIENCE, handshake(stream, &registrar)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%from, %error, "no TLS connection came about"),
        Err(_) => return tracing::debug!(%from, "a TLS handshake took too long"),
    };
    let (socket, session) = stream.get_ref();
    // It had one a moment ago; only a connection that has broken since has none.
    let Ok(to) = socket.local_addr() else { return };
    let to = SocketAddr::new(to.ip().to_canonical(), to.port());
    let certificate = session.peer_certificates().and_then(|chain| chain.first());
    let facts = certificate.and_then(|certificate| Facts::of(certificate).ok());
    let is_http = session.alpn_protocol() == Some(ALPN_HTTP);
    let Some(facts) = facts else {
        return match session.alpn_protocol() {
            Some(ALPN_GRPC) => tracing::debug!(%from, "refused: it wants the datastore without a certificate"),
            _ => enrol::serve(stream, registrar, from.ip(), None).await,
        };
    };
    let peer = Peer { host: facts.name, serial: facts.serial, from, to };
    // First entered, then looked up: a host that is shut out in between is cut.
    let (entry, cut) = registrar.connections().enter(&peer.host, from.ip(), facts.not_after);
    if let Err(barred) = registrar.check(&peer.host, &peer.serial) {
        return tracing::debug!(%from, host = peer.host, ?barred, "refused");
    }
    if is_http {
        return enrol::serve(stream, registrar, from.ip(), Some((peer, facts.not_after))).await;
    }
    tracing::debug!(%from, host = peer.host, "a host has connected");
    // Nobody takes it any more while the process ends.
    let _ = accepted.send(Connection { stream, peer, cut, is_cut: None, _entry: entry }).await;
}

async fn handshake(stream: TcpStream, registrar: &Registrar) -> io::Result<TlsStream<TcpStream>> {
    stream.set_nodelay(true)?;
    notice_the_dead(&stream)?;
    let local: IpAddr = stream.local_addr()?.ip();
    let config = registrar.server_config(local).map_err(|error| {
        tracing::error!(%error, "no certificate can be shown to hosts that connect");
        io::Error::other(error)
    })?;
    match TlsAcceptor::from(config).accept(stream).into_fallible().await {
        Ok(stream) => Ok(stream),
        Err((error, stream)) => {
            let _ = tokio::time::timeout(LAST_WORDS_PATIENCE, last_words(stream)).await;
            Err(error)
        }
    }
}

/// Lets the other end hear why it is refused. With TLS 1.3 it has begun to speak by then, and a socket that is closed with
/// something unread takes back what was sent on it.
async fn last_words(mut stream: TcpStream) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut heard = 0;
    let mut buffer = [0; 4096];
    if stream.shutdown().await.is_err() {
        return;
    }
    while let Ok(bytes @ 1..) = stream.read(&mut buffer).await
        && heard < MOST_UNHEARD
    {
        heard += bytes;
    }
}

/// A host that is gone without a word counts as connected for a minute, not for hours.
fn notice_the_dead(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(30))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(10))?;
    sockopt::set_tcp_keepcnt(stream, 3)?;
    Ok(())
}

/// What is shown to those who connect, and asked of them.
pub(crate) fn server_config(
    identity: Identity,
    authority: &Authority,
    registrar: &Registrar,
) -> Result<ServerConfig, PkiError> {
    let refuse = |error: &dyn std::fmt::Display| PkiError::Crypto {
        operation: "using the server's certificate",
        cause: error.to_string(),
    };
    let provider = provider();
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate().clone()).map_err(|error| refuse(&error))?;
    let strict = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|error| refuse(&error))?;
    let verifier = Arc::new(InTheBook { strict, registrar: registrar.downgrade() });
    let clock: Arc<dyn TimeProvider> = Arc::new(TlsClock(registrar.clock()));
    let mut config = ServerConfig::builder_with_details(provider, clock)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| refuse(&error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain, identity.key)
        .map_err(|error| refuse(&error))?;
    config.alpn_protocols = vec![ALPN_GRPC.to_vec(), ALPN_HTTP.to_vec()];
    // A resumed session would not ask for the certificate again, and hosts connect seldom.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// The cryptography of this crate, whatever the process has chosen for others.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The registrar's clock, for checking certificates.
pub(crate) struct TlsClock(pub(crate) Clock);

impl std::fmt::Debug for TlsClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsClock")
    }
}

impl TimeProvider for TlsClock {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from((self.0)().unix_timestamp()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

/// Lets in who has a certificate of the authority that is in the book. It is looked up during the handshake, so that
/// a host that was shut out is told so by TLS itself.
#[derive(Debug)]
struct InTheBook {
    strict: Arc<dyn ClientCertVerifier>,
    registrar: WeakRegistrar,
}

impl ClientCertVerifier for InTheBook {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.strict.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        use crate::enrol::Barred;
        let verified = self.strict.verify_client_cert(end_entity, intermediates, now)?;
        let facts = Facts::of(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        let registrar = self.registrar.upgrade().ok_or(CertificateError::ApplicationVerificationFailure)?;
        match registrar.check(&facts.name, &facts.serial) {
            Ok(()) => Ok(verified),
            Err(Barred::Revoked) => Err(CertificateError::Revoked.into()),
            Err(Barred::Unknown) => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.strict.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.strict.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.strict.supported_verify_schemes()
    }

    fn offer_client_auth(&self) -> bool {
        self.strict.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.strict.client_auth_mandatory()
    }
}
