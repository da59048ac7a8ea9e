//! The configuration: what an operator can choose, where it comes from, and what is wrong with it.
//!
//! Plain values. Only the composition root holds a whole [`Config`]; every part declares and is handed its own section. The
//! environment (`PGOUTPOST__SECTION__KEY`) goes over `.env`, `.env` over the file, the file over the defaults; no other
//! variable counts, least of all libpq's `PGHOST` and its like. Nothing here prints a password.

pub mod duration;
mod load;
mod mask;
mod place;
pub mod size;
mod validate;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use crate::buffer::BufferConfig;
pub use crate::ids::IdsConfig;
pub use crate::replay::ReplayConfig;
pub use crate::tracker::TrackerConfig;
pub use load::{ConfigErrors, Problem, Sources};
pub use mask::mask;
pub use place::Place;
pub use validate::CONSOLE_DATABASE;

/// Everything an operator can choose.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub site: SiteConfig,
    pub listen: ListenConfig,
    pub main: MainConfig,
    pub replica: ReplicaConfig,
    pub buffer: BufferConfig,
    pub replay: ReplayConfig,
    pub tracker: TrackerConfig,
    pub ids: IdsConfig,
    pub http: HttpConfig,
    pub log: LogConfig,
    /// Where each key that is not at its default was set.
    #[serde(skip)]
    pub origins: BTreeMap<String, String>,
}

/// What this daemon is.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct SiteConfig {
    /// The name under which the ledger on main keeps this site's progress.
    pub name: String,
    #[serde(rename = "type")]
    pub kind: SiteKind,
}

/// Whether writes are buffered here or passed to main.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SiteKind {
    /// Beside a replica: writes are buffered, reads are merged.
    #[default]
    Secondary,
    /// Beside main: everything passes straight through.
    Main,
}

impl SiteKind {
    /// As it is written in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            SiteKind::Secondary => "secondary",
            SiteKind::Main => "main",
        }
    }
}

/// Where clients connect.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListenConfig {
    /// `host:port`. The default is the loopback interface, since clients are trusted for now.
    pub address: String,
    /// The longest message that is taken from a client. Bytes.
    #[serde(with = "size")]
    pub message_max: u64,
}

impl Default for ListenConfig {
    fn default() -> ListenConfig {
        ListenConfig { address: "127.0.0.1:6432".to_owned(), message_max: crate::wire::MESSAGE_MAX as u64 }
    }
}

/// The writable Postgres far away.
#[derive(Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct MainConfig {
    pub url: String,
    /// How long a session keeps a connection to main that it does not use.
    #[serde(with = "duration")]
    pub keep: Duration,
}

impl Default for MainConfig {
    fn default() -> MainConfig {
        MainConfig { url: String::new(), keep: Duration::from_secs(60) }
    }
}

/// The local streaming standby.
#[derive(Clone, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReplicaConfig {
    pub url: String,
}

/// Where metrics, health and the status page are served.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// `host:port`; empty: not served.
    pub address: String,
}

impl Default for HttpConfig {
    fn default() -> HttpConfig {
        HttpConfig { address: "127.0.0.1:8432".to_owned() }
    }
}

/// What is logged, and how.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// A level, or `target=level` directives separated by commas.
    pub level: String,
    pub format: LogFormat,
}

impl Default for LogConfig {
    fn default() -> LogConfig {
        LogConfig { level: "info".to_owned(), format: LogFormat::Text }
    }
}

/// The shape of a log line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

impl fmt::Debug for MainConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MainConfig").field("url", &mask(&self.url)).field("keep", &self.keep).finish()
    }
}

impl fmt::Debug for ReplicaConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplicaConfig").field("url", &mask(&self.url)).finish()
    }
}

/// One key as it stands, fit for printing: passwords are masked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    pub key: String,
    pub value: String,
    /// `default`, or where it was set.
    pub origin: String,
}

impl Config {
    /// Every key with its value and its origin, in the order of the documentation.
    pub fn settings(&self) -> Vec<Setting> {
        let sections = serde_json::to_value(self).expect("a config is plain strings, numbers and booleans");
        let mut settings = Vec::new();
        for (section, keys) in sections.as_object().into_iter().flatten() {
            for (name, value) in keys.as_object().into_iter().flatten() {
                let key = format!("{section}.{name}");
                let value = mask(&value.as_str().map_or_else(|| value.to_string(), str::to_owned));
                let origin = self.origins.get(&key).cloned().unwrap_or_else(|| "default".to_owned());
                settings.push(Setting { key, value, origin });
            }
        }
        settings
    }

    /// Sixteen hexadecimal digits which differ when any setting but a password does: "do two daemons run alike?".
    pub fn digest(&self) -> String {
        // FNV-1a: stable across builds and machines, and nobody's secrets depend on it.
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for setting in self.settings() {
            for byte in setting.key.bytes().chain([b'=']).chain(setting.value.bytes()).chain([b'\n']) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        format!("{hash:016x}")
    }
}

#[cfg(test)]
mod tests;
