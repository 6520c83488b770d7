//! The way into any other JMAP server, in steps: bytes up, then copies in, then each sighting as an e-mail of its own. A
//! sighting is only answered for when all of its steps are done; done again, each step finds its work there.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Jmap, Known,
    api::k1_of,
    import::Wanted,
    keywords, received_at, sidecar,
    verdict::{Refusal, Verdict},
};
use crate::{
    message::Body,
    targets::{Content, Outgoing, Receipt},
};

impl Jmap {
    pub(super) async fn put_in_steps(
        &self,
        known: &Known,
        batch: &[Outgoing],
    ) -> Vec<Result<Receipt, Refusal>> {
        let mailboxes = &known.mailboxes;
        let beside = mailboxes.sightings.as_ref().unwrap_or(&mailboxes.copies);
        let copies = |content: &Content| matches!(content, Content::Copy(_));
        let variants = |content: &Content| matches!(content, Content::Variant { .. });
        let mut emails = BTreeMap::new();
        self.bring(known, &mailboxes.copies, batch, copies, &mut emails)
            .await;
        self.bring(known, beside, batch, variants, &mut emails)
            .await;
        self.find_copies(known, batch, &mut emails).await;
        if let Some(mailbox) = &mailboxes.sightings {
            self.bring_sidecars(known, mailbox, batch, &mut emails)
                .await;
        }
        (0..batch.len())
            .map(|index| {
                let unknown = || Err(Refusal::new(Verdict::Failed, "no step took this message"));
                emails.remove(&index).unwrap_or_else(unknown)
            })
            .map(|email| {
                email.map(|remote_id| Receipt {
                    remote_id,
                    already: None,
                })
            })
            .collect()
    }

    /// Imports the content of those items that `of` picks.
    async fn bring(
        &self,
        known: &Known,
        mailbox: &str,
        batch: &[Outgoing],
        of: impl Fn(&Content) -> bool,
        emails: &mut BTreeMap<usize, Result<String, Refusal>>,
    ) {
        let mut places = Vec::new();
        let mut wanted = Vec::new();
        for (index, outgoing) in batch.iter().enumerate() {
            let sighting = &outgoing.sighting;
            let (Content::Copy(body) | Content::Variant { body, .. }) = &outgoing.content else {
                continue;
            };
            if of(&outgoing.content) {
                places.push(index);
                wanted.push(Wanted {
                    body: body.clone(),
                    k1: sighting.fingerprint.k1,
                    received_at: received_at(sighting),
                    keywords: keywords(&self.options, sighting),
                    message_id: None,
                    attempted: outgoing.attempted,
                    map_has_lost: outgoing.map_has_lost,
                });
            }
        }
        let brought = self.import(known, mailbox, &wanted).await;
        for (index, result) in places.into_iter().zip(brought) {
            let result = match &batch[index].content {
                // A further sighting is known by its copy, not by the variant beside it.
                Content::Variant { of, .. } => result.map(|_| of.remote_id.clone()),
                _ => result,
            };
            emails.insert(index, result);
        }
    }

    /// A duplicate has nothing to bring but its sighting: its copy must be there.
    async fn find_copies(
        &self,
        known: &Known,
        batch: &[Outgoing],
        emails: &mut BTreeMap<usize, Result<String, Refusal>>,
    ) {
        let believed = || {
            batch
                .iter()
                .enumerate()
                .filter_map(|(index, out)| match &out.content {
                    Content::Duplicate { of, .. } | Content::Variant { of, .. } => {
                        Some((index, &*of.remote_id))
                    }
                    Content::Copy(_) => None,
                })
        };
        let ids: Vec<_> = believed().map(|(_, id)| id).collect();
        if ids.is_empty() {
            return;
        }
        let found = self.emails(&known.server, &ids).await;
        let there: Result<BTreeSet<String>, _> =
            found.map(|emails| emails.into_iter().map(|email| email.id).collect());
        for (index, id) in believed() {
            let result = match &there {
                Err(refusal) => Err(refusal.clone()),
                Ok(there) if there.contains(id) => Ok(id.to_string()),
                Ok(_) => Err(Refusal::new(Verdict::CopyGone, format!("{id} is gone"))),
            };
            // What failed before stays failed.
            if !matches!(emails.get(&index), Some(Err(_))) {
                emails.insert(index, result);
            }
        }
    }

    async fn bring_sidecars(
        &self,
        known: &Known,
        mailbox: &str,
        batch: &[Outgoing],
        emails: &mut BTreeMap<usize, Result<String, Refusal>>,
    ) {
        let mut places = Vec::new();
        let mut wanted = Vec::new();
        for (index, outgoing) in batch.iter().enumerate() {
            if let Some(Ok(email_id)) = emails.get(&index) {
                let mail = sidecar::render(outgoing, email_id);
                places.push(index);
                wanted.push(Wanted {
                    k1: k1_of(&mail),
                    body: Body::Small(mail.into()),
                    received_at: received_at(&outgoing.sighting),
                    keywords: BTreeMap::from([("$seen".into(), true)]),
                    message_id: Some(sidecar::message_id(outgoing.sighting.id)),
                    attempted: outgoing.attempted,
                    map_has_lost: false,
                });
            }
        }
        let brought = self.import(known, mailbox, &wanted).await;
        for (index, result) in places.into_iter().zip(brought) {
            if let Err(refusal) = result {
                emails.insert(index, Err(refusal.of_sighting()));
            }
        }
    }
}
