//! Recognises repeats by a ring of the newest digests.

use std::time::Duration;

use hashbrown::HashTable;
use sha2::{Digest as _, Sha256};

use super::format::DedupeKey;
use crate::alma::signature::BodyDigest;
use crate::clock::Timestamp;
use crate::config::SourceName;

/// The first 16 bytes of SHA-256 over the source's name, framed by its length, and the SHA-256 of the body.
pub(super) fn key_of(source: &SourceName, body: &BodyDigest) -> DedupeKey {
    let name = source.as_str().as_bytes();
    let mut hash = Sha256::new();
    hash.update((name.len() as u64).to_le_bytes());
    hash.update(name);
    hash.update(body.as_bytes());
    let digest = hash.finalize();
    digest[..16].try_into().expect("SHA-256 has 32 bytes")
}

/// An event that was made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KnownEvent {
    pub(super) key: DedupeKey,
    /// When it was made durable, in seconds since the Unix epoch. Lasts until 2106.
    pub(super) seconds: u32,
}

impl KnownEvent {
    pub(super) fn new(key: DedupeKey, recorded: Timestamp) -> Self {
        Self { key, seconds: seconds(recorded) }
    }
}

/// Whole seconds since the Unix epoch.
pub(super) fn seconds(moment: Timestamp) -> u32 {
    u32::try_from(moment.as_micros() / 1_000_000).unwrap_or(u32::MAX)
}

/// The newest events, at most `max`. 20 bytes an event and a hash table's slot of four; grows as it is used.
pub(super) struct Dedupe {
    ring: Vec<KnownEvent>,
    /// The place in the ring that is overwritten next, once the ring is full.
    next: usize,
    /// Places in the ring, by key.
    places: HashTable<u32>,
    max: usize,
    window: u32,
}

impl Dedupe {
    pub(super) fn new(max: usize, window: Duration) -> Self {
        // A place must fit a u32. That many digests would take 80 GiB.
        let max = max.min(u32::MAX as usize);
        let window = u32::try_from(window.as_secs()).unwrap_or(u32::MAX);
        Self { ring: Vec::new(), next: 0, places: HashTable::new(), max, window }
    }

    /// When the event was made durable, to the second, if that was within the window.
    ///
    /// The wall clock can only make it forget. An event from the future is known.
    pub(super) fn first_seen(&self, key: &DedupeKey, now: Timestamp) -> Option<Timestamp> {
        let place = self.places.find(hash(key), |place| self.ring[*place as usize].key == *key)?;
        let then = self.ring[*place as usize].seconds;
        let known = seconds(now).saturating_sub(then) <= self.window;
        known.then(|| Timestamp::from_micros(u64::from(then) * 1_000_000))
    }

    /// Remembers an event. If the ring is full, it replaces the oldest one.
    pub(super) fn insert(&mut self, known: KnownEvent) {
        if self.max == 0 {
            return;
        }
        let place = if self.ring.len() < self.max {
            self.ring.push(known);
            self.ring.len() - 1
        } else {
            let place = self.next;
            self.forget(place);
            self.ring[place] = known;
            self.next = (place + 1) % self.max;
            place
        };
        let place = u32::try_from(place).expect("max fits a u32");
        let Self { ring, places, .. } = self;
        let same = |other: &u32| ring[*other as usize].key == known.key;
        match places.find_mut(hash(&known.key), same) {
            // It was known already, but from before the window.
            Some(found) => *found = place,
            None => drop(places.insert_unique(hash(&known.key), place, |place| hash(&ring[*place as usize].key))),
        }
    }

    /// Returns the newest `count` events, or all if there are fewer, oldest first.
    pub(super) fn newest(&self, count: usize) -> Vec<KnownEvent> {
        let (newer, older) = self.ring.split_at(self.next);
        let skip = self.ring.len().saturating_sub(count);
        older.iter().chain(newer).skip(skip).copied().collect()
    }

    fn forget(&mut self, place: usize) {
        let key = self.ring[place].key;
        if let Ok(found) = self.places.find_entry(hash(&key), |other| *other as usize == place) {
            found.remove();
        }
    }
}

/// A key is part of a SHA-256, so any eight bytes of it are a good hash.
fn hash(key: &DedupeKey) -> u64 {
    u64::from_le_bytes(key[..8].try_into().expect("a key has 16 bytes"))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    fn key(n: u64) -> DedupeKey {
        key_of(&"alma".parse().expect("a name"), &BodyDigest::of(&n.to_le_bytes()))
    }

    #[test]
    fn the_source_is_part_of_the_key() {
        let [a, b] = ["a", "b"].map(|name| name.parse().expect("a name"));
        let body = BodyDigest::of(b"{}");
        assert_eq!(key_of(&a, &body), key_of(&a, &body));
        assert_ne!(key_of(&a, &body), key_of(&b, &body));
    }

    #[test]
    fn the_clock_only_forgets() {
        let mut dedupe = Dedupe::new(10, Duration::from_mins(1));
        dedupe.insert(KnownEvent::new(key(1), at(1000)));
        assert!(dedupe.first_seen(&key(1), at(1060)).is_some());
        assert!(dedupe.first_seen(&key(1), at(1061)).is_none());
        assert!(dedupe.first_seen(&key(1), at(3)).is_some(), "the clock went back");
        assert!(dedupe.first_seen(&key(2), at(1000)).is_none());
        dedupe.insert(KnownEvent::new(key(1), at(2000)));
        assert!(dedupe.first_seen(&key(1), at(2060)).is_some());
        assert!(Dedupe::new(0, Duration::MAX).first_seen(&key(1), at(0)).is_none());
    }

    /// Against a plain queue, with keys that come again.
    #[test]
    fn remembers_the_newest() {
        let mut dedupe = Dedupe::new(50, Duration::from_secs(u64::MAX));
        let mut model = VecDeque::new();
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..5_000 {
            let n = random.u64(0..80);
            dedupe.insert(KnownEvent::new(key(n), at(5)));
            model.push_back(n);
            if model.len() > 50 {
                model.pop_front();
            }
            let newest: Vec<_> = model.iter().skip(model.len().saturating_sub(7)).map(|n| key(*n)).collect();
            assert_eq!(dedupe.newest(7).iter().map(|known| known.key).collect::<Vec<_>>(), newest);
            let probe = random.u64(0..80);
            assert_eq!(dedupe.first_seen(&key(probe), at(5)).is_some(), model.contains(&probe), "{probe}");
            assert!(dedupe.places.len() <= 50);
        }
    }
}
