//! The I/O shell: listen, accept, connect, TLS, PROXY protocol. It moves bytes and knows no mail protocol.
//!
//! [`serve`] brings a connection in: PROXY header, limits, TLS handshake, all inside the session's own task.
//! [`Address::connect`] brings one out. Both give a [`Stream`]. [`Http`] speaks HTTP on those that come in. TLS comes from files that can be read again while
//! sessions run ([`ServerTls::reload`], [`ClientTls::reload`]).

mod address;
mod http;
mod limits;
mod listener;
mod networks;
mod patience;
pub mod proxy_protocol;
mod self_signed;
mod serve;
mod socket;
mod stream;
mod tls;

pub use address::{Address, BadAddress};
pub use http::Http;
pub use limits::Refusal;
pub use listener::{Listener, SocketFile};
pub use networks::{BadNetwork, Network, Networks};
pub use self_signed::{SelfSigned, self_signed};
pub use serve::{Connection, ServeOptions, Service, serve};
pub use socket::{Peek, Peer, Socket};
pub use stream::Stream;
pub use tls::{
    ClientAuthority, ClientTls, ClientTlsFiles, IdentityFiles, ServerTls, TlsError,
    install_provider, server_verifier, tls_provider,
};
