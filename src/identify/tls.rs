//! TLS to look at, not to trust: the handshake is carried through whatever the certificate says, and whether it verifies
//! is told beside it.
//!
//! No secret ever goes over such a connection; a probe knows none, but for the key of a certificate of ours.

use std::{io, sync::Arc};

use parking_lot::Mutex;
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::{
        ResolvesClientCert,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio_rustls::TlsConnector;

use super::{
    certificate,
    identity::{Certificate, printable},
};
use crate::net::{
    ClientTls, ClientTlsFiles, Socket, Stream, TlsError, server_verifier, tls_provider,
};

/// Whom a certificate is held against, and for which name.
#[derive(Clone)]
pub(super) struct Trust {
    verifier: Arc<dyn ServerCertVerifier>,
    /// Has our own, where we have one and the server asks for it.
    identity: Arc<dyn ResolvesClientCert>,
    /// Goes out as SNI where it is no IP address.
    pub(super) name: String,
}

impl Trust {
    pub(super) fn load(files: ClientTlsFiles, name: String) -> Result<Self, TlsError> {
        Ok(Self {
            verifier: server_verifier(&files)?,
            identity: ClientTls::load(files, &[])?
                .config()
                .client_auth_cert_resolver
                .clone(),
            name,
        })
    }
}

/// Shakes hands on a connection, and tells what certificate came.
pub(super) async fn handshake(socket: Socket, trust: &Trust) -> io::Result<(Stream, Certificate)> {
    let witness = Arc::new(Witness {
        verifier: trust.verifier.clone(),
        seen: Mutex::new(None),
    });
    let config = ClientConfig::builder_with_provider(tls_provider())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(witness.clone())
        .with_client_cert_resolver(trust.identity.clone());
    // No ALPN: a server that knows none of the names offered may refuse, and one that is offered nothing takes it.
    let name = ServerName::try_from(trust.name.clone()).map_err(io::Error::other)?;
    let connector = TlsConnector::from(Arc::new(config));
    let stream = connector.connect(name, socket).await?;
    let stream = Stream::Client(Box::new(stream));
    let (leaf, verdict) = witness.seen.lock().take().unwrap_or_default();
    let mut certificate = certificate::read(&leaf);
    // It quotes the names that the certificate is for.
    certificate.why_not = verdict.map(|why| printable(why.as_bytes()));
    certificate.verifies = certificate.why_not.is_none();
    certificate.tls = stream.tls().map(|facts| facts.version);
    Ok((stream, certificate))
}

/// Does the server speak TLS at all, by the error with which it refused the handshake?
pub(super) fn refused_in_tls(error: &io::Error) -> Option<String> {
    let inner = error.get_ref()?.downcast_ref::<Error>()?;
    match inner {
        Error::AlertReceived(_) | Error::PeerIncompatible(_) => Some(inner.to_string()),
        _ => None,
    }
}

/// Asks the real verifier, keeps its answer, and lets the handshake go on.
#[derive(Debug)]
struct Witness {
    verifier: Arc<dyn ServerCertVerifier>,
    seen: Mutex<Option<(Vec<u8>, Option<String>)>>,
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        stapled: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verdict = self
            .verifier
            .verify_server_cert(leaf, chain, name, stapled, now);
        let why_not = verdict.err().map(|error| error.to_string());
        *self.seen.lock() = Some((leaf.to_vec(), why_not));
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}
