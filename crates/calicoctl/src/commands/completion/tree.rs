//! From the words before the cursor to what may stand at it, by the parser's own tree.
//!
//! The same reading as [`crate::args::order`]: in the families whose commands begin with a name, the first word that
//! is no fixed word is the name, and the nouns (`ip`, `profile`) follow it. Options may stand anywhere.

use calico_model::KindName;
use clap::{Arg, Command};

use crate::{
    args::order::{NAME_FIRST, takes_next_argument, value_options},
    commands::resource,
};

/// One word that may stand there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// The word.
    pub(super) word: String,
    /// What it means; may be empty.
    pub(super) about: String,
}

impl Candidate {
    /// A name.
    pub(super) fn name(word: impl Into<String>) -> Self {
        Self { word: word.into(), about: String::new() }
    }
}

/// Names that exist somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Existing {
    /// Docker's.
    Containers,
    /// Ids of endpoints.
    Endpoints,
    /// As they were typed.
    Profiles,
    /// Their prefixes.
    Pools,
    /// Hosts.
    Nodes,
    /// Resources of a kind.
    Resources(KindName),
}

/// What cannot be known from the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Names {
    /// Something that exists.
    Of(Existing),
    /// Files, which the shell knows best.
    Files,
    /// Folders.
    Folders,
}

/// What may stand at the cursor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    /// What candidates must begin with.
    pub(super) typed: String,
    /// What stands before that in the same word: `--host=`.
    pub(super) lead: String,
    /// What the grammar knows.
    pub(super) candidates: Vec<Candidate>,
    /// And what it does not.
    pub(super) names: Option<Names>,
}

/// What may stand at the cursor, behind the words `before`, where `current` is typed already.
pub(super) fn ask(tree: &Command, before: &[String], current: &str) -> Asked {
    let options = value_options(tree);
    let (mut words, mut option, mut only_words) = (Vec::new(), None, false);
    for word in before {
        if option.take().is_some() {
            continue;
        }
        if only_words || !is_option(word) {
            words.push(word.as_str());
        } else if word == "--" {
            only_words = true;
        } else if takes_next_argument(&options, word) {
            option = Some(word.as_str());
        }
    }
    let place = Place::of(tree, &words);
    if let Some(option) = option {
        return value(find_option(tree, place.command, option), current, String::new(), &words);
    }
    if !only_words
        && current.starts_with("--")
        && let Some((option, typed)) = current.split_once('=')
    {
        return value(find_option(tree, place.command, option), typed, format!("{option}="), &words);
    }
    if !only_words && current.starts_with('-') {
        let candidates =
            place.command.get_arguments().filter(|arg| !arg.is_hide_set()).flat_map(option_words).collect();
        return Asked { typed: current.to_owned(), candidates, ..Asked::default() };
    }
    let mut asked = place.at_word(current, &words);
    if place.commands_fit {
        let shown = place.command.get_subcommands().filter(|command| !command.is_hide_set());
        let fits = |command: &&Command| !place.only_nouns || command.has_subcommands();
        asked.candidates.extend(shown.filter(fits).map(|command| Candidate {
            word: command.get_name().to_owned(),
            about: command.get_about().map(ToString::to_string).unwrap_or_default(),
        }));
    }
    asked
}

/// Where in the tree the words lead.
struct Place<'a> {
    command: &'a Command,
    /// How many of the command's values are given.
    given: usize,
    /// A fixed word may follow.
    commands_fit: bool,
    /// A name stands before the noun that is still missing.
    only_nouns: bool,
    /// A name of this family may follow as well.
    family: Option<&'a str>,
}

impl<'a> Place<'a> {
    fn of(tree: &'a Command, words: &[&str]) -> Self {
        let family = words.first().filter(|word| NAME_FIRST.contains(word)).and_then(|word| tree.find_subcommand(word));
        let is_name = |word: &&str| family.is_some_and(|family| family.find_subcommand(word).is_none());
        let named = words.get(1).is_some_and(is_name);
        let path = words.iter().enumerate().filter(|(index, _)| !(named && *index == 1)).map(|(_, word)| word);
        let (mut command, mut given, mut depth) = (tree, 0, 0);
        for word in path {
            let found = if given == 0 { command.find_subcommand(word) } else { None };
            match found.filter(|found| !(named && depth == 1) || found.has_subcommands()) {
                Some(found) => (command, depth) = (found, depth + 1),
                None => given += 1,
            }
        }
        let commands_fit = given == 0 && command.has_subcommands();
        if named && !command.has_subcommands() {
            given += 1;
        }
        let family = family.filter(|_| words.len() == 1).map(Command::get_name);
        Self { command, given, commands_fit, only_nouns: named && depth == 1, family }
    }

    /// The value that may stand at the cursor.
    fn at_word(&self, current: &str, words: &[&str]) -> Asked {
        if let Some(family) = self.family {
            let names = match family {
                "container" => Existing::Containers,
                "endpoint" => Existing::Endpoints,
                _ => Existing::Profiles,
            };
            return Asked { typed: current.to_owned(), names: Some(Names::Of(names)), ..Asked::default() };
        }
        let positionals: Vec<&Arg> = self.command.get_positionals().collect();
        let repeated = positionals.last().filter(|arg| arg.get_num_args().is_some_and(|most| most.max_values() > 1));
        value(positionals.get(self.given).or(repeated).copied(), current, String::new(), words)
    }
}

fn is_option(word: &str) -> bool {
    word.starts_with('-') && word != "-"
}

/// The option of a name with its dashes, perhaps shortened: of the command, else of any.
fn find_option<'a>(tree: &'a Command, command: &'a Command, option: &str) -> Option<&'a Arg> {
    let is_it = |arg: &&Arg| match option.strip_prefix("--") {
        Some(long) => arg.get_long().is_some_and(|known| known.starts_with(long)),
        None => arg.get_short().is_some_and(|known| option == format!("-{known}")),
    };
    fn all(command: &Command) -> Vec<&Arg> {
        command.get_arguments().chain(command.get_subcommands().flat_map(all)).collect()
    }
    command.get_arguments().find(is_it).or_else(|| all(tree).into_iter().find(is_it))
}

/// What a value may be.
fn value(arg: Option<&Arg>, typed: &str, lead: String, words: &[&str]) -> Asked {
    let mut asked = Asked { typed: typed.to_owned(), lead, ..Asked::default() };
    let Some(arg) = arg else { return asked };
    asked.candidates = arg
        .get_possible_values()
        .into_iter()
        .filter(|value| !value.is_hide_set())
        .map(|value| Candidate {
            word: value.get_name().to_owned(),
            about: value.get_help().map(|about| about.to_string().trim_end_matches('.').to_owned()).unwrap_or_default(),
        })
        .collect();
    let name = arg.get_value_names().and_then(|names| names.first()).map(ToString::to_string).unwrap_or_default();
    match name.as_str() {
        // `true|false`
        choice if choice.contains('|') => asked.candidates = choice.split('|').map(Candidate::name).collect(),
        "RUNTIME" => asked.candidates = ["docker", "none"].map(Candidate::name).to_vec(),
        "KIND" => asked.candidates = resource::plurals().map(Candidate::name).collect(),
        "FORM" => {
            asked.candidates = ["ps", "wide", "name", "json", "yaml", "custom-columns="].map(Candidate::name).to_vec();
        }
        _ => asked.names = names(&name, words),
    }
    asked
}

/// Where the names come from that a value of this name in the grammar may be.
fn names(value_name: &str, words: &[&str]) -> Option<Names> {
    let existing = match value_name {
        "FILE" | "PATH" | "REPORT" => return Some(Names::Files),
        "DIR" => return Some(Names::Folders),
        "CONTAINER" | "FROM" | "TO" | "ENDPOINT" => Existing::Containers,
        "ENDPOINT_ID" => Existing::Endpoints,
        "PROFILE" | "PROFILES" => Existing::Profiles,
        "HOST" | "HOSTNAME" | "NODE" => Existing::Nodes,
        "CIDR" | "CIDRS" | "POOL" => Existing::Pools,
        // `get nodes h…`
        "NAME" | "NAMES" => Existing::Resources(resource::kind_of(words.get(1)?).ok()?),
        _ => return None,
    };
    Some(Names::Of(existing))
}

/// An option as it is typed.
fn option_words(arg: &Arg) -> Vec<Candidate> {
    let about = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let long = arg.get_long().map(|long| format!("--{long}"));
    let short = arg.get_short().map(|short| format!("-{short}"));
    long.into_iter().chain(short).map(|word| Candidate { word, about: about.clone() }).collect()
}
