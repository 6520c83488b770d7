//! A bound socket, TCP or unix, with what accepted connections inherit from it.

use std::{
    io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

use nix::unistd::{Group, User};
use socket2::{Domain, SockAddr, SockRef, Type};
use tokio::net::{TcpListener, UnixListener};

use super::{Peer, Socket, socket::tune};

/// Connections that wait in the kernel to be accepted.
const BACKLOG: i32 = 1024;

/// Who may connect to a unix socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SocketFile {
    /// 0o666 where none is given: whoever may enter its directory may connect.
    pub mode: Option<u32>,
    /// By name or number; our own where none is given.
    pub owner: Option<String>,
    pub group: Option<String>,
}

impl SocketFile {
    /// The numbers of owner and group.
    fn ids(&self) -> io::Result<(Option<u32>, Option<u32>)> {
        let user = |name: &str| Ok(User::from_name(name)?.map(|user| user.uid.as_raw()));
        let group = |name: &str| Ok(Group::from_name(name)?.map(|group| group.gid.as_raw()));
        let owner = self.owner.as_deref();
        let its_group = self.group.as_deref();
        Ok((
            owner.map(|name| id(name, "user", user)).transpose()?,
            its_group.map(|name| id(name, "group", group)).transpose()?,
        ))
    }
}

fn id(
    name: &str,
    kind: &str,
    look_up: impl FnOnce(&str) -> io::Result<Option<u32>>,
) -> io::Result<u32> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let unknown = || io::Error::new(io::ErrorKind::NotFound, format!("no {kind} {name:?} here"));
    look_up(name)?.ok_or_else(unknown)
}

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

    pub(super) fn bind_unix(path: &Path, file: &SocketFile) -> io::Result<Self> {
        let (owner, group) = file.ids()?;
        remove_abandoned(path)?;
        let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM.cloexec(), None)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SockAddr::unix(path)?)?;
        let name = Unlink(path.to_owned());
        // Before `listen` nobody can connect, so there is no moment with the wrong permissions.
        if owner.is_some() || group.is_some() {
            chown(path, owner, group)?;
        }
        let mode = std::fs::Permissions::from_mode(file.mode.unwrap_or(0o666));
        std::fs::set_permissions(path, mode)?;
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[tokio::test]
    async fn a_unix_socket_gets_its_owner_by_name_or_number() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("in.sock");
        let mut file = SocketFile {
            mode: Some(0o620),
            owner: Some("nobody".to_owned()),
            group: Some("12345".to_owned()),
        };
        let listener = Listener::bind_unix(&path, &file).unwrap();
        let found = std::fs::metadata(&path).unwrap();
        assert_eq!((found.uid(), found.gid()), (65534, 12345));
        assert_eq!(found.permissions().mode() & 0o777, 0o620);
        drop(listener);
        file.group = Some("no such group".to_owned());
        let refused = Listener::bind_unix(&path, &file).err().unwrap();
        assert!(refused.to_string().contains("no such group"), "{refused}");
        assert!(!path.exists(), "nothing is left of it");
    }
}
