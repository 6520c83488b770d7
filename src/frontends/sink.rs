//! A next hop that takes every message and keeps none: the demo's, and a test's.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    net::{Listener, Stream},
    wire::smtp::{Dialect, Server},
};

/// Serves until `stop`, each session in `tasks`, and counts the messages it took.
pub async fn sink(
    listener: Listener,
    dialect: Dialect,
    messages: Arc<AtomicU64>,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((socket, _)) = accepted else { continue };
        let (messages, stop) = (messages.clone(), stop.clone());
        tasks.spawn(async move {
            let server = Server::new(dialect, "sink.mailtee");
            let session = session(Stream::from(socket), server, &messages);
            tokio::select! {
                () = stop.cancelled() => {}
                // A client that went away is none of the sink's business.
                _ = session => {}
            }
        });
    }
}

async fn session(
    mut stream: Stream,
    mut server: Server,
    messages: &AtomicU64,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 32 << 10];
    let mut counted = 0;
    loop {
        stream.write_all(&server.to_client).await?;
        server.to_client.clear();
        if server.is_closing() {
            return stream.shutdown().await;
        }
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        server.receive(&buffer[..read]);
        messages.fetch_add(server.messages() - counted, Ordering::Relaxed);
        counted = server.messages();
    }
}
