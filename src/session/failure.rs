//! Why a statement or a session does not go on.

use std::io;

use bytes::BytesMut;

use crate::report::Report;
use crate::wire::Malformed;

/// Why a statement failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server's ErrorResponse, header included, about the client's own text.
    Server(BytesMut),
    /// The server's ErrorResponse about text of ours: its position means nothing to the client.
    Inner(BytesMut),
    Own(Box<Report>),
    /// The client has been told already.
    Told,
    End(End),
}

/// Why a session ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error("the client left")]
    Client,
    #[error("the connection to the client failed: {0}")]
    ClientIo(io::Error),
    #[error("the client does not speak the protocol: {0}")]
    Protocol(#[from] Malformed),
    #[error("the connection to the replica ended: {0}")]
    Replica(String),
    /// The replica's FATAL has been passed on.
    #[error("the replica ended the connection")]
    ReplicaSaid,
    #[error("the daemon is stopping")]
    Stopping,
    #[error("{}", .0.message)]
    Fatal(Box<Report>),
}

impl Failure {
    /// Adds why the statement had to leave the site at all.
    pub(super) fn because(self, why: Option<Report>) -> Failure {
        match (self, why) {
            (Failure::Own(mut report), Some(why)) => {
                report.detail = Some(match report.detail.take() {
                    Some(detail) => format!("{}. {detail}", why.message),
                    None => format!("{}.", why.message),
                });
                Failure::Own(report)
            }
            (failure, _) => failure,
        }
    }
}

impl From<End> for Failure {
    fn from(end: End) -> Failure {
        Failure::End(end)
    }
}

impl From<Malformed> for Failure {
    fn from(malformed: Malformed) -> Failure {
        Failure::Own(Box::new(malformed_report(malformed)))
    }
}

impl From<Report> for Failure {
    fn from(report: Report) -> Failure {
        Failure::Own(Box::new(report))
    }
}

/// A message of the right length with a wrong body: the connection can go on.
pub(super) fn malformed_report(malformed: Malformed) -> Report {
    Report::new(crate::sqlstate::PROTOCOL_VIOLATION, malformed.to_string())
}
