//! Starting a standing lab, and giving it orders.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::{Answer, Order, Status};
use crate::process::{Process, Program, log_tail};

/// Includes initdb, a base backup and a busy machine.
const UP_LIMIT: Duration = Duration::from_secs(180);
const DOWN_LIMIT: Duration = Duration::from_secs(90);

/// How a standing lab is to be started.
#[derive(Clone, Debug)]
pub struct UpOptions {
    /// Its folder: control socket and log.
    pub folder: PathBuf,
    /// The `lab` program.
    pub lab: PathBuf,
    /// The daemon; none means a lab without one.
    pub daemon: Option<PathBuf>,
    pub config: PathBuf,
    pub port: u16,
    pub http_port: u16,
}

impl UpOptions {
    fn arguments(&self) -> Result<Vec<String>> {
        let absolute = |path: &Path| -> Result<String> {
            let path = path.canonicalize().with_context(|| format!("looking for {}", path.display()))?;
            Ok(path.display().to_string())
        };
        let mut arguments = vec!["serve".to_owned(), "--folder".into(), self.folder.display().to_string()];
        arguments.extend(["--config".into(), absolute(&self.config)?]);
        arguments.extend(["--port".into(), self.port.to_string(), "--http-port".into(), self.http_port.to_string()]);
        match &self.daemon {
            Some(daemon) => arguments.extend(["--daemon".into(), absolute(daemon)?]),
            None => arguments.push("--without-daemon".into()),
        }
        Ok(arguments)
    }
}

/// Starts a lab that lives on when we end; returns when it is ready.
pub async fn up_detached(options: &UpOptions) -> Result<Status> {
    let log = prepare(options).await?;
    let output = File::options().create(true).append(true).open(&log)?;
    // A session of its own: the terminal's hang-up and Ctrl-C are not for it.
    let mut child = Command::new("setsid")
        .arg(&options.lab)
        .args(options.arguments()?)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()
        .context("starting the lab through setsid")?;
    let ready = until_ready(&options.folder, &log, || Ok(child.try_wait()?.is_some())).await;
    if ready.is_err() {
        // `setsid` became the lab, so that this is its pid. Its servers die with it.
        let _ = child.kill();
        let _ = child.wait();
    }
    ready
}

/// Starts a lab that ends when we do.
pub async fn up_attached(options: &UpOptions) -> Result<(Process, Status)> {
    let log = prepare(options).await?;
    let program = Program::new("lab serve", &options.lab, &std::env::current_dir()?, &log).death_signal("TERM");
    let mut process = program.arguments(options.arguments()?).start()?;
    let status = until_ready(&options.folder, &log, || Ok(process.exited()?.is_some())).await?;
    Ok((process, status))
}

/// Gives an order and returns the state after it. [`Order::Down`] has [`down`].
pub async fn order(folder: &Path, order: Order) -> Result<Status> {
    let mut stream = BufReader::new(connect(folder).await?);
    stream.get_mut().write_all(format!("{order}\n").as_bytes()).await?;
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    match serde_json::from_str(&line).context("reading the lab's answer")? {
        Answer::Done(status) => Ok(*status),
        Answer::Failed(why) => Err(anyhow!(why)),
    }
}

/// Stops a standing lab; returns when nothing of it runs any more.
pub async fn down(folder: &Path) -> Result<()> {
    let mut stream = connect(folder).await?;
    stream.write_all(format!("{}\n", Order::Down).as_bytes()).await?;
    let mut rest = Vec::new();
    tokio::time::timeout(DOWN_LIMIT, stream.read_to_end(&mut rest)).await.context("waiting for the lab's end")??;
    Ok(())
}

async fn connect(folder: &Path) -> Result<UnixStream> {
    let control = folder.join("control");
    UnixStream::connect(&control).await.with_context(|| format!("no lab is running in {}", folder.display()))
}

async fn prepare(options: &UpOptions) -> Result<PathBuf> {
    if connect(&options.folder).await.is_ok() {
        bail!("a lab is running in {} already; `make down` stops it", options.folder.display());
    }
    std::fs::create_dir_all(&options.folder)?;
    let log = options.folder.join("serve.log");
    File::create(&log).with_context(|| format!("making {}", log.display()))?;
    Ok(log)
}

async fn until_ready(folder: &Path, log: &Path, mut ended: impl FnMut() -> Result<bool>) -> Result<Status> {
    let deadline = Instant::now() + UP_LIMIT;
    loop {
        if connect(folder).await.is_ok() {
            return order(folder, Order::Status).await;
        }
        if ended()? {
            bail!("the lab did not start:\n{}", log_tail(log));
        }
        if Instant::now() > deadline {
            bail!("the lab is not ready after {UP_LIMIT:?}:\n{}", log_tail(log));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
