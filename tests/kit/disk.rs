//! A disk that can be filled.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use super::TestDir;

/// A tmpfs of a few megabytes, unmounted on drop.
pub struct SmallDisk {
    path: PathBuf,
    _dir: TestDir,
}

impl SmallDisk {
    pub fn new(bytes: u64) -> Self {
        let dir = TestDir::new();
        let path = dir.join("disk");
        fs::create_dir(&path).unwrap();
        let size = format!("size={bytes}");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(&path)
            .status();
        assert!(mounted.unwrap().success(), "mount needs root");
        Self { path, _dir: dir }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes every last byte, as a neighbour on the same disk may; the file to remove to give them back.
    pub fn fill(&self) -> PathBuf {
        let path = self.path.join("neighbour");
        let file = fs::File::create(&path).unwrap();
        let mut writer = io::BufWriter::with_capacity(4096, &file);
        let full = io::copy(&mut io::repeat(b'x'), &mut writer).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        // What is left in the buffer has no room either.
        std::mem::forget(writer);
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(&self.path).status();
        assert!(unmounted.is_ok_and(|status| status.success()));
    }
}
