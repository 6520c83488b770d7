//! The vault in this process, and the target that it is where no other is configured.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use tokio::runtime::Handle;

use super::{
    DaemonError, Part,
    entrance::{Identities, Read, Whose},
};
use crate::{
    channel::{self, Credentials, SecretSource},
    config::{Config, Store, Target},
    metrics::Metrics,
    net::Address,
    targets::jmap,
    vault::{self, Vault},
};

/// What the daemon knows of the vault that it runs.
#[derive(Clone, Debug)]
pub(super) struct Embedded {
    /// As the vault's own certificate names it.
    url: String,
    certificate: PathBuf,
    token_file: PathBuf,
}

impl Embedded {
    /// Opens the vault and serves it on the background runtime.
    pub(super) async fn open(
        options: &vault::Options,
        metrics: Arc<Metrics>,
        serving: &Part,
        identities: &Identities,
        background: &Handle,
    ) -> Result<Self, DaemonError> {
        let opening = background.spawn(Vault::open(options.clone(), metrics));
        let vault = opening.await.map_err(|_| DaemonError::Stopped)??;
        identities.replace(Whose::Vault, vec![Read::Server(vault.tls())]);
        let embedded = Self {
            url: url(options, vault.local()),
            certificate: vault.certificate().to_owned(),
            token_file: token_file(options),
        };
        tracing::info!(
            page = %embedded.url,
            certificate_sha256 = vault.fingerprint().unwrap_or("of the operator's choice"),
            fresh_tokens = ?vault.fresh_tokens(),
            "the vault listens"
        );
        let stop = serving.stop.clone();
        serving.tasks.spawn_on(vault.serve(stop), background);
        Ok(embedded)
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    fn target(&self) -> Target {
        Target {
            name: Config::EMBEDDED_TARGET.to_owned(),
            store: Store::Jmap(jmap::Options {
                url: format!("{}/.well-known/jmap", self.url),
                channel: channel::Options {
                    ca_file: Some(self.certificate.clone()),
                    credentials: Credentials::Bearer(SecretSource::File(self.token_file.clone())),
                    ..channel::Options::default()
                },
                ..jmap::Options::default()
            }),
            criteria: Default::default(),
            forward: Default::default(),
        }
    }
}

/// The targets of a configuration as another process sees them: the vault, where it is one, by its address.
pub fn configured_targets(config: &Config) -> Vec<Target> {
    let embedded = config.vault.as_ref().map(|options| Embedded {
        url: url(options, None),
        certificate: match &options.identity {
            Some(identity) => identity.certificate.clone(),
            None => options.data_dir.join("tls").join("certificate.pem"),
        },
        token_file: token_file(options),
    });
    targets(config, embedded.as_ref())
}

fn token_file(options: &vault::Options) -> PathBuf {
    options.data_dir.join("tokens").join("target.token")
}

/// The targets of a configuration, the embedded vault where it names none.
pub(super) fn targets(config: &Config, embedded: Option<&Embedded>) -> Vec<Target> {
    match embedded {
        Some(vault) if config.targets.is_empty() => vec![vault.target()],
        _ => config.targets.clone(),
    }
}

/// The URL by which this machine reaches the vault, by a name that its certificate has. `bound` has the port that the
/// kernel chose for port 0.
fn url(options: &vault::Options, bound: Option<SocketAddr>) -> String {
    let address = match (&options.listen, options.host()) {
        (Address::Tcp { port, .. }, Some(host)) => Address::Tcp {
            host: host.to_owned(),
            port: bound.map_or(*port, |bound| bound.port()),
        },
        // The configuration lets the vault listen on TCP alone.
        (listen, _) => listen.clone(),
    };
    format!("https://{address}")
}
