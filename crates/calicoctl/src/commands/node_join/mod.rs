//! `calicoctl node --join`: from now on this host uses the datastore that another one keeps.
//!
//! Everything that can be checked is checked before anything is said to the other host, and everything that was written
//! is taken back if a later step fails: the certificate is tried, then the datastore itself, and only then does the
//! record of where it is come into its place. After that the service starts as `calicoctl node` starts it.

mod words;

use std::{path::Path, sync::Arc};

use calico_datastore::{
    admin::Client,
    enrol::{
        Clock,
        join::{
            AUTHORITY_FILE, IDENTITY_FILE, JoinError, Joined, Kept, LeftAside, Standing, join, keep, leave_own,
            standing,
        },
    },
    pki::PkiError,
};
use calico_store::{ConnectOptions, DATASTORE_DIR, EtcdKv, LOCATION_FILE, Source, Store};
use time::OffsetDateTime;

use super::{
    Caller,
    node_start::{self, Settings},
};
use crate::{
    args::{NodeArgs, NodeJoin},
    context::Context,
    failure::{Failure, sentence},
    output::Output,
};
use words::Words;

/// Where things are on this host.
struct Place<'a> {
    dir: &'a Path,
    location: &'a Path,
    /// The datastore of its own, if it runs.
    own: Client,
}

/// `node --join`
pub(crate) async fn run(ctx: &Context, args: &NodeArgs, caller: &Caller) -> Result<Output, Failure> {
    let settings = Settings::parse(&args.start)?;
    ctx.require_root()?;
    let place = Place { dir: Path::new(DATASTORE_DIR), location: Path::new(LOCATION_FILE), own: Client::default() };
    let host = settings.name.clone().unwrap_or_else(|| ctx.node.clone());
    let belonging = belong(ctx, &args.join, &host, caller.etcd.source(), &place).await?;
    let told = belonging.told();
    let (options, store) = belonging.settle(place.location)?;
    let joined = ctx.on(store, host);
    let caller = Caller { etcd: options, ..caller.clone() };
    let started = node_start::start(&joined, &args.start, &caller).await;
    let output = started.map_err(|failure| {
        failure
            .context(format!("{told} But the service did not start."))
            .hint("the host has joined; once that is mended, `calicoctl node` is enough: no new invitation is needed")
    })?;
    Ok(Output { text: format!("{told}\n{}", output.text), ..output })
}

/// What has been written, as long as it can be taken back.
struct Belonging {
    joined: Joined,
    options: ConnectOptions,
    store: Store,
    kept: Kept,
    aside: Option<LeftAside>,
}

impl Belonging {
    /// In a sentence.
    fn told(&self) -> String {
        let Joined { keeper, host, address, .. } = &self.joined;
        let mut told = format!("Joined the datastore of host {keeper} at {address} as node {host}.");
        if let Some(aside) = &self.aside {
            told.push_str(&format!(" What this host had before is in {}.", aside.folder.display()));
        }
        told
    }

    /// Makes it last. If even that fails, it is all taken back.
    fn settle(self, location: &Path) -> Result<(ConnectOptions, Store), Failure> {
        self.options.write_location(location, Some(&self.joined.keeper))?;
        self.kept.settle();
        self.aside.map(LeftAside::settle);
        // Read again, so that it is known to come from there.
        let options = ConnectOptions::from_location(location)?.unwrap_or(self.options);
        Ok((options, self.store))
    }
}

/// Gets a certificate and tries the datastore with it.
async fn belong(
    ctx: &Context,
    typed: &NodeJoin,
    host: &str,
    source: &Source,
    place: &Place<'_>,
) -> Result<Belonging, Failure> {
    let words = Words::parse(typed)?;
    let leaves = check_past(&words, typed.leave_own_datastore, source, place).await?;
    let invitation = words.with_token(&*ctx.console)?;
    let clock: Clock = Arc::new(OffsetDateTime::now_utc);
    let joined = join(&invitation, host, &clock).await.map_err(unjoined)?;
    let aside = match leaves {
        true => Some(leave_own(place.dir, clock()).map_err(unwritten)?),
        false => None,
    };
    let kept = keep(place.dir, &joined).map_err(unwritten)?;
    let options = options(place.dir, &joined)?;
    let store = Store::new(Arc::new(EtcdKv::new(options.clone())?));
    // Whatever it holds: it answers, to this host, as a datastore does.
    let answer = store.kv().get("/calico/resources/v3/projectcalico.org/clusterinformations/default").await;
    answer.map_err(|error| Failure::from(error).context("The datastore let this host in, but does not answer."))?;
    Ok(Belonging { joined, options, store, kept, aside })
}

/// Whether this host has something to leave, and may.
async fn check_past(words: &Words, may_leave: bool, source: &Source, place: &Place<'_>) -> Result<bool, Failure> {
    if *source == Source::Environment {
        return Err(Failure::new("This host is told where its datastore is, so it cannot join another host's.")
            .because("ETCD_ENDPOINTS or another variable of etcd is set, or a settings file says it")
            .hint("unset ETCD_*, and look into /etc/calico/calicoctl.cfg and /etc/calico/calico.env"));
    }
    let leaving = "to leave it, run the same again with --leave-own-datastore: its files are kept aside";
    let (what, must_stop) = match (standing(place.dir).map_err(unwritten)?, source) {
        (Standing::KeepsOne(file), _) => {
            (format!("This host keeps a datastore of its own, in {}.", file.display()), true)
        }
        (Standing::Joined(authority), _) if authority == words.fingerprint => return Ok(false),
        (_, Source::File { keeper: Some(keeper), .. }) => {
            (format!("This host has joined the datastore of host {keeper}."), false)
        }
        (_, Source::File { keeper: None, path }) => {
            (format!("This host uses an etcd, as {} says.", path.display()), false)
        }
        (Standing::Joined(_) | Standing::Fresh, _) => return Ok(false),
    };
    if !may_leave {
        return Err(Failure::new(what).hint(leaving));
    }
    // Files must not be moved away under a process that writes them.
    if must_stop && !place.own.status().await.is_err_and(|error| error.is_not_running()) {
        return Err(Failure::new("The datastore of this host runs.").hint("stop it first: calicoctl node stop"));
    }
    Ok(true)
}

/// How this host reaches the datastore from now on.
fn options(dir: &Path, joined: &Joined) -> Result<ConnectOptions, Failure> {
    let identity = dir.join(IDENTITY_FILE).display().to_string();
    let variables = [
        ("ETCD_ENDPOINTS", format!("https://{}", joined.address)),
        ("ETCD_CA_CERT_FILE", dir.join(AUTHORITY_FILE).display().to_string()),
        ("ETCD_CERT_FILE", identity.clone()),
        ("ETCD_KEY_FILE", identity),
    ];
    let lookup = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
    Ok(ConnectOptions::from_lookup(lookup)?)
}

fn unjoined(error: JoinError) -> Failure {
    let failure = Failure::new("This host could not join.").cause(&error);
    error.way_out().into_iter().fold(failure, Failure::hint)
}

fn unwritten(error: PkiError) -> Failure {
    let hint = error.way_out();
    let failure = Failure::new(sentence(&error));
    let failure = match std::error::Error::source(&error) {
        Some(source) => failure.cause(source),
        None => failure,
    };
    hint.into_iter().fold(failure, Failure::hint)
}

#[cfg(test)]
pub(super) mod keeper_for_tests;
#[cfg(test)]
mod tests;
