//! One member of the etcd cluster and the connection to it.

use std::{fmt, sync::atomic::AtomicBool, time::Duration};

use etcd_client::{Certificate, Client, Identity, TlsOptions};
use tokio::sync::Mutex;

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
    /// Made at the first call; with credentials that asks the server for a token.
    client: Mutex<Option<Client>>,
    /// It has answered a call, so the settings are right for it.
    pub(super) answered: AtomicBool,
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
        if let Some(files) = options.tls() {
            client = client.with_tls(tls_options(endpoint, files)?);
        }
        if let Some(credentials) = options.credentials() {
            client = client.with_user(&credentials.user, &credentials.password);
        }
        Ok(Self {
            endpoint: endpoint.clone(),
            options: client,
            client: Mutex::new(None),
            answered: AtomicBool::new(false),
        })
    }

    pub(super) async fn client(&self) -> Result<Client, etcd_client::Error> {
        let mut slot = self.client.lock().await;
        if let Some(client) = &*slot {
            return Ok(client.clone());
        }
        let client = Client::connect([self.endpoint.to_string()], Some(self.options.clone())).await?;
        Ok(slot.insert(client).clone())
    }

    /// Lets go of a connection that does not answer: its host may be gone without a word, and the kernel would go on
    /// sending to it for a quarter of an hour. The next call makes a new one.
    pub(super) async fn forget(&self) {
        *self.client.lock().await = None;
    }
}

fn tls_options(endpoint: &Endpoint, files: &TlsFiles) -> Result<TlsOptions, Error> {
    let ca = settings::read_pem(CA_FILE, &files.ca, "CERTIFICATE")?;
    // The name is given explicitly, since that of a URI has brackets around an IPv6 address.
    let mut options = TlsOptions::new().domain_name(&endpoint.host).ca_certificate(Certificate::from_pem(ca));
    if let Some((cert, key)) = &files.identity {
        let cert = settings::read_pem(CERT_FILE, cert, "CERTIFICATE")?;
        let key = settings::read_pem(KEY_FILE, key, "PRIVATE KEY")?;
        options = options.identity(Identity::from_pem(cert, key));
    }
    Ok(options)
}
