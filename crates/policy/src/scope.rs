//! The selectors of one end of a rule, as its resource says them.

use calico_model::EntityRule;
use calico_selector::scope::EntitySelectors;

/// The selectors of an end of a rule, ready to be combined; `namespace` is that of the policy that holds the rule.
pub fn entity_selectors<'a>(namespace: Option<&'a str>, end: &'a EntityRule) -> EntitySelectors<'a> {
    let accounts = end.service_accounts.as_ref();
    EntitySelectors {
        namespace,
        selector: &end.selector,
        not_selector: &end.not_selector,
        namespace_selector: &end.namespace_selector,
        service_account_names: accounts.map_or(&[], |accounts| &accounts.names),
        service_account_selector: accounts.map_or("", |accounts| &accounts.selector),
    }
}
