//! Raw connections to the replica or to main as a client's own role, and cancel requests.
//!
//! After [`connect`] the link carries messages as they are; nothing here knows what they mean. tokio-postgres is used
//! for the URL only.

#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_postgres::Config;
use tokio_postgres::config::Host;

use crate::wire::link::{Link, Stream};
use crate::wire::read::Body;
use crate::wire::startup::Key;
use crate::wire::{Malformed, build, error, read};

/// How long an unanswered connection is believed in.
const DEAD_AFTER: Duration = Duration::from_secs(20);

/// Startup answers are short. Bytes.
const GREETING_MAX: usize = 1 << 20;
/// How long a cancel request may take, connecting included.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// One server's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Tcp(String, u16),
    Unix(PathBuf),
}

/// An open connection that is ready for its first query.
#[derive(Debug)]
pub struct Raw {
    pub link: Link,
    pub address: Address,
    pub key: Option<Key>,
    /// What the server reported of itself, in order.
    pub parameters: Vec<(String, String)>,
}

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("cannot reach the server: {0}")]
    Unreachable(#[from] io::Error),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The server's own ErrorResponse, header included.
    #[error("the server refused: {}", error::text(.0.get(5..).unwrap_or_default()))]
    Refused(BytesMut),
    #[error("the server asks for a password and the configuration has none for role {role:?}")]
    NoPassword { role: String },
    #[error("the server asks for an authentication method we do not have ({0})")]
    Method(String),
    #[error("the server does not speak the protocol: {0}")]
    Protocol(#[from] Malformed),
}

/// The servers that a URL names, in order.
pub fn addresses(config: &Config) -> Vec<Address> {
    let ports = config.get_ports();
    let port = |place: usize| ports.get(place).or(ports.first()).copied().unwrap_or(5432);
    let address = |(place, host): (usize, &Host)| match host {
        Host::Tcp(name) => Address::Tcp(name.clone(), port(place)),
        Host::Unix(folder) => Address::Unix(folder.join(format!(".s.PGSQL.{}", port(place)))),
    };
    config.get_hosts().iter().enumerate().map(address).collect()
}

/// Connects with these startup parameters (`user` and `database` among them). The password of the URL is used when the
/// URL's user is the role.
///
/// # Errors
/// See [`ConnectError`]; the last address' error when there are several.
pub async fn connect(config: &Config, parameters: &[(String, String)], limit: Duration) -> Result<Raw, ConnectError> {
    let mut failed = ConnectError::Unreachable(io::ErrorKind::AddrNotAvailable.into());
    for address in addresses(config) {
        let attempt = async {
            let link = Link::new(open(&address).await?);
            greet(link, address, config, parameters).await
        };
        match timeout(limit, attempt).await {
            Ok(Ok(raw)) => return Ok(raw),
            Ok(Err(error)) => failed = error,
            Err(_) => failed = ConnectError::Timeout(limit),
        }
    }
    Err(failed)
}

async fn open(address: &Address) -> io::Result<Stream> {
    match address {
        Address::Tcp(host, port) => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            watch(&stream)?;
            Ok(Stream::Tcp(stream))
        }
        Address::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
    }
}

/// Lets the kernel notice a silently dead link within some [`DEAD_AFTER`], idle or not.
fn watch(stream: &TcpStream) -> io::Result<()> {
    let socket = socket2::SockRef::from(stream);
    socket.set_tcp_user_timeout(Some(DEAD_AFTER))?;
    socket.set_tcp_keepalive(&socket2::TcpKeepalive::new().with_time(DEAD_AFTER / 2).with_interval(DEAD_AFTER / 4))
}

/// Startup, authentication, and what the server says until it is ready.
async fn greet(
    mut link: Link,
    address: Address,
    config: &Config,
    parameters: &[(String, String)],
) -> Result<Raw, ConnectError> {
    build::startup(&mut link.output, parameters);
    let role = parameters.iter().find(|(name, _)| name == "user").map_or("", |(_, role)| role);
    let mut login = Login { role, config, scram: None };
    let (mut key, mut reported) = (None, Vec::new());
    loop {
        let (kind, message) = link.next(GREETING_MAX).await?;
        let body = &message[5..];
        match kind {
            b'R' => login.step(body, &mut link.output)?,
            b'S' => {
                let (name, value) = read::parameter_status(body)?;
                let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                reported.push((text(name), text(value)));
            }
            b'K' => {
                let mut body = Body::new(body);
                key = Some(Key { process: body.i32()?, secret: body.i32()? });
            }
            b'E' => return Err(ConnectError::Refused(message)),
            b'Z' => return Ok(Raw { link, address, key, parameters: reported }),
            _ => {}
        }
    }
}

/// Authentication as it goes on.
struct Login<'a> {
    role: &'a str,
    config: &'a Config,
    scram: Option<ScramSha256>,
}

impl Login<'_> {
    /// Answers one authentication request.
    fn step(&mut self, body: &[u8], out: &mut BytesMut) -> Result<(), ConnectError> {
        let mut body = Body::new(body);
        match body.i32()? {
            0 => Ok(()),
            3 => {
                let password = self.password()?;
                password_message(out, password);
                Ok(())
            }
            5 => {
                let password = self.password()?;
                let salt = body.bytes(4)?.try_into().map_err(|_| Malformed::Body)?;
                password_message(out, md5_hash(self.role.as_bytes(), password, salt).as_bytes());
                Ok(())
            }
            10 => self.scram_first(body, out),
            11 => {
                let scram = self.scram.as_mut().ok_or(Malformed::Body)?;
                scram.update(body.rest())?;
                build::message(out, b'p', |out| out.put_slice(scram.message()));
                Ok(())
            }
            12 => Ok(self.scram.as_mut().ok_or(Malformed::Body)?.finish(body.rest())?),
            other => Err(ConnectError::Method(format!("code {other}"))),
        }
    }

    fn scram_first(&mut self, mut body: Body<'_>, out: &mut BytesMut) -> Result<(), ConnectError> {
        let mut offered = Vec::new();
        while let Ok(name) = body.string() {
            if !name.is_empty() {
                offered.push(String::from_utf8_lossy(name).into_owned());
            }
        }
        if !offered.iter().any(|name| name == SCRAM_SHA_256) {
            return Err(ConnectError::Method(offered.join(", ")));
        }
        let scram = ScramSha256::new(self.password()?, ChannelBinding::unsupported());
        build::message(out, b'p', |out| {
            build::string(out, SCRAM_SHA_256.as_bytes());
            out.put_i32(i32::try_from(scram.message().len()).unwrap_or(i32::MAX));
            out.put_slice(scram.message());
        });
        self.scram = Some(scram);
        Ok(())
    }

    fn password(&self) -> Result<&[u8], ConnectError> {
        let own = self.config.get_user().is_none_or(|user| user == self.role);
        let password = self.config.get_password().filter(|_| own);
        password.ok_or_else(|| ConnectError::NoPassword { role: self.role.to_owned() })
    }
}

fn password_message(out: &mut BytesMut, password: &[u8]) {
    build::message(out, b'p', |out| build::string(out, password));
}

/// Whether a server is there, and answers within so long: asked for TLS, it says something at once.
pub async fn answers(address: &Address, limit: Duration) -> bool {
    const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
    let attempt = async {
        let mut link = Link::new(open(address).await?);
        link.output.extend_from_slice(&SSL_REQUEST);
        link.drain().await?;
        link.fill().await
    };
    matches!(timeout(limit, attempt).await, Ok(Ok(1..)))
}

/// Asks the server to cancel what the connection with this key is doing. Returns when the server has taken the
/// request, so what is sent on that connection afterwards is not hit.
pub async fn cancel(address: &Address, key: Key) -> io::Result<()> {
    let attempt = async {
        let mut link = Link::new(open(address).await?);
        build::cancel(&mut link.output, key);
        link.drain().await?;
        link.fill().await.map(drop)
    };
    timeout(CANCEL_TIMEOUT, attempt).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
