//! The temporary folder of a lab, and the removal of what crashed labs left behind.
//!
//! Folders live in the system's temporary folder and not in the repository: the servers' user must be able to walk to
//! them (a checkout below /root is closed to it), and a Unix socket's path may have no more than 107 bytes.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::process::RunAs;

const PREFIX: &str = "pgoutpost-lab-";
const OWNER_FILE: &str = "owner";

/// A lab's folder; removed when dropped.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Makes a new folder that belongs to the servers' user, after removing those whose owner process is gone.
    pub fn create(run_as: &RunAs) -> Result<Folder> {
        reap(&std::env::temp_dir());
        let made = tempfile::Builder::new().prefix(PREFIX).tempdir().context("making a temporary folder")?;
        let path = made.keep();
        let folder = Folder { path };
        std::fs::set_permissions(&folder.path, PermissionsExt::from_mode(0o755))?;
        std::fs::write(folder.path.join(OWNER_FILE), owner_mark(std::process::id()).unwrap_or_default())?;
        run_as.own(&folder.path)?;
        Ok(folder)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "could not remove the lab's folder");
        }
    }
}

/// Pid and start time: a pid alone may have been given to another process since.
fn owner_mark(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Field 22 is the start time; fields are counted after the command name, which ends with the last parenthesis.
    let start = stat.rsplit_once(") ")?.1.split(' ').nth(19)?.to_owned();
    Some(format!("{pid} {start}"))
}

/// Removes the folders below `parent` whose lab is gone. Best effort: what cannot be removed stays.
fn reap(parent: &Path) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX)) {
        // A folder without an owner file is being made just now, or is not ours.
        let Ok(owner) = std::fs::read_to_string(entry.path().join(OWNER_FILE)) else { continue };
        let pid = owner.split(' ').next().and_then(|pid| pid.parse().ok());
        let alive = pid.is_some_and(|pid| owner_mark(pid).as_deref() == Some(owner.as_str()));
        if !owner.is_empty() && !alive {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
