//! Our single rules in other programs' chains.
//!
//! Docker sets the policy of `ip filter FORWARD` to drop, and an accept in our own table does not help: a packet must
//! pass every table. So where, and as long as, the policy is drop, one rule there accepts packets that carry our mark,
//! which our own chain at priority -1 sets on what policy let pass. The same for INPUT, when workloads may talk to
//! the host by setting. The rule is written so that `iptables` can read it back and save and restore it: a mark match
//! and a comment, nothing else.
//!
//! Ours is what has our comment, in either form that nftables and iptables keep comments in. Nothing else in those
//! tables is ever changed.

use calico_policy::instruction::HostAction;

use crate::{
    Options,
    family::Family,
    netlink::{FilterRule, FilterTable, ForeignOp},
    program::{Expr, Program, compile, verdict},
    ruleset::{Action, Match, Rule},
};

/// The table that iptables keeps its filter chains in.
pub(crate) const TABLE: &str = "filter";
/// All chains that may have a rule of ours.
pub(crate) const CHAINS: [&str; 3] = [FORWARD, INPUT, DOCKER_USER];

const FORWARD: &str = "FORWARD";
const INPUT: &str = "INPUT";
/// Docker jumps to it first, and leaves its content alone.
const DOCKER_USER: &str = "DOCKER-USER";
const COMMENT: &str = "calico: allowed by policy";

/// The steps that bring one family's filter table to what is wanted.
pub(crate) fn steps(family: Family, there: &FilterTable, host_action: HostAction, options: &Options) -> Vec<ForeignOp> {
    let wanted = wanted_chains(there, host_action);
    let program = program(family, options);
    let mut missing = wanted.clone();
    let mut steps = Vec::new();
    for rule in there.rules.iter().filter(|rule| is_ours(rule)) {
        let place = missing.iter().position(|chain| *chain == rule.chain);
        match place.filter(|_| meaning(&rule.program) == meaning(&program)) {
            Some(place) => {
                missing.swap_remove(place);
            }
            // In the wrong chain, a second time, or changed by somebody.
            None => {
                steps.push(ForeignOp::Delete { family, table: TABLE, chain: rule.chain.clone(), handle: rule.handle })
            }
        }
    }
    steps.extend(missing.into_iter().map(|chain| ForeignOp::Insert {
        family,
        table: TABLE,
        chain: chain.to_owned(),
        program: program.clone(),
    }));
    steps
}

/// The steps that take all rules of ours out of one family's filter table.
pub(crate) fn removals(family: Family, there: &FilterTable) -> Vec<ForeignOp> {
    let remove =
        |rule: &FilterRule| ForeignOp::Delete { family, table: TABLE, chain: rule.chain.clone(), handle: rule.handle };
    there.rules.iter().filter(|rule| is_ours(rule)).map(remove).collect()
}

/// Whether what nobody accepts on its way through the host is dropped.
pub(crate) fn drops_forwarded(there: &FilterTable) -> bool {
    there.chains.get(FORWARD) == Some(&true)
}

fn wanted_chains(there: &FilterTable, host_action: HostAction) -> Vec<&'static str> {
    let drops = |chain: &str| there.chains.get(chain) == Some(&true);
    let mut wanted = Vec::new();
    if drops(FORWARD) {
        let docker = there.chains.contains_key(DOCKER_USER) && there.rules.iter().any(leads_to_docker_user);
        wanted.push(if docker { DOCKER_USER } else { FORWARD });
    }
    if host_action == HostAction::Accept && drops(INPUT) {
        wanted.push(INPUT);
    }
    wanted
}

fn leads_to_docker_user(rule: &FilterRule) -> bool {
    let jumps =
        |expr: &Expr| matches!(expr, Expr::Verdict { code: verdict::JUMP, chain: Some(chain) } if chain == DOCKER_USER);
    rule.chain == FORWARD && rule.program.exprs.iter().any(jumps)
}

fn program(family: Family, options: &Options) -> Program {
    let marked = Match::Mark { mask: options.mark_accept, value: options.mark_accept };
    compile(&Rule::new(vec![marked], vec![Action::Accept]).counted(COMMENT), family)
}

fn is_ours(rule: &FilterRule) -> bool {
    let in_iptables_form = |expr: &Expr| matches!(expr, Expr::XtComment(comment) if comment == COMMENT);
    rule.program.comment.as_deref() == Some(COMMENT) || rule.program.exprs.iter().any(in_iptables_form)
}

/// What the rule does, without counter and comment: iptables puts those elsewhere when it restores it.
fn meaning(program: &Program) -> Vec<&Expr> {
    program.exprs.iter().filter(|expr| !matches!(expr, Expr::Counter | Expr::XtComment(_))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(policies: &[(&str, bool)], rules: &[(&str, u64, Program)]) -> FilterTable {
        FilterTable {
            chains: policies.iter().map(|(chain, drop)| ((*chain).to_owned(), *drop)).collect(),
            rules: rules
                .iter()
                .map(|(chain, handle, program)| FilterRule {
                    chain: (*chain).to_owned(),
                    handle: *handle,
                    program: program.clone(),
                })
                .collect(),
        }
    }

    fn jump_to_docker_user() -> Program {
        let exprs = vec![Expr::Counter, Expr::Verdict { code: verdict::JUMP, chain: Some(DOCKER_USER.to_owned()) }];
        Program { exprs, comment: None }
    }

    fn ours() -> Program {
        program(Family::V4, &Options::default())
    }

    /// As `iptables-restore` writes it.
    fn restored() -> Program {
        let mut program = ours();
        program.comment = None;
        program.exprs.insert(3, Expr::XtComment(COMMENT.to_owned()));
        program
    }

    fn plan(there: &FilterTable, action: HostAction) -> Vec<String> {
        let steps = steps(Family::V4, there, action, &Options::default());
        steps
            .iter()
            .map(|step| match step {
                ForeignOp::Insert { chain, .. } => format!("insert {chain}"),
                ForeignOp::Delete { chain, handle, .. } => format!("delete {chain} {handle}"),
            })
            .collect()
    }

    #[test]
    fn one_rule_where_it_is_needed_and_nowhere_else() {
        let open = [("FORWARD", false), ("INPUT", false)];
        let closed = [("FORWARD", true), ("INPUT", true), ("DOCKER-USER", false)];
        let docker = ("FORWARD", 1, jump_to_docker_user());
        let cases: [(&str, FilterTable, HostAction, &[&str]); 10] = [
            ("no table", FilterTable::default(), HostAction::Accept, &[]),
            ("policies accept", table(&open, &[]), HostAction::Accept, &[]),
            ("drop", table(&[("FORWARD", true)], &[]), HostAction::Return, &["insert FORWARD"]),
            (
                "drop with Docker",
                table(&closed, std::slice::from_ref(&docker)),
                HostAction::Return,
                &["insert DOCKER-USER"],
            ),
            ("nobody jumps there", table(&closed, &[]), HostAction::Return, &["insert FORWARD"]),
            (
                "host action accept",
                table(&closed, std::slice::from_ref(&docker)),
                HostAction::Accept,
                &["insert DOCKER-USER", "insert INPUT"],
            ),
            (
                "there already, in both forms",
                table(&closed, &[docker.clone(), ("DOCKER-USER", 5, ours()), ("INPUT", 6, restored())]),
                HostAction::Accept,
                &[],
            ),
            (
                "twice, and in the wrong place",
                table(
                    &closed,
                    &[docker, ("DOCKER-USER", 5, ours()), ("DOCKER-USER", 6, restored()), ("FORWARD", 7, ours())],
                ),
                HostAction::Return,
                &["delete DOCKER-USER 6", "delete FORWARD 7"],
            ),
            ("not needed any more", table(&open, &[("FORWARD", 7, ours())]), HostAction::Return, &["delete FORWARD 7"]),
            (
                "bent by somebody",
                table(&[("FORWARD", true)], &[("FORWARD", 7, Program { exprs: vec![], ..ours() })]),
                HostAction::Return,
                &["delete FORWARD 7", "insert FORWARD"],
            ),
        ];
        for (case, there, action, expected) in cases {
            assert_eq!(plan(&there, action), expected, "{case}");
        }
    }

    #[test]
    fn others_rules_are_never_ours() {
        let mut alike = ours();
        alike.comment = Some("calico: allowed by policy, says Mallory".to_owned());
        assert!(plan(&table(&[("FORWARD", false)], &[("FORWARD", 3, alike)]), HostAction::Return).is_empty());
    }
}
