//! `lab`: a site for playing: main, replica, Redis, link and daemon, left running until `lab down`.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use lab::standing::client::{UpOptions, down, order, up_detached};
use lab::standing::serve::{ServeOptions, serve};
use lab::standing::{Order, Status};
use lab::{Lab, LabOptions};

#[derive(Debug, Parser)]
#[command(about = "Real servers and a link that can be slowed and cut, left running for playing.")]
struct Arguments {
    #[command(subcommand)]
    command: LabCommand,
}

#[derive(Debug, Subcommand)]
enum LabCommand {
    /// Start everything and leave it running.
    Up(Parts),
    /// Stop everything.
    Down(Where),
    /// Where everything is and how it goes.
    Status(Where),
    /// Cut the link: connections close, new ones are refused.
    Cut(Where),
    /// Mend the link.
    Heal(Where),
    /// Lose everything on the link, silently.
    BlackHole(Where),
    /// Slow the link.
    Delay {
        /// Round-trip time.
        #[arg(long, default_value_t = 150)]
        ms: u64,
        #[command(flatten)]
        place: Where,
    },
    /// Pause the replica's replay.
    Freeze(Where),
    /// Resume the replica's replay.
    Thaw(Where),
    /// Hold a lab in this process (`up` starts this).
    #[command(hide = true)]
    Serve(Parts),
    /// Start a lab, print its pids and folder, and end in a certain way (for the lab's own tests).
    #[command(hide = true)]
    Hold {
        #[arg(long)]
        ending: Ending,
    },
}

#[derive(Debug, clap::Args)]
struct Where {
    /// The folder with the control socket.
    #[arg(long, default_value = ".lab")]
    folder: PathBuf,
}

#[derive(Debug, clap::Args)]
struct Parts {
    #[command(flatten)]
    place: Where,
    /// The `pgoutpost` program.
    #[arg(long, default_value = "target/debug/pgoutpost")]
    daemon: PathBuf,
    /// Servers and link only.
    #[arg(long)]
    without_daemon: bool,
    #[arg(long, default_value = "proxy.toml")]
    config: PathBuf,
    /// Where clients connect; another port is taken when it is not free.
    #[arg(long, default_value_t = 6432)]
    port: u16,
    /// Where metrics and health are served; another port is taken when it is not free.
    #[arg(long, default_value_t = 8432)]
    http_port: u16,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Ending {
    Wait,
    Panic,
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_to_stderr();
    match run(Arguments::parse().command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: LabCommand) -> Result<()> {
    match command {
        LabCommand::Up(parts) => {
            let wanted = parts.port;
            let status = up_detached(&parts.up()?).await?;
            if status.daemon_pid.is_some() && status.port != wanted {
                say(&format!("Port {wanted} is taken; the site listens on {} instead.\n", status.port));
            }
            say(&status.how_to_connect());
        }
        LabCommand::Down(place) => {
            down(&place.folder).await?;
            say("Everything is stopped.\n");
        }
        LabCommand::Status(place) => tell(&place, Order::Status).await?,
        LabCommand::Cut(place) => tell(&place, Order::Cut).await?,
        LabCommand::Heal(place) => tell(&place, Order::Heal).await?,
        LabCommand::BlackHole(place) => tell(&place, Order::BlackHole).await?,
        LabCommand::Delay { ms, place } => tell(&place, Order::Delay(ms)).await?,
        LabCommand::Freeze(place) => tell(&place, Order::Freeze).await?,
        LabCommand::Thaw(place) => tell(&place, Order::Thaw).await?,
        LabCommand::Serve(parts) => serve(parts.serve()).await?,
        LabCommand::Hold { ending } => hold(ending).await?,
    }
    Ok(())
}

impl Parts {
    fn up(self) -> Result<UpOptions> {
        Ok(UpOptions {
            folder: self.place.folder,
            lab: std::env::current_exe()?,
            daemon: (!self.without_daemon).then_some(self.daemon),
            config: self.config,
            port: self.port,
            http_port: self.http_port,
        })
    }

    fn serve(self) -> ServeOptions {
        ServeOptions {
            folder: self.place.folder,
            daemon: (!self.without_daemon).then_some(self.daemon),
            config: self.config,
            port: self.port,
            http_port: self.http_port,
        }
    }
}

async fn tell(place: &Where, what: Order) -> Result<()> {
    let status: Status = order(&place.folder, what).await?;
    say(&status.summary());
    Ok(())
}

async fn hold(ending: Ending) -> Result<()> {
    let lab = Lab::start(LabOptions::default()).await?;
    for pid in lab.pids() {
        say(&format!("{pid} "));
    }
    say(&format!("{}\n", lab.folder().display()));
    match ending {
        Ending::Wait => std::future::pending().await,
        Ending::Panic => panic!("as told"),
    }
}

fn say(text: &str) {
    let mut out = std::io::stdout();
    // Nobody reads any more: nothing is left to say it to.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn tracing_to_stderr() {
    // RUST_LOG as usual; the lab is silent by default.
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}
