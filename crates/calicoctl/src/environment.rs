//! The settings file of the unit: variables as systemd reads them (systemd.exec(5), `EnvironmentFile`).
//!
//! Edited as a person would: what is set is replaced where it stands, what was only explained gets its line below the
//! explanation, and every other line stays.

use std::{collections::BTreeMap, iter::Peekable, str::Chars};

/// The variables that `text` sets; of several lines for one the last counts.
pub(crate) fn read(text: &str) -> BTreeMap<String, String> {
    let variable = |line: &str| {
        let name = assigned(line)?;
        let (_, value) = line.split_once('=')?;
        Some((name.to_owned(), unquoted(value.trim())))
    };
    text.lines().filter_map(variable).collect()
}

/// A value without its quotes. Between single quotes everything means itself, between double ones a backslash protects
/// what would mean something, outside it protects whatever follows.
fn unquoted(text: &str) -> String {
    let mut value = String::new();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\'' => value.extend(rest.by_ref().take_while(|c| *c != '\'')),
            '"' => between_double_quotes(&mut rest, &mut value),
            '\\' => value.extend(rest.next()),
            c => value.push(c),
        }
    }
    value
}

fn between_double_quotes(rest: &mut Peekable<Chars<'_>>, value: &mut String) {
    while let Some(c) = rest.next() {
        match c {
            '"' => return,
            '\\' if rest.peek().is_some_and(|next| r#""\$`"#.contains(*next)) => value.extend(rest.next()),
            c => value.push(c),
        }
    }
}

/// `text` with these variables set, and without those that `unset` names.
pub(crate) fn edit(text: &str, set: &[(&str, String)], unset: impl Fn(&str) -> bool) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut placed: Vec<&str> = Vec::new();
    for line in text.lines() {
        let Some(name) = assigned(line) else {
            lines.push(line.to_owned());
            continue;
        };
        match set.iter().find(|(known, _)| *known == name) {
            // The last of several would count; one is enough.
            Some((known, _)) if placed.contains(known) => {}
            Some((known, value)) => {
                lines.push(assignment(known, value));
                placed.push(known);
            }
            None if unset(name) => {}
            None => lines.push(line.to_owned()),
        }
    }
    for (name, value) in set.iter().filter(|(name, _)| !placed.contains(name)) {
        let explained = lines.iter().position(|line| line.strip_prefix('#').and_then(assigned) == Some(name));
        lines.insert(explained.map_or(lines.len(), |at| at + 1), assignment(name, value));
    }
    let mut text = lines.join("\n");
    text.push('\n');
    text
}

/// The variable that a line sets.
fn assigned(line: &str) -> Option<&str> {
    let (name, _) = line.trim_start().split_once('=')?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (!name.is_empty() && name.bytes().all(plain)).then_some(name)
}

/// A line that sets a variable, with quotes where the value needs them.
fn assignment(name: &str, value: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-./:,=@%+[]".contains(&b);
    if value.bytes().all(plain) {
        return format!("{name}={value}");
    }
    if !value.contains('\'') {
        return format!("{name}='{value}'");
    }
    let escaped =
        ['\\', '"', '$', '`'].into_iter().fold(value.to_owned(), |text, c| text.replace(c, &format!("\\{c}")));
    format!("{name}=\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn never(_: &str) -> bool {
        false
    }

    #[test]
    fn lines_are_replaced_where_they_stand_and_comments_stay() {
        let text = "# Settings\n\n# Its address.\n#IP=\n\nAS=64512\n AS=64513\nOWN=kept\n";
        let set = [("IP", "10.0.0.5".to_owned()), ("AS", "64555".to_owned()), ("IP6", "fd00::5".to_owned())];
        let edited = edit(text, &set, never);
        assert_eq!(edited, "# Settings\n\n# Its address.\n#IP=\nIP=10.0.0.5\n\nAS=64555\nOWN=kept\nIP6=fd00::5\n");
        assert_eq!(edit(&edited, &set, never), edited, "a second time changes nothing");
        assert_eq!(edit("", &set[..1], never), "IP=10.0.0.5\n");
    }

    #[test]
    fn what_is_not_wanted_any_more_goes() {
        let text = "ETCD_ENDPOINTS=http://a:1\nETCD_PASSWORD=x\n#ETCD_USERNAME=\nIP=1.2.3.4\n";
        let edited = edit(text, &[("ETCD_ENDPOINTS", "http://b:1".to_owned())], |name| name.starts_with("ETCD_"));
        assert_eq!(edited, "ETCD_ENDPOINTS=http://b:1\n#ETCD_USERNAME=\nIP=1.2.3.4\n");
    }

    #[test]
    fn values_are_quoted_as_systemd_reads_them() {
        for (value, line) in [
            ("http://[fd00::1]:2379,http://b:2379", "X=http://[fd00::1]:2379,http://b:2379"),
            ("a b", "X='a b'"),
            ("#$\"\\", "X='#$\"\\'"),
            ("it's $5", "X=\"it's \\$5\""),
            ("'\\\"`", "X=\"'\\\\\\\"\\`\""),
            ("", "X="),
        ] {
            assert_eq!(assignment("X", value), line);
            assert_eq!(read(line)["X"], value, "{line} is read as it was meant");
        }
    }

    #[test]
    fn what_a_person_wrote_is_read_as_systemd_does() {
        let text = "# A=1\n;B=2\n C=3 \nD=\"four \\\" 5\"\nE='a'b\\ c\nno line\nF=old\nF=new\nG=\n2 H=x\n";
        let read: Vec<(String, String)> = read(text).into_iter().collect();
        let expected = [("C", "3"), ("D", "four \" 5"), ("E", "ab c"), ("F", "new"), ("G", "")];
        assert_eq!(read, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
