//! A disk in memory that can stop, fail or lie, for the crash tests.
//!
//! Every file has what is durable and what was written since; a sync makes the latter durable. At a power cut each
//! sector written since is there or not, by chance, and each directory has some beginning of its unsynced changes.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::Arc,
};

use parking_lot::Mutex;
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

use crate::journal::disk::{Area, Disk, DiskFile};

const SECTOR_BYTES: usize = 512;

/// What happens at one sync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The power goes: this sync and everything after it fails.
    Stop,
    /// This one sync fails; what it was to make durable may be or not, and will not be by a later sync.
    SyncError,
}

#[derive(Clone)]
pub(super) struct SimDisk(Arc<Mutex<State>>);

struct State {
    random: StdRng,
    syncs: u64,
    fault: Option<(u64, Fault)>,
    stopped: bool,
    free_bytes: u64,
    files: HashMap<u64, Content>,
    next_file: u64,
    names: Names,
    durable_names: Names,
    pending_names: Vec<(Area, NameChange)>,
}

type Names = BTreeMap<(Area, String), u64>;

#[derive(Clone)]
enum NameChange {
    Set(String, u64),
    Remove(String),
    Rename(String, String),
}

#[derive(Default, Clone)]
struct Content {
    durable: Vec<u8>,
    current: Vec<u8>,
    /// Written since the last sync.
    pending: Vec<(usize, Vec<u8>)>,
}

impl SimDisk {
    pub(super) fn new(seed: u64) -> Self {
        Self::with(StdRng::seed_from_u64(seed), HashMap::new(), Names::new())
    }

    fn with(random: StdRng, files: HashMap<u64, Content>, names: Names) -> Self {
        Self(Arc::new(Mutex::new(State {
            random,
            syncs: 0,
            fault: None,
            stopped: false,
            free_bytes: u64::MAX,
            next_file: files.keys().max().map_or(0, |last| last + 1),
            files,
            durable_names: names.clone(),
            names,
            pending_names: Vec::new(),
        })))
    }

    /// Arms a fault at the given sync from now, counted from 1.
    pub(super) fn arm(&self, sync: u64, fault: Fault) {
        let mut state = self.0.lock();
        let at = state.syncs + sync;
        state.fault = Some((at, fault));
    }

    pub(super) fn syncs(&self) -> u64 {
        self.0.lock().syncs
    }

    /// The disk as it is found when the process was killed: the kernel still has what was not synced.
    pub(super) fn after_kill(&self) -> Self {
        let state = self.0.lock();
        let random = StdRng::seed_from_u64(state.syncs);
        let found = Self::with(random, state.files.clone(), state.names.clone());
        let mut fresh = found.0.lock();
        fresh.durable_names = state.durable_names.clone();
        fresh.pending_names = state.pending_names.clone();
        drop(fresh);
        found
    }

    /// The disk as it is found after a power cut now.
    pub(super) fn after_power_cut(&self) -> Self {
        let mut state = self.0.lock();
        state.stopped = true;
        let mut random = StdRng::seed_from_u64(state.random.next_u64());
        let mut names = state.durable_names.clone();
        let kept = random.random_range(0..=state.pending_names.len());
        for (area, change) in &state.pending_names[..kept] {
            change.apply(*area, &mut names);
        }
        let mut files = HashMap::new();
        for number in names.values() {
            let mut content = state.files[number].clone();
            content.lose_power(&mut random);
            files.insert(*number, content);
        }
        Self::with(random, files, names)
    }
}

impl Content {
    fn lose_power(&mut self, random: &mut StdRng) {
        // Often everything or nothing came through; else each sector has its own luck.
        let luck = random.random_range(0..4);
        for (offset, bytes) in std::mem::take(&mut self.pending) {
            for (nth, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
                let kept = match luck {
                    0 => true,
                    1 => false,
                    _ => random.random(),
                };
                if kept {
                    put(&mut self.durable, offset + nth * SECTOR_BYTES, sector);
                }
            }
        }
        self.current = self.durable.clone();
    }
}

fn put(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}

impl NameChange {
    fn apply(&self, area: Area, names: &mut Names) {
        match self {
            Self::Set(name, number) => {
                names.insert((area, name.clone()), *number);
            }
            Self::Remove(name) => {
                names.remove(&(area, name.clone()));
            }
            Self::Rename(from, to) => {
                if let Some(number) = names.remove(&(area, from.clone())) {
                    names.insert((area, to.clone()), number);
                }
            }
        }
    }
}

impl State {
    fn check_power(&self) -> io::Result<()> {
        match self.stopped {
            true => Err(io::Error::from_raw_os_error(5)),
            false => Ok(()),
        }
    }

    /// Counts a sync; says whether it works.
    fn sync(&mut self) -> Result<(), Fault> {
        self.syncs += 1;
        match self.fault {
            Some((at, Fault::Stop)) if at == self.syncs => {
                self.stopped = true;
                Err(Fault::Stop)
            }
            Some((at, Fault::SyncError)) if at == self.syncs => Err(Fault::SyncError),
            _ => Ok(()),
        }
    }

    fn change(&mut self, area: Area, change: NameChange) {
        change.apply(area, &mut self.names);
        self.pending_names.push((area, change));
    }
}

impl Disk for SimDisk {
    fn list(&self, area: Area) -> io::Result<Vec<String>> {
        let state = self.0.lock();
        state.check_power()?;
        let here = state.names.keys().filter(|(a, _)| *a == area);
        Ok(here.map(|(_, name)| name.clone()).collect())
    }

    fn open(&self, area: Area, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.0.lock();
        state.check_power()?;
        let number = state.names.get(&(area, name.to_owned()));
        let number = *number.ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(SimFile {
            disk: self.clone(),
            number,
        }))
    }

    fn create(&self, area: Area, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.0.lock();
        state.check_power()?;
        let number = state.next_file;
        state.next_file += 1;
        state.files.insert(number, Content::default());
        state.change(area, NameChange::Set(name.to_owned(), number));
        Ok(Arc::new(SimFile {
            disk: self.clone(),
            number,
        }))
    }

    fn rename(&self, area: Area, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.0.lock();
        state.check_power()?;
        if !state.names.contains_key(&(area, from.to_owned())) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change(area, NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, area: Area, name: &str) -> io::Result<()> {
        let mut state = self.0.lock();
        state.check_power()?;
        if !state.names.contains_key(&(area, name.to_owned())) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change(area, NameChange::Remove(name.to_owned()));
        Ok(())
    }

    fn sync_directory(&self, area: Area) -> io::Result<()> {
        let mut state = self.0.lock();
        state.check_power()?;
        if state.sync().is_err() {
            return Err(io::Error::from_raw_os_error(5));
        }
        let State {
            pending_names,
            durable_names,
            ..
        } = &mut *state;
        pending_names.retain(|(a, change)| {
            if *a == area {
                change.apply(area, durable_names);
            }
            *a != area
        });
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let state = self.0.lock();
        state.check_power()?;
        Ok(state.free_bytes)
    }
}

struct SimFile {
    disk: SimDisk,
    number: u64,
}

impl DiskFile for SimFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        state.check_power()?;
        let content = state.files.entry(self.number).or_default();
        put(&mut content.current, offset as usize, bytes);
        content.pending.push((offset as usize, bytes.to_vec()));
        Ok(())
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.disk.0.lock();
        state.check_power()?;
        let content = &state.files[&self.number].current;
        let rest = content.get(offset as usize..).unwrap_or_default();
        let count = rest.len().min(bytes.len());
        bytes[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        state.check_power()?;
        let outcome = state.sync();
        let State { files, random, .. } = &mut *state;
        let content = files.entry(self.number).or_default();
        match outcome {
            Ok(()) => {
                for (offset, bytes) in std::mem::take(&mut content.pending) {
                    put(&mut content.durable, offset, &bytes);
                }
                Ok(())
            }
            Err(fault) => {
                if fault == Fault::SyncError {
                    // The kernel takes the pages for clean now; what is in memory reads as if all were well.
                    let current = content.current.clone();
                    content.lose_power(random);
                    content.current = current;
                }
                Err(io::Error::from_raw_os_error(5))
            }
        }
    }

    fn bytes(&self) -> io::Result<u64> {
        let state = self.disk.0.lock();
        state.check_power()?;
        Ok(state.files[&self.number].current.len() as u64)
    }
}
