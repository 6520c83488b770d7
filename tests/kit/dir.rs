//! A private directory that daemons which drop root can still enter, with a path short enough for unix sockets.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// Removed on drop, unless `MAILTEE_KEEP` is set.
pub struct TestDir(Option<tempfile::TempDir>);

impl TestDir {
    /// Under `/tmp` whatever `TMPDIR` says: private temporary directories are often closed to other users, and deep.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("mailtee-")
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir_in("/tmp")
            .expect("a directory under /tmp");
        Self(Some(dir))
    }

    pub fn path(&self) -> &Path {
        self.0.as_ref().expect("held until drop").path()
    }

    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        if std::env::var_os("MAILTEE_KEEP").is_some() {
            let path = self.0.take().map(tempfile::TempDir::keep);
            eprintln!("kept {}", path.unwrap_or_default().display());
        }
    }
}
