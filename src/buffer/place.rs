//! Which log a URL names: a Redis, or a folder.

use std::sync::Arc;

use super::BufferConfig;
use super::file::FileLog;
use super::log::{Log, LogError};
use super::redis::RedisLog;

/// The log of a site, not claimed yet.
#[derive(Debug)]
pub enum Place {
    Redis(Box<RedisLog>),
    File(FileLog),
}

impl Place {
    /// Reads the URL; connects to nothing.
    ///
    /// # Errors
    /// [`LogError::Refused`] when the URL cannot be read.
    pub fn of(config: &BufferConfig, site: &str) -> Result<Place, LogError> {
        if config.url.starts_with("file:") {
            return FileLog::new(&config.url, site, config.require_durable).map(Place::File);
        }
        let log = RedisLog::new(&config.url, site, config.require_durable)?;
        Ok(Place::Redis(Box::new(log)))
    }

    /// Looks whether it keeps what it acknowledges; claims nothing.
    ///
    /// # Errors
    /// [`LogError::NotDurable`], and whatever else keeps it from being used.
    pub async fn look(&self) -> Result<(), LogError> {
        match self {
            Place::Redis(log) => log.look().await,
            Place::File(log) => log.look().await,
        }
    }

    /// Whether no daemon has it open.
    ///
    /// # Errors
    /// [`LogError::Refused`] when one has.
    pub async fn vacant(&self) -> Result<(), LogError> {
        match self {
            Place::Redis(log) => log.vacant().await,
            Place::File(log) => log.vacant().await,
        }
    }

    /// Removes all that is kept.
    ///
    /// # Errors
    /// When it cannot be reached or removed.
    pub async fn clear(&self) -> Result<(), LogError> {
        match self {
            Place::Redis(log) => log.clear().await,
            Place::File(log) => log.clear().await,
        }
    }

    /// Takes the place of another of the same kind, whose contents go.
    ///
    /// # Errors
    /// When it cannot be reached or renamed.
    pub async fn replace(&self, other: &Place) -> Result<(), LogError> {
        match (self, other) {
            (Place::Redis(log), Place::Redis(other)) => log.replace(other).await,
            (Place::File(log), Place::File(other)) => log.replace(other).await,
            (Place::Redis(_), Place::File(_)) | (Place::File(_), Place::Redis(_)) => {
                Err(LogError::Refused("a Redis and a folder do not take each other's place".into()))
            }
        }
    }

    /// What `look` has made sure of.
    pub fn promise(&self) -> &'static str {
        match self {
            Place::Redis(_) => "Redis appends to its file, syncs before it answers, and evicts nothing",
            Place::File(_) => "its folder is on a disk and can be written",
        }
    }

    /// How to make it keep what it acknowledges.
    pub fn mend(&self) -> &'static str {
        match self {
            Place::Redis(_) => "Set it in redis.conf, or with CONFIG SET and CONFIG REWRITE.",
            Place::File(_) => "Name a folder on a local disk in buffer.url.",
        }
    }

    /// What to look at when it cannot be used.
    pub fn advice(&self) -> &'static str {
        match self {
            Place::Redis(_) => "Start Redis, or mend buffer.url.",
            Place::File(_) => {
                "Look at the folder: whose it is, what it says, how much room is left; or mend buffer.url."
            }
        }
    }

    /// As what stands on it sees it.
    pub fn log(&self) -> &dyn Log {
        match self {
            Place::Redis(log) => &**log,
            Place::File(log) => log,
        }
    }

    /// The same, to be kept.
    pub fn into_log(self) -> Arc<dyn Log> {
        match self {
            Place::Redis(log) => Arc::new(*log),
            Place::File(log) => Arc::new(log),
        }
    }
}
