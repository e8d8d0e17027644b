//! `… label set|remove|show` for an endpoint, however it was named.
//!
//! Labels are what selectors of policies match. Changed by compare-and-swap, so two people who set labels at the same
//! time both succeed. As with profiles, removing what is not there changes nothing and ends with code 0.

use calico_model::WorkloadEndpointSpec;
use serde_json::json;

use super::endpoint_profile::Target;
use crate::{
    context::Context,
    failure::Failure,
    labels,
    output::{Cell, Column, Output, Table},
};

/// Why a change was not made.
enum NotChanged {
    /// The answer, with code 0.
    Soft(String),
    Hard(Failure),
}

impl From<calico_store::Error> for NotChanged {
    fn from(error: calico_store::Error) -> Self {
        match error {
            calico_store::Error::Invalid(invalid) => {
                let refused = labels::check(&invalid.faults).err();
                Self::Hard(refused.unwrap_or_else(|| calico_store::Error::Invalid(invalid).into()))
            }
            other => Self::Hard(other.into()),
        }
    }
}

/// `label set`: gives labels, in place of those with the same keys.
pub(crate) async fn set(ctx: &Context, target: &Target, words: &[String]) -> Result<Output, Failure> {
    let wanted = labels::parse(words)?;
    let endpoint = target.find(ctx).await.map_err(|failure| failure.context("Failed to set labels for endpoint."))?;
    let key = endpoint.key();
    let changed = ctx.store.modify::<WorkloadEndpointSpec, NotChanged>(&key, |endpoint| {
        endpoint.metadata.labels.extend(wanted.clone());
        Ok(())
    });
    let set: Vec<String> = wanted.iter().map(|(key, value)| format!("{key}={value}")).collect();
    answer(changed.await, format!("Label(s) {} set.", set.join(", ")))
}

/// `label remove`
pub(crate) async fn remove(ctx: &Context, target: &Target, keys: &[String]) -> Result<Output, Failure> {
    let reserved: Vec<String> = keys.iter().filter_map(|key| labels::reserved(key)).collect();
    if !reserved.is_empty() {
        return Err(Failure::all(reserved));
    }
    let endpoint =
        target.find(ctx).await.map_err(|failure| failure.context("Failed to remove labels from endpoint."))?;
    let key = endpoint.key();
    let changed = ctx.store.modify::<WorkloadEndpointSpec, NotChanged>(&key, |endpoint| {
        let labels = &mut endpoint.metadata.labels;
        if let Some(key) = keys.iter().find(|key| !labels.contains_key(key.as_str())) {
            return Err(NotChanged::Soft(format!("Label {key} is not on the endpoint.")));
        }
        labels.retain(|key, _| !keys.contains(key));
        Ok(())
    });
    answer(changed.await, format!("Label(s) {} removed.", keys.join(", ")))
}

fn answer<T>(changed: Result<T, NotChanged>, done: String) -> Result<Output, Failure> {
    match changed {
        Ok(_) => Ok(Output::line(done)),
        Err(NotChanged::Soft(answer)) => Ok(Output::line(answer)),
        Err(NotChanged::Hard(failure)) => Err(failure),
    }
}

/// `label show`
pub(crate) async fn show(ctx: &Context, target: &Target) -> Result<Output, Failure> {
    let endpoint = target.find(ctx).await.map_err(|failure| failure.context("Failed to list labels of endpoint."))?;
    let mut table = Table::new(&[Column::new("Label", "key"), Column::new("Value", "value")]);
    for (key, value) in &endpoint.metadata.labels {
        table.push(vec![key.as_str().into(), Cell::Both(value.clone(), json!(value))]);
    }
    Ok(table.into())
}
