//! A certificate of our own making, for a server that was given none.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use sha2::{Digest, Sha256};

use super::{IdentityFiles, TlsError};

/// The certificate, and how clients recognise it.
#[derive(Clone, Debug)]
pub struct SelfSigned {
    pub files: IdentityFiles,
    /// SHA-256 of the certificate in DER, as `openssl x509 -fingerprint -sha256` prints it.
    pub fingerprint: String,
    /// It did not exist before this call.
    pub made_now: bool,
}

/// Finds `certificate.pem` and `key.pem` in `dir`, or makes them, for these host names and IP addresses, good for ten
/// years. The key is readable by us alone. The certificate is its own authority: give it to clients as their CA file.
pub fn self_signed(names: &[&str], dir: &Path) -> Result<SelfSigned, TlsError> {
    let files = IdentityFiles {
        certificate: dir.join("certificate.pem"),
        key: dir.join("key.pem"),
    };
    let made_now = !(files.certificate.exists() && files.key.exists());
    if made_now {
        let (certificate, key) = make(names).map_err(|error| TlsError::Setup(error.to_string()))?;
        fs::create_dir_all(dir).map_err(|error| unwritable(dir, &error))?;
        // The key first: a certificate without its key would look complete to nobody.
        write(&files.key, &key, 0o600)?;
        write(&files.certificate, &certificate, 0o644)?;
    }
    let certificate = CertificateDer::from_pem_file(&files.certificate)
        .map_err(|error| super::tls::file_error("certificate", &files.certificate, error))?;
    let digest: Vec<String> = Sha256::digest(&certificate)
        .iter()
        .map(|byte| format!("{byte:02X}"))
        .collect();
    Ok(SelfSigned {
        files,
        fingerprint: digest.join(":"),
        made_now,
    })
}

fn make(names: &[&str]) -> Result<(String, String), rcgen::Error> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let key = KeyPair::generate()?;
    let mut parameters = CertificateParams::new(names)?;
    parameters
        .distinguished_name
        .push(DnType::CommonName, "mailtee");
    parameters
        .extended_key_usages
        .push(ExtendedKeyUsagePurpose::ServerAuth);
    let year = i32::from(jiff::Zoned::now().year());
    parameters.not_before = rcgen::date_time_ymd(year - 1, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(year + 10, 1, 1);
    Ok((parameters.self_signed(&key)?.pem(), key.serialize_pem()))
}

/// Written beside its place, synced and renamed: a crash leaves no half file that a later start would trust.
fn write(path: &PathBuf, pem: &str, mode: u32) -> Result<(), TlsError> {
    let beside = path.with_extension("pem.new");
    let put = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&beside)?;
        file.write_all(pem.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    put().map_err(|error| unwritable(path, &error))
}

fn unwritable(path: &Path, error: &io::Error) -> TlsError {
    super::tls::file_error("self-signed certificate", path, error)
}
