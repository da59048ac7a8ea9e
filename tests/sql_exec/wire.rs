//! A minimal blocking client: extended protocol, any parameter formats, results in text, errors field by field.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

pub type Row = Vec<Option<Vec<u8>>>;
pub type Failure = HashMap<char, String>;

pub struct Wire {
    stream: TcpStream,
    process: u32,
    notifier: u32,
}

/// A message of the protocol; where it says no name, about the unnamed statement and portal.
#[derive(Clone, Copy)]
pub enum Message<'a> {
    Parse(&'a str),
    ParseAs(&'a str, &'a str),
    Bind,
    /// A portal, of a statement.
    Open(&'a str, &'a str),
    /// With a limit of rows; 0: none.
    Execute(i32),
    /// Of a portal.
    Fetch(&'a str, i32),
    /// A statement.
    Describe(&'a str),
    /// A statement.
    Close(&'a str),
    /// Of a COPY, and its end.
    CopyData(&'a str),
    CopyDone,
    Flush,
    Sync,
    Query(&'a str),
    FunctionCall,
}

pub struct Parameter {
    pub oid: u32,
    pub binary: bool,
    pub value: Option<Vec<u8>>,
}

impl Wire {
    pub fn connect(port: u16, database: &str) -> Wire {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut wire = Wire { stream, process: 0, notifier: 0 };
        let mut body = 196_608u32.to_be_bytes().to_vec();
        for text in ["user", "postgres", "database", database, "TimeZone", "UTC", "DateStyle", "ISO"] {
            body.extend(text.as_bytes());
            body.push(0);
        }
        body.push(0);
        let mut message = ((body.len() + 4) as u32).to_be_bytes().to_vec();
        message.extend(body);
        wire.stream.write_all(&message).unwrap();
        let (said, failure) = wire.until_ready();
        assert_eq!(failure, None);
        let key = said.iter().find(|(kind, _)| *kind == 'K').unwrap();
        wire.process = u32::from_be_bytes(key.1[..4].try_into().unwrap());
        wire
    }

    /// The process of BackendKeyData.
    pub fn process(&self) -> u32 {
        self.process
    }

    /// The process that the last notification names.
    pub fn notifier(&self) -> u32 {
        self.notifier
    }

    fn read(&mut self) -> (char, Vec<u8>) {
        let mut head = [0; 5];
        self.stream.read_exact(&mut head).unwrap();
        let length = u32::from_be_bytes(head[1..].try_into().unwrap()) as usize - 4;
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).unwrap();
        if head[0] == b'A' {
            self.notifier = u32::from_be_bytes(body[..4].try_into().unwrap());
        }
        (head[0] as char, body)
    }

    /// Messages up to ReadyForQuery, and the first error among them.
    fn until_ready(&mut self) -> (Vec<(char, Vec<u8>)>, Option<Failure>) {
        let (mut messages, mut failure) = (Vec::new(), None);
        loop {
            let (kind, body) = self.read();
            match kind {
                'Z' => return (messages, failure),
                'E' => failure = failure.or_else(|| Some(fields(&body))),
                _ => messages.push((kind, body)),
            }
        }
    }

    /// The types of a statement's parameters, and how many columns it returns.
    pub fn describe(&mut self, sql: &str, types: &[u32]) -> Result<(Vec<u32>, usize), Failure> {
        let mut out = parse(sql, types);
        out.extend(message(b'D', b"S\0"));
        out.extend(message(b'S', b""));
        self.stream.write_all(&out).unwrap();
        let (messages, failure) = self.until_ready();
        if let Some(failure) = failure {
            return Err(failure);
        }
        let (mut parameters, mut columns) = (Vec::new(), 0);
        for (kind, body) in messages {
            match kind {
                't' => {
                    let oids = body[2..].chunks_exact(4);
                    parameters = oids.map(|oid| u32::from_be_bytes(oid.try_into().unwrap())).collect();
                }
                'T' => columns = u16::from_be_bytes(body[..2].try_into().unwrap()) as usize,
                _ => {}
            }
        }
        Ok((parameters, columns))
    }

    /// Runs one statement; rows in text, or as a COPY's data in one column.
    pub fn run(&mut self, sql: &str, parameters: &[Parameter]) -> Result<Vec<Row>, Failure> {
        let types: Vec<u32> = parameters.iter().map(|parameter| parameter.oid).collect();
        let mut out = parse(sql, &types);
        let mut bind = b"\0\0".to_vec();
        bind.extend((parameters.len() as u16).to_be_bytes());
        parameters.iter().for_each(|parameter| bind.extend(u16::from(parameter.binary).to_be_bytes()));
        bind.extend((parameters.len() as u16).to_be_bytes());
        for parameter in parameters {
            match &parameter.value {
                None => bind.extend((-1i32).to_be_bytes()),
                Some(value) => {
                    bind.extend((value.len() as i32).to_be_bytes());
                    bind.extend(value);
                }
            }
        }
        bind.extend(0u16.to_be_bytes());
        out.extend(message(b'B', &bind));
        out.extend(message(b'E', b"\0\0\0\0\0"));
        out.extend(message(b'S', b""));
        self.stream.write_all(&out).unwrap();
        let (messages, failure) = self.until_ready();
        match failure {
            Some(failure) => Err(failure),
            None => Ok(messages
                .into_iter()
                .filter_map(|(kind, body)| match kind {
                    'D' => Some(data_row(&body)),
                    'd' => Some(vec![Some(body)]),
                    _ => None,
                })
                .collect()),
        }
    }

    /// Sends messages as they are, and tells what comes back up to the ReadyForQuery of each Query and Sync: `D a|b`, `C SELECT 1`, `E 23505`, `A channel|payload`, or the
    /// message's letter.
    pub fn exchange(&mut self, messages: &[Message<'_>]) -> Vec<String> {
        let mut out = Vec::new();
        for sent in messages {
            out.extend(match sent {
                Message::Parse(sql) => parse(sql, &[]),
                Message::ParseAs(name, sql) => parse_as(name, sql, &[]),
                Message::Bind => message(b'B', b"\0\0\0\0\0\0\0\0"),
                Message::Open(portal, statement) => {
                    message(b'B', format!("{portal}\0{statement}\0\0\0\0\0\0\0").as_bytes())
                }
                Message::Execute(limit) => message(b'E', &[&[0], &limit.to_be_bytes()[..]].concat()),
                Message::Fetch(portal, limit) => {
                    message(b'E', &[portal.as_bytes(), &[0], &limit.to_be_bytes()[..]].concat())
                }
                Message::Describe(statement) => message(b'D', format!("S{statement}\0").as_bytes()),
                Message::Close(statement) => message(b'C', format!("S{statement}\0").as_bytes()),
                // pg_catalog.int4pl(1, 2), all in binary.
                Message::FunctionCall => {
                    let numbers = [1i32, 2].iter().flat_map(|n| [4i32.to_be_bytes(), n.to_be_bytes()].concat());
                    let numbers: Vec<u8> = numbers.collect();
                    message(b'F', &[&177i32.to_be_bytes()[..], &[0, 1, 0, 1, 0, 2], &numbers, &[0, 1]].concat())
                }
                Message::CopyData(data) => message(b'd', data.as_bytes()),
                Message::CopyDone => message(b'c', b""),
                Message::Flush => message(b'H', b""),
                Message::Sync => message(b'S', b""),
                Message::Query(sql) => message(b'Q', &[sql.as_bytes(), b"\0"].concat()),
            });
        }
        self.stream.write_all(&out).unwrap();
        let owed = |sent: &&Message<'_>| matches!(sent, Message::Sync | Message::Query(_) | Message::FunctionCall);
        self.told(messages.iter().filter(owed).count())
    }

    fn told(&mut self, mut owed: usize) -> Vec<String> {
        let mut told = Vec::new();
        loop {
            let (kind, body) = self.read();
            let text = |body: &[u8]| String::from_utf8_lossy(body).trim_end_matches('\0').to_owned();
            told.push(match kind {
                'D' => {
                    let values = data_row(&body).into_iter().map(|value| text(&value.unwrap_or_default()));
                    format!("D {}", values.collect::<Vec<_>>().join("|"))
                }
                'C' => format!("C {}", text(&body)),
                'E' => format!("E {}", fields(&body).remove(&'C').unwrap_or_default()),
                'A' => heard(&body),
                'Z' if owed <= 1 => return told,
                'Z' => {
                    owed -= 1;
                    continue;
                }
                other => other.to_string(),
            });
        }
    }

    /// A Query in any encoding, told as by [`Wire::exchange`].
    pub fn query(&mut self, sql: &[u8]) -> Vec<String> {
        self.stream.write_all(&message(b'Q', &[sql, b"\0"].concat())).unwrap();
        self.told(1)
    }

    /// The next message, which nobody has asked for: `A channel|payload`, `E 08006`; `nothing` when none comes soon.
    pub fn hear(&mut self, wait: Duration) -> String {
        self.stream.set_read_timeout(Some(wait)).unwrap();
        let came = self.stream.peek(&mut [0]);
        self.stream.set_read_timeout(None).unwrap();
        match came {
            Ok(0) => return "end".to_owned(),
            Ok(_) => {}
            Err(_) => return "nothing".to_owned(),
        }
        match self.read() {
            ('A', body) => heard(&body),
            ('E', body) => format!("E {}", fields(&body).remove(&'C').unwrap_or_default()),
            (kind, _) => kind.to_string(),
        }
    }

    /// Several statements, for set-up.
    pub fn script(&mut self, sql: &str) {
        let mut body = sql.as_bytes().to_vec();
        body.push(0);
        self.stream.write_all(&message(b'Q', &body)).unwrap();
        if let (_, Some(failure)) = self.until_ready() {
            panic!("{failure:?} in {sql}");
        }
    }
}

/// A NotificationResponse.
fn heard(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[4..]).into_owned();
    format!("A {}", text.trim_end_matches('\0').replace('\0', "|"))
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![kind];
    out.extend(((body.len() + 4) as u32).to_be_bytes());
    out.extend(body);
    out
}

fn parse(sql: &str, types: &[u32]) -> Vec<u8> {
    parse_as("", sql, types)
}

fn parse_as(name: &str, sql: &str, types: &[u32]) -> Vec<u8> {
    let mut body = name.as_bytes().to_vec();
    body.push(0);
    body.extend(sql.as_bytes());
    body.push(0);
    body.extend((types.len() as u16).to_be_bytes());
    types.iter().for_each(|oid| body.extend(oid.to_be_bytes()));
    message(b'P', &body)
}

fn data_row(body: &[u8]) -> Row {
    let mut place = 2;
    let count = u16::from_be_bytes(body[..2].try_into().unwrap());
    (0..count)
        .map(|_| {
            let length = i32::from_be_bytes(body[place..place + 4].try_into().unwrap());
            place += 4;
            (length >= 0).then(|| {
                place += length as usize;
                body[place - length as usize..place].to_vec()
            })
        })
        .collect()
}

fn fields(body: &[u8]) -> Failure {
    let parts = body.split(|byte| *byte == 0).filter(|part| !part.is_empty());
    parts.map(|part| (part[0] as char, String::from_utf8_lossy(&part[1..]).into_owned())).collect()
}
