//! The kernel side's trace, a line for each packet, as `-vv` asks for it: what `aya-log-ebpf` writes becomes events of
//! `tracing`.

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Log, Metadata, Record};
use tokio::io::unix::AsyncFd;

/// Whether packets are to be traced; else the verifier removes the trace from the program.
pub fn wanted() -> bool {
    tracing::enabled!(tracing::Level::TRACE)
}

/// Reads the trace's ring buffer as it fills, as long as the runtime lives.
pub fn start(object: &mut Ebpf) {
    match EbpfLogger::init_with_logger(object, Lines) {
        Ok(logger) => follow(logger),
        Err(error) => tracing::warn!("the kernel side's trace cannot be read: {error}"),
    }
}

fn follow(logger: EbpfLogger<Lines>) {
    // SAFETY: the logger owns its ring buffer's descriptor and keeps it open as long as it lives.
    let registered = unsafe { AsyncFd::register(logger) };
    match registered {
        Ok(mut logger) => drop(tokio::spawn(async move {
            while let Ok(mut guard) = logger.readable_mut().await {
                guard.get_inner_mut().flush();
                guard.clear_ready();
            }
        })),
        Err(error) => tracing::warn!("the kernel side's trace cannot be read: {error}"),
    }
}

struct Lines;

impl Log for Lines {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        tracing::trace!("packet: {}", record.args());
    }

    fn flush(&self) {}
}
