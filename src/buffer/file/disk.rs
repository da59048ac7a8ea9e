//! The system calls of the file log, and what their failures mean.
//!
//! A failed fsync is never tried again: what it was about may be lost although the page cache still shows it.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

#[cfg(any(test, debug_assertions))]
use super::power;
use crate::buffer::log::LogError;

/// Why the disk did not do what it was asked.
#[derive(Debug)]
pub(super) enum DiskError {
    /// Not done: no room, no right.
    No(String),
    /// Nobody knows what is on the disk now.
    Unknown(String),
}

impl From<DiskError> for LogError {
    fn from(error: DiskError) -> LogError {
        match error {
            DiskError::No(why) => LogError::Refused(why),
            DiskError::Unknown(why) => LogError::Doubtful(why),
        }
    }
}

pub(super) type Outcome<T> = Result<T, DiskError>;

/// What was to be done, and to what.
pub(super) fn failed(what: &str, path: &Path, error: &io::Error) -> DiskError {
    let why = format!("{what} {}: {error}", path.display());
    match error.kind() {
        ErrorKind::StorageFull
        | ErrorKind::QuotaExceeded
        | ErrorKind::FileTooLarge
        | ErrorKind::PermissionDenied
        | ErrorKind::ReadOnlyFilesystem
        | ErrorKind::AlreadyExists
        | ErrorKind::NotADirectory
        | ErrorKind::IsADirectory => DiskError::No(why),
        _ => DiskError::Unknown(why),
    }
}

/// A file and its path.
#[derive(Debug)]
pub(super) struct DiskFile {
    file: File,
    pub(super) path: PathBuf,
}

impl DiskFile {
    /// Only its owner may read what clients wrote.
    pub(super) fn create(path: &Path) -> Outcome<DiskFile> {
        renames(path)?;
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(path);
        Ok(DiskFile { file: file.map_err(|error| failed("making", path, &error))?, path: path.to_owned() })
    }

    pub(super) fn open(path: &Path, write: bool) -> Outcome<DiskFile> {
        let file = OpenOptions::new().read(true).write(write).open(path);
        Ok(DiskFile { file: file.map_err(|error| failed("opening", path, &error))?, path: path.to_owned() })
    }

    pub(super) fn len(&self) -> Outcome<u64> {
        Ok(self.file.metadata().map_err(|error| failed("looking at", &self.path, &error))?.len())
    }

    pub(super) fn write(&self, bytes: &[u8], at: u64) -> Outcome<()> {
        #[cfg(any(test, debug_assertions))]
        {
            power::call(&self.path)?;
            power::changes(&self.file, &self.path, at, at + bytes.len() as u64);
            if let Some(error) = super::faults::on_write(&self.file, bytes, at) {
                return Err(failed("writing", &self.path, &error));
            }
        }
        self.file.write_all_at(bytes, at).map_err(|error| failed("writing", &self.path, &error))
    }

    /// Up to so many bytes; fewer at the end of the file.
    pub(super) fn read(&self, at: u64, len: usize) -> Outcome<Vec<u8>> {
        let mut bytes = vec![0; len];
        let mut done = 0;
        while done < len {
            match self.file.read_at(&mut bytes[done..], at + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(failed("reading", &self.path, &error)),
            }
        }
        bytes.truncate(done);
        Ok(bytes)
    }

    /// Makes contents and length durable. After a failure the file is not to be trusted.
    pub(super) fn sync(&self) -> Outcome<()> {
        #[cfg(any(test, debug_assertions))]
        {
            power::call(&self.path)?;
            if let Some(error) = super::faults::on_sync() {
                return Err(DiskError::Unknown(format!("fsync of {}: {error}", self.path.display())));
            }
            power::syncs(&self.path);
            if !super::faults::syncs_for_real() {
                return Ok(());
            }
        }
        // Whatever the reason is: part of it may be on the disk.
        self.file.sync_data().map_err(|error| DiskError::Unknown(format!("fsync of {}: {error}", self.path.display())))
    }

    pub(super) fn truncate(&self, len: u64) -> Outcome<()> {
        #[cfg(any(test, debug_assertions))]
        {
            power::call(&self.path)?;
            power::changes(&self.file, &self.path, len, self.len()?);
        }
        self.file.set_len(len).map_err(|error| failed("shortening", &self.path, &error))
    }
}

/// A file is about to be made, replaced or removed.
fn renames(_path: &Path) -> Outcome<()> {
    #[cfg(any(test, debug_assertions))]
    {
        power::call(_path)?;
        power::renames(_path);
    }
    Ok(())
}

/// Makes names in a folder durable.
pub(super) fn sync_folder(path: &Path) -> Outcome<()> {
    #[cfg(any(test, debug_assertions))]
    {
        power::call(path)?;
        power::syncs(path);
        if !super::faults::syncs_for_real() {
            return Ok(());
        }
    }
    let synced = File::open(path).and_then(|folder| folder.sync_all());
    synced.map_err(|error| DiskError::Unknown(format!("fsync of {}: {error}", path.display())))
}

/// Makes a folder, and those above it, which only its owner may look into.
pub(super) fn make_folder(path: &Path) -> Outcome<()> {
    use std::os::unix::fs::DirBuilderExt;
    if path.is_dir() {
        return Ok(());
    }
    if let Some(above) = path.parent().filter(|above| !above.as_os_str().is_empty()) {
        make_folder(above)?;
        let made = std::fs::DirBuilder::new().mode(0o700).create(path);
        made.map_err(|error| failed("making", path, &error))?;
        sync_folder(above)?;
    }
    Ok(())
}

/// Replaces a small file as a whole: after a crash it is the old one or the new one. Its first word is a checksum.
pub(super) fn replace(path: &Path, text: &str) -> Outcome<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let new = path.with_extension("new");
    let write = || {
        #[cfg(any(test, debug_assertions))]
        if let Some(error) = super::faults::on_replace() {
            return Err(error);
        }
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        write!(file, "{:08x} {text}", crc32fast::hash(text.as_bytes()))?;
        Ok(file)
    };
    let file = write().map_err(|error| failed("writing", &new, &error))?;
    let file = DiskFile { file, path: new };
    file.sync()?;
    renames(path)?;
    std::fs::rename(&file.path, path).map_err(|error| failed("renaming", &file.path, &error))?;
    sync_folder(folder)
}

/// Space for [`replace`] on a full disk. For `meta`, without which nothing could be dropped there either.
pub(super) const RESERVE: &str = "reserve";
/// For what stands beside the entries: without it the first entry that main rejects would hold up all others.
pub(super) const RESERVE_ASIDE: &str = "reserve.aside";
const RESERVE_BYTES: u64 = 64 << 10;
/// What a file takes beyond its text, about: its place in a folder, and what is not used of its last block.
const FILE_BYTES: u64 = 8 << 10;

/// Makes sure that there is a reserve, whole again if some of it was given up, as far as there is room for it.
pub(super) fn keep_reserve(folder: &Path, name: &str) {
    let path = folder.join(name);
    let there = std::fs::metadata(&path).map_or(0, |found| found.len());
    if there >= RESERVE_BYTES {
        return;
    }
    let fill = |mut file: File| {
        let filled = file.write_all(&vec![1; (RESERVE_BYTES - there) as usize]);
        filled.inspect_err(|_| drop(file.set_len(there)))
    };
    if let Err(error) = OpenOptions::new().append(true).create(true).open(&path).and_then(fill) {
        tracing::debug!(%error, name, "no room for a reserve in the buffer's folder");
    }
}

/// As [`replace`], on the reserve when the disk is full. Only as much of that is given up as is needed: others fill a disk, too.
pub(super) fn replace_urgently(path: &Path, text: &str, reserve: &Path) -> Outcome<()> {
    let why = match replace(path, text) {
        Err(DiskError::No(why)) => why,
        outcome => return outcome,
    };
    let Ok(file) = OpenOptions::new().write(true).open(reserve) else { return Err(DiskError::No(why)) };
    let there = file.metadata().map_or(0, |found| found.len());
    let given_up = file.set_len(there.saturating_sub(text.len() as u64 + FILE_BYTES));
    if there == 0 || given_up.is_err() { Err(DiskError::No(why)) } else { replace(path, text) }
}

/// Whether files can be made here.
pub(super) fn writable(folder: &Path) -> Outcome<()> {
    let probe = folder.join("probe");
    replace(&probe, "")?;
    remove(&probe)
}

/// What [`replace`] wrote; `None` when there is no such file.
pub(super) fn recall(path: &Path) -> Result<Option<String>, LogError> {
    let whole = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("reading", path, &error).into()),
    };
    let text = String::from_utf8(whole).ok();
    let kept = text
        .as_deref()
        .and_then(|text| text.split_once(' '))
        .filter(|(sum, text)| sum.len() == 8 && u32::from_str_radix(sum, 16) == Ok(crc32fast::hash(text.as_bytes())));
    match kept {
        Some((_, text)) => Ok(Some(text.to_owned())),
        None => Err(LogError::Corrupt(format!("the checksum of {} is wrong", path.display()))),
    }
}

/// How many bytes a file has; `None` when there is no such file.
pub(super) fn size(path: &Path) -> Outcome<Option<u64>> {
    match std::fs::metadata(path) {
        Ok(found) => Ok(Some(found.len())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("looking at", path, &error)),
    }
}

/// Removes a file; one that is not there is as good.
pub(super) fn remove(path: &Path) -> Outcome<()> {
    renames(path)?;
    match std::fs::remove_file(path) {
        Ok(()) => sync_folder(path.parent().unwrap_or(Path::new("."))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("removing", path, &error)),
    }
}

/// Removes a folder with everything in it; one that is not there is as good.
pub(super) fn remove_folder(path: &Path) -> Outcome<()> {
    match std::fs::remove_dir_all(path) {
        Ok(()) => sync_folder(path.parent().unwrap_or(Path::new("."))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("removing", path, &error)),
    }
}

/// Renames a folder, durably.
pub(super) fn rename_folder(from: &Path, to: &Path) -> Outcome<()> {
    std::fs::rename(from, to).map_err(|error| failed("renaming", from, &error))?;
    sync_folder(to.parent().unwrap_or(Path::new(".")))
}

/// The names in a folder; none when it is not there.
pub(super) fn names(path: &Path) -> Outcome<Vec<String>> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("reading", path, &error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| failed("reading", path, &error))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Why this folder would forget everything with the power, if so.
pub(super) fn forgetful(path: &Path) -> Outcome<Option<&'static str>> {
    const TMPFS: i64 = 0x0102_1994;
    const RAMFS: i64 = 0x8584_58f6;
    let found = rustix::fs::statfs(path).map_err(|error| failed("looking at", path, &error.into()))?;
    #[allow(clippy::unnecessary_cast)] // The type differs between machines.
    Ok(match found.f_type as i64 {
        TMPFS => Some("it is in memory (tmpfs)"),
        RAMFS => Some("it is in memory (ramfs)"),
        _ => None,
    })
}

/// A lock that the system takes back when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// `None`: another process has it.
    pub(super) fn take(path: &Path) -> Outcome<Option<Lock>> {
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = opened.map_err(|error| failed("opening", path, &error))?;
        match file.try_lock() {
            Ok(()) => {
                // For people only: a full disk is no reason not to start.
                drop(file.set_len(0).and_then(|()| write!(&file, "{}", std::process::id())));
                Ok(Some(Lock { file, path: path.to_owned() }))
            }
            Err(std::fs::TryLockError::WouldBlock) => Ok(None),
            Err(std::fs::TryLockError::Error(error)) => Err(failed("locking", path, &error)),
        }
    }

    /// Who has it, as far as is known.
    pub(super) fn holder(path: &Path) -> String {
        std::fs::read_to_string(path).map_or_else(|_| "unknown".to_owned(), |pid| format!("process {}", pid.trim()))
    }

    /// Whether the locked file is still the one in the folder.
    pub(super) fn holds(&self) -> bool {
        let place = |found: std::fs::Metadata| (found.dev(), found.ino());
        match (self.file.metadata(), std::fs::metadata(&self.path)) {
            (Ok(ours), Ok(there)) => place(ours) == place(there),
            (Ok(_), Err(_)) | (Err(_), _) => false,
        }
    }
}
