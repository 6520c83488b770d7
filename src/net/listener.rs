//! A bound socket, TCP or unix, with what accepted connections inherit from it.

use std::{
    io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
};

use socket2::{Domain, SockAddr, SockRef, Type};
use tokio::net::{TcpListener, UnixListener};

use super::{Peer, Socket, socket::tune};

/// Connections that wait in the kernel to be accepted.
const BACKLOG: i32 = 1024;

/// A bound socket.
pub struct Listener {
    io: Io,
    /// Gone with the listener, and with it the name.
    _name: Option<Unlink>,
}

enum Io {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Removes a unix socket's name with its listener, so that nothing connects to nobody.
struct Unlink(PathBuf);

impl Drop for Unlink {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Listener {
    /// Listens on one address; inside the runtime that will serve it.
    pub fn bind_tcp(address: SocketAddr) -> io::Result<Self> {
        let socket =
            socket2::Socket::new(Domain::for_address(address), Type::STREAM.cloexec(), None)?;
        socket.set_reuse_address(true)?;
        // Linux hands these on to every accepted socket, which saves five system calls a connection.
        tune(SockRef::from(&socket))?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(Self {
            io: Io::Tcp(TcpListener::from_std(socket.into())?),
            _name: None,
        })
    }

    pub(super) fn bind_unix(path: &Path, mode: u32) -> io::Result<Self> {
        remove_abandoned(path)?;
        let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM.cloexec(), None)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SockAddr::unix(path)?)?;
        let name = Unlink(path.to_owned());
        // Before `listen` nobody can connect, so there is no moment with the wrong permissions.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
        socket.listen(BACKLOG)?;
        Ok(Self {
            io: Io::Unix(UnixListener::from_std(socket.into())?),
            _name: Some(name),
        })
    }

    /// The bound address, with the port that the kernel chose for port 0; none for a unix socket.
    pub fn local(&self) -> Option<SocketAddr> {
        match &self.io {
            Io::Tcp(listener) => listener.local_addr().ok(),
            Io::Unix(_) => None,
        }
    }

    /// The next connection, and who is at its other end.
    pub async fn accept(&self) -> io::Result<(Socket, Peer)> {
        match &self.io {
            Io::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((stream.into(), Peer::Tcp(peer)))
            }
            Io::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((stream.into(), Peer::Unix))
            }
        }
    }
}

/// A crash leaves a socket's name behind. It goes when nobody listens there; anything else at that path stays.
fn remove_abandoned(path: &Path) -> io::Result<()> {
    let is_socket =
        std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if is_socket
        && let Err(error) = std::os::unix::net::UnixStream::connect(path)
        && error.kind() == io::ErrorKind::ConnectionRefused
    {
        std::fs::remove_file(path)?;
    }
    Ok(())
}
