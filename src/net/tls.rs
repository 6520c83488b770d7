//! TLS on both sides: identities and authorities from PEM files, verified by default, reloadable while sessions run.
//!
//! A reload reads every file, builds a whole new configuration and swaps it in; sessions that run keep what they
//! agreed on, later handshakes get the new one. A file that does not read leaves the old configuration in force.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use rustls::{
    CipherSuite, ClientConfig, ProtocolVersion, RootCertStore, ServerConfig, SupportedCipherSuite,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{Socket, Stream};
use crate::message::TlsFacts;

/// A file that does not read, or a handshake that came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("tls: {what} ({path}): {cause}")]
    File {
        what: &'static str,
        path: PathBuf,
        cause: String,
    },
    #[error("tls: {0}")]
    Setup(String),
    #[error("tls: handshake: {0}")]
    Handshake(#[source] io::Error),
    #[error("tls: handshake with {name}: {source}")]
    Server {
        name: String,
        #[source]
        source: io::Error,
    },
    #[error("tls: already in force on this connection")]
    Twice,
}

/// Makes aws-lc-rs the process's provider, for the libraries that ask for the default. Call it first thing; a second
/// call does nothing.
pub fn install_provider() {
    // An error means that one is installed already, which is what we want.
    let _ = aws_lc_rs::default_provider().install_default();
}

/// The provider of all our TLS.
pub fn tls_provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// A certificate chain (our own first) and its private key, PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl IdentityFiles {
    fn load(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
        let chain = certificates("certificate", &self.certificate)?;
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|error| file_error("private key", &self.key, error))?;
        Ok((chain, key))
    }

    /// rustls checks that key and certificate belong together; say which files do not.
    fn mismatch(&self, error: rustls::Error) -> TlsError {
        file_error("certificate and key", &self.certificate, error)
    }
}

pub(super) fn file_error(
    what: &'static str,
    path: &Path,
    cause: impl std::fmt::Display,
) -> TlsError {
    TlsError::File {
        what,
        path: path.to_owned(),
        cause: cause.to_string(),
    }
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| file_error(what, path, error))?;
    if chain.is_empty() {
        return Err(file_error(what, path, "no certificate in this file"));
    }
    Ok(chain)
}

fn authorities(path: &Path) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("certificate authority", path)? {
        roots
            .add(certificate)
            .map_err(|error| file_error("certificate authority", path, error))?;
    }
    Ok(Arc::new(roots))
}

/// Whose clients are let in by certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAuthority {
    pub ca_file: PathBuf,
    /// A client without a certificate is turned away; otherwise it is let in, unverified.
    pub required: bool,
}

/// Our identity as a server. Clones share it, and its reloads.
#[derive(Clone)]
pub struct ServerTls(Arc<ServerSide>);

struct ServerSide {
    identity: IdentityFiles,
    clients: Option<ClientAuthority>,
    alpn: Vec<Vec<u8>>,
    config: ArcSwap<ServerConfig>,
}

impl ServerTls {
    /// `alpn` is empty for mail, `["h2", "http/1.1"]` for HTTPS.
    pub fn load(
        identity: IdentityFiles,
        clients: Option<ClientAuthority>,
        alpn: &[&str],
    ) -> Result<Self, TlsError> {
        let alpn: Vec<_> = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let config = server_config(&identity, clients.as_ref(), &alpn)?;
        Ok(Self(Arc::new(ServerSide {
            identity,
            clients,
            alpn,
            config: ArcSwap::new(config),
        })))
    }

    /// Reads the files again.
    pub fn reload(&self) -> Result<(), TlsError> {
        let side = &*self.0;
        let config = server_config(&side.identity, side.clients.as_ref(), &side.alpn)?;
        side.config.store(config);
        Ok(())
    }

    /// What is in force now, for a server that does its own accepting.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.0.config.load_full()
    }

    /// The handshake. It has no time limit of its own.
    pub async fn accept(&self, socket: Socket) -> Result<Stream, TlsError> {
        let stream = TlsAcceptor::from(self.config())
            .accept(socket)
            .await
            .map_err(TlsError::Handshake)?;
        Ok(Stream::Server(Box::new(stream)))
    }
}

fn server_config(
    identity: &IdentityFiles,
    clients: Option<&ClientAuthority>,
    alpn: &[Vec<u8>],
) -> Result<Arc<ServerConfig>, TlsError> {
    let (chain, key) = identity.load()?;
    let builder = ServerConfig::builder_with_provider(tls_provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Setup(error.to_string()))?;
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(ClientAuthority { ca_file, required }) => {
            let verifier =
                WebPkiClientVerifier::builder_with_provider(authorities(ca_file)?, tls_provider());
            let verifier = if *required {
                verifier
            } else {
                verifier.allow_unauthenticated()
            };
            let verifier = verifier
                .build()
                .map_err(|error| file_error("certificate authority", ca_file, error))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| identity.mismatch(error))?;
    config.alpn_protocols = alpn.to_vec();
    Ok(Arc::new(config))
}

/// What a client trusts and who it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientTlsFiles {
    /// Trust these authorities alone; without it, the platform's.
    pub ca_file: Option<PathBuf>,
    /// Our certificate, for servers that ask for one.
    pub identity: Option<IdentityFiles>,
}

/// TLS as a client: servers are always verified. Clones share it, and its reloads.
#[derive(Clone)]
pub struct ClientTls(Arc<ClientSide>);

struct ClientSide {
    files: ClientTlsFiles,
    alpn: Vec<Vec<u8>>,
    config: ArcSwap<ClientConfig>,
}

impl ClientTls {
    /// Reads the files; `alpn` as in [`ServerTls::load`].
    pub fn load(files: ClientTlsFiles, alpn: &[&str]) -> Result<Self, TlsError> {
        let alpn: Vec<_> = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let config = client_config(&files, &alpn)?;
        Ok(Self(Arc::new(ClientSide {
            files,
            alpn,
            config: ArcSwap::new(config),
        })))
    }

    /// Reads the files again.
    pub fn reload(&self) -> Result<(), TlsError> {
        let side = &*self.0;
        side.config.store(client_config(&side.files, &side.alpn)?);
        Ok(())
    }

    /// For an HTTP client that does its own connecting.
    pub fn config(&self) -> Arc<ClientConfig> {
        self.0.config.load_full()
    }

    /// The handshake; `name` (a host name or an IP address) goes out as SNI and is what the certificate must be for.
    /// It has no time limit of its own.
    pub async fn connect(&self, socket: Socket, name: &str) -> Result<Stream, TlsError> {
        let server = ServerName::try_from(name)
            .map_err(|error| TlsError::Setup(format!("{name:?} cannot be verified: {error}")))?
            .to_owned();
        let stream = TlsConnector::from(self.config())
            .connect(server, socket)
            .await
            .map_err(|source| TlsError::Server {
                name: name.to_owned(),
                source,
            })?;
        Ok(Stream::Client(Box::new(stream)))
    }
}

/// Judges servers by the authorities of `files`, for a client that does its own handshake.
pub fn server_verifier(files: &ClientTlsFiles) -> Result<Arc<dyn ServerCertVerifier>, TlsError> {
    match &files.ca_file {
        Some(path) => {
            let roots = authorities(path)?;
            let verifier =
                WebPkiServerVerifier::builder_with_provider(roots, tls_provider()).build();
            Ok(verifier.map_err(|error| file_error("certificate authority", path, error))?)
        }
        None => {
            let verifier = rustls_platform_verifier::Verifier::new(tls_provider());
            Ok(Arc::new(
                verifier.map_err(|error| TlsError::Setup(error.to_string()))?,
            ))
        }
    }
}

fn client_config(files: &ClientTlsFiles, alpn: &[Vec<u8>]) -> Result<Arc<ClientConfig>, TlsError> {
    let setup = |error: rustls::Error| TlsError::Setup(error.to_string());
    let builder = ClientConfig::builder_with_provider(tls_provider())
        .with_safe_default_protocol_versions()
        .map_err(setup)?
        .dangerous()
        .with_custom_certificate_verifier(server_verifier(files)?);
    let mut config = match &files.identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let (chain, key) = identity.load()?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| identity.mismatch(error))?
        }
    };
    config.alpn_protocols = alpn.to_vec();
    Ok(Arc::new(config))
}

pub(super) fn facts(version: ProtocolVersion, cipher: SupportedCipherSuite) -> TlsFacts {
    let version = match version {
        ProtocolVersion::TLSv1_2 => "TLSv1.2".to_owned(),
        ProtocolVersion::TLSv1_3 => "TLSv1.3".to_owned(),
        other => format!("{other:?}"),
    };
    TlsFacts {
        version,
        cipher: iana_name(cipher.suite()),
    }
}

/// rustls writes `TLS13_AES_…` where IANA writes `TLS_AES_…`.
fn iana_name(suite: CipherSuite) -> String {
    format!("{suite:?}").replacen("TLS13_", "TLS_", 1)
}
