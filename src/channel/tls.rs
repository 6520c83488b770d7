//! The TLS side of a channel: whom we trust, and the certificate that we show.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use rustls_platform_verifier::BuilderVerifierExt;

use super::{ChannelError, Options};

pub(super) fn client_config(options: &Options) -> Result<ClientConfig, ChannelError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| refused("TLS", e))?;
    let builder = match &options.ca_file {
        Some(path) => builder.with_root_certificates(roots(path)?),
        None => builder
            .with_platform_verifier()
            .map_err(|e| refused("the system's trusted certificates", e))?,
    };
    let mut config = match &options.client_certificate {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let key_pem =
                PrivateKeyDer::from_pem_file(key).map_err(|e| refused(key.display(), e))?;
            builder
                .with_client_auth_cert(certificates(chain)?, key_pem)
                .map_err(|e| refused(key.display(), e))?
        }
    };
    // A configuration that the HTTP client did not make itself says nothing of HTTP/2 unless it is told to here.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn roots(path: &Path) -> Result<RootCertStore, ChannelError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots
            .add(certificate)
            .map_err(|e| refused(path.display(), e))?;
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ChannelError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)
        .map_err(|e| refused(path.display(), e))?
        .collect();
    let found = found.map_err(|e| refused(path.display(), e))?;
    if found.is_empty() {
        return Err(refused(path.display(), "holds no certificate"));
    }
    Ok(found)
}

fn refused(what: impl ToString, why: impl ToString) -> ChannelError {
    ChannelError::Options {
        what: what.to_string(),
        why: why.to_string(),
    }
}
