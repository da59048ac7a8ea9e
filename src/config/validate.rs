//! What each value must be, beyond its type.

use std::time::Duration;

use super::{Config, Place, Problem, SiteKind, duration, mask, size};

/// The virtual database of the console; a real one of that name could not be reached.
pub const CONSOLE_DATABASE: &str = "pgoutpost";

impl Config {
    /// Every rule that is broken.
    pub(super) fn validate(&self) -> Vec<Problem> {
        let mut found = Findings(Vec::new());
        found.site_name(&self.site.name);
        found.address("listen.address", &self.listen.address);
        if !(1 << 20..=1 << 30).contains(&self.listen.message_max) {
            let value = size::format(self.listen.message_max);
            found.add("listen.message_max", Some(value), "expected 1MiB to 1GiB");
        }
        if !self.http.address.is_empty() {
            found.address("http.address", &self.http.address);
        }
        let main = found.postgres("main.url", &self.main.url);
        if self.site.kind == SiteKind::Secondary {
            let replica = found.postgres("replica.url", &self.replica.url);
            found.buffer("buffer.url", &self.buffer.url);
            if let (Some(main), Some(replica)) = (main, replica)
                && main != replica
            {
                let reason = format!("expected the database of main.url, {main:?}, but this names {replica:?}");
                found.add("replica.url", Some(mask(&self.replica.url)), reason);
            }
        }
        found.positive("buffer.max_transactions", self.buffer.max_transactions);
        found.positive("buffer.max_bytes", self.buffer.max_bytes);
        found.positive("ids.lease_size", u64::from(self.ids.lease_size));
        found.positive("replay.group", u64::from(self.replay.group));
        found.positive("replay.window", u64::from(self.replay.window));
        found.lasting("replay.retry_delay", self.replay.retry_delay);
        found.lasting("replay.retry_delay_max", self.replay.retry_delay_max);
        found.lasting("tracker.poll_interval", self.tracker.poll_interval);
        found.lasting("tracker.timeout", self.tracker.timeout);
        if self.replay.retry_delay_max < self.replay.retry_delay {
            let least = duration::format(self.replay.retry_delay);
            let value = duration::format(self.replay.retry_delay_max);
            found.add("replay.retry_delay_max", Some(value), format!("expected at least replay.retry_delay ({least})"));
        }
        for table in self.replay.conflicts.keys().filter(|table| !table.contains('.')) {
            found.add("replay.conflicts", Some(format!("{table:?}")), r#"expected "schema.table" = a policy"#);
        }
        found.log_level(&self.log.level);
        found.0
    }
}

struct Findings(Vec<Problem>);

impl Findings {
    fn add(&mut self, key: &str, value: Option<String>, reason: impl Into<String>) {
        self.0.push(Problem { key: key.to_owned(), value, reason: reason.into(), origin: None });
    }

    fn site_name(&mut self, name: &str) {
        let good = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if !(1..=63).contains(&name.len()) || !name.chars().all(good) {
            let value = (!name.is_empty()).then(|| format!("{name:?}"));
            self.add("site.name", value, "expected 1 to 63 characters of A-Z, a-z, 0-9, _ and -");
        }
    }

    fn address(&mut self, key: &str, address: &str) {
        let well_formed = address.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && port.parse::<u16>().is_ok() && !host.contains(char::is_whitespace)
        });
        if !well_formed {
            self.add(key, Some(format!("{address:?}")), r#"expected host:port, such as "127.0.0.1:6432""#);
        }
    }

    fn positive(&mut self, key: &str, value: u64) {
        if value == 0 {
            self.add(key, Some("0".to_owned()), "expected more than zero");
        }
    }

    fn lasting(&mut self, key: &str, value: Duration) {
        if value.is_zero() {
            self.add(key, Some("0s".to_owned()), "expected more than zero");
        }
    }

    /// The database which the URL names.
    fn postgres(&mut self, key: &str, url: &str) -> Option<String> {
        const EXPECTED: &str = "expected postgres://user[:password]@host[:port]/database";
        let value = Some(format!("{:?}", mask(url)));
        if url.is_empty() {
            self.add(key, None, format!("is missing; {EXPECTED}"));
            return None;
        }
        let place = match Place::of(url) {
            Ok(place) => place,
            Err(reason) => {
                self.add(key, value, format!("{EXPECTED}; {reason}"));
                return None;
            }
        };
        if place.database == CONSOLE_DATABASE {
            self.add(key, value, "the database name \"pgoutpost\" is the console's; choose another");
            return None;
        }
        Some(place.database)
    }

    fn buffer(&mut self, key: &str, url: &str) {
        const EXPECTED: &str = "expected file:///folder, or redis://[user:password@]host[:port][/number]";
        if url.is_empty() {
            self.add(key, None, format!("is missing; {EXPECTED}"));
            return;
        }
        let redis = ["redis://", "rediss://", "redis+unix://", "unix://"].iter().find_map(|it| url.strip_prefix(it));
        // A path from the root: what a relative one means would depend on where the daemon was started.
        let folder = url.strip_prefix("file://").filter(|path| path.starts_with('/') && path.len() > 1);
        if redis.or(folder).is_none_or(str::is_empty) {
            self.add(key, Some(format!("{:?}", mask(url))), EXPECTED);
        }
    }

    fn log_level(&mut self, level: &str) {
        const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
        let known = |directive: &str| {
            let level = directive.rsplit_once('=').map_or(directive, |(_, level)| level);
            LEVELS.iter().any(|name| name.eq_ignore_ascii_case(level.trim()))
        };
        if !level.split(',').all(known) {
            let reason = format!("expected one of: {}; or target=level, separated by commas", LEVELS.join(", "));
            self.add("log.level", Some(format!("{level:?}")), reason);
        }
    }
}
