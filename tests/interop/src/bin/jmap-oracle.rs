//! jmap-oracle fill|read URL TOKEN DIR: a JMAP client made of the crate jmap-client.
//!
//! `fill` imports each DIR/*.eml and prints `FILE EMAIL-ID`; `read` writes each e-mail to DIR/EMAIL-ID.eml and prints
//! `EMAIL-ID SUBJECT`. The crate takes no certificate of one's own, so the server's is not verified.

use std::{env, error::Error, fs};

use jmap_client::{
    client::{Client, Credentials},
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

async fn fill(client: &Client, dir: &str) -> Result<(), Box<dyn Error>> {
    let inbox = client
        .mailbox_query(
            mailbox::query::Filter::role(Role::Inbox).into(),
            None::<Vec<_>>,
        )
        .await?
        .take_ids()
        .pop()
        .ok_or("no inbox")?;
    let mut files: Vec<_> = fs::read_dir(dir)?
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<_>>()?;
    files.sort();
    for file in files {
        let email = client
            .email_import(fs::read(&file)?, [&inbox], ["$seen"].into(), Some(1_700_000_000))
            .await?;
        let id = email.id().ok_or("imported, but no id")?;
        println!("{} {id}", file.display());
    }
    Ok(())
}

async fn read(client: &Client, dir: &str) -> Result<(), Box<dyn Error>> {
    let mut position = 0;
    loop {
        let mut request = client.build();
        request
            .query_email()
            .sort([email::query::Comparator::received_at()])
            .position(position)
            .limit(100);
        let ids = request.send_query_email().await?.take_ids();
        if ids.is_empty() {
            return Ok(());
        }
        position += ids.len() as i32;
        for id in ids {
            let email = client
                .email_get(&id, Some([Property::BlobId, Property::Subject]))
                .await?
                .ok_or("an id of the query is unknown")?;
            let blob = client.download(email.blob_id().ok_or("no blobId")?).await?;
            fs::write(format!("{dir}/{id}.eml"), blob)?;
            println!("{id} {}", email.subject().unwrap_or_default());
        }
    }
}
