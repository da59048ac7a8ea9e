//! A Redis server that keeps what it acknowledged: append-only file, fsync before every answer, no eviction.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::process::{Process, Program, RunAs};

const START_LIMIT: Duration = Duration::from_secs(20);

/// One Redis server; stopped when dropped.
#[derive(Debug)]
pub struct Redis {
    folder: PathBuf,
    port: u16,
    run_as: RunAs,
    process: Mutex<Option<Process>>,
}

impl Redis {
    /// Starts one with its files in `folder`.
    pub async fn start(folder: &Path, port: u16, run_as: &RunAs) -> Result<Redis> {
        std::fs::create_dir(folder).with_context(|| format!("making {}", folder.display()))?;
        run_as.own(folder)?;
        let redis = Redis { folder: folder.to_owned(), port, run_as: run_as.clone(), process: Mutex::new(None) };
        redis.restart().await?;
        Ok(redis)
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The Unix socket's path.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("redis.sock")
    }

    pub fn pid(&self) -> Option<u32> {
        self.lock().as_ref().map(Process::pid)
    }

    /// SIGKILL, as a power cut would.
    pub fn kill(&self) -> Result<()> {
        self.lock().take().map_or(Ok(()), |mut process| process.kill())
    }

    /// Starts it on the same port and files, after a kill; returns when it answers.
    pub async fn restart(&self) -> Result<()> {
        self.kill()?;
        let settings = [
            ("--bind", "127.0.0.1".to_owned()),
            ("--port", self.port.to_string()),
            ("--unixsocket", self.socket().display().to_string()),
            ("--unixsocketperm", "777".to_owned()),
            ("--dir", self.folder.display().to_string()),
            ("--appendonly", "yes".to_owned()),
            ("--appendfsync", "always".to_owned()),
            ("--maxmemory-policy", "noeviction".to_owned()),
            ("--save", String::new()),
        ];
        let binary = crate::postgres::on_path("redis-server").context("redis-server is not installed")?;
        let log = self.folder.join("log");
        let mut program = Program::new("redis", &binary, &self.folder, &log).run_as(&self.run_as).death_signal("TERM");
        for (key, value) in settings {
            program = program.argument(key).argument(value);
        }
        *self.lock() = Some(program.start()?);
        self.wait_until_it_answers().await
    }

    async fn wait_until_it_answers(&self) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        while !answers_ping(self.port).await {
            if let Some(process) = self.lock().as_mut()
                && let Some(status) = process.exited()?
            {
                bail!("redis ended with {status}; its log ends:\n{}", process.log_tail());
            }
            if Instant::now() > deadline {
                bail!("redis does not answer on port {} after {START_LIMIT:?}", self.port);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if let Some(mut process) = self.lock().take() {
            let _ = process.stop(Signal::TERM, Duration::from_secs(5));
        }
    }
}

/// Whether a Redis on that port is ready: one that still loads its file answers with an error.
async fn answers_ping(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await else { return false };
    let mut answer = [0; 5];
    stream.write_all(b"PING\r\n").await.is_ok() && stream.read_exact(&mut answer).await.is_ok() && &answer == b"+PONG"
}
