//! The vault as an auditor sees it: every copy, and with each the sightings that were recorded of it.

use std::collections::{BTreeMap, BTreeSet};

use mailtee::message::{Acceptance, Client, Envelope, Origin, Placement, Sighting};

use super::Mailtee;

pub struct Archive {
    pub copies: Vec<Copy>,
}

pub struct Copy {
    pub bytes: Vec<u8>,
    pub sightings: Vec<Sighted>,
}

pub struct Sighted {
    pub sighting: Sighting,
    pub acceptance: Acceptance,
}

impl Archive {
    /// What the embedded vault holds now.
    pub fn read(mailtee: &Mailtee) -> Self {
        let vault = mailtee.vault();
        let mut of_email = BTreeMap::<String, Vec<Sighted>>::new();
        for shown in vault.sightings() {
            let email = shown["emailId"].as_str().expect("an emailId").to_owned();
            let part = |name: &str| shown[name].clone();
            of_email.entry(email).or_default().push(Sighted {
                sighting: serde_json::from_value(part("sighting")).expect("a sighting"),
                acceptance: serde_json::from_value(part("acceptance")).expect("an acceptance"),
            });
        }
        let copies: Vec<_> = vault
            .all()
            .into_iter()
            .map(|stored| Copy {
                bytes: stored.bytes,
                sightings: of_email.remove(&stored.id).unwrap_or_default(),
            })
            .collect();
        assert!(of_email.is_empty(), "sightings without a copy");
        Self { copies }
    }

    /// The one copy that ends with these bytes: servers put their headers before a message.
    #[track_caller]
    pub fn one_with(&self, message: &[u8], kind: &str) -> &Copy {
        let mut found = self.copies.iter().filter(|c| c.bytes.ends_with(message));
        let copy = found.next().unwrap_or_else(|| panic!("no copy of {kind}"));
        assert!(found.next().is_none(), "more than one copy of {kind}");
        copy
    }
}

impl Copy {
    /// Everyone named in any sighting whom the next hop took.
    pub fn recipients(&self) -> BTreeSet<String> {
        self.envelopes()
            .flat_map(|envelope| envelope.accepted().map(|r| r.address.to_string()))
            .collect()
    }

    pub fn envelopes(&self) -> impl Iterator<Item = &Envelope> {
        self.sightings
            .iter()
            .map(|sighted| sighted.sighting.envelope().expect("seen in a transaction"))
    }

    /// The replies with which the next hop took it.
    pub fn replies(&self) -> Vec<String> {
        let reply = |sighted: &Sighted| match &sighted.acceptance {
            Acceptance::Accepted { reply } => reply.to_string(),
            other => panic!("{other:?}"),
        };
        self.sightings.iter().map(reply).collect()
    }
}

impl Sighted {
    pub fn placement(&self) -> &Placement {
        match &self.sighting.origin {
            Origin::Placement(placement) => placement,
            other => panic!("not seen in a mailbox: {other:?}"),
        }
    }

    pub fn client(&self) -> &Client {
        self.sighting.client().expect("seen in a transaction")
    }
}
