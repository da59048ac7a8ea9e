//! One child process: run as a user that is not root, logged to a file, dead when its parent is dead.
//!
//! Must never signal a process which it did not start: every signal goes to the pid of an unreaped child of ours, so
//! that the pid cannot have been given to another process.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// How much of a log is quoted when something goes wrong, in bytes.
const LOG_TAIL_BYTES: u64 = 4096;

/// The user that servers run as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunAs {
    /// We are an ordinary user: servers run as we do.
    Ourselves,
    /// We are root, whom Postgres refuses: servers run as this user.
    User { uid: u32, gid: u32 },
}

impl RunAs {
    /// `postgres` or else `nobody` when we are root, ourselves otherwise.
    pub fn detect() -> Result<RunAs> {
        if !rustix::process::geteuid().is_root() {
            return Ok(RunAs::Ourselves);
        }
        let users = std::fs::read_to_string("/etc/passwd").context("reading /etc/passwd")?;
        let find = |name: &str| {
            users.lines().map(|line| line.split(':').collect::<Vec<_>>()).find_map(|fields| match fields[..] {
                [user, _, uid, gid, ..] if user == name => {
                    Some(RunAs::User { uid: uid.parse().ok()?, gid: gid.parse().ok()? })
                }
                _ => None,
            })
        };
        find("postgres").or_else(|| find("nobody")).context("no user `postgres` or `nobody` to run servers as")
    }

    /// Gives a file or folder to that user.
    pub fn own(&self, path: &Path) -> Result<()> {
        match *self {
            RunAs::Ourselves => Ok(()),
            RunAs::User { uid, gid } => {
                chown(path, Some(uid), Some(gid)).with_context(|| format!("giving {} to uid {uid}", path.display()))
            }
        }
    }
}

/// What to run.
#[derive(Debug)]
pub struct Program {
    name: String,
    binary: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    folder: PathBuf,
    log: PathBuf,
    run_as: RunAs,
    death_signal: &'static str,
}

impl Program {
    /// A program that works in `folder` and logs (appending) to `log`.
    pub fn new(name: &str, binary: &Path, folder: &Path, log: &Path) -> Program {
        Program {
            name: name.to_owned(),
            binary: binary.to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            folder: folder.to_owned(),
            log: log.to_owned(),
            run_as: RunAs::Ourselves,
            death_signal: "KILL",
        }
    }

    #[must_use]
    pub fn argument(mut self, argument: impl Into<String>) -> Program {
        self.arguments.push(argument.into());
        self
    }

    #[must_use]
    pub fn arguments<A: Into<String>>(mut self, arguments: impl IntoIterator<Item = A>) -> Program {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    #[must_use]
    pub fn environment(mut self, key: &str, value: &str) -> Program {
        self.environment.push((key.to_owned(), value.to_owned()));
        self
    }

    #[must_use]
    pub fn run_as(mut self, run_as: &RunAs) -> Program {
        self.run_as = run_as.clone();
        self
    }

    /// The signal the kernel sends when we die: a name as `setpriv --pdeathsig` takes it (`KILL` by default).
    #[must_use]
    pub fn death_signal(mut self, signal: &'static str) -> Program {
        self.death_signal = signal;
        self
    }

    /// Starts it.
    pub fn start(self) -> Result<Process> {
        let command = self.command()?;
        let child = spawn_from_keeper(command)
            .with_context(|| format!("starting {} ({}) through setpriv", self.name, self.binary.display()))?;
        tracing::debug!(name = self.name, pid = child.id(), "process started");
        Ok(Process { name: self.name, log: self.log, child })
    }

    /// Runs it to its end; an exit other than success is an error that quotes the log.
    pub async fn finish(self, limit: Duration) -> Result<()> {
        let mut process = self.start()?;
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = process.exited()? {
                ensure!(
                    status.success(),
                    "{} ended with {status}; its log ends:\n{}",
                    process.name,
                    process.log_tail()
                );
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{} still ran after {limit:?}; its log ends:\n{}", process.name, process.log_tail());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// `setpriv` gives up root and asks the kernel for the death signal, then becomes the program: the pid is the
    /// program's own. Doing the same between fork and exec in Rust would be unsafe code.
    fn command(&self) -> Result<Command> {
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("opening the log {}", self.log.display()))?;
        let mut command = Command::new("setpriv");
        if let RunAs::User { uid, gid } = self.run_as {
            command.args([&format!("--reuid={uid}"), &format!("--regid={gid}"), "--clear-groups"]);
        }
        command.arg(format!("--pdeathsig={}", self.death_signal)).arg("--").arg(&self.binary).args(&self.arguments);
        // A developer's PGHOST or PGOPTIONS must not change what the servers and tools do.
        for (key, _) in std::env::vars_os() {
            if key.to_str().is_some_and(|key| key.starts_with("PG")) {
                command.env_remove(key);
            }
        }
        command.env("LC_ALL", "C.UTF-8").env("TZ", "UTC").envs(self.environment.iter().map(|(k, v)| (k, v)));
        command.current_dir(&self.folder).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(command)
    }
}

/// A running child. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Process {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    /// How it ended, if it has.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("looking after {}", self.name))
    }

    /// Sends a signal; none when it has ended already.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.exited()?.is_some() {
            return Ok(());
        }
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("a pid is a positive i32")?;
        kill_process(pid, signal).with_context(|| format!("sending a signal to {}", self.name))
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.child.wait().with_context(|| format!("waiting for {}", self.name))?;
        Ok(())
    }

    /// SIGKILL to it and to its children, as when a machine dies.
    pub fn kill_family(&mut self) -> Result<()> {
        let pid = self.pid();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        self.kill()?;
        for child in children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)) {
            // Gone already, most of them: they notice that their parent is.
            let _ = kill_process(child, Signal::KILL);
        }
        Ok(())
    }

    /// Sends `signal`, waits for the end, and kills after `limit`. True when it ended by itself.
    /// Blocks the thread: meant for the end of tests.
    pub fn stop(&mut self, signal: Signal, limit: Duration) -> Result<bool> {
        self.signal(signal)?;
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if self.exited()?.is_some() {
                return Ok(true);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.kill()?;
        Ok(false)
    }

    /// The last few lines that it wrote.
    pub fn log_tail(&self) -> String {
        log_tail(&self.log)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            tracing::warn!(name = self.name, %error, "could not end a process");
        }
    }
}

/// The end of a log file, or why it cannot be read.
pub fn log_tail(path: &Path) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let start = file.metadata()?.len().saturating_sub(LOG_TAIL_BYTES);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_else(|error| format!("({}: {error})", path.display()))
}

type SpawnRequest = (Command, mpsc::SyncSender<io::Result<Child>>);

/// Starts a child from a thread that lives as long as the process.
///
/// The kernel sends the death signal when the *thread* that forked ends (prctl(2), PR_SET_PDEATHSIG), and test threads
/// and tokio's blocking threads end early. Hence one thread per process that does nothing else.
fn spawn_from_keeper(command: Command) -> io::Result<Child> {
    static KEEPER: OnceLock<mpsc::Sender<SpawnRequest>> = OnceLock::new();
    let keeper = KEEPER.get_or_init(|| {
        let (sender, requests) = mpsc::channel::<SpawnRequest>();
        std::thread::spawn(move || {
            for (mut command, answer) in requests {
                // Nobody waits for the answer only when the asking thread has panicked; the child is then ours to end.
                if let Err(mpsc::SendError(Ok(mut orphan))) = answer.send(command.spawn()) {
                    let _ = orphan.kill();
                    let _ = orphan.wait();
                }
            }
        });
        sender
    });
    let (answer, child) = mpsc::sync_channel(1);
    keeper.send((command, answer)).map_err(io::Error::other)?;
    child.recv().map_err(io::Error::other)?
}
