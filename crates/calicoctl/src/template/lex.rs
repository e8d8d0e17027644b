//! From the text of a template to words.

use serde_json::Value;

use super::TemplateError;

/// A part of a template.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Piece {
    /// Text that is printed as it stands.
    Text(String),
    /// What stands between braces, and the line where it begins.
    Action(Vec<Token>, usize),
}

/// A word of an action.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// A keyword or a function.
    Word(String),
    /// `.name`, and whether it stands directly behind what is before it.
    Field(String, bool),
    /// `.`
    Dot,
    /// `$` (empty) or `$name`.
    Variable(String),
    /// A text, number, boolean or nil.
    Literal(Value),
    Pipe,
    Open,
    Close,
    Comma,
    /// `:=`
    Declare,
    /// `=`
    Assign,
}

/// Splits a template at its braces.
pub(super) fn pieces(text: &str) -> Result<Vec<Piece>, TemplateError> {
    let (mut pieces, mut rest, mut line) = (Vec::new(), text, 1);
    let mut trim = false;
    while let Some(start) = rest.find("{{") {
        let (before, action) = (&rest[..start], &rest[start + 2..]);
        let trims_before = starts_trimmed(action);
        let mut kept = if trim { before.trim_start() } else { before };
        if trims_before {
            kept = kept.trim_end();
        }
        if !kept.is_empty() {
            pieces.push(Piece::Text(kept.to_owned()));
        }
        line += before.matches('\n').count();
        let action = if trims_before { &action[1..] } else { action };
        let end = end_of(action)
            .ok_or_else(|| TemplateError::new(format!("line {line}: the action {{{{ has no end }}}}")))?;
        let (mut inside, after) = (&action[..end], &action[end + 2..]);
        trim = ends_trimmed(inside);
        if trim {
            inside = &inside[..inside.len() - 1];
        }
        let words = inside.trim();
        if words.starts_with("/*") {
            if !words.ends_with("*/") {
                return Err(TemplateError::new(format!("line {line}: a comment has no end */")));
            }
        } else {
            let at = |error: TemplateError| TemplateError::new(format!("line {line}: {error}"));
            pieces.push(Piece::Action(tokens(inside).map_err(at)?, line));
        }
        line += inside.matches('\n').count();
        rest = after;
    }
    let last = if trim { rest.trim_start() } else { rest };
    if !last.is_empty() {
        pieces.push(Piece::Text(last.to_owned()));
    }
    Ok(pieces)
}

/// `{{- ` with the blank; without it, it is a negative number.
fn starts_trimmed(action: &str) -> bool {
    let mut chars = action.chars();
    chars.next() == Some('-') && chars.next().is_some_and(char::is_whitespace)
}

/// ` -}}` with the blank.
fn ends_trimmed(inside: &str) -> bool {
    inside.strip_suffix('-').is_some_and(|rest| rest.ends_with(char::is_whitespace))
}

/// Where the closing braces are; those in texts and comments do not count.
fn end_of(action: &str) -> Option<usize> {
    if action.trim_start().starts_with("/*") {
        let comment = action.find("*/")?;
        return action[comment..].find("}}").map(|end| comment + end);
    }
    let bytes = action.as_bytes();
    let (mut quote, mut at) = (None, 0);
    while at < bytes.len() {
        match (quote, bytes[at]) {
            (Some(b'"'), b'\\') => at += 1,
            (Some(open), byte) if byte == open => quote = None,
            (None, byte @ (b'"' | b'`')) => quote = Some(byte),
            (None, b'}') if bytes.get(at + 1) == Some(&b'}') => return Some(at),
            _ => {}
        }
        at += 1;
    }
    None
}

fn tokens(text: &str) -> Result<Vec<Token>, TemplateError> {
    let mut tokens = Vec::new();
    let mut rest = text;
    let mut adjacent = false;
    while let Some(first) = rest.chars().next() {
        let (token, length) = match first {
            c if c.is_whitespace() => {
                rest = &rest[c.len_utf8()..];
                adjacent = false;
                continue;
            }
            '|' => (Token::Pipe, 1),
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            ',' => (Token::Comma, 1),
            ':' if rest.starts_with(":=") => (Token::Declare, 2),
            '=' => (Token::Assign, 1),
            '"' | '`' => text_literal(rest, first)?,
            '$' => {
                let name = word(&rest[1..]);
                (Token::Variable(name.to_owned()), 1 + name.len())
            }
            '.' => match word(&rest[1..]) {
                "" => (Token::Dot, 1),
                name => (Token::Field(name.to_owned(), adjacent), 1 + name.len()),
            },
            c if c.is_ascii_digit() || c == '-' || c == '+' => number(rest)?,
            c if c.is_alphabetic() || c == '_' => {
                let name = word(rest);
                let token = match name {
                    "true" => Token::Literal(true.into()),
                    "false" => Token::Literal(false.into()),
                    "nil" => Token::Literal(Value::Null),
                    _ => Token::Word(name.to_owned()),
                };
                (token, name.len())
            }
            other => return Err(TemplateError::new(format!("{other:?} is not understood"))),
        };
        tokens.push(token);
        rest = &rest[length..];
        adjacent = true;
    }
    Ok(tokens)
}

fn word(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len());
    &text[..end]
}

fn text_literal(rest: &str, quote: char) -> Result<(Token, usize), TemplateError> {
    let no_end = || TemplateError::new(format!("a text has no end {quote}"));
    if quote == '`' {
        let end = rest[1..].find('`').ok_or_else(no_end)?;
        return Ok((Token::Literal(rest[1..=end].into()), end + 2));
    }
    let mut at = 1;
    let bytes = rest.as_bytes();
    while *bytes.get(at).ok_or_else(no_end)? != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    // Go's escapes that people use are JSON's.
    let text: String = serde_json::from_str(&rest[..=at])
        .map_err(|error| TemplateError::new(format!("{} is no text: {error}", &rest[..=at])))?;
    Ok((Token::Literal(text.into()), at + 1))
}

fn number(rest: &str) -> Result<(Token, usize), TemplateError> {
    let end = rest[1..].find(|c: char| !(c.is_ascii_alphanumeric() || c == '.')).map_or(rest.len(), |end| end + 1);
    let text = &rest[..end];
    let value = text.parse::<i64>().map(Value::from).or_else(|_| text.parse::<f64>().map(Value::from));
    match value {
        Ok(value) => Ok((Token::Literal(value), end)),
        Err(_) => Err(TemplateError::new(format!("{text:?} is no number"))),
    }
}
