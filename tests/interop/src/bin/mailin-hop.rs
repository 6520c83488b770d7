//! mailin-hop PORT DIR: a next hop made of mailin-embedded; message n goes to DIR/n.eml, its envelope to DIR/n.env.

use std::{
    env, fs, io,
    net::IpAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use mailin_embedded::{Handler, Response, Server, response};

#[derive(Clone)]
struct Keep {
    dir: PathBuf,
    serial: Arc<AtomicUsize>,
    envelope: String,
    content: Vec<u8>,
}

impl Handler for Keep {
    fn mail(&mut self, _ip: IpAddr, _domain: &str, from: &str) -> Response {
        self.envelope = format!("{from}\n");
        self.content.clear();
        response::OK
    }

    fn rcpt(&mut self, to: &str) -> Response {
        self.envelope += &format!("{to}\n");
        response::OK
    }

    fn data(&mut self, buf: &[u8]) -> io::Result<()> {
        self.content.extend_from_slice(buf);
        Ok(())
    }

    fn data_end(&mut self) -> Response {
        let serial = self.serial.fetch_add(1, Ordering::SeqCst);
        let file = |ending| self.dir.join(format!("{serial}.{ending}"));
        let kept = fs::write(file("env"), &self.envelope)
            .and_then(|()| fs::write(file("part"), &self.content))
            .and_then(|()| fs::rename(file("part"), file("eml")));
        match kept {
            Ok(()) => response::OK,
            Err(_) => response::INTERNAL_ERROR,
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = env::args().collect();
    let [_, port, dir] = arguments.as_slice() else {
        return Err("usage: mailin-hop PORT DIR".into());
    };
    let keep = Keep {
        dir: dir.into(),
        serial: Arc::default(),
        envelope: String::new(),
        content: Vec::new(),
    };
    let mut server = Server::new(keep);
    server
        .with_name("mailin.mailtee.test")
        .with_addr(format!("127.0.0.1:{port}"))?;
    server.serve()?;
    Ok(())
}
