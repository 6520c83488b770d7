//! Ports for servers that want a number before they start. Tests run in parallel, in several processes: a number is
//! reserved by a file lock for the life of the process, so that no two tests are given the same one.

use std::{
    fs::{self, File},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    sync::Mutex,
};

/// Below the kernel's own range for outgoing connections, which could otherwise take a port between our look and the
/// server's bind.
const RANGE: std::ops::Range<u16> = 12_000..32_000;

static RESERVED: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// A loopback port that nobody listens on and no other test has been given.
pub fn free_port() -> u16 {
    let dir = std::path::Path::new("/tmp/mailtee-test-ports");
    fs::create_dir_all(dir).expect("a directory for port reservations");
    // other users run tests on the same machine too; where the directory is theirs it is open already
    let _ = fs::set_permissions(dir, fs::Permissions::from_mode(0o777));
    let span = RANGE.end - RANGE.start;
    let start = rand::random_range(0..span);
    for step in 0..span {
        let port = RANGE.start + (start + step) % span;
        let Ok(lock) = File::create(dir.join(port.to_string())) else {
            continue;
        };
        if lock.try_lock().is_err() || TcpListener::bind(("127.0.0.1", port)).is_err() {
            continue;
        }
        RESERVED.lock().expect("never poisoned").push(lock);
        return port;
    }
    panic!("no free port in {RANGE:?}");
}
