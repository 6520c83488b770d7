//! The mailboxes that messages go to: found by role or path, made when missing (RFC 8621 section 2).

use serde::Deserialize;
use serde_json::json;

use super::{
    Jmap, Place,
    api::Answers,
    session::Server,
    shapes::Created,
    verdict::{Refusal, Verdict},
};

/// Ids of the mailboxes in use.
pub(super) struct Mailboxes {
    pub copies: String,
    /// Where sightings go as e-mails; none where the server keeps them, or nobody wants them.
    pub sightings: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mailbox {
    id: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    parent_id: Option<String>,
    #[serde(default)]
    role: Option<String>,
}

#[derive(Deserialize)]
struct MailboxList {
    list: Vec<Mailbox>,
}

#[derive(Deserialize)]
struct CreatedId {
    id: String,
}

impl Jmap {
    pub(super) async fn find_mailboxes(&self, server: &Server) -> Result<Mailboxes, Refusal> {
        let properties = json!({"ids": null, "properties": ["id", "name", "parentId", "role"]});
        let body = self
            .call(server, vec![("Mailbox/get", properties, "g")])
            .await?;
        let mut all = Answers::parse(&body)?.take::<MailboxList>("g")?.list;
        let copies = self
            .find_or_make(server, &mut all, &self.options.mailbox)
            .await?;
        let sightings = match &self.options.sightings_mailbox {
            Some(place) if !server.sightings => {
                Some(self.find_or_make(server, &mut all, place).await?)
            }
            _ => None,
        };
        Ok(Mailboxes { copies, sightings })
    }

    async fn find_or_make(
        &self,
        server: &Server,
        all: &mut Vec<Mailbox>,
        place: &Place,
    ) -> Result<String, Refusal> {
        match place {
            Place::Role(role) => {
                let found = all.iter().find(|m| m.role.as_ref() == Some(role));
                match found {
                    Some(mailbox) => Ok(mailbox.id.clone()),
                    None => self.make(server, all, role, None, Some(role)).await,
                }
            }
            Place::Path(path) => {
                let mut parent: Option<String> = None;
                for name in path.split('/') {
                    let found = all.iter().find(|m| m.parent_id == parent && m.name == name);
                    parent = Some(match found {
                        Some(mailbox) => mailbox.id.clone(),
                        None => self.make(server, all, name, parent, None).await?,
                    });
                }
                parent.ok_or_else(|| Refusal::new(Verdict::Unauthorized, "no mailbox is named"))
            }
        }
    }

    async fn make(
        &self,
        server: &Server,
        all: &mut Vec<Mailbox>,
        name: &str,
        parent_id: Option<String>,
        role: Option<&str>,
    ) -> Result<String, Refusal> {
        let mut create = json!({"name": name, "parentId": parent_id});
        if let Some(role) = role {
            create["role"] = json!(role);
        }
        let body = self
            .call(
                server,
                vec![("Mailbox/set", json!({"create": {"new": create}}), "s")],
            )
            .await?;
        let made = Answers::parse(&body)?.take::<Created<CreatedId>>("s")?;
        let id = made.created.and_then(|mut c| c.remove("new"));
        let Some(CreatedId { id }) = id else {
            let error = made.not_created.and_then(|mut n| n.remove("new"));
            let error = error.unwrap_or_default();
            let why = Refusal::set(&error.kind, error.description.as_deref()).why;
            // Without a mailbox nothing goes anywhere, whatever the reason.
            return Err(Refusal::new(
                Verdict::Unavailable,
                format!("cannot make mailbox {name}: {why}"),
            ));
        };
        all.push(Mailbox {
            id: id.clone(),
            name: name.into(),
            parent_id,
            role: role.map(String::from),
        });
        Ok(id)
    }
}
