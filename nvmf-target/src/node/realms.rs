//! The realms of a target: a block device and a subsystem for each, made at the start or while hosts use the others.

use std::sync::Arc;

use oriel_engine::clock::Clock;
use oriel_engine::store::{NodeStore, RealmId, RealmOptions, SpdkDrive};
use oriel_protocol::limits::{BLOCK_BYTES, NAMESPACE_BLOCKS};
use oriel_spdk::Subsystems;
use oriel_spdk::device::{DeviceSpec, Registered, register};
use oriel_spdk::nvmf::{NamespaceOptions, Nsid, Stopped, Subsystem, SubsystemSpec, Target};

use super::hosts::{self, Keys};
use super::{Node, NodeSpec, Realm, Served, namespace_id};
use crate::device::{LogDevice, Serves};
use crate::error::StartError;
use crate::hosts::Hosts;
use crate::puts::Puts;

/// Refuses a realm that the store does not know, or that has blobs where a namespace reads as zeros.
pub(super) async fn check(store: &NodeStore<SpdkDrive>, realm: RealmId) -> Result<(), StartError> {
    if store.realm_stat(realm).await.is_none() {
        return Err(StartError::UnknownRealm { realm });
    }
    match store.has_quiet_blobs(realm).await? {
        true => Err(StartError::QuietBlobs { realm }),
        false => Ok(()),
    }
}

/// What realms are served by.
pub(super) struct Of<'a> {
    pub(super) target: &'a Target,
    pub(super) store: &'a NodeStore<SpdkDrive>,
    pub(super) clock: &'a Clock,
    pub(super) spec: &'a NodeSpec,
    pub(super) keys: &'a Keys,
    pub(super) puts: &'a Arc<Puts>,
}

impl Of<'_> {
    /// Lets hosts connect to a realm. Its device is there until the target has ended.
    pub(super) async fn serve(
        &self,
        devices: &mut Vec<Registered>,
        realm: &Realm,
    ) -> Result<Served, StartError> {
        let RealmOptions { id, cache, .. } = realm.options;
        let uuid = namespace_id(self.spec.store, id);
        let device = DeviceSpec {
            name: format!("oriel:{}:{}", self.spec.node, realm.name),
            product: "Oriel log".into(),
            block_size: BLOCK_BYTES as u32,
            blocks: NAMESPACE_BLOCKS,
            boundary_blocks: 0,
            write_cache: false,
            uuid,
        };
        let serves = Serves {
            store: self.store.clone(),
            store_id: self.spec.store,
            realm: id,
            is_cache: cache.is_some(),
            clock: self.clock.clone(),
            puts: self.puts.clone(),
        };
        let registered = register(&device, LogDevice::new(serves))?;
        let subsystem = match self.subsystem(&device, realm).await {
            Ok(subsystem) => subsystem,
            Err(error) => {
                if let Err(also) = registered.unregister().await {
                    tracing::warn!(%also, realm = realm.name, "a device that is not used stays");
                }
                return Err(error);
            }
        };
        devices.push(registered);
        Ok(Served {
            name: realm.name.clone(),
            hosts: realm.hosts.clone(),
            subsystem: Some(subsystem.start().await?),
        })
    }

    /// A realm's subsystem with all that it needs.
    async fn subsystem(
        &self,
        device: &DeviceSpec,
        realm: &Realm,
    ) -> Result<Subsystem<Stopped>, StartError> {
        let serial: String = device
            .uuid
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let subsystem = self.target.add_subsystem(&SubsystemSpec {
            // The first 20 of 32 digits, as many as there may be.
            serial: serial[..20].into(),
            model: "Oriel".into(),
            namespaces_max: 1,
            ..SubsystemSpec::new(self.spec.nqn(&realm.name)?)
        })?;
        match self.equip(&subsystem, device, realm).await {
            Ok(()) => Ok(subsystem),
            Err(error) => {
                subsystem.destroy().await;
                Err(error)
            }
        }
    }

    async fn equip(
        &self,
        subsystem: &Subsystem<Stopped>,
        device: &DeviceSpec,
        realm: &Realm,
    ) -> Result<(), StartError> {
        let namespace = NamespaceOptions {
            nsid: Some(Nsid::FIRST),
            uuid: Some(device.uuid),
            nguid: Some(device.uuid),
            ..NamespaceOptions::default()
        };
        let name = realm.name.clone();
        subsystem.add_namespace(&device.name, &namespace, move |_, event| {
            tracing::debug!(realm = name, ?event, "a realm's namespace changes");
        })?;
        let nobody = Hosts::Only(Vec::new());
        hosts::change(subsystem, self.keys, &nobody, &realm.hosts)?;
        for listener in &self.spec.listeners {
            subsystem.add_listener(*listener).await?;
        }
        Ok(())
    }
}

impl Node {
    /// Whether it serves a realm of that name.
    pub fn has_realm(&self, name: &str) -> bool {
        self.realms.iter().any(|served| served.name == name)
    }

    /// Serves another realm, which the store has come to know; connections to the others do not notice. It is served as a
    /// whole or not at all.
    pub async fn add_realm(
        &mut self,
        subsystems: &Subsystems,
        realm: &Realm,
    ) -> Result<(), StartError> {
        let mut spec = self.spec.clone();
        spec.realms.push(realm.clone());
        spec.check()?;
        check(&self.store, realm.options.id).await?;
        self.keys
            .add(subsystems, [&realm.hosts].into_iter())
            .await?;
        let of = Of {
            target: &self.target,
            store: &self.store,
            clock: &self.clock,
            spec: &spec,
            keys: &self.keys,
            puts: &self.puts,
        };
        let served = of.serve(&mut self.devices, realm).await;
        let added = served.map(|served| self.realms.push(served));
        if added.is_ok() {
            self.spec = spec;
        }
        let used: Vec<&Hosts> = self.realms.iter().map(|served| &served.hosts).collect();
        self.keys.keep(subsystems, &used).await;
        added
    }
}
