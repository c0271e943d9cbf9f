//! What a log has to know of parts of large blobs and their manifests, which are blobs to all else.

use super::answer::answer;
use super::drive::{Drive, write_twice};
use super::error::StoreError;
use super::frame::Entry;
use super::label::{FIRST_VERSION, Label, VERSION};
use super::log::Log;
use super::metrics::{Operation, Outcome};
use super::state::Queued;
use super::types::{BLOCK_BYTES, Form, Key, Location, RealmId};

impl<D: Drive> Log<D> {
    /// Where a blob is, without that counting as a use of it.
    pub(super) fn peek(&self, realm: RealmId, key: &Key) -> Option<Location> {
        let state = self.state.borrow();
        state.locate_quietly(state.keys.fingerprint(realm, key))
    }

    /// Whether the drive ever had a part of a large blob.
    pub(super) fn may_have_parts(&self) -> bool {
        self.layout.version.get() > FIRST_VERSION
    }

    /// Has the label say, before there is one, that there are large blobs, of which older programs know nothing.
    pub(super) async fn raise_version(&self) -> Result<(), StoreError> {
        let layout = &self.layout;
        if layout.version.get() == VERSION {
            return Ok(());
        }
        let label = Label {
            version: VERSION,
            store: layout.store,
            slab_blocks: layout.slab_blocks,
            journal_blocks: layout.journal_blocks,
        };
        let mut buf = self.drive.buffer(BLOCK_BYTES)?;
        label.encode(buf.as_mut());
        let written = match write_twice(&self.drive, &layout.label, 0, buf).await.1 {
            Ok(()) => self.drive.flush().await,
            failed => failed,
        };
        written.map_err(|reason| self.stop(Vec::new(), reason))?;
        layout.version.set(VERSION);
        Ok(())
    }

    /// Takes a blob away; whether it was there.
    pub async fn delete(&self, realm: RealmId, key: Key) -> Result<bool, StoreError> {
        self.delete_form(realm, key, Some(Form::Whole)).await
    }

    /// Takes away what is under a key, if it is of that form, or whatever it is.
    pub(super) async fn delete_form(
        &self,
        realm: RealmId,
        key: Key,
        wanted: Option<Form>,
    ) -> Result<bool, StoreError> {
        let observed = self.metrics.begin(Operation::Delete, realm);
        let deleted = self.delete_it(realm, key, wanted).await;
        observed.heard(&deleted, |there| (Outcome::there(*there), 0));
        deleted
    }

    async fn delete_it(
        &self,
        realm: RealmId,
        key: Key,
        wanted: Option<Form>,
    ) -> Result<bool, StoreError> {
        self.check_open()?;
        self.check_realm(realm)?;
        self.trusted().await?;
        let (send, heard) = answer();
        {
            let mut state = self.state.borrow_mut();
            let fingerprint = state.keys.fingerprint(realm, &key);
            let Some(location) = state.locate(fingerprint) else {
                return Ok(false);
            };
            match (location.form, wanted) {
                (form, Some(wanted)) if form == wanted => {}
                (_, None) => {}
                (Form::Manifest, _) => return Err(StoreError::InParts { key }),
                // A part is no blob of anybody's.
                (Form::Part | Form::Whole, _) => return Ok(false),
            }
            state.dying.insert(fingerprint);
            let position = location.position;
            state.queue.push_back(Queued {
                answer: Some(send),
                blob: Some(fingerprint),
                ..Queued::silent(Entry::Delete { key, position })
            });
        }
        self.ring();
        let deleted = heard.await.unwrap_or(Err(StoreError::Closing));
        deleted.map(|()| true)
    }
}
