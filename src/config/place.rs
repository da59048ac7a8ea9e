//! What a Postgres URL points at.

/// A server and a database, without credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// `host:port`, or the path of a Unix socket's folder; several are separated by commas.
    pub address: String,
    pub database: String,
}

impl Place {
    /// Reads a URL which names user, host and database: nothing is guessed from the process's own name or the
    /// environment.
    ///
    /// # Errors
    /// What is wrong with it, passwords masked.
    pub fn of(url: &str) -> Result<Place, String> {
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err("another scheme".to_owned());
        }
        let parsed: tokio_postgres::Config =
            url.parse().map_err(|error: tokio_postgres::Error| super::mask(&error.to_string()))?;
        let (Some(database), Some(_), false) = (parsed.get_dbname(), parsed.get_user(), parsed.get_hosts().is_empty())
        else {
            return Err("user, host and database are needed".to_owned());
        };
        let ports = parsed.get_ports();
        let port = |at: usize| ports.get(at).or(ports.first()).copied().unwrap_or(5432);
        let hosts = parsed.get_hosts().iter().enumerate().map(|(at, host)| match host {
            tokio_postgres::config::Host::Tcp(name) => format!("{name}:{}", port(at)),
            tokio_postgres::config::Host::Unix(path) => format!("{}:{}", path.display(), port(at)),
        });
        Ok(Place { address: hosts.collect::<Vec<_>>().join(","), database: database.to_owned() })
    }
}
