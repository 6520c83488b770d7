//! What is wrong with a configuration file: every fault, each with its place.

use std::{fmt, io, path::PathBuf};

/// One fault, shown as `file:line: key: found …, expected …`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Fault {
    /// Counted from 1.
    pub line: usize,
    /// With the names of its tables: `frontend.listen`.
    pub key: String,
    pub found: String,
    pub expected: String,
}

/// Why a configuration file is not taken. The exit code is 2 for either.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("config: {}: {source}", file.display())]
    Unreadable {
        file: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{}", Faults(file, faults))]
    Faulty { file: PathBuf, faults: Vec<Fault> },
}

impl ConfigError {
    /// The faults in the order of their lines; none where the file could not be read at all.
    pub fn faults(&self) -> &[Fault] {
        match self {
            Self::Unreadable { .. } => &[],
            Self::Faulty { faults, .. } => faults,
        }
    }
}

struct Faults<'a>(&'a PathBuf, &'a Vec<Fault>);

impl fmt::Display for Faults<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.1.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{}:{}: ", self.0.display(), fault.line)?;
            if !fault.key.is_empty() {
                write!(f, "{}: ", fault.key)?;
            }
            write!(f, "found {}, expected {}", fault.found, fault.expected)?;
        }
        Ok(())
    }
}
