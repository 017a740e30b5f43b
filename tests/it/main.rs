//! All tests that need the real thing, by layer: `bytecode` (the object that is built), `packets` (rows and
//! random ones through `BPF_PROG_TEST_RUN`), `world` (namespaces, the real binary, real clients; `connections` and `mutants` are parts of it).

mod bytecode;
mod connections;
mod mutants;
mod packets;
mod world;
