//! `get`: resources of a kind, by name or all, in one of many forms.

use calico_model::{AnyResource, BGPConfigurationSpec, KindName, ResourceKey};
use calico_store::Error;
use serde_json::Value;

use super::{
    columns::DEFAULT_AS,
    delete::stored_name,
    form::{Form, Found, Setting},
    gate, kinds, namespace,
    rules::DEFAULT_ALLOW,
    source, stored, view, watch, words,
    write::nothing_to_do,
};
use crate::{
    args::Get,
    context::Context,
    failure::{Exit, Failure},
    output::Output,
};

/// What is asked for.
#[derive(Clone, Debug)]
enum Query {
    One { key: ResourceKey, place: String },
    All { kind: KindName, namespace: Option<String> },
}

impl Query {
    fn kind(&self) -> KindName {
        match self {
            Self::One { key, .. } => key.kind,
            Self::All { kind, .. } => *kind,
        }
    }
}

/// `get`
pub(crate) async fn get(ctx: &Context, args: &Get) -> Result<Output, Failure> {
    let form = Form::parse(&args.output)?;
    let queries = queries(ctx, args)?;
    if queries.is_empty() {
        return Ok(nothing_to_do());
    }
    for query in &queries {
        form.check(query.kind())?;
    }
    gate::check(ctx, args.connection.allow_version_mismatch).await?;
    let as_number = match form.wants_as_number(queries.iter().map(Query::kind)) {
        true => as_number(ctx).await?,
        false => DEFAULT_AS.to_owned(),
    };
    let setting = Setting { with_namespace: args.all_namespaces || args.namespace.namespace.is_some(), as_number };
    if args.watch {
        let names = queries.iter().filter_map(|query| match query {
            Query::One { key, .. } => Some(key.name.clone()),
            Query::All { .. } => None,
        });
        let namespace = match &queries[0] {
            Query::One { key, .. } => key.namespace.clone(),
            Query::All { namespace, .. } => namespace.clone(),
        };
        return watch::watch(ctx, queries[0].kind(), namespace.as_deref(), names.collect(), &form, &setting).await;
    }
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    for query in &queries {
        if words::is_vain(ctx, &mut failures) {
            break;
        }
        match answer(ctx, query).await {
            Ok(mut answer) => {
                if args.export && matches!(query, Query::One { .. }) {
                    view::export(&mut answer.value);
                }
                found.push(answer);
            }
            Err(failure) => failures.push(failure),
        }
    }
    let text = form.render(&found, &setting)?;
    match Failure::together(failures) {
        None => Ok(Output::of(text, Value::Null)),
        Some(failure) if found.is_empty() => Err(failure),
        Some(failure) => Ok(Output::of(text, Value::Null).but(failure).exit(Exit::Failed)),
    }
}

fn queries(ctx: &Context, args: &Get) -> Result<Vec<Query>, Failure> {
    let Some(word) = &args.named.kind else {
        let mut queries = Vec::new();
        for identity in source::identities(&*ctx.console, &args.files)? {
            let source::Identity { kind, mut metadata, place, .. } = identity;
            let subject = words::at(&place, &words::name(kind, &metadata));
            namespace::assign(kind, &mut metadata, &args.namespace).map_err(|failure| failure.about(&subject))?;
            queries
                .push(Query::One { key: ResourceKey::new(kind, metadata.namespace.as_deref(), &metadata.name), place });
        }
        return Ok(queries);
    };
    let kind = kinds::parse(word)?;
    if args.all_namespaces {
        if args.namespace.namespace.is_some() {
            return Err(Failure::new("--namespace and --all-namespaces cannot be used at the same time."));
        }
        if !kind.is_namespaced() {
            return Err(Failure::new(format!("{kind} is not namespaced.")).hint("leave --all-namespaces out"));
        }
        if !args.named.names.is_empty() {
            return Err(Failure::new("--all-namespaces cannot be used for getting a single resource.")
                .hint("say its namespace with --namespace, or leave the name out"));
        }
        return Ok(vec![Query::All { kind, namespace: None }]);
    }
    let namespace = namespace::of_kind(kind, &args.namespace)?;
    if args.named.names.is_empty() {
        return Ok(vec![Query::All { kind, namespace }]);
    }
    let one = |name: &String| Query::One {
        key: ResourceKey::new(kind, namespace.as_deref(), &stored_name(kind, name)),
        place: String::new(),
    };
    Ok(args.named.names.iter().map(one).collect())
}

async fn answer(ctx: &Context, query: &Query) -> Result<Found, Failure> {
    match query {
        Query::All { kind, namespace } => {
            let value = list(ctx, *kind, namespace.as_deref()).await?;
            Ok(Found { kind: *kind, value })
        }
        Query::One { key, .. } if key.kind == KindName::Profile && key.name == DEFAULT_ALLOW => {
            Ok(Found { kind: key.kind, value: view::default_allow() })
        }
        Query::One { key, place } => {
            let subject = words::at(place, &words::named(key.kind, key.namespace.as_deref(), &key.name));
            match stored::get(&ctx.store, key).await {
                Ok(stored) => Ok(Found { kind: key.kind, value: view::shown(&stored.resource) }),
                Err(error) if error.is_not_found() => Err(Failure::new("It does not exist.").about(&subject)),
                Err(error) => Err(Failure::from(error)),
            }
        }
    }
}

/// All of a kind in the order of their keys; tiers in the order in which they are asked.
async fn list(ctx: &Context, kind: KindName, namespace: Option<&str>) -> Result<Value, Error> {
    let mut listed = stored::list(&ctx.store, kind, namespace).await?;
    ctx.note_unreadable(&listed.unreadable);
    if kind == KindName::Tier {
        let order = |resource: &AnyResource| match resource {
            AnyResource::Tier(tier) => tier.spec.order(),
            _ => f64::INFINITY,
        };
        // Stable, so that equal ones stay in the order of their names.
        listed.resources.sort_by(|a, b| order(&a.resource).total_cmp(&order(&b.resource)));
    }
    let mut items: Vec<Value> = listed.resources.iter().map(|stored| view::shown(&stored.resource)).collect();
    if kind == KindName::Profile {
        items.push(view::default_allow());
    }
    Ok(view::list(kind, listed.revision, items))
}

async fn as_number(ctx: &Context) -> Result<String, Failure> {
    match ctx.store.get::<BGPConfigurationSpec>("default").await {
        Ok(found) => Ok(found.spec.as_number.map_or_else(|| DEFAULT_AS.to_owned(), |number| number.0.to_string())),
        Err(error) if error.is_unreachable() => Err(error.into()),
        Err(_) => Ok(DEFAULT_AS.to_owned()),
    }
}
