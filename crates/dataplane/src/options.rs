//! What an operator may choose, and what must hold for the choice to make sense.

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
    /// Start of the kernel log line of a rule with action log; at most 120 bytes.
    pub log_prefix: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            interface_prefix: "cali".to_owned(),
            route_protocol: 80,
            route_metric: 1024,
            mark_accept: 0x1_0000,
            mark_pass: 0x2_0000,
            log_prefix: "calico-packet: ".to_owned(),
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
        if !self.mark_accept.is_power_of_two() || !self.mark_pass.is_power_of_two() {
            return refuse("mark bits: each must be a single bit".to_owned());
        }
        if self.mark_accept == self.mark_pass {
            return refuse("mark bits: accept and pass must differ".to_owned());
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
        if self.log_prefix.len() > 120 || self.log_prefix.contains(['\0', '"', '\n']) {
            return refuse("log prefix: at most 120 bytes, without quotes and line ends".to_owned());
        }
        Ok(())
    }

    /// Both of our mark bits.
    pub(crate) fn marks(&self) -> u32 {
        self.mark_accept | self.mark_pass
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
            ("log prefix", |o| o.log_prefix = "x".repeat(121)),
        ];
        for (word, edit) in bad {
            let mut options = Options::default();
            edit(&mut options);
            let message = options.validate().err().map(|e| e.to_string()).unwrap_or_default();
            assert!(message.contains(word), "{word}: {message}");
        }
    }
}
