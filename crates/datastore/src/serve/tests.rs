#![allow(clippy::unwrap_used)]

use super::*;
use crate::disk::tests::{memory_folder, with_a_dead_writer};

#[tokio::test]
async fn a_datastore_that_cannot_write_any_more_ends_in_order_and_says_why() {
    let dir = memory_folder();
    let store = with_a_dead_writer(dir.path()).await;
    let (stopping, stopped) = cell::channel(false);
    let mut reports = Vec::new();
    // The servers end when they are told to.
    let servers = async {
        until(stopped).await;
        Ok(())
    };
    let ended = run(servers, future::pending(), stopping, &store, |health| reports.push(health.clone())).await;
    let Err(ServeError::Writer(why)) = ended else { panic!("{ended:?}") };
    assert!(why.contains("its writer has ended"), "{why}");
    // What the board shows, if it is asked before the end.
    let health = health::health(&store.status());
    assert!(health.problems.iter().any(|problem| problem.contains("its writer has ended")), "{health:?}");
}
