//! The programs of `tests/interop/`: SMTP and JMAP implementations that nobody here wrote. Built on first use, because a
//! missing peer is a failure, never a skip.

use std::{
    ffi::OsStr,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use super::{TestDir, free_port, wait_until};

/// Where a program of the interop workspace lies, after making sure that it is built.
pub fn interop(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let dir = BUILT.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        // beside the test's own target directory, not in it: the two have other features for the same crates
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| root.join("target"), PathBuf::from)
            .join("interop");
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--locked", "--manifest-path"])
            .arg(root.join("tests/interop/Cargo.toml"))
            .arg("--target-dir")
            .arg(&target)
            .status()
            .expect("cargo");
        assert!(status.success(), "the interop programs do not build");
        target.join("debug")
    });
    dir.join(name)
}

/// A next hop of the interop workspace: `NAME PORT DIR`; it ends with its guard.
pub struct Hop {
    child: Child,
    pub address: SocketAddr,
    pub dir: TestDir,
}

impl Hop {
    pub fn start(name: &str) -> Self {
        let dir = TestDir::new();
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let child = Command::new(interop(name))
            .arg(address.port().to_string())
            .arg(dir.path())
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        wait_until(Duration::from_secs(20), &format!("{name} listens"), || {
            TcpStream::connect(address).ok()
        });
        Self {
            child,
            address,
            dir,
        }
    }

    /// Every file below its directory with this extension (or, for a Maildir, in `new`), by name.
    pub fn files(&self, wanted: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
        let mut found = Vec::new();
        collect(self.dir.path(), &wanted, &mut found);
        found.sort();
        found
    }
}

impl Drop for Hop {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(dir: &Path, wanted: &impl Fn(&Path) -> bool, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, wanted, found);
        } else if wanted(&path) {
            found.push(path);
        }
    }
}

/// Is it a file `*.eml`?
pub fn is_eml(path: &Path) -> bool {
    path.extension() == Some(OsStr::new("eml"))
}

/// Is it a delivered message of a Maildir?
pub fn is_delivered(path: &Path) -> bool {
    path.parent().and_then(Path::file_name) == Some(OsStr::new("new"))
}
