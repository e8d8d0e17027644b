//! How each member of the datastore is, for diagnostics: every one is asked, also those that no call would go to.

use futures::{FutureExt, future};
use tokio::time::Instant;

use super::{CALL_TIMEOUT, Client, EtcdKv, Sent};
use crate::Error;

/// What one member says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemberStatus {
    /// The version of its program.
    pub version: String,
    /// The size of its database, in bytes.
    pub bytes: i64,
    /// It leads the others.
    pub leads: bool,
    /// There is a leader that it knows of; without one it serves no writes.
    pub has_leader: bool,
    /// What it finds wrong with itself, such as an alarm for want of space.
    pub faults: Vec<String>,
}

impl EtcdKv {
    /// Asks all members at once. Each endpoint as it is written in messages, with its answer or why there is none.
    pub async fn member_status(&self) -> Vec<(String, Result<MemberStatus, Error>)> {
        let send = |client: Client| -> Sent<etcd_client::StatusResponse> {
            async move { client.maintenance_client().status().await }.boxed()
        };
        let until = Instant::now() + CALL_TIMEOUT;
        future::join_all(self.members.iter().map(|member| async move {
            let answer = self.call_member(member, "status", until, &send).await;
            let status = answer.map_err(|failure| failure.error).map(|answer| MemberStatus {
                version: answer.version().to_owned(),
                bytes: answer.db_size(),
                leads: answer.leader() != 0
                    && answer.header().is_some_and(|header| header.member_id() == answer.leader()),
                has_leader: answer.leader() != 0,
                faults: answer.errors().to_vec(),
            });
            (member.to_string(), status)
        }))
        .await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crate::ConnectOptions;

    use super::*;

    #[tokio::test]
    async fn every_member_is_asked_and_a_dead_one_says_so() {
        let given = |name: &str| (name == "ETCD_ENDPOINTS").then(|| "http://127.0.0.1:1,http://127.0.0.1:2".to_owned());
        let kv = EtcdKv::new(ConnectOptions::given(given).unwrap().unwrap()).unwrap();
        let said = kv.member_status().await;
        assert_eq!(
            said.iter().map(|(at, _)| at.as_str()).collect::<Vec<_>>(),
            ["http://127.0.0.1:1", "http://127.0.0.1:2"]
        );
        assert!(said.iter().all(|(_, status)| status.as_ref().is_err_and(Error::is_unreachable)), "{said:?}");
    }
}
