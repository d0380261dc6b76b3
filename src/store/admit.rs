//! Records that come from elsewhere: let in by the bytes that came, so that signatures stay with them.
//!
//! Who sends a record has checked nothing for us. A [`RecordFile`] checks itself; whether its blobs are here, or its
//! signers are trusted, is for the caller to decide.

use std::fs;

use super::error::{IoContext, StoreError};
use super::record::RecordFile;
use super::{Store, durable};

impl Store {
    /// Writes records under both of their keys, all durable when it returns. What was under a key is replaced.
    pub fn admit_records(&self, files: &[RecordFile]) -> Result<(), StoreError> {
        let mut moves = Vec::new();
        for file in files {
            let record = &file.record;
            // The recipe key comes last: what it finds is done.
            for key in [record.content_key.0, record.recipe_key.0] {
                let temporary = durable::unique_path(&self.tmp());
                fs::write(&temporary, file.bytes()).at("write", &temporary)?;
                moves.push((temporary, self.sharded("records", key)));
            }
        }
        durable::commit(&moves)?;
        for file in files {
            self.append_journal(file.record.recipe_key);
        }
        Ok(())
    }
}
