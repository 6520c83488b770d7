//! What the process takes from the machine: file descriptors up to the hard limit, and two runtimes, so that forwarding
//! and the vault never take the processor from a front end whose client waits.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setpriority_process, setrlimit};
use tokio::runtime::{Builder, Runtime};

/// How far the background threads stand back (nice(1)).
const BACKGROUND_NICENESS: i32 = 10;

/// Raises the limit of open files to what the administrator allows; two descriptors a session are needed.
pub(super) fn raise_file_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum.unwrap_or(u64::MAX),
        Err(error) => {
            tracing::warn!(%error, "the limit of open files could not be raised");
            limit.current.unwrap_or(u64::MAX)
        }
    }
}

/// The runtime for front ends: the process's own priority.
pub(super) fn capture_runtime() -> io::Result<Runtime> {
    Builder::new_multi_thread()
        .enable_all()
        .thread_name("capture")
        .build()
}

/// Front ends on the first, everything behind the journal on the second.
pub fn runtimes() -> io::Result<(Runtime, Runtime)> {
    Ok((capture_runtime()?, background_runtime()?))
}

/// The runtime for forwarding, the vault and the admin page.
fn background_runtime() -> io::Result<Runtime> {
    Builder::new_multi_thread()
        .enable_all()
        .thread_name("background")
        // On Linux a priority belongs to a thread, and `None` is the calling one.
        .on_thread_start(|| {
            if let Err(error) = setpriority_process(None, BACKGROUND_NICENESS) {
                tracing::debug!(%error, "a background thread keeps its priority");
            }
        })
        .build()
}
