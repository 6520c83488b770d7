//! Where mail comes into a Postfix, and which of our front ends is asked about it there: by a milter, by the content filter,
//! by the proxy filter. Pure.

use std::{
    path::{Component, Path, PathBuf},
    time::Duration,
};

use super::{
    installed::{Postfix, Service},
    value::{Endpoint, Milter, items},
};
use crate::{
    config::{Config, Frontend, UpstreamTls},
    frontends::OnCaptureFailure,
    message::Protocol,
    net::Address,
    wire::smtp::Role,
};

/// What a Postfix may ask, of a configuration.
#[derive(Default)]
pub(super) struct FrontEnds {
    pub(super) milters: Vec<MilterFrontEnd>,
    pub(super) filters: Vec<FilterFrontEnd>,
    /// Where filters and proxies give mail on: an smtpd there is no entrance.
    pub(super) next_hops: Vec<Address>,
}

pub(super) struct MilterFrontEnd {
    pub(super) name: String,
    pub(super) listen: Address,
    pub(super) on_capture_failure: OnCaptureFailure,
    pub(super) capture_timeout: Duration,
}

/// One that takes mail from a mail server and gives it back.
pub(super) struct FilterFrontEnd {
    pub(super) name: String,
    pub(super) listen: Address,
}

impl MilterFrontEnd {
    /// As a list of milters has it.
    pub(super) fn written(&self) -> String {
        match &self.listen {
            Address::Tcp { .. } => format!("inet:{}", self.listen),
            Address::Unix(_) => self.listen.to_string(),
        }
    }
}

impl FrontEnds {
    pub(super) fn of(config: &Config) -> Self {
        let mut front_ends = Self::default();
        for frontend in &config.frontends {
            front_ends.add(frontend);
        }
        front_ends
    }

    fn add(&mut self, frontend: &Frontend) {
        match frontend {
            Frontend::Milter(milter) => self.milters.push(MilterFrontEnd {
                name: milter.name.clone(),
                listen: milter.listen.clone(),
                on_capture_failure: milter.on_capture_failure,
                capture_timeout: milter.limits.capture,
            }),
            Frontend::Smtp(smtp) => {
                let next_hop = smtp.upstream.as_ref().map(|to| to.address.clone());
                self.next_hops.extend(next_hop);
                if smtp.role == Role::Filter {
                    self.filters.push(FilterFrontEnd {
                        name: smtp.name.clone(),
                        listen: smtp.listen.clone(),
                    });
                }
            }
            // No mail server's business.
            Frontend::Mailbox(_) => {}
            // If Postfix asks it, it is found to speak SMTP.
            Frontend::Auto(auto) => {
                if let Some(Ok(smtp)) = auto.read_as(Protocol::Smtp, UpstreamTls::None) {
                    self.add(&smtp);
                }
            }
        }
    }
}

/// An `smtpd`, or the way of the `sendmail` command.
pub(super) struct Entrance<'a> {
    /// `smtp/inet`, as `postconf -M` names it.
    pub(super) name: &'a str,
    /// The setting that lists its milters.
    pub(super) list_name: &'static str,
    pub(super) milters: Vec<Milter<'a>>,
    /// `receive_override_options` has `no_milters`: the list is not looked at.
    pub(super) no_milters: bool,
    content_filter: Option<Endpoint>,
    proxy_filter: Option<Endpoint>,
    /// The service that asks the milters: smtpd itself, or cleanup.
    pub(super) asker: &'a Service,
    /// An smtpd that the machine itself alone can reach: mostly where another filter gives mail back.
    pub(super) is_loopback: bool,
}

/// By what a front end is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Milter,
    ContentFilter,
    ProxyFilter,
}

impl Way {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Milter => "milter",
            Self::ContentFilter => "content_filter",
            Self::ProxyFilter => "smtpd_proxy_filter",
        }
    }
}

/// Where a milter of a unix socket is, for the process that asks it.
pub(super) struct SocketPath {
    /// What the process can look up from: the root, or the queue directory.
    pub(super) base: PathBuf,
    pub(super) path: PathBuf,
}

/// Every entrance but the one where our own front ends give mail back.
pub(super) fn entrances<'a>(postfix: &'a Postfix, ours: &FrontEnds) -> Vec<Entrance<'a>> {
    let is_next_hop = |service: &Service| {
        let at = Endpoint::of_service(service.listen());
        at.is_some_and(|at| ours.next_hops.iter().any(|to| at.reaches(to)))
    };
    let smtpds = postfix
        .services
        .iter()
        .filter(|service| service.command == "smtpd" && !is_next_hop(service))
        .map(|service| Entrance::of(postfix, service, service, "smtpd_milters"));
    let pickups = postfix
        .services
        .iter()
        .filter(|service| service.command == "pickup")
        .filter_map(|service| {
            let cleanup = postfix.setting(service, "cleanup_service_name");
            let cleanup = postfix.service(&format!("{cleanup}/unix"))?;
            Some(Entrance::of(postfix, service, cleanup, "non_smtpd_milters"))
        });
    smtpds.chain(pickups).collect()
}

impl<'a> Entrance<'a> {
    fn of(
        postfix: &'a Postfix,
        service: &'a Service,
        asker: &'a Service,
        list_name: &'static str,
    ) -> Self {
        let overrides = postfix.setting(service, "receive_override_options");
        let is_smtpd = list_name == "smtpd_milters";
        let listen = service.listen();
        Self {
            name: &service.name,
            list_name,
            milters: items(postfix.setting(asker, list_name))
                .into_iter()
                .map(Milter::parse)
                .collect(),
            no_milters: items(overrides).contains(&"no_milters"),
            content_filter: Endpoint::of_content_filter(postfix.setting(service, "content_filter")),
            proxy_filter: Endpoint::of_proxy_filter(postfix.setting(service, "smtpd_proxy_filter"))
                .filter(|_| is_smtpd),
            asker,
            is_loopback: ["127.", "localhost:", "[::1]:"]
                .iter()
                .any(|prefix| listen.starts_with(prefix)),
        }
    }

    pub(super) fn is_smtpd(&self) -> bool {
        self.list_name == "smtpd_milters"
    }

    /// The front ends that are asked here, by name, and how.
    pub(super) fn asked<'c>(&self, postfix: &Postfix, ours: &'c FrontEnds) -> Vec<(Way, &'c str)> {
        let mut asked = Vec::new();
        for front_end in &ours.milters {
            let is_it = |milter: &Milter<'_>| self.is_at(milter, &front_end.listen, postfix);
            if !self.no_milters && self.milters.iter().any(is_it) {
                asked.push((Way::Milter, front_end.name.as_str()));
            }
        }
        for front_end in &ours.filters {
            for (way, endpoint) in [
                (Way::ContentFilter, &self.content_filter),
                (Way::ProxyFilter, &self.proxy_filter),
            ] {
                let leads_to = |to: &Endpoint| to.reaches(&front_end.listen);
                if endpoint.as_ref().is_some_and(leads_to) {
                    asked.push((way, front_end.name.as_str()));
                }
            }
        }
        asked
    }

    /// Whether this milter, asked from here, is who listens there.
    pub(super) fn is_at(&self, milter: &Milter<'_>, listen: &Address, postfix: &Postfix) -> bool {
        match (milter.endpoint(), listen) {
            (Some(Endpoint::Unix(written)), Address::Unix(at)) => {
                self.socket_path(&written, postfix).path == plain(at)
            }
            (Some(endpoint), listen) => endpoint.reaches(listen),
            (None, _) => false,
        }
    }

    /// A relative path starts in the queue directory, where all of Postfix's processes work; in a chroot an absolute one
    /// does too.
    pub(super) fn socket_path(&self, written: &Path, postfix: &Postfix) -> SocketPath {
        let queue = Path::new(postfix.main("queue_directory"));
        let below_queue = written.strip_prefix("/").unwrap_or(written);
        if postfix.in_chroot(self.asker) || written.is_relative() {
            SocketPath {
                base: queue.to_owned(),
                path: plain(&queue.join(below_queue)),
            }
        } else {
            SocketPath {
                base: "/".into(),
                path: plain(written),
            }
        }
    }
}

/// Without `.` and doubled slashes; symbolic links are followed where it is used.
fn plain(path: &Path) -> PathBuf {
    path.components()
        .filter(|part| *part != Component::CurDir)
        .collect()
}
