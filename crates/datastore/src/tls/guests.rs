//! How many connections may be there that have not said who they are.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

/// From one address. All processes of a host come at once after an outage.
const MOST_BY_SOURCE: usize = 32;
/// In all.
const MOST: usize = 512;

/// Connections whose handshake or enrolment is under way.
#[derive(Clone, Debug, Default)]
pub(super) struct Guests(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One of them, until it is dropped.
#[derive(Debug)]
pub(super) struct Guest {
    guests: Guests,
    from: IpAddr,
}

impl Guests {
    /// Lets one in, unless there are too many.
    pub(super) fn enter(&self, from: IpAddr) -> Option<Guest> {
        let from = from.to_canonical();
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = counts.values().sum();
        let here = counts.get(&from).copied().unwrap_or(0);
        if all >= MOST || here >= MOST_BY_SOURCE {
            return None;
        }
        counts.insert(from, here + 1);
        Some(Guest { guests: self.clone(), from })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut counts = self.guests.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.from) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_crowd_is_turned_away_and_forgotten_when_it_has_gone() {
        let guests = Guests::default();
        let one: IpAddr = "10.0.0.3".parse().unwrap();
        let inside: Vec<Guest> = (0..MOST_BY_SOURCE).map(|_| guests.enter(one).unwrap()).collect();
        assert!(guests.enter(one).is_none() && guests.enter("::ffff:10.0.0.3".parse().unwrap()).is_none());
        let mut crowd: Vec<Guest> =
            (0..1000u32).filter_map(|n| guests.enter(IpAddr::from((0x0b00_0000 + n).to_be_bytes()))).collect();
        assert_eq!(crowd.len(), MOST - MOST_BY_SOURCE);
        crowd.pop();
        assert!(guests.enter("10.0.0.4".parse().unwrap()).is_some());
        drop((inside, crowd));
        assert!(guests.0.lock().unwrap().is_empty());
        assert!(guests.enter(one).is_some());
    }
}
