//! Reading, creating and changing one configuration resource by compare-and-swap.

use calico_model::{Kind, Resource};
use calico_store::Error;

use crate::{commands::race::Races, context::Context, failure::Failure};

/// The resource, `None` if there is none.
///
/// # Errors
/// Those of the datastore.
pub(crate) async fn read<S: Kind>(ctx: &Context, name: &str) -> Result<Option<Resource<S>>, Failure> {
    match ctx.store.get::<S>(name).await {
        Ok(resource) => Ok(Some(resource)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Changes the resource; one that is not there is created with the change. `change` may be called several times.
///
/// # Errors
/// What `change` says; a result that is not valid; the datastore.
pub(crate) async fn change<S: Kind + Default>(
    ctx: &Context,
    name: &str,
    change: impl Fn(&mut Resource<S>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut races = Races::new(format!("{} {name}", S::NAME));
    loop {
        let written = match read::<S>(ctx, name).await? {
            Some(stored) => update(ctx, stored, |resource| change(resource).map(|()| true)).await?.map(|_| ()),
            None => {
                let mut resource = Resource::new(name, S::default());
                change(&mut resource)?;
                written(ctx.store.create(resource).await)?
            }
        };
        match written {
            Some(()) => return Ok(()),
            None => races.lost().await?,
        }
    }
}

/// Changes the resource if it is there and `change` says that there is something to change; returns whether it did.
///
/// # Errors
/// As [`change`].
pub(crate) async fn change_existing<S: Kind>(
    ctx: &Context,
    name: &str,
    change: impl Fn(&mut Resource<S>) -> Result<bool, Failure>,
) -> Result<bool, Failure> {
    let mut races = Races::new(format!("{} {name}", S::NAME));
    loop {
        let Some(stored) = read::<S>(ctx, name).await? else { return Ok(false) };
        match update(ctx, stored, &change).await? {
            Some(changed) => return Ok(changed),
            None => races.lost().await?,
        }
    }
}

/// Writes a changed resource, `None` for a lost race. What is the same afterwards is not written.
async fn update<S: Kind>(
    ctx: &Context,
    stored: Resource<S>,
    change: impl Fn(&mut Resource<S>) -> Result<bool, Failure>,
) -> Result<Option<bool>, Failure> {
    let mut resource = stored.clone();
    if !change(&mut resource)? {
        return Ok(Some(false));
    }
    if resource == stored {
        return Ok(Some(true));
    }
    Ok(written(ctx.store.update(resource).await)?.map(|()| true))
}

fn written<S: Kind>(result: Result<Resource<S>, Error>) -> Result<Option<()>, Failure> {
    match result {
        Ok(_) => Ok(Some(())),
        Err(Error::Conflict { .. } | Error::AlreadyExists { .. } | Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
