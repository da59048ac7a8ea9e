//! The shared lab; each test has a database of its own.

use std::sync::atomic::{AtomicU32, Ordering};

use lab::Lab;
use tokio_postgres::{Client, Config};

/// One test's database on main and on the replica.
pub struct Database {
    pub name: String,
    pub main: Config,
    pub replica: Config,
    pub main_port: u16,
    pub site: lab::Site,
}

pub async fn client(config: &Config) -> Client {
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

impl Database {
    pub async fn new(label: &str) -> Database {
        Database::within(Lab::shared().await.unwrap(), label).await
    }

    /// In a lab of its own: for tests that promote, restore or replace servers.
    pub async fn within(lab: &Lab, label: &str) -> Database {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("{label}_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let site = lab.database(&name).await.unwrap();
        let (main, replica) = (site.main_url.parse().unwrap(), site.replica_url.parse().unwrap());
        Database { name, main, replica, main_port: lab.main().port(), site }
    }

    /// With the `pgoutpost` schema and a site called `s`.
    pub async fn set_up(label: &str) -> Database {
        Database::new(label).await.with_schema().await
    }

    pub async fn with_schema(self) -> Database {
        let database = self;
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
        self.site.wait_replica_caught_up().await.unwrap();
        self.site.replica().await.unwrap()
    }
}

/// Makes a login role once for the whole cluster.
pub async fn role(client: &Client, name: &str) {
    let make = format!(
        "DO $$ BEGIN CREATE ROLE {name} LOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
    );
    client.batch_execute(&make).await.unwrap();
}
