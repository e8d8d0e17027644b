//! A part of Go's `text/template`, for `get -o go-template=…`.
//!
//! Understood are: fields (`.metadata.name`, also as Go calls them: `.ObjectMeta.Name`, `.Spec.CIDR`), `$` and
//! variables, literals, pipelines and parentheses, `range`, `if`, `with`, `else`, `else if`, `break`, `continue`,
//! comments, trimming (`{{-`, `-}}`), and the functions `and or not eq ne lt le gt ge len index print printf println
//! join joinAndTruncate config`. Everything else (`define`, `template`, `block`, methods) is refused when the template
//! is read, never passed over.
//!
//! A field that is absent is empty, since in JSON an absent member stands for the empty value.

mod eval;
mod functions;
mod lex;
mod parse;

use serde_json::Value;

use parse::Node;

/// A template that has been read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Template {
    nodes: Vec<Node>,
}

/// Why a template cannot be read, or cannot be filled in. The words say where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TemplateError(String);

impl TemplateError {
    fn new(words: impl Into<String>) -> Self {
        Self(words.into())
    }
}

impl std::fmt::Display for TemplateError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TemplateError {}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// What is not understood.
    pub(crate) fn parse(text: &str) -> Result<Self, TemplateError> {
        Ok(Self { nodes: parse::parse(lex::pieces(text)?)? })
    }

    /// Fills it in. `config` answers the function of that name.
    ///
    /// # Errors
    /// An operation that the data do not allow.
    pub(crate) fn render(
        &self,
        data: &Value,
        config: &dyn Fn(&str) -> Option<String>,
    ) -> Result<String, TemplateError> {
        eval::render(&self.nodes, data, config)
    }
}

#[cfg(test)]
mod tests;
