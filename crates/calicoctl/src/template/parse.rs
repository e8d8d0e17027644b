//! From words to a tree.

use serde_json::Value;

use super::{
    TemplateError, functions,
    lex::{Piece, Token},
};

/// Parentheses and blocks may not be deeper than this.
const DEEPEST: usize = 64;

/// A part of a template that is printed or acts.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    Text(String),
    /// Prints a value, unless it is given to a variable.
    Action(Pipeline),
    If(Vec<(Pipeline, Vec<Node>)>, Vec<Node>),
    With(Pipeline, Vec<Node>, Vec<Node>),
    Range(Range),
    Break,
    Continue,
}

/// `range`
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Range {
    pub(super) index: Option<String>,
    pub(super) item: Option<String>,
    pub(super) over: Pipeline,
    pub(super) body: Vec<Node>,
    pub(super) otherwise: Vec<Node>,
}

/// Commands, each of which gets the result of the one before as its last argument.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Pipeline {
    /// The variable that gets the result, and whether it is a new one.
    pub(super) variable: Option<(String, bool)>,
    pub(super) commands: Vec<Vec<Operand>>,
}

/// A value, or a function's name, with fields behind it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Operand {
    pub(super) base: Base,
    pub(super) fields: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Base {
    Dot,
    Variable(String),
    Literal(Value),
    Function(String),
    Inner(Box<Pipeline>),
}

/// The tree of a template.
pub(super) fn parse(pieces: Vec<Piece>) -> Result<Vec<Node>, TemplateError> {
    let mut parser = Parser { pieces: pieces.into_iter(), depth: 0, loops: 0 };
    let (nodes, end) = parser.block()?;
    match end {
        Stop::Text => Ok(nodes),
        Stop::End(line) | Stop::Else(_, line) => {
            Err(TemplateError::new(format!("line {line}: there is nothing that could end here")))
        }
    }
}

/// What ends a block.
enum Stop {
    /// The end of the template.
    Text,
    /// `end`, in this line.
    End(usize),
    /// `else` with what stands behind it, in this line.
    Else(Vec<Token>, usize),
}

struct Parser {
    pieces: std::vec::IntoIter<Piece>,
    depth: usize,
    loops: usize,
}

impl Parser {
    fn block(&mut self) -> Result<(Vec<Node>, Stop), TemplateError> {
        let mut nodes = Vec::new();
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(TemplateError::new(format!("blocks are nested deeper than {DEEPEST}")));
        }
        while let Some(piece) = self.pieces.next() {
            let (tokens, line) = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Piece::Action(tokens, line) => (tokens, line),
            };
            let at = |error: TemplateError| match error.to_string() {
                words if words.starts_with("line ") => TemplateError::new(words),
                words => TemplateError::new(format!("line {line}: {words}")),
            };
            let word = match tokens.first() {
                Some(Token::Word(word)) => word.clone(),
                _ => String::new(),
            };
            match word.as_str() {
                "end" => {
                    self.depth -= 1;
                    return Ok((nodes, Stop::End(line)));
                }
                "else" => {
                    self.depth -= 1;
                    return Ok((nodes, Stop::Else(tokens[1..].to_vec(), line)));
                }
                "if" => nodes.push(self.conditional(&tokens[1..], line).map_err(at)?),
                "with" => {
                    let value = pipeline(&tokens[1..]).map_err(at)?;
                    let (body, otherwise) = self.two_blocks(line)?;
                    nodes.push(Node::With(value, body, otherwise));
                }
                "range" => nodes.push(self.range(&tokens[1..], line).map_err(at)?),
                "break" | "continue" if self.loops == 0 => {
                    return Err(at(TemplateError::new(format!("{word} stands in no range"))));
                }
                "break" => nodes.push(Node::Break),
                "continue" => nodes.push(Node::Continue),
                _ => nodes.push(Node::Action(pipeline(&tokens).map_err(at)?)),
            }
        }
        Ok((nodes, Stop::Text))
    }

    fn conditional(&mut self, condition: &[Token], line: usize) -> Result<Node, TemplateError> {
        let mut arms = Vec::new();
        let mut condition = pipeline(condition)?;
        loop {
            let (body, end) = self.block()?;
            arms.push((condition, body));
            match end {
                Stop::End(_) => return Ok(Node::If(arms, Vec::new())),
                Stop::Else(rest, _) if rest.first() == Some(&Token::Word("if".into())) => {
                    condition = pipeline(&rest[1..])?;
                }
                Stop::Else(rest, _) if rest.is_empty() => {
                    return match self.block()? {
                        (otherwise, Stop::End(_)) => Ok(Node::If(arms, otherwise)),
                        _ => Err(no_end(line)),
                    };
                }
                Stop::Else(..) => return Err(TemplateError::new("behind else stands if, or nothing")),
                Stop::Text => return Err(no_end(line)),
            }
        }
    }

    /// What stands up to `end`, with what stands behind `else`.
    fn two_blocks(&mut self, line: usize) -> Result<(Vec<Node>, Vec<Node>), TemplateError> {
        match self.block()? {
            (body, Stop::End(_)) => Ok((body, Vec::new())),
            (body, Stop::Else(rest, _)) if rest.is_empty() => match self.block()? {
                (otherwise, Stop::End(_)) => Ok((body, otherwise)),
                _ => Err(no_end(line)),
            },
            (_, Stop::Else(_, line)) => {
                Err(TemplateError::new(format!("line {line}: nothing stands behind this else")))
            }
            (_, Stop::Text) => Err(no_end(line)),
        }
    }

    fn range(&mut self, tokens: &[Token], line: usize) -> Result<Node, TemplateError> {
        let (index, item, over) = match tokens {
            [Token::Variable(index), Token::Comma, Token::Variable(item), Token::Declare, over @ ..] => {
                (Some(index.clone()), Some(item.clone()), over)
            }
            [Token::Variable(item), Token::Declare, over @ ..] => (None, Some(item.clone()), over),
            over => (None, None, over),
        };
        let over = pipeline(over)?;
        self.loops += 1;
        let blocks = self.two_blocks(line);
        self.loops -= 1;
        let (body, otherwise) = blocks?;
        Ok(Node::Range(Range { index, item, over, body, otherwise }))
    }
}

fn no_end(line: usize) -> TemplateError {
    TemplateError::new(format!("line {line}: what begins here has no end"))
}

fn pipeline(tokens: &[Token]) -> Result<Pipeline, TemplateError> {
    let mut words = Words { tokens, at: 0, depth: 0 };
    let pipeline = words.pipeline()?;
    match words.peek() {
        None => Ok(pipeline),
        Some(token) => Err(TemplateError::new(format!("{} stands where nothing can", shown(token)))),
    }
}

struct Words<'a> {
    tokens: &'a [Token],
    at: usize,
    depth: usize,
}

impl Words<'_> {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn pipeline(&mut self) -> Result<Pipeline, TemplateError> {
        let variable = match (self.peek(), self.tokens.get(self.at + 1)) {
            (Some(Token::Variable(name)), Some(sign @ (Token::Declare | Token::Assign))) if !name.is_empty() => {
                let variable = (name.clone(), *sign == Token::Declare);
                self.at += 2;
                Some(variable)
            }
            _ => None,
        };
        let mut commands = vec![self.command()?];
        while self.peek() == Some(&Token::Pipe) {
            self.at += 1;
            let command = self.command()?;
            if !matches!(command[0].base, Base::Function(_)) {
                return Err(TemplateError::new("behind a | stands a function"));
            }
            commands.push(command);
        }
        Ok(Pipeline { variable, commands })
    }

    fn command(&mut self) -> Result<Vec<Operand>, TemplateError> {
        let mut operands = Vec::new();
        while let Some(token) = self.peek() {
            let base = match token {
                Token::Pipe | Token::Close => break,
                Token::Dot => Base::Dot,
                Token::Field(name, _) => {
                    let fields = vec![name.clone()];
                    self.at += 1;
                    operands.push(self.with_fields(Base::Dot, fields));
                    continue;
                }
                Token::Variable(name) => Base::Variable(name.clone()),
                Token::Literal(value) => Base::Literal(value.clone()),
                Token::Word(name) if functions::is_known(name) => Base::Function(name.clone()),
                Token::Word(name) => return Err(TemplateError::new(format!("{name} is not understood here"))),
                Token::Open => {
                    self.at += 1;
                    Base::Inner(Box::new(self.inner()?))
                }
                other => return Err(TemplateError::new(format!("{} stands where a value is wanted", shown(other)))),
            };
            self.at += 1;
            operands.push(self.with_fields(base, Vec::new()));
        }
        match operands.as_slice() {
            [] => Err(TemplateError::new("a value is missing")),
            [first, _, ..] if !matches!(first.base, Base::Function(_)) => {
                Err(TemplateError::new("a value is given arguments as if it were a function"))
            }
            _ => Ok(operands),
        }
    }

    /// What stands in parentheses; the closing one is left.
    fn inner(&mut self) -> Result<Pipeline, TemplateError> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(TemplateError::new(format!("parentheses are nested deeper than {DEEPEST}")));
        }
        let pipeline = self.pipeline()?;
        self.depth -= 1;
        if self.peek() == Some(&Token::Close) {
            Ok(pipeline)
        } else {
            Err(TemplateError::new("a parenthesis has no end"))
        }
    }

    fn with_fields(&mut self, base: Base, mut fields: Vec<String>) -> Operand {
        while let Some(Token::Field(name, true)) = self.peek() {
            fields.push(name.clone());
            self.at += 1;
        }
        Operand { base, fields }
    }
}

fn shown(token: &Token) -> String {
    match token {
        Token::Word(word) => word.clone(),
        Token::Field(name, _) => format!(".{name}"),
        Token::Dot => ".".into(),
        Token::Variable(name) => format!("${name}"),
        Token::Literal(value) => value.to_string(),
        Token::Pipe => "|".into(),
        Token::Open => "(".into(),
        Token::Close => ")".into(),
        Token::Comma => ",".into(),
        Token::Declare => ":=".into(),
        Token::Assign => "=".into(),
    }
}
