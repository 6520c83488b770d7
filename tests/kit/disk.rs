//! A disk that can be filled, and one that stalls.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::Signal;

use super::{Mailtee, TestDir, wait_until};

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

/// Every sync of this process, or every write to its files, takes so long, until this is dropped.
pub struct SlowSyncs(Child);

impl SlowSyncs {
    pub fn of(mailtee: &Mailtee, seconds: u32) -> Self {
        Self::calls(mailtee, "fdatasync", seconds)
    }

    pub fn calls(mailtee: &Mailtee, call: &str, seconds: u32) -> Self {
        let pid = mailtee.pid();
        let strace = Command::new("strace")
            .args(["-f", "-q", "-e", &format!("trace={call}"), "-e"])
            .arg(format!("inject={call}:delay_enter={seconds}000000"))
            .args(["-p", &pid.to_string()])
            .stderr(Stdio::null())
            .spawn();
        let slow = Self(strace.expect("strace is installed"));
        wait_until(Duration::from_secs(60), "each thread is traced", || {
            let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
            let mut status =
                threads.map(|thread| fs::read_to_string(thread.ok()?.path().join("status")).ok());
            let is_traced = |status: Option<String>| {
                status.is_some_and(|text| !text.contains("TracerPid:\t0\n"))
            };
            status.all(is_traced).then_some(())
        });
        slow
    }
}

impl Drop for SlowSyncs {
    /// It lets go of the process when it is asked to end, not when it is killed.
    fn drop(&mut self) {
        let pid = i32::try_from(self.0.id()).ok();
        let pid = pid.and_then(rustix::process::Pid::from_raw);
        let _ = rustix::process::kill_process(pid.expect("a process id"), Signal::TERM);
        let _ = self.0.wait();
    }
}
