//! samotop-client HOST:PORT SENDER RECIPIENT: sends its standard input with samotop's SMTP client, prints the reply.

use std::{
    env,
    io::{self, Read},
};

use samotop_delivery::prelude::{Envelope, SmtpClient};

fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let arguments: Vec<String> = env::args().collect();
    let [_, server, sender, recipient] = arguments.as_slice() else {
        return Err("usage: samotop-client HOST:PORT SENDER RECIPIENT".into());
    };
    let mut content = Vec::new();
    io::stdin().read_to_end(&mut content)?;
    let envelope = Envelope::new(
        Some(sender.parse()?),
        vec![recipient.parse()?],
        "interop".to_owned(),
    )?;
    let reply = async_std::task::block_on(async {
        let content = async_std::io::Cursor::new(content);
        SmtpClient::new(server.as_str())?
            .connect_and_send(envelope, content)
            .await
    })?;
    println!("{}", reply.message.join(" "));
    Ok(())
}
