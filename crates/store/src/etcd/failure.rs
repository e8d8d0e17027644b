//! What a failed call means, in words that help.

use std::{error::Error as StdError, sync::atomic::Ordering};

use calico_model::Revision;
use tonic::Code;

use super::{EtcdKv, member::Member};
use crate::{
    Error, Source,
    settings::{self, CA_FILE, CERT_FILE, KEY_FILE, TlsFiles, USERNAME},
};

/// A call that failed at one member.
pub(super) struct Failure {
    pub(super) error: Error,
    /// Certainly not carried out.
    pub(super) not_sent: bool,
}

impl EtcdKv {
    /// What an error of the client means.
    pub(super) fn failure(&self, member: &Member, operation: &str, error: etcd_client::Error) -> Failure {
        let status = match error {
            etcd_client::Error::GRpcStatus(status) => status,
            other => {
                let error = self.unreachable(self.explain(member, &words(&other)));
                return Failure { error, not_sent: false };
            }
        };
        let refused = |cause| Error::Refused { operation: operation.to_owned(), cause };
        let error = match status.code() {
            Code::OutOfRange if status.message().contains("compacted") => {
                Error::Compacted { compacted: Revision::default() }
            }
            Code::InvalidArgument if status.message().contains("user name is empty") => {
                refused(format!("{}; set {USERNAME} and its password", status.message()))
            }
            Code::InvalidArgument if status.message().contains("authentication failed") => {
                refused(format!("{}; are {USERNAME} and its password right?", status.message()))
            }
            Code::Unauthenticated
            | Code::PermissionDenied
            | Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::ResourceExhausted
            | Code::Unimplemented
            | Code::OutOfRange => refused(status.message().to_owned()),
            _ if status.source().is_some() => self.unreachable(self.explain(member, &root_cause(&status))),
            _ => self.unreachable(self.at(member, status.message())),
        };
        Failure { error, not_sent: is_connect_error(&status) }
    }

    pub(super) fn bad_files(&self, error: &dyn StdError) -> Error {
        match self.options.tls() {
            Some(TlsFiles { identity: Some((cert, key)), .. }) => {
                let cause = format!("{} does not fit the key {}: {}", cert.display(), key.display(), root_cause(error));
                settings::settings(CERT_FILE, cause)
            }
            _ => settings::settings(CA_FILE, root_cause(error)),
        }
    }

    /// The transport's words on `member`, and what a person should look at.
    fn explain(&self, member: &Member, words: &str) -> String {
        let has = |needle: &str| words.contains(needle);
        let torn = [
            "broken pipe",
            "connection closed",
            "reset by peer",
            "handshake eof",
            "canceled",
            "frame with invalid size",
        ];
        let shut_out = || {
            let keeper = self.keeper().unwrap_or("the host that keeps the datastore");
            format!("`calicoctl node invite` on {keeper} and `calicoctl node --join …` here let it in again")
        };
        let hint = if member.is_socket() && has("Permission denied") {
            ": only root may speak to it, so run this as root".to_owned()
        } else if has("Connection refused") || (member.is_socket() && has("No such file")) {
            self.does_it_run()
        } else if has("CertificateRevoked") {
            format!(": this host was shut out by `calicoctl node revoke`; {}", shut_out())
        } else if has("CertificateExpired") {
            format!(": this host's certificate has run out, or its clock is off; {}", shut_out())
        } else if has("UnknownIssuer") || has("BadSignature") {
            let ca = self.options.tls().map(|tls| tls.ca.display().to_string()).unwrap_or_default();
            format!(": the server's certificate is not signed by the authority in {CA_FILE} ({ca})")
        } else if has("not valid for name") || has("NotValidForName") {
            ": the server's certificate is for another name".to_owned()
        } else if has("InvalidContentType") {
            ": the server does not speak TLS, should the endpoint be http://?".to_owned()
        } else if has("received fatal alert")
            || torn.into_iter().any(|needle| words.to_ascii_lowercase().contains(needle))
        {
            self.explain_torn(member)
        } else {
            String::new()
        };
        self.at(member, &format!("{words}{hint}"))
    }

    /// The host whose calico-node keeps the datastore, if it is another one and its name is known.
    fn keeper(&self) -> Option<&str> {
        match self.options.source() {
            Source::File { keeper, .. } => keeper.as_deref(),
            Source::Environment | Source::Embedded => None,
        }
    }

    /// What to look at when nobody answers.
    pub(super) fn does_it_run(&self) -> String {
        match (self.options.source(), self.keeper()) {
            // The words around these say so already.
            (Source::Embedded, _) => String::new(),
            (_, Some(keeper)) => format!(
                ", is {keeper} up, and does calico-node run there? (If the cluster moved to an etcd while this host was \
                 away and {keeper} is gone for good, tell it once: ETCD_ENDPOINTS=http://… calicoctl node)"
            ),
            (_, None) => ", is etcd running?".to_owned(),
        }
    }

    /// Says which of several members it was.
    fn at(&self, member: &Member, words: &str) -> String {
        if self.members.len() == 1 { words.to_owned() } else { format!("{member}: {words}") }
    }

    /// A connection that the server made and then ended. The TLS alert that would say why often gets lost: with TLS
    /// 1.3 a client certificate is refused only after the client has begun to send.
    fn explain_torn(&self, member: &Member) -> String {
        if member.answered.load(Ordering::Relaxed) {
            return self.does_it_run();
        }
        if member.is_socket() {
            return ", does another program serve this socket?".to_owned();
        }
        match self.options.tls() {
            None => ", is it etcd, and does it want https://?".to_owned(),
            Some(TlsFiles { identity: None, .. }) => format!(
                ": does the server want a client certificate ({CERT_FILE} and {KEY_FILE}), or does it not speak TLS?"
            ),
            Some(TlsFiles { identity: Some((cert, _)), .. }) => format!(
                ": does the server accept the certificate in {CERT_FILE} ({}), or does it not speak TLS?",
                cert.display()
            ),
        }
    }
}

/// What happened, in the transport's words.
pub(super) fn words(error: &etcd_client::Error) -> String {
    match error {
        // The client's own error type does not say what is inside.
        etcd_client::Error::GRpcStatus(status) if status.source().is_some() => root_cause(status),
        etcd_client::Error::GRpcStatus(status) => status.message().to_owned(),
        other => root_cause(other),
    }
}

/// The innermost error has the words that help: "Connection refused", not "transport error".
fn root_cause(error: &dyn StdError) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// True if no connection was made, so that nothing can have been carried out.
fn is_connect_error(error: &(dyn StdError + 'static)) -> bool {
    let mut error = Some(error);
    while let Some(this) = error {
        if this.is::<tonic::ConnectError>() {
            return true;
        }
        error = this.source();
    }
    false
}
