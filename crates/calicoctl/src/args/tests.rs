#![allow(clippy::unwrap_used)]
use clap::CommandFactory;

use super::*;

/// Reads a line as a shell would split it.
fn parsed(line: &str) -> Result<Cli, clap::Error> {
    parse(line.split_whitespace().map(OsString::from))
}

fn meaning(line: &str) -> Command {
    parsed(line).unwrap_or_else(|error| panic!("{line}: {error}")).command.unwrap()
}

#[test]
fn the_classic_order_means_what_the_parsers_order_means() {
    let same = [
        ("container C ip add 10.0.0.1", "container ip add C 10.0.0.1"),
        ("container C ip remove 10.0.0.1 --interface=eth2", "container ip remove --interface eth2 C 10.0.0.1"),
        ("container --interface=eth2 C ip add ipv6", "container ip add C ipv6 --interface=eth2"),
        ("container --interface eth2 C ip add ipv6", "container ip add C ipv6 --interface=eth2"),
        ("container --interf eth2 C ip add ipv6", "container ip add C ipv6 --interface=eth2"),
        ("container C endpoint show", "container endpoint show C"),
        ("container -o json C endpoint show", "container endpoint show C --output=json"),
        ("container C profile set P Q", "container profile set C P Q"),
        ("container C profile set", "container profile set C"),
        ("container profile profile append profile", "container profile append profile profile"),
        ("container ip ip add 10.0.0.1", "container ip add ip 10.0.0.1"),
        ("container --interface=eth3 add C", "container add C ipv4 --interface=eth3"),
        ("endpoint E profile append --host=h P Q", "endpoint profile append E P Q --host h"),
        ("endpoint --workload W E profile show", "endpoint profile show E --workload=W"),
        ("endpoint E label set a=b c=d --host=h", "endpoint label set E a=b c=d --host h"),
        ("endpoint E label a=b c=d", "endpoint label set E a=b c=d"),
        ("endpoint E label -o json", "endpoint label show E -o json"),
        ("container C label", "container label show C"),
        ("container C label remove a", "container label remove C a"),
        ("--allow-version-mismatch get nodes h1 -o yaml", "get nodes h1 --output yaml --allow-version-mismatch"),
        ("get -f x.yaml -c y", "get --config=y --filename=x.yaml"),
        ("endpoint show --det --host=h", "endpoint show --host h --detailed"),
        ("profile remove --no-check P", "profile remove P --no-check"),
    ];
    for (classic, parsers) in same {
        let line = |words: &str| meaning(&format!("calicoctl {words}"));
        assert_eq!(line(classic), line(parsers), "{classic}");
    }
}

#[test]
fn names_may_be_words_of_the_grammar() {
    let Command::Container { command: ContainerCommand::Ip { command: ContainerIpCommand::Add(words) } } =
        meaning("calicoctl container add ip add ipv6")
    else {
        panic!("read as something else")
    };
    assert_eq!((words.container.as_str(), words.address.as_str()), ("add", "ipv6"));

    let Command::Container { command: ContainerCommand::Add(words) } = meaning("calicoctl container add remove") else {
        panic!("read as something else")
    };
    assert_eq!(words.container, "remove");

    for name in ["add", "show", "remove"] {
        let Command::Profile { command: ProfileCommand::Add { profile } } =
            meaning(&format!("calicoctl profile add {name}"))
        else {
            panic!("read as something else")
        };
        assert_eq!(profile, name);
    }
}

#[test]
fn container_add_takes_no_one_or_several_addresses() {
    for (line, addresses) in [
        ("calicoctl container add C", vec!["ipv4"]),
        ("calicoctl container add C 192.168.0.1", vec!["192.168.0.1"]),
        ("calicoctl container add C ipv4 fd80::1", vec!["ipv4", "fd80::1"]),
    ] {
        let Command::Container { command: ContainerCommand::Add(add) } = meaning(line) else {
            panic!("{line} read as something else")
        };
        assert_eq!(add.addresses, addresses, "{line}");
        assert_eq!(add.interface, "eth1");
    }
}

#[test]
fn node_alone_starts_and_with_a_word_does_that() {
    let Command::Node(node) = meaning("calicoctl node --ip=10.0.0.1 --detach=false --no-pull") else { panic!() };
    assert_eq!(node.command, None);
    assert_eq!((node.start.ip.as_str(), node.start.detach.as_str(), node.start.no_pull), ("10.0.0.1", "false", true));
    assert_eq!((node.start.node_image.as_str(), node.start.runtime.as_str()), ("calico/node", "auto"));
    assert_eq!((node.start.log_dir.as_str(), node.start.as_number.as_str()), ("/var/log/calico", ""));

    let Command::Node(node) = meaning("calicoctl node stop --force") else { panic!() };
    assert_eq!(node.command, Some(NodeCommand::Stop { force: true }));
    let Command::Node(node) = meaning("calicoctl node remove --hostname h --remove-endpoints") else { panic!() };
    let remove = NodeRemove { hostname: Some("h".into()), remove_endpoints: true };
    assert_eq!(node.command, Some(NodeCommand::Remove(remove)));
}

#[test]
fn no_words_at_all_are_no_command() {
    assert_eq!(parsed("calicoctl").unwrap(), Cli { command: None });
}

#[test]
fn what_is_not_in_the_grammar_is_refused_with_code_2_and_the_usage() {
    let refused = [
        "frobnicate",
        "container",
        "container C",
        "container C ip",
        "container C ip frob",
        "container C ip add",
        "container C ip add 10.0.0.1 10.0.0.2",
        "container add",
        "container remove",
        "container remove C D",
        "container add C --interface",
        "endpoint",
        "endpoint E",
        "endpoint E profile",
        "endpoint show E",
        "profile",
        "profile add",
        "profile add A B",
        "profile remove",
        "profile show -o xml",
        "node frob",
        "node stop --detach=true",
        "status extra",
        "endpoint E label a",
        "container C label set",
        "container C label remove",
        "get",
        "apply nodes",
        "patch node h1",
        "patch node h1 -p {} -t other",
        "label nodes h1",
        "label nodes h1 a --remove --overwrite",
        "get nodes -f x --watch",
        "completion tcsh",
    ];
    for words in refused {
        let error = parsed(&format!("calicoctl {words}")).expect_err(words);
        assert_eq!(error.exit_code(), 2, "{words}: {error}");
        assert!(error.use_stderr(), "{words}");
        let text = error.to_string();
        assert!(
            text.contains("Usage:") || text.contains("--help") || text.contains("possible values"),
            "{words}: {text}"
        );
    }
}

#[test]
fn a_slip_of_the_finger_is_answered_with_what_was_meant() {
    for (line, meant) in [
        ("calicoctl contaner add C", "'container'"),
        ("calicoctl container C profil set P", "'profile'"),
        ("calicoctl node shwo", "'show'"),
        ("calicoctl node remove --hostnam-e=h", "'--hostname'"),
        ("calicoctl completion bsh", "'bash'"),
    ] {
        let error = parsed(line).expect_err(line);
        assert!(error.exit_code() == 2 && error.to_string().contains(meant), "{line}: {error}");
    }
}

#[test]
fn upstreams_words_for_a_node_mean_the_classic_ones() {
    let node = |line: &str| match meaning(line) {
        Command::Node(node) => node.command,
        other => panic!("{line}: {other:?}"),
    };
    let Some(NodeCommand::Run(run)) = node("calicoctl node run --ip=10.0.0.1 --no-default-ippools --backend=bird")
    else {
        panic!("read as something else")
    };
    assert!(run.start.ip == "10.0.0.1" && run.no_default_ippools);
    let Command::Diags(classic) = meaning("calicoctl diags --log-dir=/l") else { panic!("read as something else") };
    assert_eq!(node("calicoctl node diags --log-dir /l"), Some(NodeCommand::Diags(classic)));
    let Command::Checksystem(classic) = meaning("calicoctl checksystem --fix -f /boot/config") else {
        panic!("read as something else")
    };
    assert_eq!(
        node("calicoctl node checksystem --fix --kernel-config=/boot/config"),
        Some(NodeCommand::Checksystem(classic))
    );
    assert!(matches!(node("calicoctl node status"), Some(NodeCommand::Status(_))));
    assert!(parsed("calicoctl node run --backend=gobgp").is_err());
}

#[test]
fn what_follows_two_dashes_are_words() {
    let Command::Profile { command: ProfileCommand::Add { profile } } = meaning("calicoctl profile add -- -odd") else {
        panic!("read as something else")
    };
    assert_eq!(profile, "-odd");
}

#[test]
fn help_is_answered_on_stdout_wherever_it_is_asked_for() {
    for (line, usage) in [
        ("calicoctl --help", "calicoctl [COMMAND]"),
        ("calicoctl container --help", "calicoctl container <CONTAINER> ip (add|remove)"),
        ("calicoctl container C --help", "calicoctl container <CONTAINER> ip (add|remove)"),
        ("calicoctl container C ip --help", "calicoctl container <CONTAINER> ip (add|remove) <IP>"),
        ("calicoctl container C ip add --help", "calicoctl container <CONTAINER> ip add <IP>"),
        ("calicoctl help container", "calicoctl container add"),
        ("calicoctl endpoint E profile --help", "calicoctl endpoint <ENDPOINT_ID> profile"),
        ("calicoctl endpoint E label --help", "calicoctl endpoint <ENDPOINT_ID> label [set|remove|show]"),
        ("calicoctl get --help", "calicoctl get"),
        ("calicoctl node -h", "calicoctl node"),
    ] {
        let error = parsed(line).expect_err(line);
        assert!(!error.use_stderr() && error.exit_code() == 0, "{line}: {error}");
        assert!(error.to_string().contains(usage), "{line}: {error}");
    }
}

/// Calls `visit` with the words and the tree of every command.
fn every_command(tree: &clap::Command, words: &str, visit: &mut dyn FnMut(&str, &clap::Command)) {
    visit(words, tree);
    for command in tree.get_subcommands().filter(|command| command.get_name() != "help") {
        every_command(command, &format!("{words} {}", command.get_name()), visit);
    }
}

#[test]
fn every_help_page_has_an_example_that_can_be_typed() {
    let mut pages = 0;
    every_command(&Cli::command(), "calicoctl", &mut |words, command| {
        pages += 1;
        let after = command.get_after_help().unwrap_or_else(|| panic!("`{words} --help` has no example")).to_string();
        let (_, examples) = after.split_once("Examples:\n").unwrap_or_else(|| panic!("{words}: {after}"));
        let mut typed = 0;
        for example in examples.lines().filter_map(|line| line.trim().strip_prefix("calicoctl ")) {
            // Comments stand at least two blanks behind the words, redirections behind `>` and `<`.
            let example = example.split("  ").next().unwrap().split(['>', '<']).next().unwrap();
            let result = parsed(&format!("calicoctl {}", example.replace("(32 digits)", "")));
            assert!(result.is_ok(), "{words}: `{example}`: {}", result.unwrap_err());
            typed += 1;
        }
        assert!(typed > 0, "{words} shows no example");
    });
    assert!(pages >= 25, "only {pages} pages were looked at");
}

/// The widest terminal that help pages are broken for; see `max_term_width`.
const WIDTH: usize = 100;

#[test]
fn what_keeps_its_lines_fits_on_a_page() {
    every_command(&tree(), "calicoctl", &mut |words, command| {
        let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        for line in after.lines().filter(|line| !prose::is_prose(line)) {
            assert!(line.chars().count() <= WIDTH, "`{words} --help` is broken at: {line}");
        }
    });
}

/// One file for each family, so that two people who change two families do not meet.
#[test]
fn help_pages_as_reviewed() {
    let page_of = |words: &str| parsed(&format!("{words} --help")).expect_err("help is asked for").to_string();
    insta::assert_snapshot!("help", format!("$ calicoctl --help\n{}", page_of("calicoctl")));
    for family in tree().get_subcommands() {
        let name = family.get_name();
        let mut pages = String::new();
        every_command(family, &format!("calicoctl {name}"), &mut |words, _| {
            pages.push_str(&format!("$ {words} --help\n{}\n", page_of(words)));
        });
        insta::assert_snapshot!(format!("help_{}", name.trim_matches('_')), pages);
    }
}

#[test]
fn the_tree_is_sound() {
    tree().debug_assert();
}
