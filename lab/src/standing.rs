//! A lab that is left running for people: `make up`, `make demo`.
//!
//! One process (`lab serve`) holds everything, so that everything ends with it; it takes orders on a Unix socket in its
//! folder, one line each, and answers each with one line of JSON. `lab up` starts it, the other commands talk to it.

pub mod client;
pub mod serve;

use serde::{Deserialize, Serialize};

/// What a standing lab is told: one line of text on its control socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Status,
    Cut,
    Heal,
    BlackHole,
    /// Round-trip time in milliseconds.
    Delay(u64),
    Freeze,
    Thaw,
    Down,
}

impl Order {
    /// Reads what [`std::fmt::Display`] wrote.
    pub fn parse(line: &str) -> Option<Order> {
        match line.trim().split_once(' ').unwrap_or((line.trim(), "")) {
            ("status", "") => Some(Order::Status),
            ("cut", "") => Some(Order::Cut),
            ("heal", "") => Some(Order::Heal),
            ("black-hole", "") => Some(Order::BlackHole),
            ("delay", ms) => ms.parse().ok().map(Order::Delay),
            ("freeze", "") => Some(Order::Freeze),
            ("thaw", "") => Some(Order::Thaw),
            ("down", "") => Some(Order::Down),
            _ => None,
        }
    }
}

impl std::fmt::Display for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Order::Status => f.write_str("status"),
            Order::Cut => f.write_str("cut"),
            Order::Heal => f.write_str("heal"),
            Order::BlackHole => f.write_str("black-hole"),
            Order::Delay(ms) => write!(f, "delay {ms}"),
            Order::Freeze => f.write_str("freeze"),
            Order::Thaw => f.write_str("thaw"),
            Order::Down => f.write_str("down"),
        }
    }
}

/// The answer to an order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Answer {
    Done(Box<Status>),
    Failed(String),
}

/// Where everything is and how it goes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    pub pid: u32,
    pub folder: String,
    pub database: String,
    pub role: String,
    /// Where clients connect: the daemon, or main in a lab without one.
    pub port: u16,
    pub url: String,
    pub console_url: Option<String>,
    pub http_url: Option<String>,
    pub daemon_pid: Option<u32>,
    pub daemon_log: Option<String>,
    pub main_url: String,
    pub main_link_url: String,
    pub replica_url: String,
    pub redis_url: String,
    pub link: String,
    pub round_trip_ms: u64,
    pub link_connections: u64,
    pub replay: String,
    /// WAL that main has and the replica has not replayed; absent when one of them cannot be asked.
    pub replica_lag_bytes: Option<i64>,
}

impl Status {
    /// One line for each thing that may have changed.
    pub fn summary(&self) -> String {
        let lag = self.replica_lag_bytes.map_or("unknown".to_owned(), |bytes| format!("{bytes} bytes"));
        format!(
            "link    {}, {} ms round trip, {} connections\nreplica {}, lag {lag}\ndaemon  {}\n",
            self.link,
            self.round_trip_ms,
            self.link_connections,
            if self.replay == "not paused" { "replaying" } else { &self.replay },
            self.daemon_pid.map_or("none".to_owned(), |pid| format!("pid {pid}, port {}", self.port)),
        )
    }

    /// What a person types next.
    pub fn how_to_connect(&self) -> String {
        let site = format!("psql -h 127.0.0.1 -p {}", self.port);
        let mut ways = vec![(site.clone(), format!("the site, as {} in database {}", self.role, self.database))];
        if let Some(http) = &self.http_url {
            ways.push((format!("{site} -d pgoutpost"), "the console: SHOW HELP".to_owned()));
            ways.push((format!("curl {http}/metrics"), "metrics; /health and /buffer-stats too".to_owned()));
        }
        ways.push((format!("psql {}", self.main_url), "main itself, past the link".to_owned()));
        ways.push((format!("psql {}", self.replica_url), "the replica itself".to_owned()));
        ways.push(("make cut | heal | delay MS=150".to_owned(), "the link; also: make status, black-hole".to_owned()));
        ways.push(("make freeze | thaw".to_owned(), "the replica's replay".to_owned()));
        ways.push(("make down".to_owned(), "the end".to_owned()));
        let width = ways.iter().map(|(command, _)| command.len()).max().unwrap_or(0);
        let mut lines: Vec<_> = ways.iter().map(|(command, what)| format!("{command:width$}   {what}")).collect();
        if let Some(log) = &self.daemon_log {
            lines.push(format!("The daemon logs to {log}"));
        }
        lines.iter().map(|line| format!("  {line}\n")).collect()
    }
}
