//! From the classic order of words to the parser's.
//!
//! The classic grammar has commands that begin with a name: `container C ip add A`, `profile P rule show`.
//! In the parser's tree the fixed words come first (`container ip add C A`), because a name could be anything,
//! even `add`. This module moves the name behind the fixed words and the options behind all words; it looks at the
//! tree to know the fixed words and which options take a value, so that a new command needs no change here.
//!
//! The classic order wins where both readings are possible: in `container add ip add A` the container is called
//! `add`, since no address is called `add`. Words already in the parser's order pass unchanged.

use std::ffi::OsString;

use clap::Command;

/// The commands whose first word may be a name.
pub(crate) const NAME_FIRST: &[&str] = &["container", "endpoint", "profile"];

/// The noun whose verb may be left out: `endpoint E label` shows, `endpoint E label K=V` sets.
const LABEL: &str = "label";

/// Puts the words of `argv` (with the program's name) into the order of `tree`.
pub(crate) fn reorder(tree: &Command, argv: Vec<OsString>) -> Vec<OsString> {
    let mut typed = argv.into_iter();
    let Some(program) = typed.next() else { return Vec::new() };
    let (mut words, options, rest) = split(&value_options(tree), typed);
    let help = options.iter().any(|option| option == "-h" || option == "--help");
    if let Some(family) = words.first().and_then(|word| word.to_str()).filter(|word| NAME_FIRST.contains(word))
        && let Some(family) = tree.find_subcommand(family)
    {
        words = name_last(family, words, help);
    }
    [vec![program], words, options, rest].concat()
}

/// Moves the name (the second of `words`) behind the fixed words, if the words are in the classic order.
fn name_last(family: &Command, words: Vec<OsString>, help: bool) -> Vec<OsString> {
    let word = |index: usize| words.get(index).and_then(|word| word.to_str());
    let first_is_verb = word(1).is_some_and(|word| family.find_subcommand(word).is_some());
    if help && words.len() == 2 && !first_is_verb {
        return words[..1].to_vec();
    }
    // A noun is a fixed word with verbs below it.
    let Some(noun) = word(2).and_then(|word| family.find_subcommand(word)).filter(|noun| noun.has_subcommands()) else {
        let is_verb = |word: &str| family.get_subcommands().any(|noun| noun.find_subcommand(word).is_some());
        // A misspelt noun is said better by the parser when the name is out of its way, too.
        if !first_is_verb && word(3).is_some_and(is_verb) {
            return [&words[..1], &words[2..]].concat();
        }
        return words;
    };
    let in_order = |verb: OsString, rest: &[OsString]| {
        let mut ordered = vec![words[0].clone(), words[2].clone(), verb, words[1].clone()];
        ordered.extend_from_slice(rest);
        ordered
    };
    match word(3) {
        Some(verb) if noun.find_subcommand(verb).is_some() => in_order(words[3].clone(), &words[4..]),
        None if noun.get_name() == LABEL && !first_is_verb && !help => in_order("show".into(), &[]),
        Some(label) if noun.get_name() == LABEL && !first_is_verb && label.contains('=') => {
            in_order("set".into(), &words[3..])
        }
        // The verb is missing or wrong, which the parser says better when the name is out of its way.
        _ if !first_is_verb => [&words[..1], &words[2..]].concat(),
        _ => words,
    }
}

/// Words, options (each with its value), and what follows `--` (with it).
fn split(
    value_options: &[String],
    typed: impl Iterator<Item = OsString>,
) -> (Vec<OsString>, Vec<OsString>, Vec<OsString>) {
    let (mut words, mut options, mut rest) = (Vec::new(), Vec::new(), Vec::new());
    let mut typed = typed;
    while let Some(argument) = typed.next() {
        if argument == "--" {
            rest.push(argument);
            rest.extend(typed);
            break;
        }
        let is_option = argument.as_encoded_bytes().starts_with(b"-") && argument != "-";
        if !is_option {
            words.push(argument);
            continue;
        }
        let takes_next = argument.to_str().is_some_and(|text| takes_next_argument(value_options, text));
        options.push(argument);
        if takes_next {
            options.extend(typed.next());
        }
    }
    (words, options, rest)
}

/// True for an option whose value is the next argument. Long options may be shortened as far as they stay clear.
pub(crate) fn takes_next_argument(value_options: &[String], option: &str) -> bool {
    if option.contains('=') {
        return false;
    }
    if option.starts_with("--") {
        return value_options.iter().any(|known| known.starts_with("--") && known.starts_with(option));
    }
    // `-o json`, but not `-ojson`.
    value_options.iter().any(|known| known == option)
}

/// Every option of the tree whose value may be the next argument, with its dashes.
pub(crate) fn value_options(tree: &Command) -> Vec<String> {
    // The value of `--vxlan=MODE` is never the next argument.
    let takes_next =
        |arg: &&clap::Arg| !arg.is_positional() && arg.get_action().takes_values() && !arg.is_require_equals_set();
    let own = tree.get_arguments().filter(takes_next);
    let mut options: Vec<String> = own
        .flat_map(|arg| {
            let long = arg.get_long().map(|long| format!("--{long}"));
            let short = arg.get_short().map(|short| format!("-{short}"));
            long.into_iter().chain(short)
        })
        .collect();
    for command in tree.get_subcommands() {
        options.extend(value_options(command));
    }
    options
}
