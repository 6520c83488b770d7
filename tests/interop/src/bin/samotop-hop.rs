//! samotop-hop PORT DIR: a next hop made of samotop, without TLS; messages go to a Maildir in DIR.

use std::env;

use samotop::{
    mail::{Builder, MailDir},
    server::TcpServer,
    smtp::{Esmtp, SmtpParser},
};

fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let arguments: Vec<String> = env::args().collect();
    let [_, port, dir] = arguments.as_slice() else {
        return Err("usage: samotop-hop PORT DIR".into());
    };
    let service = Builder + MailDir::new(dir.into())? + Esmtp.with(SmtpParser);
    async_std::task::block_on(TcpServer::on(format!("127.0.0.1:{port}")).serve(service.build()))
}
