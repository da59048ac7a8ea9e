use super::*;

#[test]
fn a_url_names_its_servers() {
    let config: Config = "postgres://u@one:5433,two:5434/db".parse().unwrap();
    assert_eq!(addresses(&config), [Address::Tcp("one".into(), 5433), Address::Tcp("two".into(), 5434)]);
    let config: Config = "host=/run/pg port=5440 user=u".parse().unwrap();
    assert_eq!(addresses(&config), [Address::Unix("/run/pg/.s.PGSQL.5440".into())]);
}

#[test]
fn a_password_is_only_given_for_its_own_role() {
    let config: Config = "postgres://ann:secret@one/db".parse().unwrap();
    let password = |role| Login { role, config: &config, scram: None }.password().map(<[u8]>::to_vec);
    assert_eq!(password("ann").unwrap(), b"secret");
    assert!(matches!(password("bob"), Err(ConnectError::NoPassword { .. })));
}
