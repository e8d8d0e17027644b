//! Every order of migrate, abort and a death in either: afterwards one command more puts all right, one way or the other.

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

/// Puts right what was left, and checks that it is. True if the cluster is in the new place then.
async fn put_right(world: &World, before: &BTreeMap<String, Vec<u8>>, by_abort: bool, what: &str) -> bool {
    if !by_abort {
        match world.migrate(&[], MINUTE).await {
            Ok(_) | Err(RelocationError::SamePlace(_)) => world.check_moved().await,
            Err(error) => panic!("{what}: {error}"),
        }
        return true;
    }
    match world.abort().await {
        Ok(_) | Err(RelocationError::NothingToAbort) => {
            // Whoever was about to go has the time to.
            tokio::time::sleep(MINUTE).await;
            world.check_untouched(before).await;
            false
        }
        Err(RelocationError::TooLate(_)) => {
            let _ = world.migrate(&[], MINUTE).await;
            world.check_moved().await;
            true
        }
        Err(error) => panic!("{what}: {error}"),
    }
}

/// Which of two commands died, and whether the cluster is in the new place in the end.
struct Order {
    first_died: bool,
    second_died: bool,
    moved: bool,
}

/// A migration that dies at its `first`-th write, an abort that dies at its `second`-th, and what puts that right.
async fn order(first: usize, second: usize, how: Injected, by_abort: bool) -> Order {
    let what = format!("migrate dies at {first}, abort at {second} ({how:?}), then by abort: {by_abort}");
    let mut world = World::new().await;
    let before = contents(&world.old).await;
    world.start(&[0, 1, 2]);
    let writes = world.crash_at(first, how);
    let _ = world.migrate(&[], MINUTE).await;
    let first_died = writes.load(Ordering::SeqCst) > first;
    let writes = world.crash_at(second, how);
    let _ = world.abort().await;
    let second_died = writes.load(Ordering::SeqCst) > second;
    world.heal();
    let moved = put_right(&world, &before, by_abort, &what).await;
    Order { first_died, second_died, moved }
}

#[tokio::test(start_paused = true)]
async fn migrate_and_abort_may_die_anywhere_in_any_order() {
    let (mut orders, mut moves) = (0, 0);
    for (how, by_abort) in
        [Injected::FailBefore, Injected::FailAfter].into_iter().flat_map(|how| [(how, true), (how, false)])
    {
        for first in 0.. {
            let mut first_died = false;
            for second in 0.. {
                let order = order(first, second, how, by_abort).await;
                (orders, moves) = (orders + 1, moves + usize::from(order.moved));
                first_died = order.first_died;
                if !order.second_died {
                    break;
                }
            }
            // The last one is a migration that is through.
            if !first_died {
                break;
            }
        }
    }
    assert!(orders > 400 && moves > 50 && moves < orders, "{orders} orders, {moves} of them moved");
}

#[tokio::test(start_paused = true)]
async fn a_tombstone_stays_when_an_abort_that_is_too_late_dies() {
    let mut world = World::new().await;
    world.start(&[0, 1]);
    world.migrate(&["h3"], LONG).await.unwrap();
    let tombstone = world.old.get(RECORD).await.unwrap().unwrap();
    assert!(matches!(world.abort().await.unwrap_err(), RelocationError::TooLate(_)));
    let untouched = world.old.get(RECORD).await.unwrap().unwrap();
    assert_eq!(untouched.revision, tombstone.revision, "a migration that is over is not even taken back for a moment");
    // A host went just after that look: `back` was said, and not yet `switch` again.
    set_old_phase(&world, Phase::Back).await;
    let again = world.migrate(&["h3"], LONG).await.unwrap_err();
    assert!(matches!(again, RelocationError::SamePlace(_)), "{again}");
    // The host that was away finds its way.
    world.start(&[2]);
    world.check_moved().await;
}

/// Writes another phase into the old datastore's record.
async fn set_old_phase(world: &World, phase: Phase) {
    let (record, _) = read_record(&world.old).await.unwrap().unwrap();
    world.old.put(RECORD, String::from_utf8(encode(&Record { phase, ..record })).unwrap());
}

/// A host read `switch`, and said that it goes after abort had looked for such words and begun to delete; then the host
/// was started anew, and abort killed at each of its writes from there on.
#[tokio::test(start_paused = true)]
async fn a_word_that_came_while_the_copy_was_deleted_splits_no_cluster() {
    let mut points = 0;
    for by_abort in [true, false] {
        for n in 1.. {
            let mut world = World::new().await;
            let before = contents(&world.old).await;
            world.start(&[0, 1, 2]);
            world.crash_at(12, Injected::FailBefore);
            world.migrate(&[], MINUTE).await.unwrap_err();
            world.heal();
            let (record, _) = read_record(&world.old).await.unwrap().unwrap();
            let writes = world.crash_at(n, Injected::FailAfter);
            let _ = world.abort().await;
            let died = writes.load(Ordering::SeqCst) > n;
            world.heal();
            let is_deleting = match read_record(&world.new).await.unwrap() {
                Some((found, _)) => found.phase == Phase::Copying,
                None => true,
            };
            if !died || read_record(&world.old).await.unwrap().is_none() {
                break;
            }
            if is_deleting {
                points += 1;
                let answer = Answer { id: record.id, attempt: record.attempt, state: AnswerState::Switching };
                world.old.put(&answer_key("h1"), String::from_utf8(encode(&answer)).unwrap());
                let moved = put_right(&world, &before, by_abort, &format!("abort dies at {n}")).await;
                assert_eq!(moved, !by_abort, "abort dies at {n}");
            }
        }
    }
    assert!(points > 10, "{points}");
}

#[tokio::test(start_paused = true)]
async fn no_host_goes_to_a_copy_that_is_being_deleted() {
    let mut world = World::new().await;
    world.migrate(&HOSTS_OF_THE_CLUSTER, LONG).await.unwrap();
    let (record, _) = read_record(&world.old).await.unwrap().unwrap();
    let copying = Record { phase: Phase::Copying, ..record };
    world.new.put(RECORD, String::from_utf8(encode(&copying)).unwrap());
    world.start(&[0]);
    let refused = async {
        loop {
            let answers = read_answers(&world.old).await.unwrap();
            match answers.get("h1").map(|answer| &answer.state) {
                Some(AnswerState::Unable(why)) => break why.clone(),
                Some(state) => panic!("{state:?}"),
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    let why = timeout(LONG, refused).await.expect("it says why it stays");
    assert!(why.contains("not complete"), "{why}");
    assert!(world.moved().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_cluster_without_a_host_to_wait_for_is_not_split_by_an_abort() {
    for dies_once in [false, true] {
        let mut world = World::new().await;
        world.migrate(&HOSTS_OF_THE_CLUSTER, LONG).await.unwrap();
        if dies_once {
            world.crash_at(0, Injected::FailAfter);
            world.abort().await.unwrap_err();
            world.heal();
        }
        let error = world.abort().await.unwrap_err();
        assert!(matches!(&error, RelocationError::SamePlace(to) if to == "http://new:2379"), "{error}");
        world.start(&[0, 1, 2]);
        world.check_moved().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_lock_of_an_earlier_run_is_not_forgotten_when_the_new_place_is_in_use() {
    let mut world = World::new().await;
    let before = contents(&world.old).await;
    world.start(&[0, 1, 2]);
    // All is copied and locked; it dies just before the switch, and somebody takes the new place for himself.
    world.crash_at(12, Injected::FailBefore);
    world.migrate(&[], MINUTE).await.unwrap_err();
    world.heal();
    for key in contents(&world.new).await.keys() {
        world.new.remove(key);
    }
    world.new.remove(RECORD);
    world.new.put("/calico/else", "another cluster");
    let error = world.migrate(&[], MINUTE).await.unwrap_err();
    assert!(matches!(error, RelocationError::NotEmpty { keys: 1, .. }), "{error}");
    assert_eq!(ready(&mut contents(&world.old).await), Some(false), "still locked by the first run");
    world.abort().await.unwrap();
    assert_eq!(world.new.get("/calico/else").await.unwrap().unwrap().value, b"another cluster");
    world.new.remove("/calico/else");
    world.check_untouched(&before).await;
}

/// Kills the command as soon as it has told the hosts to switch; `late` is written just before.
fn dies_at_the_switch(world: &World, late: Option<&'static str>) {
    world.old.inject(move |behind, write| match write.value {
        Some(value) if write.key == RECORD && String::from_utf8_lossy(value).contains("switch") => {
            late.map(|key| behind.put(key, "late"));
            Injected::FailAfter
        }
        _ => Injected::Proceed,
    });
}

#[tokio::test(start_paused = true)]
async fn a_host_that_may_have_gone_by_half_is_not_called_back() {
    let mut world = World::new().await;
    world.places[1].forgets_to_say_so.store(true, Ordering::SeqCst);
    world.start(&[0, 1]);
    dies_at_the_switch(&world, None);
    world.migrate(&["h3"], MINUTE).await.unwrap_err();
    world.heal();
    let both_went = async {
        while world.moved().len() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LONG, both_went).await.expect("both hosts go");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let answers = read_answers(&world.old).await.unwrap();
    assert_eq!(answers["h2"].state, AnswerState::Switching, "{answers:?}");
    assert!(matches!(world.abort().await.unwrap_err(), RelocationError::TooLate(_)));
}

#[tokio::test(start_paused = true)]
async fn what_is_written_in_the_last_moment_arrives_though_the_command_dies() {
    let mut world = World::new().await;
    world.start(&[0, 1, 2]);
    dies_at_the_switch(&world, Some("/calico/late"));
    world.migrate(&[], MINUTE).await.unwrap_err();
    world.heal();
    let new: Arc<dyn Kv> = Arc::new(world.new.clone());
    // Typed where the new place is known already.
    let moved = finish(&new, LONG, &mut |_| ()).await.unwrap().unwrap();
    assert!(moved.hosts.values().all(|state| *state == HostState::Switched), "{moved:?}");
    assert_eq!(world.new.get("/calico/late").await.unwrap().unwrap().value, b"late");
    world.check_moved().await;
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_is_taken_back_while_it_is_made_leaves_nothing() {
    let mut world = World::new().await;
    let before = contents(&world.old).await;
    world.start(&[0, 1, 2]);
    let (old, new): (Arc<dyn Kv>, Arc<dyn Kv>) = (Arc::new(world.old.behind()), Arc::new(world.new.behind()));
    let (begun, is_begun) = tokio::sync::oneshot::channel();
    let mut begun = Some(begun);
    world.new.inject(move |_, write| {
        if write.key.contains("block/1") {
            begun.take().map(|begun| begun.send(()));
        }
        Injected::Proceed
    });
    let aborting = async {
        is_begun.await.unwrap();
        abort(&old, Some(&new)).await
    };
    let (migrated, aborted) = tokio::join!(world.migrate(&[], MINUTE), aborting);
    aborted.unwrap();
    assert!(matches!(migrated.unwrap_err(), RelocationError::Overtaken | RelocationError::New(_)));
    tokio::time::sleep(MINUTE).await;
    world.check_untouched(&before).await;
}
