//! jmap-oracle fill|read URL TOKEN DIR: a JMAP client made of the crate jmap-client.
//!
//! `fill` imports each DIR/*.eml and prints `FILE EMAIL-ID`; `read` writes each e-mail to DIR/EMAIL-ID.eml and prints
//! `EMAIL-ID SUBJECT`. The crate takes no certificate of one's own, so the server's is not verified.

use std::{env, error::Error, fs};

use jmap_client::{
    URI,
    client::{Client, Credentials},
    core::request::Request,
    email::{self, Property},
    mailbox::{self, Role},
};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().collect();
    let [_, verb, url, token, dir] = arguments.as_slice() else {
        return Err("usage: jmap-oracle fill|read URL TOKEN DIR".into());
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let client = Client::new()
            .credentials(Credentials::bearer(token))
            .accept_invalid_certs(true)
            .follow_redirects(["127.0.0.1", "localhost"])
            .connect(url)
            .await?;
        match verb.as_str() {
            "fill" => fill(&client, dir).await,
            "read" => read(&client, dir).await,
            other => Err(format!("unknown verb {other}").into()),
        }
    })
}

/// A request that uses what it needs: the crate's own list names a dozen capabilities of one server, and RFC 8620
/// section 3.6.1 lets a server refuse those it has not.
fn request(client: &Client) -> Request<'_> {
    let mut request = client.build();
    request.using = vec![URI::Core, URI::Mail];
    request
}

async fn fill(client: &Client, dir: &str) -> Result<(), Box<dyn Error>> {
    let mut asked = request(client);
    asked
        .query_mailbox()
        .filter(mailbox::query::Filter::role(Role::Inbox));
    let inbox = asked.send_query_mailbox().await?.take_ids().pop();
    let inbox = inbox.ok_or("no inbox")?;
    let mut files: Vec<_> = fs::read_dir(dir)?
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<_>>()?;
    files.sort();
    for file in files {
        let blob = client
            .upload(None, fs::read(&file)?, Some("message/rfc822"))
            .await?
            .take_blob_id();
        let mut asked = request(client);
        let import = asked
            .import_email()
            .email(blob)
            .mailbox_ids([&inbox])
            .keywords(["$seen"])
            .received_at(1_700_000_000);
        let create = import.create_id();
        let email = asked.send_import_email().await?.created(&create)?;
        println!("{} {}", file.display(), email.id().ok_or("no id")?);
    }
    Ok(())
}

async fn read(client: &Client, dir: &str) -> Result<(), Box<dyn Error>> {
    let mut position = 0;
    loop {
        let mut asked = request(client);
        asked
            .query_email()
            .sort([email::query::Comparator::received_at()])
            .position(position)
            .limit(100);
        let ids = asked.send_query_email().await?.take_ids();
        if ids.is_empty() {
            return Ok(());
        }
        position += ids.len() as i32;
        let mut asked = request(client);
        asked
            .get_email()
            .ids(&ids)
            .properties([Property::Id, Property::BlobId, Property::Subject]);
        for email in asked.send_get_email().await?.take_list() {
            let id = email.id().ok_or("no id")?;
            let blob = client.download(email.blob_id().ok_or("no blobId")?).await?;
            fs::write(format!("{dir}/{id}.eml"), blob)?;
            println!("{id} {}", email.subject().unwrap_or_default());
        }
    }
}
