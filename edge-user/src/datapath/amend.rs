//! Changes of a prefix's entry where it lies in its trie, by a program of edge's own: a map can be told to replace an
//! entry, which loses what other CPUs count in it meanwhile.

use std::path::Path;

use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use aya_obj::programs::XdpAttachType;
use edge_common::{amend::Amendment, names};

pub struct Amender(Option<Xdp>);

impl Amender {
    /// Of a generation. One whose program is not there amends nothing.
    pub fn of_pins(directory: &Path) -> Amender {
        let program = Xdp::from_pin(directory.join(names::AMEND_PROGRAM), XdpAttachType::Interface);
        Amender(program.inspect_err(|error| tracing::debug!("entries will be replaced: {error}")).ok())
    }

    /// Whether it is done; else nothing is changed.
    pub fn amend(&mut self, amendment: &Amendment) -> bool {
        let Some(program) = &mut self.0 else { return false };
        let words: Vec<u8> = amendment.to_words().into_iter().flat_map(u64::to_ne_bytes).collect();
        let mut options = TestRunOptions::new();
        options.data_in = Some(&words);
        program.test_run(options).is_ok_and(|run| run.return_value == Amendment::DONE)
    }
}
