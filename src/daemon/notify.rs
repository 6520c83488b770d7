//! systemd's readiness protocol: one datagram a fact, to the socket that `NOTIFY_SOCKET` names.
//!
//! `sd_notify(3)`. Without the variable, and on any failure, it is silent: the mail matters, the notice does not.

use std::{
    io,
    os::{linux::net::SocketAddrExt, unix::net},
    time::Duration,
};

/// The way to the service manager, if there is one.
#[derive(Debug, Default)]
pub(super) struct Notifier {
    socket: Option<net::UnixDatagram>,
}

impl Notifier {
    pub(super) fn from_environment() -> Self {
        let name = std::env::var("NOTIFY_SOCKET").ok();
        Self {
            socket: name.and_then(|name| connect(&name).ok()),
        }
    }

    pub(super) fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={status}"));
    }

    /// `Type=notify-reload` wants the monotonic time with it (systemd.service(5)).
    pub(super) fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    pub(super) fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=draining");
    }

    pub(super) fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    fn send(&self, text: &str) {
        if let Some(socket) = &self.socket {
            let _ = socket.send(text.as_bytes());
        }
    }
}

/// How often the service manager wants to hear [`Notifier::alive`]: half of its limit.
pub(super) fn watchdog_interval() -> Option<Duration> {
    let micros: u64 = std::env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    let ours = match std::env::var("WATCHDOG_PID") {
        Ok(pid) => pid == std::process::id().to_string(),
        Err(_) => true,
    };
    (ours && micros > 0).then(|| Duration::from_micros(micros / 2))
}

fn connect(name: &str) -> io::Result<net::UnixDatagram> {
    let socket = net::UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    // A leading @ stands for the NUL byte of Linux's abstract names.
    match name.strip_prefix('@') {
        Some(name) => socket.connect_addr(&net::SocketAddr::from_abstract_name(name)?)?,
        None => socket.connect(name)?,
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_arrive_as_one_datagram_each() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("notify");
        let manager = net::UnixDatagram::bind(&path).expect("a socket");
        let notifier = Notifier {
            socket: Some(connect(path.to_str().expect("UTF-8")).expect("connected")),
        };
        notifier.ready("4 front ends");
        notifier.stopping();
        let mut buffer = [0; 100];
        let length = manager.recv(&mut buffer).expect("a datagram");
        assert_eq!(&buffer[..length], b"READY=1\nSTATUS=4 front ends");
        let length = manager.recv(&mut buffer).expect("a datagram");
        assert_eq!(&buffer[..length], b"STOPPING=1\nSTATUS=draining");
    }

    #[test]
    fn abstract_names_are_understood() {
        let name = format!("mailtee-notify-{}", std::process::id());
        let address = net::SocketAddr::from_abstract_name(&name).expect("an address");
        let manager = net::UnixDatagram::bind_addr(&address).expect("a socket");
        let socket = connect(&format!("@{name}")).expect("connected");
        socket.send(b"WATCHDOG=1").expect("sent");
        let mut buffer = [0; 100];
        assert_eq!(manager.recv(&mut buffer).expect("a datagram"), 10);
    }
}
