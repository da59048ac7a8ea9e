//! The folder of one site, and the only code that changes it. Blocking.
//!
//! Written is what the committer hands over, in one write and one fsync for each batch. After a failure of which nobody
//! knows what it left behind, the store closes itself and has to be claimed again, which reads from the disk what is
//! there. `meta` names the writer and is replaced as a whole.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::disk::{self, DiskError, DiskFile, Lock};
use super::reader::{Inventory, Segment, View, file_name, inventory};
use super::segment::{self, HEADER, Head};
use super::{Meta, Sizes, lock};
use crate::buffer::log::{Claim, LogError, READ_BYTES, Record};
use crate::entry::Seq;

/// One site's folder.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) folder: PathBuf,
    require_durable: bool,
    sizes: Sizes,
    owner: String,
    writer: Mutex<Writer>,
    /// Of the last claim. Changed only under the writer's lock; read without it, since that one is held during an fsync.
    epoch: AtomicU64,
    /// What readers see. Never locked while the disk works.
    view: Mutex<Option<View>>,
    /// What was there when somebody without a claim looked last.
    glimpse: Mutex<Option<View>>,
}

#[derive(Debug, Default)]
struct Writer {
    lock: Option<Lock>,
    /// Gone after any failure that leaves a doubt.
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    meta: Meta,
    /// Where the next record goes; none when it needs a new segment.
    newest: Option<Tail>,
    last: Seq,
    /// The last entry that stands in a segment.
    written: Seq,
}

#[derive(Debug)]
struct Tail {
    segment: Arc<Segment>,
    end: u64,
    len: u64,
}

impl Store {
    pub(super) fn new(folder: PathBuf, owner: String, require_durable: bool, sizes: Sizes) -> Store {
        Store {
            folder,
            require_durable,
            sizes,
            owner,
            writer: Mutex::default(),
            epoch: AtomicU64::new(0),
            view: Mutex::default(),
            glimpse: Mutex::default(),
        }
    }

    /// The number of the last claim: what is asked under an earlier one is void.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Whether the folder, or what there is of its path, keeps what it acknowledges and can be written. Makes nothing.
    pub(super) fn look(&self) -> Result<(), LogError> {
        let there = self.folder.ancestors().find(|path| path.exists()).unwrap_or(&self.folder);
        self.durable(there)?;
        disk::writable(there)?;
        self.read(Seq::ZERO, 1, READ_BYTES).map(drop)
    }

    fn durable(&self, folder: &Path) -> Result<(), LogError> {
        match disk::forgetful(folder)? {
            Some(why) if self.require_durable => {
                Err(LogError::NotDurable(format!("{}: {why}; name a folder on a disk", folder.display())))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Whether nobody else holds the lock.
    pub(super) fn vacant(&self) -> Result<(), LogError> {
        let path = self.folder.join("lock");
        if lock(&self.writer).lock.is_none() && path.exists() && Lock::take(&path)?.is_none() {
            let why = format!("{} uses {}; stop that first", Lock::holder(&path), self.folder.display());
            return Err(LogError::Refused(why));
        }
        Ok(())
    }

    /// Gives the folder up, and removes it.
    pub(super) fn clear(&self) -> Result<(), LogError> {
        self.close();
        Ok(disk::remove_folder(&self.folder)?)
    }

    /// Gives the folder up, and renames it.
    pub(super) fn rename(&self, place: &Path) -> Result<(), LogError> {
        self.close();
        Ok(disk::rename_folder(&self.folder, place)?)
    }

    fn close(&self) {
        *lock(&self.writer) = Writer::default();
        *lock(&self.view) = None;
        *lock(&self.glimpse) = None;
    }

    pub(super) fn claim(&self, takeover: bool, floor: Seq) -> Result<Claim, LogError> {
        let mut writer = lock(&self.writer);
        writer.open = None;
        disk::make_folder(&self.folder)?;
        // While there is room for one more name.
        if let Err(error @ DiskError::Unknown(_)) = disk::make_folder(&self.folder.join("quarantine")) {
            return Err(error.into());
        }
        self.durable(&self.folder)?;
        let meta = Meta::load(&self.folder)?.unwrap_or_default();
        if !takeover && !meta.owner.is_empty() && meta.owner != self.owner && meta.epoch >= self.epoch() {
            return Err(LogError::Fenced(meta.owner));
        }
        if !writer.lock.as_ref().is_some_and(Lock::holds) {
            writer.lock = None;
            let path = self.folder.join("lock");
            writer.lock = Lock::take(&path)?;
            if writer.lock.is_none() {
                let why = format!("{} is in use by {}", self.folder.display(), Lock::holder(&path));
                return Err(LogError::Doubtful(why));
            }
        }
        // Read again: only now nobody else changes it.
        let mut meta = Meta::load(&self.folder)?.unwrap_or_default();
        let found = inventory(&self.folder, &meta, true)?;
        whole(&found, &meta, floor)?;
        let newest = mend(&found)?;
        let (written, ended) = (found.last(), found.last().max(meta.floor));
        let last = ended.max(floor);
        meta.owner.clone_from(&self.owner);
        meta.epoch = meta.epoch.max(self.epoch()) + 1;
        meta.floor = if last > written { last } else { meta.floor };
        meta.store(&self.folder)?;
        // The one for `meta` first: room is found by dropping entries.
        disk::keep_reserve(&self.folder, disk::RESERVE);
        disk::keep_reserve(&self.folder, disk::RESERVE_ASIDE);
        self.epoch.store(meta.epoch, Ordering::Release);
        *lock(&self.view) = Some(found.view(&meta));
        // A segment holds consecutive entries only.
        let goes_on = found.newest.as_ref().is_some_and(|scan| scan.last == last);
        writer.open = Some(Open { meta, newest: newest.filter(|_| goes_on), last, written });
        Ok(Claim { found: ended, last })
    }

    pub(super) fn append(&self, epoch: u64, records: &[Record]) -> Result<(), LogError> {
        self.change(epoch, |open| self.append_open(open, records))
    }

    pub(super) fn probe(&self) -> Result<Seq, LogError> {
        let epoch = self.epoch();
        self.change(epoch, |open| Ok(open.last))
    }

    pub(super) fn trim(&self, epoch: u64, upto: Seq) -> Result<(), LogError> {
        self.change(epoch, |open| {
            let upto = upto.min(open.last);
            if upto <= open.meta.trimmed {
                return Ok(());
            }
            let meta = Meta { trimmed: upto, ..open.meta.clone() };
            meta.store(&self.folder)?;
            open.meta = meta;
            let Some(mut view) = lock(&self.view).clone() else { return Ok(()) };
            view.trimmed = upto;
            // The last one stays: it knows where the log ends.
            let gone = view.segments.windows(2).take_while(|pair| pair[1].head.after <= upto).count();
            let dropped: Vec<Arc<Segment>> = view.segments[..gone].to_vec();
            view.segments = view.segments[gone..].into();
            *lock(&self.view) = Some(view);
            for segment in dropped {
                disk::remove(&segment.file.path)?;
            }
            Ok(())
        })
    }

    pub(super) fn read(&self, after: Seq, limit: usize, bytes: u64) -> Result<Vec<Record>, LogError> {
        if let Some(view) = lock(&self.view).clone() {
            return view.read(after, limit, bytes);
        }
        // Without a claim the disk has to be asked; not for each window of a long read, though.
        if let Some(view) = lock(&self.glimpse).clone() {
            let records = view.read(after, limit, bytes)?;
            if records.len() == limit || records.iter().map(Record::bytes).sum::<u64>() >= bytes {
                return Ok(records);
            }
        }
        let view = match Meta::load(&self.folder)? {
            Some(meta) => inventory(&self.folder, &meta, false)?.view(&meta),
            None => View::default(),
        };
        *lock(&self.glimpse) = Some(view.clone());
        view.read(after, limit, bytes)
    }

    /// A change by the owner of the folder, under this claim.
    pub(super) fn owned(&self, epoch: u64, change: impl FnOnce() -> Result<(), LogError>) -> Result<(), LogError> {
        self.change(epoch, |_| change())
    }

    fn change<T>(&self, epoch: u64, change: impl FnOnce(&mut Open) -> Result<T, LogError>) -> Result<T, LogError> {
        let mut writer = lock(&self.writer);
        if epoch != self.epoch() {
            return Err(LogError::Doubtful("claimed again meanwhile".into()));
        }
        let Writer { lock, open } = &mut *writer;
        let outcome = match open {
            Some(_) if !lock.as_ref().is_some_and(Lock::holds) => Err(self.ousted()),
            Some(open) => change(open),
            None => return Err(LogError::Doubtful("it has to be opened again".into())),
        };
        // Whoever took the folder meanwhile may have looked before this was written.
        let outcome = match outcome {
            Ok(_) if !lock.as_ref().is_some_and(Lock::holds) => Err(LogError::Doubtful("the lock was lost".into())),
            other => other,
        };
        if matches!(outcome, Err(LogError::Doubtful(_) | LogError::Fenced(_))) {
            *open = None;
        }
        outcome
    }

    /// The lock file is another one now, or gone.
    fn ousted(&self) -> LogError {
        match Meta::load(&self.folder) {
            Ok(Some(meta)) if meta.owner != self.owner => LogError::Fenced(meta.owner),
            Ok(_) => LogError::Doubtful(format!("the lock in {} is gone", self.folder.display())),
            Err(error) => LogError::Doubtful(error.to_string()),
        }
    }

    fn append_open(&self, open: &mut Open, records: &[Record]) -> Result<(), LogError> {
        let Some(first) = records.first().map(Record::seq) else { return Ok(()) };
        if first > open.last.next() {
            return Err(LogError::Doubtful(format!("the log ends at entry {}", open.last)));
        }
        for record in records.iter().take_while(|record| record.seq() <= open.last) {
            let there = self.read(Seq(record.seq().0 - 1), 1, READ_BYTES)?.pop();
            if there.is_none_or(|there| there.seq() != record.seq() || there.entry.uuid != record.entry.uuid) {
                return Err(LogError::Conflict(record.seq()));
            }
        }
        let new: Vec<&str> =
            records.iter().filter(|record| record.seq() > open.last).map(|record| &*record.json).collect();
        if new.is_empty() {
            return Ok(());
        }
        let mut bytes = Vec::new();
        segment::encode(open.last.next(), &new, &mut bytes);
        let full = |tail: &Tail| tail.end > HEADER as u64 && tail.end + bytes.len() as u64 > self.sizes.segment;
        if open.newest.as_ref().is_none_or(full) {
            open.newest = Some(self.begin_segment(open)?);
        }
        let Some(tail) = &mut open.newest else { return Err(LogError::Doubtful("no segment".into())) };
        tail.write(&bytes, self.sizes.ahead)?;
        let mut at = tail.end;
        for (place, json) in new.iter().enumerate() {
            tail.segment.remember(Seq(open.last.0 + 1 + place as u64), at);
            at += (HEADER + json.len().next_multiple_of(HEADER)) as u64;
        }
        tail.end = at;
        open.last = Seq(open.last.0 + new.len() as u64);
        open.written = open.last;
        if let Some(view) = &mut *lock(&self.view) {
            view.written = open.last;
        }
        Ok(())
    }

    /// A new file for what comes now; it counts once `meta` names it.
    fn begin_segment(&self, open: &mut Open) -> Result<Tail, LogError> {
        let head = Head { first: open.last.next(), after: open.written };
        let path = self.folder.join(file_name(head.first));
        disk::remove(&path)?;
        let file = DiskFile::create(&path)?;
        let made = (|| {
            file.write(&head.encode(), 0)?;
            file.sync()?;
            disk::sync_folder(&self.folder)?;
            let meta = Meta { newest: Some(head.first), ..open.meta.clone() };
            meta.store(&self.folder).map(|()| meta)
        })();
        open.meta = match made {
            Ok(meta) => meta,
            Err(DiskError::No(why)) => {
                disk::remove(&path)?;
                return Err(LogError::Refused(why));
            }
            // Perhaps `meta` names it already: the next claim will see.
            Err(error @ DiskError::Unknown(_)) => return Err(error.into()),
        };
        let segment = Arc::new(Segment { file, head, places: Mutex::default() });
        if let Some(view) = &mut *lock(&self.view) {
            view.segments = view.segments.iter().cloned().chain([Arc::clone(&segment)]).collect();
        }
        Ok(Tail { segment, end: HEADER as u64, len: HEADER as u64 })
    }
}

impl Tail {
    /// One batch, durable. When the disk says no, nothing of it stays.
    fn write(&mut self, bytes: &[u8], ahead: u64) -> Result<(), DiskError> {
        let file = &self.segment.file;
        let end = self.end + bytes.len() as u64;
        let written = file.write(bytes, self.end).and_then(|()| {
            if end > self.len {
                // Zeros ahead: an fsync of what lies within the file is a third of one that makes it longer.
                file.write(&vec![0; ahead as usize], end)?;
            }
            Ok(())
        });
        match written {
            Ok(()) => {}
            Err(DiskError::No(why)) => {
                file.truncate(self.end).map_err(|_| DiskError::Unknown(why.clone()))?;
                // Perhaps the whole batch stands there, and has reached the disk: it must not come back with the power.
                file.sync()?;
                self.len = self.end;
                return Err(DiskError::No(why));
            }
            Err(error @ DiskError::Unknown(_)) => return Err(error),
        }
        if end > self.len {
            self.len = end + ahead;
        }
        file.sync()
    }
}

/// Whether nothing is missing before the first segment that is neither dropped nor on the replica.
fn whole(found: &Inventory, meta: &Meta, floor: Seq) -> Result<(), LogError> {
    let needed = meta.trimmed.max(floor).next();
    match found.segments.first() {
        Some(oldest) if oldest.head.after >= needed => Err(LogError::Lost { first: needed, last: oldest.head.after }),
        Some(_) | None => Ok(()),
    }
}

/// Takes away what was never durable, and makes sure that the last batch is: whoever wrote it may have died before its
/// fsync, or seen it fail.
fn mend(found: &Inventory) -> Result<Option<Tail>, LogError> {
    for unused in &found.unused {
        if unused.len()? > HEADER as u64 {
            return Err(LogError::Corrupt(format!("{} is not known to `meta`", unused.path.display())));
        }
        disk::remove(&unused.path)?;
    }
    let (Some(segment), Some(scan)) = (found.segments.last(), &found.newest) else { return Ok(None) };
    let (file, end) = (&segment.file, scan.end as u64);
    if scan.torn {
        tracing::warn!(file = %file.path.display(), last = %scan.last, "dropping a batch that was never acknowledged");
        file.truncate(end)?;
    }
    let batch = file.read(scan.last_batch.start as u64, scan.last_batch.len())?;
    file.write(&batch, scan.last_batch.start as u64)?;
    file.sync()?;
    let len = file.len()?.max(end);
    Ok(Some(Tail { segment: Arc::clone(segment), end, len }))
}

/// The folder of a site below the one in the configuration.
pub(super) fn folder_of(url: &str, site: &str) -> Result<PathBuf, LogError> {
    let path = url.strip_prefix("file://").filter(|path| path.starts_with('/') && path.len() > 1);
    let path = path.ok_or_else(|| LogError::Refused(format!("the URL {url:?}: expected file:///folder")))?;
    // Somebody meant another folder. To decode it would move buffers that are there under this very name.
    let escaped = |bytes: &[u8]| bytes[0] == b'%' && bytes[1..].iter().all(u8::is_ascii_hexdigit);
    if path.as_bytes().windows(3).any(escaped) {
        let why = format!("the URL {url:?}: %XX is not decoded; write the folder's name as it is, blanks too");
        return Err(LogError::Refused(why));
    }
    Ok(Path::new(path).join(site))
}
