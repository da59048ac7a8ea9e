//! Hostile bytes and hostile SQL: the daemon stays up, and nobody else notices.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::sigterm::startup;
use super::stage::{Stage, execute, value};

const SCHEMA: &str = "CREATE TABLE item (id int PRIMARY KEY, label text); INSERT INTO item VALUES (1, 'old')";

/// Sends bytes to the daemon and reads what comes back until it hangs up, or for a second.
async fn throw(stage: &Stage, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", stage.outpost.port())).await.unwrap();
    // It may hang up before it has read all.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(1), stream.read_to_end(&mut answer)).await;
    answer
}

/// A message after startup, with a length that need not be true.
fn frame(kind: u8, length: i32, body: &[u8]) -> Vec<u8> {
    [&[kind], length.to_be_bytes().as_slice(), body].concat()
}

fn honest(kind: u8, body: &[u8]) -> Vec<u8> {
    frame(kind, body.len() as i32 + 4, body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_startups_and_frames_harm_nobody() {
    let stage = Stage::shared("hostile_bytes", SCHEMA).await;
    stage.cut();
    let pid = stage.outpost.pid();
    let bystander = stage.client().await;
    execute(&bystander, "BEGIN; INSERT INTO item VALUES (2, 'bystander')").await;

    let startups: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"\0".to_vec(),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        [0x7f, 0xff, 0xff, 0xff, 0, 3, 0, 0].to_vec(),
        [0xff, 0xff, 0xff, 0xff, 0, 3, 0, 0].to_vec(),
        [0, 0, 0, 0].to_vec(),
        [0, 0, 0, 4].to_vec(),
        [0, 0, 0, 8, 0, 2, 0, 0].to_vec(),
        [0, 0, 0, 8, 0, 9, 0, 0].to_vec(),
        // No terminators; a key without a value; not UTF-8; no user.
        [&[0, 0, 0, 12, 0, 3, 0, 0], b"user".as_slice()].concat(),
        [&[0, 0, 0, 14, 0, 3, 0, 0], b"user\0\0".as_slice()].concat(),
        [&[0, 0, 0, 17, 0, 3, 0, 0], b"user\0\xff\xfe\0\0".as_slice()].concat(),
        [0, 0, 0, 9, 0, 3, 0, 0, 0].to_vec(),
        startup("no such user", "hostile_bytes"),
        startup("postgres", ""),
        startup(&"x".repeat(100_000), "hostile_bytes"),
        // A cancel request for nobody, short and long.
        [0, 0, 0, 16, 4, 210, 22, 46, 0, 0, 0, 1, 0, 0, 0, 1].to_vec(),
        [0, 0, 0, 12, 4, 210, 22, 46, 0, 0, 0, 1].to_vec(),
    ];
    for bytes in &startups {
        throw(&stage, bytes).await;
    }

    let hello = startup("postgres", "hostile_bytes");
    let frames: Vec<Vec<u8>> = vec![
        frame(b'Q', 0, b""),
        frame(b'Q', 3, b""),
        frame(b'Q', -1, b""),
        frame(b'Q', i32::MAX, b"SELECT 1"),
        frame(b'P', 5, b"\0"),
        honest(b'Q', b"SELECT 1"),
        honest(b'Q', b"SELECT '\xff\xfe'\0"),
        honest(b'P', b"\0SELECT 1\0\x7f\xff"),
        honest(b'P', b"\0SELECT 1"),
        honest(b'P', b""),
        honest(b'B', b""),
        honest(b'B', b"\0\0\0\x01"),
        honest(b'B', b"\0\0\xff\xff\0\0\0\0"),
        honest(b'B', b"\0\0\0\0\0\x01\xff\xff\xff\xfe\0\0"),
        honest(b'B', b"\0nothing\0\0\0\0\0\0\0"),
        honest(b'E', b""),
        honest(b'E', b"\0\0\0"),
        honest(b'D', b""),
        honest(b'D', b"?x\0"),
        honest(b'C', b""),
        honest(b'p', b""),
        honest(b'd', b"x"),
        honest(b'c', b""),
        honest(b'f', b""),
        honest(b'F', b""),
        honest(b'F', b"\0\0\0\x01\0\0"),
        honest(b'\0', b""),
        honest(b'Z', b"I"),
        [honest(b'H', b"").repeat(5000), honest(b'S', b"").repeat(5000)].concat(),
    ];
    for bytes in &frames {
        // Whatever it is, a Sync and a query afterwards are answered, or the connection is closed: it never hangs.
        let all = [hello.as_slice(), bytes, &honest(b'S', b""), &honest(b'Q', b"SELECT 41 + 1\0"), &honest(b'X', b"")]
            .concat();
        let mut stream = TcpStream::connect(("127.0.0.1", stage.outpost.port())).await.unwrap();
        let _ = stream.write_all(&all).await;
        let claims_more =
            bytes.len() >= 5 && i32::from_be_bytes(bytes[1..5].try_into().unwrap()) as i64 > bytes.len() as i64;
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
        assert!(
            ended.is_ok() || claims_more,
            "the connection hangs after {bytes:?}: {:?}",
            String::from_utf8_lossy(&answer)
        );
    }

    assert_eq!(stage.outpost.pid(), pid);
    execute(&bystander, "COMMIT").await;
    assert_eq!(value(&bystander, "SELECT string_agg(label, ' ' ORDER BY id) FROM item").await, "old bystander");
    assert_eq!(value(&stage.client().await, "SELECT count(*) FROM item").await, "2");
    stage.drain().await;
}

/// Bytes that arrive before the answer to an SSLRequest must never be taken for the client's own after it.
#[tokio::test]
async fn bytes_before_the_answer_to_a_tls_request_are_not_obeyed() {
    let stage = Stage::shared("hostile_tls", SCHEMA).await;
    stage.cut();
    let request = [0, 0, 0, 8, 4, 210, 22, 47];
    let inject = honest(b'Q', b"INSERT INTO item VALUES (66, 'injected')\0");
    let answer = throw(&stage, &[request.as_slice(), &startup("postgres", "hostile_tls"), &inject].concat()).await;
    assert_eq!(
        value(&stage.client().await, "SELECT count(*) FROM item").await,
        "1",
        "{:?}",
        String::from_utf8_lossy(&answer)
    );
    // The proper way works: ask, be told, go on.
    let output = stage.psql(&["-A", "-t", "-c", "SELECT count(*) FROM item"]).await;
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deep_and_huge_statements_are_answered_or_refused() {
    let stage = Stage::shared("hostile_sql", SCHEMA).await;
    stage.cut();
    let pid = stage.outpost.pid();
    let (client, bystander) = (stage.client().await, stage.client().await);
    execute(&client, "INSERT INTO item VALUES (2, 'pending')").await;
    let deep = |n: usize, open: &str, inner: &str, close: &str| format!("{}{inner}{}", open.repeat(n), close.repeat(n));
    let select = |expression: String| format!("SELECT {expression} FROM item WHERE id = 2");
    let hostile = [
        select(deep(10_000, "(", "1", ")")),
        select(deep(100_000, "(", "1", ")")),
        format!("SELECT * FROM {} x", deep(5_000, "(SELECT * FROM ", "item", " x)")),
        select("1+".repeat(20_000) + "1"),
        select("NOT ".repeat(20_000) + "true"),
        select("- ".repeat(20_000) + "1"),
        select(deep(5_000, "ARRAY[", "1", "]")),
        select(deep(5_000, "CASE WHEN true THEN ", "1", " END")),
        select(deep(3_000, "abs(", "1", ")")),
        "SELECT 1 UNION ALL ".repeat(3_000) + "SELECT id FROM item",
        "(".repeat(100_000),
        "SELECT '".to_owned() + &"x".repeat(5_000_000),
        "/*".repeat(50_000),
        "SELECT $".to_owned() + &"9".repeat(1000),
        "SELECT \u{0}".replace('\u{0}', "\u{1}"),
        format!("INSERT INTO item VALUES (3, {})", deep(10_000, "(", "'x'", ")")),
        "WITH a AS (".repeat(2_000) + "SELECT 1" + &") SELECT * FROM a".repeat(2_000),
        "BEGIN;".repeat(5_000) + "ROLLBACK",
        "SAVEPOINT s;".repeat(2_000),
    ];
    for sql in &hostile {
        let answered = tokio::time::timeout(Duration::from_secs(60), client.simple_query(sql)).await;
        let head: String = sql.chars().take(40).collect();
        let answered = answered.unwrap_or_else(|_| panic!("no answer to {head}…"));
        if let Err(error) = answered {
            assert!(error.as_db_error().is_some(), "{head}… broke the connection: {error:?}");
        }
        let _ = client.batch_execute("ROLLBACK").await;
        assert_eq!(value(&bystander, "SELECT label FROM item WHERE id = 2").await, "pending", "after {head}…");
    }
    // Large, but nothing wrong with it.
    let rows: Vec<String> = (100..5100).map(|i| format!("({i}, '{}')", "y".repeat(200))).collect();
    execute(&client, &format!("INSERT INTO item VALUES {}", rows.join(", "))).await;
    let list: Vec<String> = (0..20_000).map(|i| i.to_string()).collect();
    let count = value(&client, &format!("SELECT count(*) FROM item WHERE id IN ({})", list.join(","))).await;
    assert_eq!(
        count.parse::<i64>().unwrap()
            - value(&client, "SELECT count(*) FROM item WHERE id = 3").await.parse::<i64>().unwrap(),
        5002
    );
    let long = "z".repeat(3_000_000);
    client.execute("UPDATE item SET label = $1 WHERE id = 1", &[&long]).await.unwrap();
    assert_eq!(value(&client, "SELECT length(label) FROM item WHERE id = 1").await, "3000000");
    assert_eq!(stage.outpost.pid(), pid);
    stage.drain().await;
    assert_eq!(value(&stage.main().await, "SELECT length(label) FROM item WHERE id = 1").await, "3000000");
}
