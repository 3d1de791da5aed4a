//! A file's bytes in memory: what is done to them leaves the file alone.

use std::io;
use std::sync::{PoisonError, RwLock};

use redb::StorageBackend;

/// The most that a copy grows to beyond what it was made with, while it is repaired. A damaged header may ask
/// for anything.
const GROWTH: u64 = 64 * 1024 * 1024;

/// A copy that nobody else sees.
#[derive(Debug)]
pub(super) struct Copy {
    bytes: RwLock<Vec<u8>>,
    most: u64,
}

impl Copy {
    /// Reads all of `backend`.
    pub(super) fn of(backend: &impl StorageBackend) -> io::Result<Self> {
        let length = backend.len()?;
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        backend.read(0, &mut bytes)?;
        Ok(Copy { bytes: RwLock::new(bytes), most: length.saturating_add(GROWTH) })
    }
}

/// Where a part of `length` bytes lies, if all of it does.
fn range(offset: u64, length: usize, all: usize) -> io::Result<std::ops::Range<usize>> {
    let start = usize::try_from(offset).map_err(io::Error::other)?;
    let end = start.checked_add(length).filter(|end| *end <= all);
    end.map(|end| start..end).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

impl StorageBackend for Copy {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.read().unwrap_or_else(PoisonError::into_inner).len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let bytes = self.bytes.read().unwrap_or_else(PoisonError::into_inner);
        out.copy_from_slice(&bytes[range(offset, out.len(), bytes.len())?]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if len > self.most {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut bytes = self.bytes.write().unwrap_or_else(PoisonError::into_inner);
        bytes.resize(usize::try_from(len).map_err(io::Error::other)?, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut bytes = self.bytes.write().unwrap_or_else(PoisonError::into_inner);
        let range = range(offset, data.len(), bytes.len())?;
        bytes[range].copy_from_slice(data);
        Ok(())
    }
}
