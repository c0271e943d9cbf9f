//! Going through a realm's blobs.

use oriel_protocol::{Command, ListRequest, Listed, Page, Position, Prefix, result};

use super::{BlobError, Blobs, Outcome, Transport};

/// A list, page by page. It misses no blob that is there all the time; one that is moved meanwhile may be shown twice.
pub struct Lister<'a, T> {
    blobs: &'a Blobs<T>,
    prefix: Prefix,
    next: Option<Position>,
}

impl<T: Transport> Blobs<T> {
    /// The blobs whose keys begin so, by their places.
    pub fn list(&self, prefix: Prefix) -> Lister<'_, T> {
        Lister {
            blobs: self,
            prefix,
            next: Some(Position(0)),
        }
    }
}

impl<T: Transport> Lister<'_, T> {
    /// The next blobs; `None` at the end.
    pub async fn page(&mut self) -> Outcome<Option<Vec<Listed>>, T> {
        let Some(cursor) = self.next else {
            return Ok(None);
        };
        let request = ListRequest {
            cursor,
            prefix: self.prefix,
        };
        let room = vec![0; self.blobs.stat.transfer_bytes_max as usize];
        let command = Command::List(request);
        let (answer, listed) = self.blobs.transport.command(&command, room).await;
        result::nothing(listed.map_err(BlobError::Transport)?)?;
        let page = Page::decode(&request, &answer)?;
        self.next = page.next();
        Ok(Some(page.blobs().collect()))
    }
}
