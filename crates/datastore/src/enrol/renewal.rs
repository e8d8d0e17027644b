//! Keeps the certificate of a host that has joined good, for as long as the host is up.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use time::OffsetDateTime;

use super::{
    Clock,
    join::{self, AUTHORITY_FILE, Address, IDENTITY_FILE, JoinError},
};
use crate::pki::{Identity, Patience, PkiError, is_due, read_private, renew_at, seconds, shown, write_private};

/// The longest time between two looks: the clock may jump, the files may be replaced.
const LOOK_EVERY: Duration = Duration::from_secs(3600);

/// What a look at the certificate led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// This host has not joined anybody.
    NotJoined,
    /// It is good for so many seconds before it is to be replaced.
    Good(i64),
    /// It has been replaced; the new one is good until then, in seconds since 1970.
    Renewed(i64),
}

/// Renews the certificate in `dir`, the datastore's folder, whenever two thirds of its life are over. Never ends, and
/// does nothing on a host that has not joined.
pub async fn run(dir: PathBuf) -> std::convert::Infallible {
    let clock: Clock = Arc::new(OffsetDateTime::now_utc);
    let mut patience = Patience::default();
    loop {
        let pause = match look(&dir, &clock).await {
            Ok(looked) => {
                patience.reset();
                match looked {
                    Look::Renewed(until) => {
                        tracing::info!(until = shown(until), "this host's certificate has been renewed");
                        LOOK_EVERY
                    }
                    Look::NotJoined => LOOK_EVERY,
                    Look::Good(rest) => LOOK_EVERY.min(Duration::from_secs(u64::try_from(rest).unwrap_or(0).max(1))),
                }
            }
            Err(error) => {
                let pause = patience.after_failure();
                let hint = error.way_out().unwrap_or_default();
                tracing::warn!(%error, hint, again_in = ?pause, "this host's certificate cannot be renewed");
                pause
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Looks once, and renews if it is time.
///
/// # Errors
/// [`JoinError`]; the old certificate stays.
pub async fn look(dir: &Path, clock: &Clock) -> Result<Look, JoinError> {
    let file = dir.join(IDENTITY_FILE);
    let what = file.display().to_string();
    let text = read_private(&file)?;
    let Some(facts) = join::facts_of(text.as_deref(), &what)? else { return Ok(Look::NotJoined) };
    let now = seconds(clock());
    if !is_due(facts.not_before, facts.not_after, now) {
        return Ok(Look::Good(renew_at(facts.not_before, facts.not_after) - now));
    }
    let addresses = addresses(dir, &file)?;
    if addresses.is_empty() {
        return Ok(Look::NotJoined);
    }
    let authority = dir.join(AUTHORITY_FILE);
    let authority = read_private(&authority)?.ok_or_else(|| PkiError::Damaged {
        what: authority.display().to_string(),
        cause: "it is not there".to_owned(),
    })?;
    let mut failure = None;
    for address in &addresses {
        let identity = Identity::from_pem(&what, text.as_deref().unwrap_or_default())?;
        match join::renew(address, &facts.name, identity, &authority, clock).await {
            Ok(renewed) => {
                write_private(&file, &renewed.identity)?;
                return Ok(Look::Renewed(renewed.valid_until));
            }
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.expect("there is at least one address"))
}

/// Where the datastore is, if it is one that knows this host by its certificate. After a migration to an etcd with
/// certificates of its own there is nothing to renew.
fn addresses(dir: &Path, identity: &Path) -> Result<Vec<Address>, PkiError> {
    let text = read_private(&dir.join("location.env"))?.unwrap_or_default();
    let value = |name: &str| {
        text.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix('=').map(|value| value.trim()))
    };
    if value("ETCD_CERT_FILE").map(Path::new) != Some(identity) {
        return Ok(Vec::new());
    }
    let endpoints = value("ETCD_ENDPOINTS").unwrap_or_default().split(',');
    Ok(endpoints.filter_map(|endpoint| endpoint.trim().strip_prefix("https://")?.parse().ok()).collect())
}
