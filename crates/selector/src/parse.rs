//! The parser.
//!
//! ```text
//! selector = [ or ]                          empty or blank is all()
//! or       = and { "||" and }
//! and      = unary { "&&" unary }
//! unary    = { "!" } primary                 only the parity of a run of "!" counts
//! primary  = "has(" key ")" | "all(" ")" | "global(" ")" | "(" or ")" | key condition
//! condition = ("==" | "!=" | "contains" | "starts with" | "ends with") string | ["not"] "in" set
//! set      = "{" [ string { "," string } [ "," ] ] "}"
//! ```
//!
//! Blanks are space and tab, anywhere between tokens but not between a function's name and its `(`. Words are
//! operators only right after a key, so labels may be called `in`, `has` or `all`.
//!
//! It works in one pass over the text with its own stack of open parentheses. On opening one, an `Or` and an `And`
//! node are put down in advance, because prefix order wants them before their children; those that turn out to have
//! one child are dropped afterwards, and with them all redundant parentheses.

use std::ops::Range;

use crate::{
    MAX_KEY_BYTES, Selector,
    error::ParseError,
    node::{ACCEPT, MAX_TEXT_BYTES, Node, REJECT, Span, Test, What},
};

type Parsed<T> = Result<T, ParseError>;

pub(crate) fn parse(text: &str) -> Parsed<Selector> {
    if text.len() > MAX_TEXT_BYTES {
        return Err(ParseError::new(0..0, format!("the selector is longer than {MAX_TEXT_BYTES} bytes")));
    }
    let mut parser = Parser {
        text,
        bytes: text.as_bytes(),
        at: 0,
        nodes: Vec::new(),
        tests: Vec::new(),
        members: Vec::new(),
        open: Vec::new(),
    };
    parser.skip_blanks();
    if parser.at == text.len() {
        parser.push_test(What::All);
    } else {
        parser.expression()?;
        parser.drop_single_children();
        parser.link();
    }
    Ok(Selector {
        text: text.into(),
        nodes: parser.nodes.into(),
        tests: parser.tests.into(),
        members: parser.members.into(),
    })
}

struct Parser<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
    tests: Vec<Test>,
    members: Vec<Span>,
    open: Vec<Level>,
}

/// An open parenthesis (or the whole text): where its `Or` and its latest `And` node stand.
struct Level {
    paren: usize,
    or: usize,
    and: usize,
}

impl Parser<'_> {
    fn expression(&mut self) -> Parsed<()> {
        self.open_level();
        loop {
            self.operand_start()?;
            if !self.after_operand()? {
                return Ok(());
            }
        }
    }

    /// Negations and opening parentheses, then one primary.
    fn operand_start(&mut self) -> Parsed<()> {
        loop {
            let mut negated = false;
            self.skip_blanks();
            while self.take(b"!") {
                negated = !negated;
                self.skip_blanks();
            }
            if negated {
                self.nodes.push(Node::Not);
            }
            if self.peek() != Some(b'(') {
                return self.primary();
            }
            self.open_level();
            self.at += 1;
        }
    }

    /// Closing parentheses, then an operator (true) or the end of the text (false).
    fn after_operand(&mut self) -> Parsed<bool> {
        loop {
            self.skip_blanks();
            let level = self.open.last().expect("the level of the whole text closes only at the end of the text");
            let (or, and, paren) = (level.or, level.and, level.paren);
            if self.take(b"&&") {
                self.add_child(and);
                return Ok(true);
            }
            if self.take(b"||") {
                self.add_child(or);
                self.open.last_mut().expect("looked at above").and = self.nodes.len();
                self.nodes.push(Node::And(1));
                return Ok(true);
            }
            let inside = self.open.len() > 1;
            match self.peek() {
                Some(b')') if inside => {
                    self.open.pop();
                    self.at += 1;
                }
                None if inside => return Err(ParseError::new(paren..paren + 1, "this parenthesis is never closed")),
                None => return Ok(false),
                Some(b')') => return Err(self.fault_here("this parenthesis closes nothing")),
                Some(b'&') => return Err(self.fault_here("\"and\" is written &&")),
                Some(b'|') => return Err(self.fault_here("\"or\" is written ||")),
                Some(_) => return Err(self.expected("&&, || or the end of the selector")),
            }
        }
    }

    fn open_level(&mut self) {
        let or = self.nodes.len();
        self.open.push(Level { paren: self.at, or, and: or + 1 });
        self.nodes.extend([Node::Or(1), Node::And(1)]);
    }

    fn add_child(&mut self, node: usize) {
        match &mut self.nodes[node] {
            Node::And(children) | Node::Or(children) => *children += 1,
            Node::Not | Node::Test => unreachable!("levels point at the And and Or nodes that they put down"),
        }
    }

    fn primary(&mut self) -> Parsed<()> {
        let what = if self.take(b"has(") {
            let call = self.at - 4..self.at;
            self.skip_blanks();
            let key = self.key("a label key")?;
            self.close_call(call)?;
            What::Has(key)
        } else if self.take(b"all(") {
            self.close_call(self.at - 4..self.at)?;
            What::All
        } else if self.take(b"global(") {
            self.close_call(self.at - 7..self.at)?;
            What::Global
        } else {
            let key = self.key("a label key, a function or (")?;
            self.condition(key)?
        };
        self.push_test(what);
        Ok(())
    }

    fn close_call(&mut self, call: Range<usize>) -> Parsed<()> {
        self.skip_blanks();
        if self.take(b")") {
            return Ok(());
        }
        match self.peek() {
            None => Err(ParseError::new(call, "this call is never closed")),
            Some(_) => Err(self.expected(")")),
        }
    }

    fn key(&mut self, wanted: &str) -> Parsed<Span> {
        let start = self.at;
        let length = self.bytes[start..].iter().take_while(|&&byte| is_key_byte(byte)).count();
        if length == 0 {
            return Err(self.expected(wanted));
        }
        self.at += length;
        if length > MAX_KEY_BYTES {
            let message = format!("a label key of {length} bytes; at most {MAX_KEY_BYTES} are allowed");
            return Err(ParseError::new(start..self.at, message));
        }
        Ok(Span::new(start, self.at))
    }

    fn condition(&mut self, key: Span) -> Parsed<What> {
        self.skip_blanks();
        if self.take(b"==") {
            return Ok(What::Equal(key, self.string()?));
        }
        if self.take(b"!=") {
            return Ok(What::NotEqual(key, self.string()?));
        }
        if self.peek() == Some(b'=') {
            return Err(self.fault_here("\"equal\" is written =="));
        }
        if self.take_words("in", "") {
            return Ok(What::In(key, self.set()?));
        }
        if self.take_words("contains", "") {
            return Ok(What::Contains(key, self.string()?));
        }
        if self.take_words("starts", "with") {
            return Ok(What::StartsWith(key, self.string()?));
        }
        if self.take_words("ends", "with") {
            return Ok(What::EndsWith(key, self.string()?));
        }
        if self.take_words("not", "in") {
            return Ok(What::NotIn(key, self.set()?));
        }
        Err(self.expected("==, !=, in, not in, contains, starts with or ends with"))
    }

    /// One or two words, with or without blanks between them, and no key byte behind them.
    fn take_words(&mut self, first: &str, second: &str) -> bool {
        let start = self.at;
        let taken = self.take(first.as_bytes())
            && (second.is_empty() || {
                self.skip_blanks();
                self.take(second.as_bytes())
            })
            && !self.peek().is_some_and(is_key_byte);
        if !taken {
            self.at = start;
        }
        taken
    }

    fn string(&mut self) -> Parsed<Span> {
        self.skip_blanks();
        let Some(quote @ (b'"' | b'\'')) = self.peek() else {
            return Err(self.expected("a string in quotes"));
        };
        let start = self.at + 1;
        match self.bytes[start..].iter().position(|&byte| byte == quote) {
            Some(length) => {
                self.at = start + length + 1;
                Ok(Span::new(start, start + length))
            }
            None => Err(ParseError::new(start - 1..start, "this quote is never closed (there are no escapes)")),
        }
    }

    /// A set; the members are put down sorted and without repeats.
    fn set(&mut self) -> Parsed<Span> {
        self.skip_blanks();
        let brace = self.at;
        if !self.take(b"{") {
            return Err(self.expected("a set of strings in braces"));
        }
        let first = self.members.len();
        loop {
            self.skip_blanks();
            if self.take(b"}") {
                break;
            }
            if self.peek().is_none() {
                return Err(ParseError::new(brace..brace + 1, "this brace is never closed"));
            }
            let member = self.string()?;
            self.members.push(member);
            self.skip_blanks();
            if !self.take(b",") && !matches!(self.peek(), Some(b'}') | None) {
                return Err(self.expected(", or }"));
            }
        }
        let text = self.text;
        self.members[first..].sort_unstable_by_key(|member| member.of(text));
        let mut kept = first;
        for next in first..self.members.len() {
            let member = self.members[next];
            if kept == first || self.members[kept - 1].of(text) != member.of(text) {
                self.members[kept] = member;
                kept += 1;
            }
        }
        self.members.truncate(kept);
        Ok(Span::new(first, kept))
    }

    fn push_test(&mut self, what: What) {
        self.nodes.push(Node::Test);
        self.tests.push(Test { what, yes: ACCEPT, no: REJECT });
    }

    /// Drops the `And` and `Or` nodes with one child.
    fn drop_single_children(&mut self) {
        self.nodes.retain(|node| !matches!(node, Node::And(1) | Node::Or(1)));
    }

    /// Gives every test its targets: a child of `And` goes on to its next sibling when it holds, and one of `Or`
    /// when it does not.
    fn link(&mut self) {
        if self.tests.len() == 1 && self.nodes.len() == 1 {
            return;
        }
        let (ends, tests_before) = self.extents();
        // What a node's subtree leads to when it holds and when it does not; set by the parent, which comes first.
        let mut targets = vec![(ACCEPT, REJECT); self.nodes.len()];
        for (at, node) in self.nodes.iter().enumerate() {
            let (yes, no) = targets[at];
            let (children, all) = match node {
                Node::Test => {
                    let test = &mut self.tests[tests_before[at] as usize];
                    (test.yes, test.no) = (yes, no);
                    continue;
                }
                Node::Not => {
                    targets[at + 1] = (no, yes);
                    continue;
                }
                Node::And(children) => (*children, true),
                Node::Or(children) => (*children, false),
            };
            let mut child = at + 1;
            for left in (0..children).rev() {
                let end = ends[child] as usize;
                targets[child] = match (left, all) {
                    (0, _) => (yes, no),
                    (_, true) => (tests_before[end], no),
                    (_, false) => (yes, tests_before[end]),
                };
                child = end;
            }
        }
    }

    /// For each node, where its subtree ends and how many tests stand before it.
    fn extents(&self) -> (Vec<u32>, Vec<u32>) {
        let mut ends = vec![0; self.nodes.len()];
        // The ends of the subtrees to the right that have no parent yet, the nearest on top.
        let mut right = Vec::new();
        for (at, node) in self.nodes.iter().enumerate().rev() {
            let children = match node {
                Node::Test => 0,
                Node::Not => 1,
                Node::And(children) | Node::Or(children) => *children as usize,
            };
            let last = right.len() - children;
            let end = right.get(last).copied().filter(|_| children > 0).unwrap_or(at as u32 + 1);
            right.truncate(last);
            right.push(end);
            ends[at] = end;
        }
        let mut count = 0;
        let tests_before = self.nodes.iter().map(|node| {
            let before = count;
            count += u32::from(*node == Node::Test);
            before
        });
        (ends, tests_before.collect())
    }

    fn skip_blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn take(&mut self, token: &[u8]) -> bool {
        let taken = self.bytes[self.at..].starts_with(token);
        if taken {
            self.at += token.len();
        }
        taken
    }

    fn expected(&self, wanted: &str) -> ParseError {
        let rest = &self.text[self.at..];
        let word = rest.bytes().take_while(|&byte| is_key_byte(byte)).count();
        let length = if word > 0 { word } else { rest.chars().next().map_or(0, char::len_utf8) };
        let found = match &rest[..length] {
            "" => "the selector ends".to_owned(),
            found => format!("found {found:?}"),
        };
        ParseError::new(self.at..self.at + length, format!("{found} where {wanted} should stand"))
    }

    /// A fault of the one byte here.
    fn fault_here(&self, message: &str) -> ParseError {
        ParseError::new(self.at..self.at + 1, message)
    }
}

fn is_key_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'/' | b'-')
}
