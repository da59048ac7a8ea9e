//! One main and one standby for all tests of this binary; each test has a database of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio_postgres::{Client, Config};

const BIN: &str = "/usr/lib/postgresql/15/bin";

pub struct Cluster {
    pub main: u16,
    pub replica: u16,
}

/// One test's database on main and, as soon as it is replicated, on the standby.
pub struct Database {
    pub name: String,
    pub main: Config,
    pub replica: Config,
}

pub fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(start)
}

pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn as_postgres(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--pdeathsig=QUIT"]);
    command.arg(if program.contains('/') { program.to_owned() } else { format!("{BIN}/{program}") });
    command
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn start() -> Cluster {
    let root = PathBuf::from("/tmp/pgoutpost-engine");
    for old in std::fs::read_dir(&root).into_iter().flatten().flatten() {
        let pid = old.file_name().to_string_lossy().into_owned();
        if !Path::new("/proc").join(pid).exists() {
            let _ = std::fs::remove_dir_all(old.path());
        }
    }
    let folder = root.join(std::process::id().to_string());
    std::fs::create_dir_all(&folder).unwrap();
    run(Command::new("chown").arg("postgres").arg(&folder));
    let cluster = Cluster { main: free_port(), replica: free_port() };
    let (main, replica) = (folder.join("main"), folder.join("replica"));
    run(as_postgres("initdb").arg("-D").arg(&main).args(["-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8"]));
    serve(&main, cluster.main);
    run(as_postgres("pg_basebackup").arg("-D").arg(&replica).args([
        "-R",
        "-X",
        "stream",
        "-c",
        "fast",
        "-U",
        "postgres",
        "-h",
        "127.0.0.1",
        "-p",
        &cluster.main.to_string(),
    ]));
    serve(&replica, cluster.replica);
    cluster
}

/// Starts a server from a thread that stays for ever: the server gets a signal when that thread ends.
fn serve(data: &Path, port: u16) {
    let data = data.to_owned();
    std::thread::spawn(move || {
        let log = std::fs::File::create(data.with_extension("log")).unwrap();
        let mut command = as_postgres("postgres");
        command.arg("-D").arg(&data).args(["-p", &port.to_string(), "-c", "unix_socket_directories="]);
        for setting in [
            "fsync=on",
            "max_connections=200",
            "log_min_messages=warning",
            "hot_standby_feedback=on",
            "wal_level=replica",
            "lock_timeout=0",
            "shared_buffers=64MB",
        ] {
            command.args(["-c", setting]);
        }
        let mut child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let _ = child.wait();
    });
    for _ in 0..400 {
        let ready =
            as_postgres("pg_isready").args(["-h", "127.0.0.1", "-p", &port.to_string(), "-q"]).status().unwrap();
        if ready.success() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("server on {port} did not start");
}

pub fn config(port: u16, database: &str, user: &str) -> Config {
    let mut config = Config::new();
    config.host("127.0.0.1").port(port).dbname(database).user(user);
    config
}

pub async fn client(config: &Config) -> Client {
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

impl Database {
    pub async fn new(label: &str) -> Database {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let cluster = tokio::task::spawn_blocking(cluster).await.unwrap();
        let name = format!("{label}_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let admin = client(&config(cluster.main, "postgres", "postgres")).await;
        admin.batch_execute(&format!("CREATE DATABASE {name} TEMPLATE template0")).await.unwrap();
        let main = config(cluster.main, &name, "postgres");
        let replica = config(cluster.replica, &name, "postgres");
        Database { name, main, replica }
    }

    /// With the `pgoutpost` schema and a site called `s`.
    pub async fn set_up(label: &str) -> Database {
        let database = Database::new(label).await;
        let done = pgoutpost::setup::run(&database.main, "s", None).await.unwrap();
        assert_eq!(done.warnings, Vec::<String>::new());
        database
    }

    pub async fn main(&self) -> Client {
        client(&self.main).await
    }

    pub async fn user(&self, user: &str) -> Client {
        let mut config = self.main.clone();
        config.user(user);
        client(&config).await
    }

    /// A connection to the standby, when it has replayed all that main has now.
    pub async fn replica(&self) -> Client {
        let main = self.main().await;
        let lsn: String = main.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await.unwrap().get(0);
        for _ in 0..400 {
            if let Ok((client, connection)) = self.replica.connect(tokio_postgres::NoTls).await {
                tokio::spawn(connection);
                let query = format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'::pg_lsn");
                if client.query_one(&query, &[]).await.unwrap().get(0) {
                    return client;
                }
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("the standby does not follow");
    }
}

/// Makes a login role once for the whole cluster.
pub async fn role(client: &Client, name: &str) {
    let make = format!(
        "DO $$ BEGIN CREATE ROLE {name} LOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
    );
    client.batch_execute(&make).await.unwrap();
}
