//! The forms of `get -o`, and how what was found is put into them.

use calico_model::KindName;
use serde_json::Value;

use super::{
    columns::{Layout, Wanted},
    view,
};
use crate::{failure::Failure, output::plain, template::Template};

/// A form of output.
#[derive(Debug)]
pub(super) enum Form {
    Table(Wanted),
    Name,
    Json,
    Yaml,
    Template(Template),
}

/// One answer: a resource, or the list of all of a kind.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) kind: KindName,
    pub(super) value: Value,
}

/// What a table or template has to know beside the resources.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    /// Put the namespace in front.
    pub(super) with_namespace: bool,
    /// The cluster's AS number.
    pub(super) as_number: String,
}

impl Form {
    /// Reads what stands behind `-o`.
    ///
    /// # Errors
    /// No such form; a template that cannot be read.
    pub(super) fn parse(word: &str) -> Result<Self, Failure> {
        let (name, value) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
        match (name, value.filter(|value| !value.is_empty())) {
            ("ps", None) if value.is_none() => Ok(Self::Table(Wanted::Simple)),
            ("wide", None) if value.is_none() => Ok(Self::Table(Wanted::Wide)),
            ("name", None) if value.is_none() => Ok(Self::Name),
            ("json", None) if value.is_none() => Ok(Self::Json),
            ("yaml" | "yml", None) if value.is_none() => Ok(Self::Yaml),
            ("custom-columns", Some(columns)) => {
                let columns = columns.split(',').map(|column| column.trim().to_ascii_uppercase()).collect();
                Ok(Self::Table(Wanted::Custom(columns)))
            }
            ("custom-columns", None) => {
                Err(Failure::new("Need to specify at least one column.").hint("as in: -o custom-columns=NAME,IPV4"))
            }
            ("go-template", Some(text)) => template(text, "The template"),
            ("go-template", None) => Err(Failure::new("Need to specify a template.")
                .hint("as in: -o go-template='{{range .}}{{.metadata.name}}{{end}}'")),
            ("go-template-file", Some(file)) => {
                let text = std::fs::read_to_string(file)
                    .map_err(|error| Failure::new(format!("{file} cannot be read.")).cause(&error))?;
                template(&text, file)
            }
            ("go-template-file", None) => Err(Failure::new("Need to specify a template file.")),
            _ => Err(Failure::new(format!("Unrecognized output format {word:?}.")).hint(
                "the forms are ps, wide, name, json, yaml, custom-columns=…, go-template=… and go-template-file=…",
            )),
        }
    }

    /// Refuses a form that makes no sense for a kind.
    ///
    /// # Errors
    /// Columns that it has not.
    pub(super) fn check(&self, kind: KindName) -> Result<(), Failure> {
        match self {
            Self::Table(wanted) => Layout::new(kind, wanted, false).map(|_| ()),
            _ => Ok(()),
        }
    }

    /// True if the cluster's AS number may be wanted.
    pub(super) fn wants_as_number(&self, kinds: impl IntoIterator<Item = KindName>) -> bool {
        match self {
            Self::Table(Wanted::Simple) | Self::Name | Self::Json | Self::Yaml => false,
            Self::Table(_) => kinds.into_iter().any(|kind| kind == KindName::Node),
            Self::Template(_) => true,
        }
    }

    /// What was found as text.
    ///
    /// # Errors
    /// A template that cannot be filled in.
    pub(super) fn render(&self, found: &[Found], setting: &Setting) -> Result<String, Failure> {
        match self {
            Self::Table(wanted) => {
                let tables: Result<Vec<String>, Failure> =
                    found.iter().map(|found| table(found, wanted, setting)).collect();
                Ok(tables?.concat())
            }
            Self::Name => Ok(found.iter().flat_map(names).collect()),
            Self::Json => Ok(together(found).map(|value| view::json(&value)).unwrap_or_default()),
            Self::Yaml => Ok(together(found).map(|value| view::yaml(&value)).unwrap_or_default()),
            Self::Template(template) => {
                let all =
                    Value::Array(found.iter().map(|found| view::for_template(found.kind, &found.value)).collect());
                let config = |name: &str| name.eq_ignore_ascii_case("asnumber").then(|| setting.as_number.clone());
                let filled = template.render(&all, &config);
                filled.map_err(|error| Failure::new("The template cannot be filled in.").cause(&error))
            }
        }
    }
}

fn template(text: &str, what: &str) -> Result<Form, Failure> {
    let parsed = Template::parse(text).map(Form::Template);
    parsed.map_err(|error| {
        Failure::new(format!("{what} is not understood."))
            .cause(&error)
            .hint("what is understood is listed by: calicoctl get --help")
    })
}

/// One answer as it is, several as an array.
fn together(found: &[Found]) -> Option<Value> {
    match found {
        [] => None,
        [one] => Some(one.value.clone()),
        several => Some(Value::Array(several.iter().map(|found| found.value.clone()).collect())),
    }
}

/// A table, and an empty line that parts it from the next one.
fn table(found: &Found, wanted: &Wanted, setting: &Setting) -> Result<String, Failure> {
    let layout = Layout::new(found.kind, wanted, setting.with_namespace)?;
    let mut rows = vec![layout.headings()];
    let resources = view::resources(&found.value);
    rows.extend(resources.into_iter().map(|resource| layout.row(resource, &setting.as_number)));
    Ok(format!("{}\n", plain::table(&rows)))
}

/// `kind/name`, one a line.
pub(super) fn names(found: &Found) -> Vec<String> {
    let kind = found.kind.as_str().to_ascii_lowercase();
    view::resources(&found.value).into_iter().map(|value| format!("{kind}/{}\n", view::name(value))).collect()
}
