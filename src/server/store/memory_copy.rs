//! A file's bytes in memory. Changes to them leave the file as it is.

use std::io;
use std::ops::Range;
use std::sync::{PoisonError, RwLock};

use redb::StorageBackend;

/// How many bytes a copy may grow by while it is repaired. A damaged header may ask for any size.
const GROWTH: u64 = 64 * 1024 * 1024;

/// Where the header of a redb file describes its layout, and the greatest values in files of ours. redb allocates memory
/// by these, so that a damaged header could make the system kill the process without an error message.
const REGION_HEADER_PAGES: Range<usize> = 16..20;
const MOST_HEADER_PAGES: u32 = 1 << 12;
const REGION_DATA_PAGES: Range<usize> = 20..24;
const MOST_DATA_PAGES: u32 = 1 << 20;

/// The byte of the header that says which of two commit slots is in force, and how the file was closed.
const STATE: usize = 9;
const SECOND_SLOT_IN_FORCE: u8 = 1;
const NOT_CLOSED: u8 = 2;
const COMMITTED_IN_TWO_PHASES: u8 = 4;
/// Where the checksum of each commit slot begins.
const SLOT_CHECKSUMS: [usize; 2] = [64 + 112, 192 + 112];

/// A copy that only this process sees.
#[derive(Debug)]
pub(super) struct MemoryCopy {
    bytes: RwLock<Vec<u8>>,
    most: u64,
    is_complete: bool,
}

impl MemoryCopy {
    /// Reads all of `backend`. The copy is marked so that redb verifies every checksum before it follows a page number. A
    /// damaged number would make it allocate terabytes, which ends the process.
    pub(super) fn of(backend: &impl StorageBackend) -> io::Result<Self> {
        let length = backend.len()?;
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        backend.read(0, &mut bytes)?;
        check_layout(&bytes)?;
        let is_complete = require_verification(&mut bytes);
        Ok(MemoryCopy { bytes: RwLock::new(bytes), most: length.saturating_add(GROWTH), is_complete })
    }

    /// Whether the file says that its last transaction is complete. If it is not, the transaction before is what was
    /// committed. If it is, and a checksum is wrong, the file is damaged.
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete
    }
}

/// Makes a file whose last transaction is complete look as if it was not closed. Otherwise redb trusts its pages unread.
/// The other commit slot is made invalid, so that redb cannot fall back to what is out of date. Returns whether it was
/// complete.
fn require_verification(bytes: &mut [u8]) -> bool {
    let Some(state) = bytes.get_mut(STATE) else { return false };
    let is_complete = *state & COMMITTED_IN_TWO_PHASES != 0 || *state & NOT_CLOSED == 0;
    if !is_complete {
        return false;
    }
    *state = (*state | NOT_CLOSED) & !COMMITTED_IN_TWO_PHASES;
    let other = SLOT_CHECKSUMS[usize::from(*state & SECOND_SLOT_IN_FORCE == 0)];
    if let Some(checksum) = bytes.get_mut(other) {
        *checksum = !*checksum;
    }
    true
}

fn check_layout(bytes: &[u8]) -> io::Result<()> {
    let number = |at: Range<usize>| {
        let bytes = bytes.get(at)?.try_into().ok()?;
        Some(u32::from_le_bytes(bytes))
    };
    let exceeds = |at, most| number(at).is_some_and(|number| number > most);
    if exceeds(REGION_HEADER_PAGES, MOST_HEADER_PAGES) || exceeds(REGION_DATA_PAGES, MOST_DATA_PAGES) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "its header describes an impossible layout"));
    }
    Ok(())
}

/// The range of `length` bytes at `offset`, if it lies within `all` bytes.
fn range(offset: u64, length: usize, all: usize) -> io::Result<Range<usize>> {
    let start = usize::try_from(offset).map_err(io::Error::other)?;
    let end = start.checked_add(length).filter(|end| *end <= all);
    end.map(|end| start..end).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

impl StorageBackend for MemoryCopy {
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
