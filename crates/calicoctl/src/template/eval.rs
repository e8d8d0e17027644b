//! Filling a template in.

use serde_json::{Map, Value};

use super::{
    TemplateError,
    functions::{self, printed, truth},
    parse::{Base, Node, Operand, Pipeline, Range},
};

/// Fills in `nodes` with `data` as dot and `$`.
pub(super) fn render(
    nodes: &[Node],
    data: &Value,
    config: &dyn Fn(&str) -> Option<String>,
) -> Result<String, TemplateError> {
    let mut eval = Eval { out: String::new(), variables: vec![(String::new(), data.clone())], config };
    eval.nodes(nodes, data)?;
    Ok(eval.out)
}

/// How a block ended.
#[derive(Clone, Copy, PartialEq)]
enum Flow {
    On,
    Break,
    Continue,
}

struct Eval<'a> {
    out: String,
    variables: Vec<(String, Value)>,
    config: &'a dyn Fn(&str) -> Option<String>,
}

impl Eval<'_> {
    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<Flow, TemplateError> {
        let variables = self.variables.len();
        for node in nodes {
            let flow = self.node(node, dot)?;
            if flow != Flow::On {
                self.variables.truncate(variables);
                return Ok(flow);
            }
        }
        self.variables.truncate(variables);
        Ok(Flow::On)
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<Flow, TemplateError> {
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Action(pipeline) => {
                let value = self.pipeline(pipeline, dot)?;
                if pipeline.variable.is_none() {
                    self.out.push_str(&printed(&value));
                }
            }
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
            Node::Range(range) => return self.range(range, dot),
            Node::With(pipeline, body, otherwise) => {
                let variables = self.variables.len();
                let value = self.pipeline(pipeline, dot)?;
                let flow = if truth(&value) { self.nodes(body, &value) } else { self.nodes(otherwise, dot) };
                self.variables.truncate(variables);
                return flow;
            }
            Node::If(arms, otherwise) => {
                let variables = self.variables.len();
                for (condition, body) in arms {
                    if truth(&self.pipeline(condition, dot)?) {
                        let flow = self.nodes(body, dot);
                        self.variables.truncate(variables);
                        return flow;
                    }
                }
                let flow = self.nodes(otherwise, dot);
                self.variables.truncate(variables);
                return flow;
            }
        }
        Ok(Flow::On)
    }

    fn range(&mut self, range: &Range, dot: &Value) -> Result<Flow, TemplateError> {
        let items: Vec<(Value, Value)> = match self.pipeline(&range.over, dot)? {
            Value::Null => Vec::new(),
            Value::Array(items) => items.into_iter().enumerate().map(|(index, item)| (index.into(), item)).collect(),
            Value::Object(members) => members.into_iter().map(|(name, item)| (name.into(), item)).collect(),
            other => return Err(TemplateError::new(format!("range goes over lists and maps, not over {other}"))),
        };
        if items.is_empty() {
            return self.nodes(&range.otherwise, dot);
        }
        for (index, item) in items {
            let variables = self.variables.len();
            let names = [(&range.index, index), (&range.item, item.clone())];
            self.variables.extend(names.into_iter().filter_map(|(name, value)| Some((name.clone()?, value))));
            let flow = self.nodes(&range.body, &item)?;
            self.variables.truncate(variables);
            if flow == Flow::Break {
                break;
            }
        }
        Ok(Flow::On)
    }

    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, TemplateError> {
        let mut result: Option<Value> = None;
        for command in &pipeline.commands {
            result = Some(self.command(command, dot, result)?);
        }
        let value = result.unwrap_or_default();
        match &pipeline.variable {
            Some((name, true)) => self.variables.push((name.clone(), value.clone())),
            Some((name, false)) => *self.variable(name)? = value.clone(),
            None => {}
        }
        Ok(value)
    }

    fn command(&mut self, command: &[Operand], dot: &Value, last: Option<Value>) -> Result<Value, TemplateError> {
        let (first, rest) = command.split_first().expect("a command has at least one word");
        let Base::Function(name) = &first.base else { return self.operand(first, dot) };
        let mut arguments = Vec::with_capacity(rest.len() + 1);
        for operand in rest {
            arguments.push(self.operand(operand, dot)?);
        }
        arguments.extend(last);
        let value = functions::call(name, &arguments, self.config)?;
        fields(value, &first.fields)
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Value, TemplateError> {
        let value = match &operand.base {
            Base::Dot => dot.clone(),
            Base::Variable(name) => self.variable(name)?.clone(),
            Base::Literal(value) => value.clone(),
            Base::Inner(pipeline) => self.pipeline(pipeline, dot)?,
            Base::Function(name) => functions::call(name, &[], self.config)?,
        };
        fields(value, &operand.fields)
    }

    fn variable(&mut self, name: &str) -> Result<&mut Value, TemplateError> {
        let found = self.variables.iter_mut().rev().find(|(known, _)| known == name);
        found.map(|(_, value)| value).ok_or_else(|| TemplateError::new(format!("there is no variable ${name}")))
    }
}

fn fields(mut value: Value, names: &[String]) -> Result<Value, TemplateError> {
    for name in names {
        value = match value {
            Value::Null => Value::Null,
            Value::Object(members) => field(&members, name).cloned().unwrap_or_default(),
            Value::Array(_) => {
                return Err(TemplateError::new(format!("a list has no field {name}: go over it with range")));
            }
            other => return Err(TemplateError::new(format!("{other} has no field {name}"))),
        };
    }
    Ok(value)
}

/// A member by its name in JSON or in Go. Go's types have the metadata's members on the resource itself, too.
fn field<'a>(members: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let find = |members: &'a Map<String, Value>| {
        members
            .get(name)
            .or_else(|| members.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value))
    };
    let metadata = members.get("metadata");
    match name {
        "ObjectMeta" | "ListMeta" if metadata.is_some() => metadata,
        _ => find(members).or_else(|| metadata.and_then(Value::as_object).and_then(find)),
    }
}
