//! One member of the cluster and the connection to it.

use std::{fmt, sync::atomic::AtomicBool, time::Duration};

use etcd_client::{Certificate, Channel, Client, Identity, TlsOptions};
use tokio::sync::Mutex;
use tonic::transport;

use crate::{
    ConnectOptions, Error,
    settings::{self, CA_FILE, CERT_FILE, Endpoint, KEY_FILE, TlsFiles},
};

/// The most that making one connection takes, so that there is time left for another endpoint.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// Pings on connections with a running watch. etcd tolerates one per 5 s, and none on idle connections.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) struct Member {
    endpoint: Endpoint,
    options: etcd_client::ConnectOptions,
    files: Option<TlsFiles>,
    /// Made at the first call; with credentials that asks the server for a token.
    client: Mutex<Option<Client>>,
    /// It has answered a call, so the settings are right for it.
    pub(super) answered: AtomicBool,
}

/// Why no connection was made.
pub(super) enum NoClient {
    /// The TLS files; nothing was tried.
    Settings(Error),
    /// The client's own words.
    Client(etcd_client::Error),
}

impl From<etcd_client::Error> for NoClient {
    fn from(error: etcd_client::Error) -> Self {
        Self::Client(error)
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.endpoint.fmt(f)
    }
}

impl Member {
    pub(super) fn new(endpoint: &Endpoint, options: &ConnectOptions) -> Result<Self, Error> {
        let mut client = etcd_client::ConnectOptions::new()
            .with_connect_timeout(DIAL_TIMEOUT)
            .with_keep_alive(PING_EVERY, PING_TIMEOUT)
            .with_keep_alive_while_idle(false)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some(credentials) = options.credentials() {
            client = client.with_user(&credentials.user, &credentials.password);
        }
        let member = Self {
            endpoint: endpoint.clone(),
            options: client,
            files: options.tls().cloned(),
            client: Mutex::new(None),
            answered: AtomicBool::new(false),
        };
        // Faults of the files are told before anything is tried.
        member.tls_options()?;
        Ok(member)
    }

    pub(super) async fn client(&self) -> Result<Client, NoClient> {
        let mut slot = self.client.lock().await;
        if let Some(client) = &*slot {
            return Ok(client.clone());
        }
        let client = match &self.endpoint {
            Endpoint::Tcp { .. } => {
                let mut options = self.options.clone();
                // Read anew for each connection: certificates are renewed in place.
                if let Some(tls) = self.tls_options().map_err(NoClient::Settings)? {
                    options = options.with_tls(tls);
                }
                Client::connect([self.endpoint.to_string()], Some(options)).await?
            }
            Endpoint::Unix { .. } => {
                let channel = self.socket().map_err(etcd_client::Error::from)?.connect_lazy();
                Client::from_channel(Channel::Tonic(channel), Some(self.options.clone())).await?
            }
        };
        Ok(slot.insert(client).clone())
    }

    /// The transport to a socket of this host, with what [`options`](Self::options) say to one by TCP.
    fn socket(&self) -> Result<transport::Endpoint, transport::Error> {
        Ok(transport::Endpoint::from_shared(self.endpoint.to_string())?
            .connect_timeout(DIAL_TIMEOUT)
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(false))
    }

    /// Of this host, not of another.
    pub(super) fn is_socket(&self) -> bool {
        matches!(self.endpoint, Endpoint::Unix { .. })
    }

    fn tls_options(&self) -> Result<Option<TlsOptions>, Error> {
        match (&self.endpoint, &self.files) {
            (Endpoint::Tcp { host, .. }, Some(files)) => tls_options(host, files).map(Some),
            _ => Ok(None),
        }
    }

    /// Lets go of a connection that does not answer or that cannot be made: its host may be gone without a word, and the
    /// kernel would go on sending to it for a quarter of an hour; and the certificate may be another by now. The next call
    /// makes a new one.
    pub(super) async fn forget(&self) {
        *self.client.lock().await = None;
    }
}

fn tls_options(host: &str, files: &TlsFiles) -> Result<TlsOptions, Error> {
    let ca = settings::read_pem(CA_FILE, &files.ca, "CERTIFICATE")?;
    // The name is given explicitly, since that of a URI has brackets around an IPv6 address.
    let mut options = TlsOptions::new().domain_name(host).ca_certificate(Certificate::from_pem(ca));
    if let Some((cert, key)) = &files.identity {
        let cert = settings::read_pem(CERT_FILE, cert, "CERTIFICATE")?;
        let key = settings::read_pem(KEY_FILE, key, "PRIVATE KEY")?;
        options = options.identity(Identity::from_pem(cert, key));
    }
    Ok(options)
}
