//! What an operator may choose, and what must hold for the choice to make sense.

use calico_policy::instruction::{IptablesBackend, Renderer};

use crate::Error;

/// How the dataplane marks and recognises what is its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Interfaces whose name starts with this are workloads' and closed unless an endpoint opens them.
    pub interface_prefix: String,
    /// Protocol number of our routes. Every route with it in the main table is ours and removed if not wanted.
    pub route_protocol: u8,
    /// Metric of our routes.
    pub route_metric: u32,
    /// Mark bit that says: policy allowed this packet. Kept on packets of workloads for other programs' rules.
    pub mark_accept: u32,
    /// Mark bit that says: skip what is left of this list of policies.
    pub mark_pass: u32,
    /// Mark bit that says: forwarded, and so not to be judged as traffic of the host itself where it leaves.
    pub mark_forwarded: u32,
    /// Who writes the rules, whatever the settings say.
    pub renderer: Option<Renderer>,
    /// How iptables is spoken to, whatever the settings say.
    pub iptables_backend: Option<IptablesBackend>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            interface_prefix: "cali".to_owned(),
            route_protocol: 80,
            route_metric: 1024,
            mark_accept: 0x1_0000,
            mark_pass: 0x2_0000,
            mark_forwarded: 0x4_0000,
            renderer: None,
            iptables_backend: None,
        }
    }
}

impl Options {
    /// Checks that the choices make sense.
    ///
    /// # Errors
    /// [`Error::Options`] names the first choice that does not and says what would.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        let refuse = |reason: String| Err(Error::Options { reason });
        let prefix = &self.interface_prefix;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if prefix.is_empty() || prefix.len() > 12 || !prefix.chars().all(plain) {
            return refuse(format!("interface prefix {prefix:?}: must be 1 to 12 letters, digits, '-' or '_'"));
        }
        let bits = [self.mark_accept, self.mark_pass, self.mark_forwarded];
        if bits.iter().any(|bit| !bit.is_power_of_two()) {
            return refuse("mark bits: each must be a single bit".to_owned());
        }
        if self.all_marks().count_ones() != 3 {
            return refuse("mark bits: accept, pass and forwarded must differ".to_owned());
        }
        // 0 to 4 are the kernel's and the administrator's own, see rtnetlink(7).
        if self.route_protocol <= 4 {
            return refuse(format!(
                "route protocol {}: must be above 4, others' routes have those",
                self.route_protocol
            ));
        }
        if self.route_metric == 0 {
            return refuse("route metric 0: must be at least 1, the kernel reads 0 as its default".to_owned());
        }
        Ok(())
    }

    /// The bits that hold a verdict of policy.
    pub(crate) fn marks(&self) -> u32 {
        self.mark_accept | self.mark_pass
    }

    /// All of our mark bits.
    pub(crate) fn all_marks(&self) -> u32 {
        self.mark_accept | self.mark_pass | self.mark_forwarded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid_and_nonsense_is_not() {
        assert!(Options::default().validate().is_ok());
        type Edit = fn(&mut Options);
        let bad: [(&str, Edit); 7] = [
            ("prefix", |o| o.interface_prefix.clear()),
            ("prefix", |o| o.interface_prefix = "a/b".to_owned()),
            ("bits", |o| o.mark_accept = 3),
            ("bits", |o| o.mark_pass = o.mark_accept),
            ("protocol", |o| o.route_protocol = 2),
            ("metric", |o| o.route_metric = 0),
            ("differ", |o| o.mark_forwarded = o.mark_accept),
        ];
        for (word, edit) in bad {
            let mut options = Options::default();
            edit(&mut options);
            let message = options.validate().err().map(|e| e.to_string()).unwrap_or_default();
            assert!(message.contains(word), "{word}: {message}");
        }
    }
}
