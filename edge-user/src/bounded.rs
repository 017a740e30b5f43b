//! A map that holds at most so many: each entry has an age, and one too many drops the oldest. Written by hand because
//! caches age by use, and here the caller says what the age is. Every step is O(log n). And the two families apart.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
};

use crate::block::Target;

#[derive(Debug)]
pub struct Bounded<K, A, V> {
    limit: usize,
    entries: HashMap<K, (A, V)>,
    order: BTreeSet<(A, K)>,
}

/// IPv4 and IPv6 apart: a flood of one costs nothing of the other.
#[derive(Debug)]
pub struct Families<T> {
    pub four: T,
    pub six: T,
}

impl<T> Families<T> {
    pub fn of(&mut self, target: Target) -> &mut T {
        if target.net().addr().is_ipv4() { &mut self.four } else { &mut self.six }
    }

    pub fn at(&self, target: Target) -> &T {
        if target.net().addr().is_ipv4() { &self.four } else { &self.six }
    }

    pub fn both(&mut self) -> [&mut T; 2] {
        [&mut self.four, &mut self.six]
    }
}

impl<K: Copy + Ord + Hash, A: Copy + Ord, V: Default> Bounded<K, A, V> {
    pub fn new(limit: usize) -> Bounded<K, A, V> {
        Bounded { limit: limit.max(1), entries: HashMap::new(), order: BTreeSet::new() }
    }

    /// The entry of this key, made where missing, with a new age.
    pub fn touch(&mut self, key: K, age: A) -> &mut V {
        if self.is_full_for(key) {
            self.pop_oldest();
        }
        let Bounded { entries, order, .. } = self;
        let entry = entries.entry(key).or_insert_with(|| (age, V::default()));
        order.remove(&(entry.0, key));
        order.insert((age, key));
        entry.0 = age;
        &mut entry.1
    }

    pub fn put(&mut self, key: K, age: A, value: V) {
        *self.touch(key, age) = value;
    }

    pub fn find(&mut self, key: K) -> Option<&mut V> {
        self.entries.get_mut(&key).map(|(_, value)| value)
    }

    pub fn look(&self, key: K) -> Option<&V> {
        self.entries.get(&key).map(|(_, value)| value)
    }

    pub fn look_aged(&self, key: K) -> Option<(A, &V)> {
        self.entries.get(&key).map(|(age, value)| (*age, value))
    }

    pub fn remove(&mut self, key: K) -> Option<V> {
        let (age, value) = self.entries.remove(&key)?;
        self.order.remove(&(age, key));
        Some(value)
    }

    pub fn iter(&self) -> impl Iterator<Item = (K, A, &V)> {
        self.entries.iter().map(|(key, (age, value))| (*key, *age, value))
    }

    pub fn retain(&mut self, keep: impl Fn(K) -> bool) {
        self.entries.retain(|key, _| keep(*key));
        self.order.retain(|(_, key)| keep(*key));
    }

    /// Drops the oldest as long as `old` holds for their age.
    pub fn drop_while(&mut self, old: impl Fn(A) -> bool) {
        while self.order.first().is_some_and(|(age, _)| old(*age)) {
            self.pop_oldest();
        }
    }

    /// Whether one more of this key would drop another.
    pub fn is_full_for(&self, key: K) -> bool {
        !self.entries.contains_key(&key) && self.entries.len() >= self.limit
    }

    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.entries.values_mut().map(|(_, value)| value)
    }

    /// The oldest, if `drop` holds for it.
    pub fn pop_if(&mut self, drop: impl Fn(A, &V) -> bool) -> Option<(K, V)> {
        let (age, key) = self.order.first()?;
        self.look(*key).is_some_and(|value| drop(*age, value)).then(|| self.pop_oldest())?
    }

    pub fn pop_oldest(&mut self) -> Option<(K, V)> {
        let (_, key) = self.order.pop_first()?;
        let (_, value) = self.entries.remove(&key)?;
        Some((key, value))
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        assert_eq!(self.entries.len(), self.order.len());
        self.entries.len()
    }
}
