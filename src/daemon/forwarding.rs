//! One worker a target: started, replaced by a reload, stopped.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use tokio::{runtime::Handle, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{DaemonError, Part, open_store};
use crate::{
    admin,
    config::Target,
    criteria::{Criteria, Decision, LazyHeaders},
    dedup::Dedup,
    forward::{Decide, Decided, Worker, keep_running},
    journal::{Journal, JournalError},
    metrics::Metrics,
    targets::RemoteStore,
};

/// How long a replaced worker may take for what it has in flight.
const REPLACE_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) struct Forwarding {
    pub(super) part: Part,
    journal: Journal,
    dedup: Dedup,
    metrics: Arc<Metrics>,
    background: Handle,
    running: BTreeMap<String, Running>,
}

struct Running {
    target: Target,
    store: Arc<dyn RemoteStore>,
    stop: CancellationToken,
    worker: JoinHandle<()>,
}

/// A target whose files have been read.
type Opened = (Target, Arc<dyn RemoteStore>);

impl Forwarding {
    pub(super) fn new(
        journal: Journal,
        dedup: Dedup,
        metrics: Arc<Metrics>,
        background: Handle,
    ) -> Self {
        Self {
            part: Part::default(),
            journal,
            dedup,
            metrics,
            background,
            running: BTreeMap::new(),
        }
    }

    /// Reads what the targets name; an error changes nothing.
    pub(super) fn open(&self, targets: &[Target]) -> Result<Vec<Opened>, DaemonError> {
        targets
            .iter()
            .map(|target| {
                let store = open_store(target, self.metrics.clone());
                let store = store.map_err(|source| DaemonError::Target {
                    name: target.name.clone(),
                    source,
                })?;
                Ok((target.clone(), store))
            })
            .collect()
    }

    /// Puts these targets in the place of those that run; names what is new, changed or gone. A target whose options
    /// are the same is opened anew as well: its token or certificate may have changed.
    pub(super) async fn replace(
        &mut self,
        targets: Vec<Opened>,
        abandoned: &[String],
    ) -> Result<Vec<String>, DaemonError> {
        let mut changes = Vec::new();
        let mut old = std::mem::take(&mut self.running);
        for (target, _) in &targets {
            match old.get(&target.name) {
                None => changes.push(format!("target {}: new", target.name)),
                Some(running) if running.target != *target => {
                    changes.push(format!("target {}: changed", target.name));
                }
                Some(_) => {}
            }
        }
        let names: Vec<String> = targets.iter().map(|(t, _)| t.name.clone()).collect();
        let gone: Vec<String> = old.keys().filter(|n| !names.contains(n)).cloned().collect();
        changes.extend(gone.iter().map(|name| format!("target {name}: gone")));
        let (journal, abandoned) = (self.journal.clone(), abandoned.to_vec());
        let set = tokio::task::spawn_blocking(move || journal.set_targets(&names, &abandoned));
        if let Err(error) = set.await.unwrap_or(Err(JournalError::Closed)) {
            self.running = old;
            return Err(error.into());
        }
        for name in gone {
            if let Some(mut running) = old.remove(&name) {
                // Nothing waits for it, so nothing is cut off; and it must not count any more.
                running.worker.abort();
                let _ = (&mut running.worker).await;
            }
        }
        for running in old.into_values() {
            self.retire(running);
        }
        for (target, store) in targets {
            self.start(target, store);
        }
        Ok(changes)
    }

    /// Lets a replaced worker end what it has in flight, while its successor runs: a target that does not answer must
    /// not hold up the reload of the others.
    fn retire(&self, mut running: Running) {
        running.stop.cancel();
        let ending = async move {
            if timeout(REPLACE_TIMEOUT, &mut running.worker).await.is_err() {
                // What it has leased goes back to waiting, and is sent again.
                running.worker.abort();
            }
        };
        self.part.tasks.spawn_on(ending, &self.background);
    }

    fn start(&mut self, target: Target, store: Arc<dyn RemoteStore>) {
        let (journal, dedup) = (self.journal.clone(), self.dedup.clone());
        let (metrics, for_worker) = (self.metrics.clone(), store.clone());
        let Target {
            name,
            forward,
            criteria,
            ..
        } = target.clone();
        let decide = decide(criteria);
        let make = move || {
            Worker::new(
                &name,
                forward.clone(),
                journal.queue(&name),
                dedup.clone(),
                decide.clone(),
                for_worker.clone(),
                metrics.clone(),
            )
        };
        let stop = self.part.stop.child_token();
        let metrics = self.metrics.clone();
        let worker = keep_running(target.name.clone(), metrics, stop.clone(), make);
        let worker = self.part.tasks.spawn_on(worker, &self.background);
        let running = Running {
            target,
            store,
            stop,
            worker,
        };
        self.running.insert(running.target.name.clone(), running);
    }

    /// How the status page names them.
    pub(super) fn named(&self) -> Vec<admin::Target> {
        let running = self.running.values();
        running
            .map(|Running { target, store, .. }| admin::Target {
                name: target.name.clone(),
                kind: target.store.kind().to_owned(),
                url: target.store.url().to_owned(),
                queue: self.journal.queue(&target.name),
                store: store.clone(),
                dedup: self.dedup.clone(),
            })
            .collect()
    }
}

/// The criteria as forwarding asks them.
fn decide(criteria: Criteria) -> Decide {
    Arc::new(move |sighting, body| {
        let none = || io::Error::from(io::ErrorKind::WouldBlock);
        let mut headers = LazyHeaders::new(|| body.ok_or_else(none)?.open());
        match criteria.decide(sighting, &mut headers) {
            Ok(Decision::Send) => Decided::Goes,
            Ok(Decision::Skip { rule }) => Decided::Excluded {
                rule: rule.to_owned(),
            },
            Err(_) if body.is_none() => Decided::NeedsHeader,
            Err(error) => Decided::NoHeader(error),
        }
    })
}
