//! A configuration as text.

use std::fmt::Write;

use oriel_engine::store::{DriveNumber, Policy};
use oriel_spdk::nvmf::{Address, TransportKind};

use super::{Config, Device, MIB_BLOCKS};
use crate::{Host, Hosts, Realm};

impl Config {
    /// The same as text, with all that was left out.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |line: String| {
            // To a string it cannot fail.
            let _ = writeln!(text, "{line}");
        };
        let quoted = |text: &str| toml::Value::from(text).to_string();
        line(format!("node = {}", quoted(&self.node)));
        line(format!("store = \"{}\"", self.store));
        line(format!("cores = \"{}\"", self.cores));
        line(format!("memory_mib = {}", self.memory_mib));
        line(format!("hugepages = {}", self.hugepages));
        line(format!("blobs_max = {}", self.blobs_max));
        if let Some(folder) = &self.index {
            line(format!("index = {}", quoted(&folder.to_string_lossy())));
        }
        if let Some(most) = self.connections_max {
            line(format!("connections_max = {most}"));
        }
        if !self.gone.is_empty() {
            let gone: Vec<String> = self.gone.iter().map(DriveNumber::to_string).collect();
            line(format!("gone = [{}]", gone.join(", ")));
        }
        line("\n[format]".into());
        line(format!(
            "slab_mib = {}",
            self.format.slab_blocks / MIB_BLOCKS
        ));
        line(format!(
            "journal_mib = {}",
            self.format.journal_blocks / MIB_BLOCKS
        ));
        let background = &self.background;
        line("\n[background]".into());
        line(format!(
            "scrub_mib_per_second = {}",
            background.scrub_bytes_per_second >> 20
        ));
        line(format!(
            "scrub_round_hours = {}",
            background.scrub_round.as_secs() / 3600
        ));
        line(format!(
            "compaction_mib_per_second = {}",
            background.compaction_bytes_per_second >> 20
        ));
        if let Some(address) = self.status {
            line(format!("\n[status]\naddress = \"{address}\""));
        }
        for device in &self.devices {
            line("\n[[device]]".into());
            line(match device {
                Device::Path(path) => format!("path = {}", quoted(&path.to_string_lossy())),
                Device::Pci(address) => format!("pci = \"{address}\""),
            });
            if self.drains.contains(device) {
                line("drain = true".into());
            }
        }
        for Address { transport, socket } in &self.listeners {
            line(format!("\n[[listener]]\naddress = \"{socket}\""));
            line(match transport {
                TransportKind::Tcp => "transport = \"tcp\"".into(),
                TransportKind::Rdma => "transport = \"rdma\"".into(),
            });
        }
        for Realm {
            name,
            options,
            hosts,
        } in &self.realms
        {
            line(format!("\n[[realm]]\nname = {}", quoted(name)));
            line(format!("id = {}", options.id.0));
            line(match hosts {
                Hosts::Any => "hosts = \"any\"".into(),
                Hosts::Only(hosts) => {
                    let hosts: Vec<String> =
                        hosts.iter().map(|host| host_text(host, &quoted)).collect();
                    format!("hosts = [{}]", hosts.join(", "))
                }
            });
            if let Some(blocks) = options.quota_blocks {
                line(format!("quota_mib = {}", blocks / MIB_BLOCKS));
            }
            match options.cache {
                Some(Policy::Lru) => line("cache = \"lru\"".into()),
                Some(Policy::S3Fifo) => line("cache = \"s3-fifo\"".into()),
                None => {}
            }
            if let Some(was) = &options.was {
                line(format!("was = {}", quoted(was)));
            }
            if options.was_durable {
                line("was_durable = true".into());
            }
            line(format!("verify = {}", options.verify));
        }
        text
    }
}

fn host_text(host: &Host, quoted: &impl Fn(&str) -> String) -> String {
    let nqn = quoted(host.nqn.as_str());
    let Some(keys) = &host.keys else { return nqn };
    let mut text = format!(
        "{{ nqn = {nqn}, key = {}",
        quoted(&keys.host.to_string_lossy())
    );
    if let Some(key) = &keys.controller {
        text += &format!(", controller_key = {}", quoted(&key.to_string_lossy()));
    }
    text + " }"
}
