//! A client that keeps what a server says as it said it: row descriptions, tags, every error field, in three ways to
//! send a statement. It shares no code with the product, so that a mistake there cannot hide here.

use std::collections::{HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::answer::{Answer, Column, End, Fields, Outcome};
use super::parameters::Lifted;

/// How a statement is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// Query.
    Simple,
    /// Parse, Bind, Describe, Execute, Sync; for each statement of a pipeline ([`PIPELINED`]), with one Sync.
    Extended,
    /// The same with named statements that are used again, constants as parameters, and (every other) results in binary. The Sync
    /// of a COPY FROM comes when it is over only: a server that fails before it has read data takes one from before, too.
    Prepared,
}

/// Between statements that go out together before anything is answered; in the simple protocol they are one text.
pub const PIPELINED: &str = "; /* pipelined */ ";

/// One session.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
    under_way: Option<UnderWay>,
    /// Texts of the named statements that the server has.
    prepared: HashSet<String>,
    /// The server process, for looking it up in `pg_locks`.
    pub pid: i32,
}

#[derive(Debug)]
struct UnderWay {
    protocol: Protocol,
    copy: Vec<u8>,
    owes_sync: bool,
    answer: Answer,
    outcome: Outcome,
    /// Statements whose Parse has not been answered.
    parsing: VecDeque<String>,
}

impl Connection {
    /// A session of `user`, on 127.0.0.1.
    pub async fn open(port: u16, user: &str, database: &str) -> Result<Connection, String> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let mut connection =
            Connection { stream, input: Vec::new(), under_way: None, prepared: HashSet::new(), pid: 0 };
        let mut body = 196_608u32.to_be_bytes().to_vec();
        for text in ["user", user, "database", database, "application_name", "differential"] {
            body.extend(text.as_bytes());
            body.push(0);
        }
        body.push(0);
        let mut startup = ((body.len() + 4) as u32).to_be_bytes().to_vec();
        startup.extend(body);
        connection.write(&startup).await?;
        connection.under_way = Some(UnderWay::new(Protocol::Simple, Vec::new()));
        let limit = Instant::now() + Duration::from_secs(30);
        let answer = connection.answer_by(limit).await?.ok_or("no answer to the startup message")?;
        match answer.error() {
            Some(error) => Err(format!("{error:?}")),
            None => Ok(connection),
        }
    }

    /// Sends a statement without waiting for its answer. `copy` is what COPY FROM STDIN gets when it asks.
    pub async fn send(&mut self, protocol: Protocol, sql: &str, copy: &[u8]) -> Result<(), String> {
        let mut now = UnderWay::new(protocol, copy.to_vec());
        let bytes = match protocol {
            Protocol::Simple => message(b'Q', &zero_terminated(sql)),
            Protocol::Extended | Protocol::Prepared => {
                let mut bytes = Vec::new();
                for statement in sql.split(PIPELINED) {
                    bytes.extend(match protocol {
                        Protocol::Prepared => self.prepared(statement, &mut now.parsing),
                        _ => Lifted::nothing(statement).messages("", true),
                    });
                }
                now.owes_sync = protocol == Protocol::Prepared && sql.starts_with("COPY") && sql.contains("FROM STDIN");
                bytes.extend(message(if now.owes_sync { b'H' } else { b'S' }, b""));
                bytes
            }
        };
        self.under_way = Some(now);
        self.write(&bytes).await
    }

    /// The answer of what was sent, when it is complete by then.
    pub async fn answer_by(&mut self, limit: Instant) -> Result<Option<Answer>, String> {
        loop {
            while let Some((kind, body)) = self.next_message() {
                if self.take(kind, &body).await? {
                    return Ok(self.under_way.take().map(|done| done.answer));
                }
            }
            let mut chunk = [0; 16384];
            match timeout_at(limit, self.stream.read(&mut chunk)).await {
                Err(_) => return Ok(None),
                Ok(Ok(0)) => return Err("the connection was closed".to_owned()),
                Ok(Ok(count)) => self.input.extend(&chunk[..count]),
                Ok(Err(error)) => return Err(error.to_string()),
            }
        }
    }

    /// A named statement, which is parsed when the server has none of that text.
    fn prepared(&self, sql: &str, parsing: &mut VecDeque<String>) -> Vec<u8> {
        let lifted = Lifted::of(sql);
        let known = self.prepared.contains(&lifted.sql) || parsing.contains(&lifted.sql);
        if !known {
            parsing.push_back(lifted.sql.clone());
        }
        let mut hasher = DefaultHasher::new();
        lifted.sql.hash(&mut hasher);
        lifted.messages(&format!("s{:x}", hasher.finish()), !known)
    }

    fn next_message(&mut self) -> Option<(u8, Vec<u8>)> {
        let length = u32::from_be_bytes(self.input.get(1..5)?.try_into().ok()?) as usize;
        let whole = self.input.get(..length + 1)?;
        let (kind, body) = (whole[0], whole[5..].to_vec());
        self.input.drain(..length + 1);
        Some((kind, body))
    }

    /// Takes in a message; true when the answer is complete.
    async fn take(&mut self, kind: u8, body: &[u8]) -> Result<bool, String> {
        let Some(now) = &mut self.under_way else { return Ok(false) };
        match kind {
            b'Z' => {
                now.answer.status = char::from(body[0]);
                return Ok(true);
            }
            b'T' => now.outcome.columns = columns(body),
            b'D' => now.outcome.rows.push(row(body)),
            b'C' => now.end(End::Tag(text(&body[..body.len() - 1]))),
            b'I' => now.end(End::Empty),
            b's' => now.end(End::Suspended),
            b'E' => {
                now.end(End::Error(fields(body)));
                if std::mem::take(&mut now.owes_sync) {
                    self.write(&message(b'S', b"")).await?;
                }
            }
            b'N' => now.answer.notices.push(fields(body)),
            b'S' => now.answer.settings.extend(setting(body)),
            b'd' => now.outcome.rows.push(vec![Some(text(body))]),
            b'H' => now.outcome.copy = body.to_vec(),
            b'G' => {
                now.outcome.copy = body.to_vec();
                let mut bytes = Vec::new();
                // In pieces that cut lines, as a driver's buffer would.
                for piece in now.copy.chunks(1000) {
                    bytes.extend(message(b'd', piece));
                }
                bytes.extend(message(b'c', b""));
                now.owes_sync = false;
                if now.protocol != Protocol::Simple {
                    // The first Sync was swallowed by the copy.
                    bytes.extend(message(b'S', b""));
                }
                self.write(&bytes).await?;
            }
            b'K' => self.pid = i32::from_be_bytes(body[..4].try_into().unwrap()),
            b'1' => self.prepared.extend(now.parsing.pop_front()),
            b'R' | b'2' | b'3' | b'n' | b't' | b'c' => {}
            b'A' => now.answer.notices.push(Fields::from([('A', text(&body[4..]))])),
            other => return Err(format!("message {:?} was not expected", char::from(other))),
        }
        Ok(false)
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.stream.write_all(bytes).await.map_err(|error| error.to_string())
    }
}

impl UnderWay {
    fn new(protocol: Protocol, copy: Vec<u8>) -> UnderWay {
        let (answer, outcome) = (Answer::default(), Outcome::default());
        UnderWay { protocol, copy, owes_sync: false, answer, outcome, parsing: VecDeque::new() }
    }

    fn end(&mut self, end: End) {
        let mut outcome = std::mem::take(&mut self.outcome);
        outcome.end = end;
        self.answer.outcomes.push(outcome);
    }
}

pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![kind];
    out.extend(((body.len() + 4) as u32).to_be_bytes());
    out.extend(body);
    out
}

pub fn zero_terminated(sql: &str) -> Vec<u8> {
    [sql.as_bytes(), b"\0"].concat()
}

fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.escape_ascii().to_string(),
    }
}

fn columns(body: &[u8]) -> Option<Vec<Column>> {
    let mut rest = &body[2..];
    let mut columns = Vec::new();
    while let Some(end) = rest.iter().position(|byte| *byte == 0) {
        let (name, tail) = (text(&rest[..end]), &rest[end + 1..]);
        let oid = u32::from_be_bytes(tail[6..10].try_into().unwrap());
        let modifier = i32::from_be_bytes(tail[12..16].try_into().unwrap());
        columns.push(Column { name, kind: oid.to_string(), modifier });
        rest = &tail[18..];
    }
    Some(columns)
}

fn row(body: &[u8]) -> Vec<Option<String>> {
    let mut rest = &body[2..];
    let mut row = Vec::new();
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let length = i32::from_be_bytes(*length);
        let (value, tail) = tail.split_at(usize::try_from(length).unwrap_or(0));
        row.push((length >= 0).then(|| text(value)));
        rest = tail;
    }
    row
}

fn fields(body: &[u8]) -> Fields {
    let parts = body.split(|byte| *byte == 0).filter(|part| !part.is_empty());
    parts.map(|part| (char::from(part[0]), text(&part[1..]))).collect()
}

fn setting(body: &[u8]) -> Option<(String, String)> {
    let mut parts = body.split(|byte| *byte == 0).map(text);
    Some((parts.next()?, parts.next()?))
}
