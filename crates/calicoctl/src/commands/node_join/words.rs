//! What was typed, or pasted, of an invitation.

use calico_datastore::{
    enrol::{
        Token,
        join::{Address, Invitation},
    },
    pki::Fingerprint,
};

use crate::{args::NodeJoin, context::Console, failure::Failure};

/// An invitation whose token may not have been said yet.
#[derive(Debug)]
pub(super) struct Words {
    address: Address,
    pub(super) fingerprint: Fingerprint,
    token: Option<Token>,
}

const TOKEN_FORM: &str = "The token is not one that `calicoctl node invite` prints: it has 40 hexadecimal digits.";

impl Words {
    /// All faults at once.
    pub(super) fn parse(typed: &NodeJoin) -> Result<Self, Failure> {
        let mut faults = Vec::new();
        let mut fault = |words: String| faults.push(words);
        let join = typed.join.as_deref().unwrap_or_default();
        let address = join.parse::<Address>().map_err(|error| fault(format!("--join {join:?}: {error}."))).ok();
        let print = typed.ca_fingerprint.as_deref().unwrap_or_default();
        let fingerprint =
            print.parse::<Fingerprint>().map_err(|error| fault(format!("--ca-fingerprint {print:?}: {error}."))).ok();
        let token = match typed.token.as_deref().map(str::trim) {
            None | Some("-") => None,
            // Not shown, since it may be one with a letter too much.
            Some(token) => token.parse::<Token>().map_err(|_| fault(TOKEN_FORM.to_owned())).ok(),
        };
        match (address, fingerprint) {
            (Some(address), Some(fingerprint)) if faults.is_empty() => Ok(Self { address, fingerprint, token }),
            _ => {
                Err(Failure::all(faults)
                    .hint("copy the whole line that `calicoctl node invite` prints on the other host"))
            }
        }
    }

    /// Asks for the token if it was not said.
    pub(super) fn with_token(self, console: &dyn Console) -> Result<Invitation, Failure> {
        let Self { address, fingerprint, token } = self;
        let token = match token {
            Some(token) => token,
            None => {
                console.note("The token of the invitation:");
                let line = console.line().map_err(|error| Failure::new("The token cannot be read.").cause(&error))?;
                let line = line.ok_or_else(|| Failure::new("No token was given.").hint("say it with --token=TOKEN"))?;
                line.parse().map_err(|_| Failure::new(TOKEN_FORM))?
            }
        };
        Ok(Invitation { address, token, fingerprint })
    }
}
