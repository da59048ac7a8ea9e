//! What roles may read and write while rows are pending, with the link up.

use std::time::Duration;

use tokio_postgres::Client;

use super::{alone, connect, fails, outpost, value};

/// Makes a session of a role's, and what it may not do of itself known.
async fn as_role(url: &str, role: &str) -> Client {
    let client = connect(url).await;
    client.batch_execute(&format!("SET ROLE {role}")).await.unwrap();
    client
}

const ROLES: &str = "DO $$ BEGIN CREATE ROLE r_viewer; EXCEPTION WHEN OTHERS THEN NULL; END $$;
    DO $$ BEGIN CREATE ROLE r_writer; EXCEPTION WHEN OTHERS THEN NULL; END $$;";

#[tokio::test(flavor = "multi_thread")]
async fn a_views_reader_without_rights_below_it_sees_pending_rows_by_way_of_main() {
    let schema = "CREATE TABLE unit (id int PRIMARY KEY, name text, secret text);
        CREATE VIEW shown AS SELECT id, name FROM unit;
        CREATE VIEW loud AS SELECT id, upper(name) AS name FROM unit WHERE id > 0;
        INSERT INTO unit VALUES (1, 'one', 'x');
        GRANT SELECT ON shown, loud TO r_viewer;";
    let (lab, _site, outpost) = alone("rights_views", &format!("{ROLES}{schema}")).await;
    let (owner, mut viewer) = (connect(&outpost.url()).await, as_role(&outpost.url(), "r_viewer").await);
    assert_eq!(value(&viewer, "SELECT name FROM shown").await, "one");
    lab.freeze().await.unwrap();
    owner
        .batch_execute("INSERT INTO unit VALUES (2, 'two', 'y'); UPDATE unit SET name = 'changed' WHERE id = 1")
        .await
        .unwrap();

    let asked = std::time::Instant::now();
    assert_eq!(value(&viewer, "SELECT count(*) FROM shown").await, "2");
    assert_eq!(value(&viewer, "SELECT string_agg(name, ',' ORDER BY id) FROM loud").await, "CHANGED,TWO");
    let row = viewer.query_one("SELECT name FROM shown WHERE id = $1", &[&2]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "two");
    let transaction = viewer.transaction().await.unwrap();
    let row = transaction.query_one("SELECT name FROM shown WHERE id = $1", &[&1]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "changed");
    transaction.rollback().await.unwrap();
    viewer.batch_execute("BEGIN; DECLARE c CURSOR FOR SELECT name FROM shown ORDER BY id").await.unwrap();
    assert_eq!(value(&viewer, "FETCH 1 FROM c").await, "changed");
    viewer.batch_execute("ROLLBACK").await.unwrap();
    // Nothing that was only read is waited for.
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
    assert_eq!(fails(&viewer, "SELECT * FROM unit").await, "42501");
    viewer.batch_execute("PREPARE p AS SELECT name FROM shown WHERE id = $1").await.unwrap();
    assert_eq!(value(&viewer, "EXECUTE p(2)").await, "two");

    lab.link().cut().unwrap();
    owner.batch_execute("INSERT INTO unit VALUES (3, 'three', 'z')").await.unwrap();
    assert_eq!(fails(&viewer, "SELECT name FROM shown").await, "57P03");
    assert_eq!(fails(&viewer, "SELECT secret FROM unit").await, "42501");
    lab.thaw().await.unwrap();
    lab.link().heal().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_that_the_role_may_not_be_asked_about_go_straight() {
    let schema = "CREATE TABLE event (id int PRIMARY KEY, line text);
        CREATE TABLE parent (id int PRIMARY KEY);
        CREATE TABLE child (id int PRIMARY KEY, parent int REFERENCES parent);
        CREATE TABLE columns (id int PRIMARY KEY, a text, b text DEFAULT 'b');
        INSERT INTO parent VALUES (1);
        GRANT INSERT ON event TO r_writer;
        GRANT SELECT, INSERT ON child TO r_writer;
        GRANT SELECT, INSERT (id, a) ON columns TO r_writer;";
    let (site, outpost) = outpost("rights_writes", &format!("{ROLES}{schema}")).await;
    let writer = as_role(&outpost.url(), "r_writer").await;
    writer.batch_execute("INSERT INTO event VALUES (1, 'one')").await.unwrap();
    assert_eq!(writer.execute("INSERT INTO event VALUES ($1, $2)", &[&2, &"two"]).await.unwrap(), 1);
    assert_eq!(fails(&writer, "INSERT INTO event VALUES (1, 'again')").await, "23505");
    assert_eq!(fails(&writer, "INSERT INTO event VALUES (3, 'three') RETURNING line").await, "42501");
    assert_eq!(fails(&writer, "DELETE FROM event").await, "42501");
    writer.batch_execute("INSERT INTO child VALUES (1, 1)").await.unwrap();
    assert_eq!(fails(&writer, "INSERT INTO child VALUES (2, 7)").await, "23503");
    writer.batch_execute("INSERT INTO columns (id, a) VALUES (1, 'a')").await.unwrap();
    assert_eq!(fails(&writer, "INSERT INTO columns (id, a, b) VALUES (2, 'a', 'b')").await, "42501");
    // They are on main already.
    let main = connect(&site.main_url).await;
    assert_eq!(value(&main, "SELECT string_agg(line, ',' ORDER BY id) FROM event").await, "one,two");
    assert_eq!(value(&main, "SELECT count(*) FROM child").await, "1");
    assert_eq!(value(&main, "SELECT b FROM columns").await, "b");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_row_security_applies_to_writes_on_main() {
    let schema = "CREATE TABLE doc (id int PRIMARY KEY, who text, body text);
        ALTER TABLE doc ENABLE ROW LEVEL SECURITY;
        CREATE POLICY own ON doc USING (who = current_user);
        CREATE TABLE note (id int PRIMARY KEY, doc int REFERENCES doc);
        GRANT ALL ON doc, note TO r_writer;
        INSERT INTO doc VALUES (1, 'r_writer', 'mine'), (2, 'r_viewer', 'hers');";
    let (site, outpost) = outpost("rights_rls", &format!("{ROLES}{schema}")).await;
    let (owner, mut writer) = (connect(&outpost.url()).await, as_role(&outpost.url(), "r_writer").await);
    // What was buffered before must be there first.
    owner.batch_execute("INSERT INTO doc VALUES (3, 'r_writer', 'given')").await.unwrap();
    let changed = writer.execute("UPDATE doc SET body = body || '!' WHERE id < $1", &[&9]).await;
    assert_eq!(changed.unwrap(), 2);
    assert_eq!(fails(&writer, "INSERT INTO doc VALUES (4, 'r_viewer', 'no')").await, "42501");
    assert_eq!(fails(&writer, "INSERT INTO doc VALUES (2, 'r_writer', 'taken')").await, "23505");
    assert_eq!(value(&writer, "INSERT INTO doc VALUES (4, 'r_writer', 'new') RETURNING body").await, "new");
    // The foreign key looks past the policy.
    writer.batch_execute("INSERT INTO note VALUES (1, 2)").await.unwrap();
    let transaction = writer.transaction().await.unwrap();
    assert_eq!(transaction.execute("DELETE FROM doc WHERE id = $1", &[&3]).await.unwrap(), 1);
    assert_eq!(transaction.execute("DELETE FROM doc WHERE id = $1", &[&2]).await.unwrap(), 0);
    transaction.commit().await.unwrap();
    assert_eq!(fails(&writer, "COPY doc FROM STDIN").await, "0A000", "as Postgres says");
    let told = "SELECT string_agg(id || ' ' || body, ', ' ORDER BY id) FROM doc";
    assert_eq!(value(&writer, told).await, "1 mine!, 4 new", "its own writes, as the policy shows them");
    let main = connect(&site.main_url).await;
    assert_eq!(value(&main, told).await, "1 mine!, 2 hers, 4 new");
}

/// EXPLAIN (VERBOSE) prints the rows that a function scan is given.
#[tokio::test(flavor = "multi_thread")]
async fn explain_shows_no_pending_row() {
    let schema = "CREATE TABLE doc (id int PRIMARY KEY, owner text, body text);
        ALTER TABLE doc ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON doc USING (owner = current_user);
        GRANT SELECT ON doc TO r_viewer;";
    let (lab, _site, outpost) = alone("rights_explain", &format!("{ROLES}{schema}")).await;
    let (owner, viewer) = (connect(&outpost.url()).await, as_role(&outpost.url(), "r_viewer").await);
    lab.freeze().await.unwrap();
    owner.batch_execute("INSERT INTO doc VALUES (1, 'root', 'HIDDEN')").await.unwrap();
    assert_eq!(value(&viewer, "SELECT count(*) FROM doc").await, "0");
    for words in ["", "ANALYZE", "(ANALYZE, FORMAT json)", "(SETTINGS, BUFFERS, COSTS off, ANALYZE)"] {
        let plan = viewer.simple_query(&format!("EXPLAIN {words} SELECT * FROM doc")).await.unwrap();
        assert!(!format!("{plan:?}").contains("HIDDEN"), "{plan:?}");
    }
    for words in ["VERBOSE", "(verbose)", "(ANALYZE, \"verbose\" on)", "ANALYZE VERBOSE"] {
        assert_eq!(fails(&viewer, &format!("EXPLAIN {words} SELECT * FROM doc")).await, "0A000");
    }
}

/// Row security by a setting of the application's own, which main judges by when a write goes straight.
#[tokio::test(flavor = "multi_thread")]
async fn what_main_does_it_does_with_the_applications_settings() {
    let schema =
        "CREATE TABLE ten (id int PRIMARY KEY, tenant text, v text); INSERT INTO ten VALUES (1, 'a', ''), (2, 'b', '');
        ALTER TABLE ten ENABLE ROW LEVEL SECURITY;
        CREATE POLICY by_tenant ON ten USING (tenant = current_setting('app.tenant', true));
        GRANT SELECT, UPDATE ON ten TO r_writer;";
    let (_site, outpost) = outpost("rights_tenant", &format!("{ROLES}{schema}")).await;
    let client = as_role(&outpost.url(), "r_writer").await;
    let update = async |v: &str| client.execute("UPDATE ten SET v = v || $1", &[&v]).await;
    client.batch_execute("SET app.tenant = 'a'").await.unwrap();
    assert_eq!(update("1").await.unwrap(), 1);
    client.batch_execute("BEGIN; SET LOCAL app.tenant TO 'b'").await.unwrap();
    assert_eq!(update("2").await.unwrap(), 1);
    client.batch_execute("COMMIT").await.unwrap();
    value(&client, "SELECT set_config('app.tenant', 'none', false)").await;
    assert_eq!(update("3").await.unwrap(), 0);
    let owner = connect(&outpost.url()).await;
    assert_eq!(value(&owner, "SELECT string_agg(tenant || v, ' ' ORDER BY id) FROM ten").await, "a1 b2");
}

/// A tenant or a role is often chosen by a function of the application's.
#[tokio::test(flavor = "multi_thread")]
async fn what_functions_have_set_is_noticed() {
    let schema = "CREATE SCHEMA a; CREATE SCHEMA b; CREATE TABLE a.t (id int PRIMARY KEY, who text);
        CREATE TABLE b.t (id int PRIMARY KEY, who text);
        CREATE FUNCTION tenant(text) RETURNS void LANGUAGE plpgsql AS
            $$ BEGIN PERFORM set_config('search_path', $1 || ',public', false); END $$;
        CREATE FUNCTION become(text) RETURNS text LANGUAGE sql AS $$ SELECT set_config('role', $1, false) $$";
    let (site, outpost) = outpost("set_by_functions", schema).await;
    let main = connect(&site.main_url).await;
    main.batch_execute(
        "DROP ROLE IF EXISTS chosen; CREATE ROLE chosen; GRANT USAGE ON SCHEMA a, b TO chosen; GRANT ALL ON a.t, b.t TO chosen;
         CREATE FUNCTION sign() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.who := current_user; RETURN NEW; END $$;
         CREATE TRIGGER sign BEFORE INSERT ON b.t FOR EACH ROW EXECUTE FUNCTION sign()",
    )
    .await
    .unwrap();
    site.wait_replica_caught_up().await.unwrap();
    let all = "SELECT concat((SELECT string_agg(id || coalesce(who, ''), ' ' ORDER BY id) FROM a.t), '|',
        (SELECT string_agg(id::text, ' ' ORDER BY id) FROM b.t))";
    let mut id = 0;
    for by in ["simple", "extended", "execute", "pipeline"] {
        let client = connect(&outpost.url()).await;
        // Functions are not called past pending rows.
        client.batch_execute("SET pgoutpost.commit = 'visible'; SET search_path = a, public").await.unwrap();
        id += 10;
        client.batch_execute(&format!("INSERT INTO t VALUES ({})", id + 1)).await.unwrap();
        let insert = format!("INSERT INTO t VALUES ({})", id + 2);
        match by {
            "simple" => client.batch_execute("SELECT tenant('b')").await.unwrap(),
            "extended" => drop(client.query("SELECT \"tenant\" ($1)", &[&"b"]).await.unwrap()),
            "execute" => {
                client.batch_execute("PREPARE p (text) AS SELECT TENANT($1)").await.unwrap();
                client.batch_execute("EXECUTE p('b')").await.unwrap();
            }
            _ => {
                let tenant = client.prepare("SELECT tenant('b')").await.unwrap();
                let (chosen, inserted) =
                    tokio::join!(client.query(&tenant, &[]), async { client.batch_execute(&insert).await });
                chosen.unwrap();
                inserted.unwrap();
            }
        }
        if by != "pipeline" {
            client.batch_execute(&insert).await.unwrap();
        }
        assert_eq!(value(&client, "SELECT max(id) FROM t").await, (id + 2).to_string(), "{by}");
        client.batch_execute(&format!("SELECT become('chosen'); INSERT INTO t VALUES ({})", id + 3)).await.unwrap();
        assert_eq!(value(&client, "SELECT current_user").await, "chosen", "{by}");
    }
    let client = connect(&outpost.url()).await;
    let expected = "11 21 31 41|12 13 22 23 32 33 42 43";
    assert_eq!(value(&client, all).await, expected);
    client.batch_execute("SET pgoutpost.commit = 'applied'; INSERT INTO a.t VALUES (51)").await.unwrap();
    assert_eq!(value(&main, all).await, expected.replace('|', " 51|"));
    let signed = value(&main, "SELECT string_agg(DISTINCT who, ' ') FROM b.t WHERE id % 10 = 3").await;
    assert_eq!(signed, "chosen");
}
