//! `[vault]`: the built-in second mail store.

use std::path::Path;

use super::{frontend::read_identity, section::Section, setting::Bytes};
use crate::{
    net::Address,
    vault::{Limits, Options},
};

pub(super) fn read_vault(mut section: Section<'_>, data_dir: &Path) -> Option<Options> {
    let present = section.is_present();
    let listen = section.or("listen", default_listen());
    if matches!(listen, Address::Unix(_)) {
        section.complain("listen", "host:port: the vault is reached over HTTPS");
    }
    let dir = section.path("data_dir");
    let default = Options::new(listen, dir.unwrap_or_else(|| data_dir.join("vault")));
    let limits = default.limits;
    let identity = read_identity(&mut section);
    if section.has("certificate") && section.has("names") {
        section.complain(
            "names",
            "no `names` beside a `certificate`, which has its own",
        );
    }
    let options = Options {
        identity,
        names: section.or("names", default.names),
        tokens_file: section.path("tokens_file"),
        limits: Limits {
            message_bytes_max: section
                .or("message_bytes_max", Bytes(limits.message_bytes_max))
                .0,
            request_bytes_max: section
                .or("request_bytes_max", Bytes(limits.request_bytes_max))
                .0,
            requests_max: section.or("requests_max", limits.requests_max),
            uploads_max: section.or("uploads_max", limits.uploads_max),
            calls_max: section.or("calls_max", limits.calls_max),
            objects_max: section.or("objects_max", limits.objects_max),
            connections_max: section.or("connections_max", limits.connections_max),
            connections_per_address_max: section.or(
                "connections_per_address_max",
                limits.connections_per_address_max,
            ),
            idle: section.or("idle_timeout", limits.idle),
        },
        listen: default.listen,
        data_dir: default.data_dir,
    };
    section.finish();
    present.then_some(options)
}

fn default_listen() -> Address {
    Address::Tcp {
        host: "127.0.0.1".to_owned(),
        port: 8443,
    }
}
