//! The functions of templates, and what values are worth and how they are printed.

use std::cmp::Ordering;

use serde_json::Value;

use super::TemplateError;

const NAMES: &[&str] = &[
    "and",
    "or",
    "not",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "len",
    "index",
    "print",
    "printf",
    "println",
    "join",
    "joinAndTruncate",
    "config",
];

/// True for a function's name.
pub(super) fn is_known(name: &str) -> bool {
    NAMES.contains(&name)
}

/// Calls a function.
pub(super) fn call(
    name: &str,
    arguments: &[Value],
    config: &dyn Fn(&str) -> Option<String>,
) -> Result<Value, TemplateError> {
    let wrong = |wanted: &str| {
        let given: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        TemplateError::new(format!("{name} wants {wanted}, not ({})", given.join(" ")))
    };
    let compared = |good: fn(Ordering) -> bool| match arguments {
        [a, b] => compare(a, b).map(|order| good(order).into()).ok_or_else(|| wrong("two numbers or two texts")),
        _ => Err(wrong("two values")),
    };
    match (name, arguments) {
        ("and", [_, ..]) => {
            Ok(arguments.iter().find(|value| !truth(value)).or(arguments.last()).cloned().unwrap_or_default())
        }
        ("or", [_, ..]) => {
            Ok(arguments.iter().find(|value| truth(value)).or(arguments.last()).cloned().unwrap_or_default())
        }
        ("not", [value]) => Ok((!truth(value)).into()),
        ("eq", [first, rest @ ..]) if !rest.is_empty() => Ok(rest.iter().any(|other| same(first, other)).into()),
        ("ne", [a, b]) => Ok((!same(a, b)).into()),
        ("lt", _) => compared(Ordering::is_lt),
        ("le", _) => compared(Ordering::is_le),
        ("gt", _) => compared(Ordering::is_gt),
        ("ge", _) => compared(Ordering::is_ge),
        ("len", [value]) => length(value).map(Value::from).ok_or_else(|| wrong("a text, list or map")),
        ("index", [value, keys @ ..]) => keys.iter().try_fold(value.clone(), |value, key| index(&value, key)),
        ("print", values) => Ok(print(values).into()),
        ("println", values) => Ok(format!("{}\n", values.iter().map(printed).collect::<Vec<_>>().join(" ")).into()),
        ("printf", [Value::String(format), values @ ..]) => printf(format, values).map(Value::from),
        ("join", [list, Value::String(separator)]) => Ok(join(list, separator).into()),
        ("joinAndTruncate", [list, Value::String(separator), most]) => {
            let most = most.as_u64().and_then(|most| usize::try_from(most).ok()).ok_or_else(|| wrong("a length"))?;
            let joined = join(list, separator);
            let cut = joined.chars().count() > most;
            Ok(if cut { joined.chars().take(most).chain("...".chars()).collect::<String>() } else { joined }.into())
        }
        ("config", [Value::String(setting)]) => config(setting).map(Value::from).ok_or_else(|| wrong("\"asnumber\"")),
        _ => Err(wrong("other arguments")),
    }
}

/// Whether a value counts as true: all but false, zero, and what is empty.
pub(super) fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        other => length(other).is_some_and(|length| length > 0),
    }
}

/// A value as Go prints it; nothing for what is absent.
pub(super) fn printed(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(printed).collect::<Vec<_>>().join(" ")),
        Value::Object(members) => {
            let members = members.iter().map(|(name, value)| format!("{name}:{}", printed(value)));
            format!("map[{}]", members.collect::<Vec<_>>().join(" "))
        }
        other => other.to_string(),
    }
}

fn length(value: &Value) -> Option<usize> {
    match value {
        Value::String(text) => Some(text.len()),
        Value::Array(items) => Some(items.len()),
        Value::Object(members) => Some(members.len()),
        _ => None,
    }
}

fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a.total_cmp(&b).is_eq(),
        _ => a == b,
    }
}

fn compare(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64()?.partial_cmp(&b.as_f64()?),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        _ => None,
    }
}

fn index(value: &Value, key: &Value) -> Result<Value, TemplateError> {
    match (value, key) {
        (Value::Object(members), Value::String(name)) => Ok(members.get(name).cloned().unwrap_or_default()),
        (Value::Array(items), Value::Number(number)) => {
            let item = number.as_u64().and_then(|index| items.get(usize::try_from(index).ok()?));
            item.cloned().ok_or_else(|| TemplateError::new(format!("index {number} of a list of {}", items.len())))
        }
        (Value::Null, _) => Ok(Value::Null),
        _ => Err(TemplateError::new(format!("index {key} of {value}"))),
    }
}

fn join(list: &Value, separator: &str) -> String {
    match list {
        Value::Array(items) => items.iter().map(printed).collect::<Vec<_>>().join(separator),
        other => printed(other),
    }
}

/// Go puts a blank between two values that are both no texts.
fn print(values: &[Value]) -> String {
    let mut text = String::new();
    for (index, value) in values.iter().enumerate() {
        if index > 0 && !value.is_string() && !values[index - 1].is_string() {
            text.push(' ');
        }
        text.push_str(&printed(value));
    }
    text
}

/// The verbs that people use: `%s %v %d %q %t %%`, with a width.
fn printf(format: &str, values: &[Value]) -> Result<String, TemplateError> {
    let (mut text, mut values) = (String::new(), values.iter());
    let mut letters = format.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            text.push(letter);
            continue;
        }
        let left = letters.next_if_eq(&'-').is_some();
        let mut width = String::new();
        while let Some(digit) = letters.next_if(char::is_ascii_digit) {
            width.push(digit);
        }
        let width: usize = width.parse().unwrap_or(0).min(1000);
        let verb = letters.next().unwrap_or('%');
        if verb == '%' {
            text.push('%');
            continue;
        }
        let value = values.next().ok_or_else(|| TemplateError::new(format!("printf: no value for %{verb}")))?;
        let words = match verb {
            's' | 'v' | 'd' | 't' => printed(value),
            'q' => format!("{:?}", printed(value)),
            other => return Err(TemplateError::new(format!("printf: %{other} is not understood"))),
        };
        text.push_str(&if left { format!("{words:<width$}") } else { format!("{words:>width$}") });
    }
    match values.next() {
        None => Ok(text),
        Some(value) => Err(TemplateError::new(format!("printf: nothing in {format:?} for {value}"))),
    }
}
