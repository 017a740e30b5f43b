//! A map from clients that holds at most so many: each entry has an age, and one too many drops the oldest. Written by
//! hand because caches age by use, and here the caller says what the age is. Every step is O(log n).

use std::collections::{BTreeSet, HashMap};

use crate::block::Target;

#[derive(Debug)]
pub struct Bounded<A, V> {
    limit: usize,
    entries: HashMap<Target, (A, V)>,
    order: BTreeSet<(A, Target)>,
}

impl<A: Copy + Ord, V: Default> Bounded<A, V> {
    pub fn new(limit: usize) -> Bounded<A, V> {
        Bounded { limit: limit.max(1), entries: HashMap::new(), order: BTreeSet::new() }
    }

    /// The entry of this client, made where missing, with a new age.
    pub fn touch(&mut self, client: Target, age: A) -> &mut V {
        if !self.entries.contains_key(&client) && self.entries.len() >= self.limit {
            self.drop_oldest();
        }
        let Bounded { entries, order, .. } = self;
        let entry = entries.entry(client).or_insert_with(|| (age, V::default()));
        order.remove(&(entry.0, client));
        order.insert((age, client));
        entry.0 = age;
        &mut entry.1
    }

    pub fn put(&mut self, client: Target, age: A, value: V) {
        *self.touch(client, age) = value;
    }

    pub fn find(&mut self, client: Target) -> Option<&mut V> {
        self.entries.get_mut(&client).map(|(_, value)| value)
    }

    pub fn look(&self, client: Target) -> Option<&V> {
        self.entries.get(&client).map(|(_, value)| value)
    }

    pub fn look_aged(&self, client: Target) -> Option<(A, &V)> {
        self.entries.get(&client).map(|(age, value)| (*age, value))
    }

    pub fn remove(&mut self, client: Target) -> Option<V> {
        let (age, value) = self.entries.remove(&client)?;
        self.order.remove(&(age, client));
        Some(value)
    }

    pub fn iter(&self) -> impl Iterator<Item = (Target, A, &V)> {
        self.entries.iter().map(|(client, (age, value))| (*client, *age, value))
    }

    pub fn retain(&mut self, keep: impl Fn(Target) -> bool) {
        self.entries.retain(|client, _| keep(*client));
        self.order.retain(|(_, client)| keep(*client));
    }

    /// Drops the oldest as long as `old` holds for their age.
    pub fn drop_while(&mut self, old: impl Fn(A) -> bool) {
        while self.order.first().is_some_and(|(age, _)| old(*age)) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some((_, client)) = self.order.pop_first() {
            self.entries.remove(&client);
        }
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        assert_eq!(self.entries.len(), self.order.len());
        self.entries.len()
    }
}
