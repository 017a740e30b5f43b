//! Tables where nothing is pinned: what is decided is kept in the store alone, and the next start enforces it.

use std::net::IpAddr;

use edge_common::{
    reason::Counters,
    table::{Hits, Trust},
    time::Until,
};

use crate::{
    block::Target,
    clock::Boot,
    control::protocol::Rates,
    datapath::{Connected, Tables, Unloaded},
    error::Failure,
    inventory::Inventory,
};

pub struct Nowhere;

impl Tables for Nowhere {
    fn settle(&mut self, _: impl Iterator<Item = (Target, Option<Until>)>) -> Result<(), Failure> {
        Ok(())
    }

    fn until(&self, _: Target) -> Option<Until> {
        None
    }

    fn hits(&self, _: Target) -> Hits {
        Hits::default()
    }

    fn inventory(&self) -> Inventory {
        Inventory::default()
    }

    fn capacities(&self, _: Connected) -> Vec<(&'static str, u64, u64)> {
        Vec::new()
    }

    fn counters(&self) -> Result<Counters, Failure> {
        Ok(Counters::default())
    }

    fn rates(&self, _: IpAddr, _: Boot) -> Rates {
        Rates::default()
    }

    fn connections(&self, _: IpAddr) -> Option<u64> {
        None
    }

    fn connected(&self) -> Connected {
        Connected::default()
    }

    fn cap(&self) -> Option<u64> {
        None
    }

    fn unload(&mut self) -> Result<Unloaded, Failure> {
        Ok(Unloaded::default())
    }

    fn trust(&mut self, _: &[(Target, Trust)]) -> Result<(), Failure> {
        Ok(())
    }
}
