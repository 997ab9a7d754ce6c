//! What an admin sees of the configuration: the generated file, and faults in one.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::{
    config::{Config, impossible},
    config_file::{ConfigError, parse},
    config_generate::{generate, keys},
    descriptors::Descriptors,
    logging, wire,
};

fn faults(text: &str, env: &[(&str, &str)]) -> Vec<String> {
    let env = env.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    match parse(text, "conduit.toml", env) {
        Ok(_) => Vec::new(),
        Err(ConfigError::Invalid(faults)) => faults,
        Err(error) => vec![error.to_string()],
    }
}

#[test]
fn the_generated_file_is_the_one_in_the_repository_and_works() {
    let generated = generate();
    let committed = include_str!("../conduit.toml");
    assert!(generated == committed, "conduit.toml is not what the typed configuration generates: run `make config`");
    let config = parse(committed, "conduit.toml", std::iter::empty()).expect("it works as it stands").config;
    assert_eq!(format!("{config:?}"), format!("{:?}", Config::default()));
}

#[test]
fn faults_name_key_and_line() {
    assert_eq!(faults("[global]\nport = 1\nprot = 2\n", &[]), ["conduit.toml:3: prot: unknown key"]);
    assert_eq!(faults("[global]\n\nallow_registration = true\n", &[]).len(), 1);
    assert!(
        faults("[global]\n\nallow_registration = true\n", &[])[0].starts_with("conduit.toml:3: allow_registration: ")
    );
    let fault = &faults("[global]\nmax_request_size = \"big\"\n", &[])[0];
    assert!(fault.starts_with("conduit.toml:2: max_request_size: invalid type"), "{fault}");
    let fault = &faults("[global.rate_limit]\nmessage = { per_second = true }\n", &[])[0];
    assert!(fault.starts_with("conduit.toml:2: rate_limit.message.per_second: "), "{fault}");
    let fault = &faults("[global]\nserver_name = \"no spaces\"\n", &[])[0];
    assert!(fault.starts_with("conduit.toml:2: server_name: "), "{fault}");
    assert!(faults("[global\n", &[])[0].starts_with("conduit.toml:1: "));
    assert_eq!(faults("port = 1\n", &[]), ["conduit.toml:1: port: unknown key"]);
}

#[test]
fn the_environment_overrides_the_file() {
    let env = [
        ("CONDUIT_PORT", "8448"),
        ("CONDUIT_REGISTRATION_TOKEN", "12345"),
        ("CONDUIT_TLS__CERTS", "/certs.pem"),
        ("CONDUIT_CONFIG", "elsewhere.toml"),
        ("PATH", "/bin"),
    ];
    let env = env.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    let config = parse("[global]\nport = 1\n", "conduit.toml", env).expect("valid").config;
    assert_eq!(config.port.as_slice(), [8448]);
    assert_eq!(config.registration_token.as_deref(), Some("12345"));
    assert_eq!(config.tls.expect("set").certs, PathBuf::from("/certs.pem"));
    let fault = &faults("", &[("CONDUIT_LOG_FORMAT", "loud")])[0];
    assert!(fault.starts_with("CONDUIT_LOG_FORMAT (in the environment): log_format: "), "{fault}");
    let fault = &faults("", &[("CONDUIT_NONSENSE", "1")])[0];
    assert_eq!(fault, "CONDUIT_NONSENSE (in the environment): nonsense: unknown key");
}

#[test]
fn no_secret_is_seen_when_the_configuration_is_printed() {
    let text = "[global]\nregistration_token = \"geheim-1\"\nturn_secret = \"geheim-2\"\nturn_password = \"geheim-3\"\n\
                [global.media_s3]\nbucket = \"b\"\nsecret_key = \"geheim-4\"\naccess_key = \"geheim-5\"\n";
    let config = parse(text, "conduit.toml", std::iter::empty()).expect("valid").config;
    for printed in [format!("{config:?}"), format!("{config:#?}")] {
        assert!(printed.contains("***") && !printed.contains("geheim"), "{printed}");
    }
    // Whoever adds a key whose name says that it is a secret has to hide it.
    let all = serde_json::to_value(Config::default()).expect("JSON");
    let names = all.as_object().expect("a table").keys().filter(|key| {
        ["secret", "password", "token"].iter().any(|word| key.ends_with(word)) && all[key.as_str()].is_null()
    });
    for name in names {
        let config = parse(&format!("[global]\n{name} = \"geheim\"\n"), "conduit.toml", std::iter::empty());
        assert!(!format!("{:?}", config.expect("valid").config).contains("geheim"), "{name}");
    }
}

#[test]
fn open_registration_must_be_confirmed() {
    let text = "[global]\nallow_registration = true\n";
    assert!(!faults(text, &[]).is_empty());
    assert!(faults(text, &[("CONDUIT_REGISTRATION_TOKEN", "secret")]).is_empty());
    let sure = "CONDUIT_YES_I_AM_VERY_VERY_SURE_I_WANT_AN_OPEN_REGISTRATION_SERVER_PRONE_TO_ABUSE";
    assert!(faults(text, &[(sure, "true")]).is_empty());
}

#[test]
fn keys_of_earlier_versions_are_no_reason_not_to_start() {
    let text = "[global]\n\ntrusted_servers = [\"example.org\"]\n";
    let loaded = parse(text, "conduit.toml", std::iter::empty()).expect("it can be used");
    assert_eq!(loaded.ignored, ["conduit.toml:3: trusted_servers: has no effect any more"]);
}

/// Files in which each key has something to say: some matter only beside others.
const FILES: [&str; 3] = [
    "",
    "turn_uris = ['turn:a']\nturn_secret = 'b'\nregistration_token = 'c'\nallow_registration = true\n\
     [global.tls]\ncerts = 'd'\nkey = 'e'\n\
     [global.media_s3]\nbucket = 'f'\naccess_key = 'g'\nsecret_key = 'h'\n\
     [global.well_known]\nsupport_email = 'i@example.org'\nsupport_mxid = '@i:example.org'\n",
    "turn_uris = ['turn:a']\nturn_username = 'b'\nturn_password = 'c'\nallow_registration = true\n\
     [global.well_known]\nsupport_mxid = '@i:example.org'\n",
];

/// All that the parts of the server are told; nothing, if they can't be told it. Secrets are not in what is printed of the rest.
fn told(config: &Config) -> Option<String> {
    let descriptors = Descriptors { limit: 65_536, connections: 32_768, database_files: 8_192 };
    let api = wire::api_config(config);
    let access = match api.turn.as_ref().map(|turn| &turn.access) {
        Some(client_api::TurnAccess::Secret(secret)) => vec![secret.clone()],
        Some(client_api::TurnAccess::Account { username, password }) => vec![username.clone(), password.clone()],
        None => Vec::new(),
    };
    let media = wire::media_config(config).ok()?;
    let bucket = media.s3.as_ref().map(|s3| serde_json::to_string(s3).expect("text"));
    let secrets = (access, &api.registration_token, bucket);
    let log = logging::filter(config).map_err(|error| error.to_string()).map(|filter| filter.to_string());
    let domains = (wire::rooms_config(config), wire::users_config(config), media);
    let http = wire::http_config(config, descriptors).ok()?;
    let outside = (wire::sync_config(config), &api, http, log, logging::is_json(config));
    Some(format!("{:?}", (wire::store_options(config, descriptors), domains, outside, secrets)))
}

/// Values of every kind that a key may take.
fn values(old: &Value) -> Vec<Value> {
    let texts = ["other", "json", "all", "11", "other.example", "@other:localhost", "127.0.0.9"].map(Value::from);
    let more = old.as_f64().map_or(json!(3), |number| json!(number + 1.0));
    let whole = old.as_u64().map_or(json!(3), |number| json!(number + 1));
    let lists = texts.clone().map(|text| json!([text])).into_iter().chain([json!([3])]);
    let tables = [json!({ "bucket": "b" }), json!({ "certs": "c" }), json!({ "per_second": 7.5, "burst": 3 })];
    let flags = [json!(true), json!(false)];
    texts.into_iter().chain([more, whole]).chain(lists).chain(tables).chain(flags).collect()
}

/// Only says that another key is meant.
const CONFIRMS: &str = "yes_i_am_very_very_sure_i_want_an_open_registration_server_prone_to_abuse";

/// Whether some value of the key changes what the parts of the server are told.
fn has_effect(table: &str, key: &str) -> bool {
    FILES.iter().any(|text| {
        let text = format!("[global]\n{text}");
        let file: Value = toml::from_str(&text).expect("TOML");
        let before: Config = serde_json::from_value(file["global"].clone()).expect("a configuration");
        let whole = json!({ "global": before });
        let pointer = format!("/{}/{key}", table.replace('.', "/"));
        let Some(old) = whole.pointer(&pointer) else { return false };
        let effect = |config: &Config| match key == CONFIRMS {
            true => Some(format!("{:?}", impossible(config))),
            false => told(config),
        };
        let before = effect(&before);
        values(old).into_iter().any(|value| {
            let mut changed = whole.clone();
            *changed.pointer_mut(&pointer).expect("was there") = value;
            serde_json::from_value(changed["global"].take())
                .is_ok_and(|config: Config| effect(&config).is_some_and(|told| Some(told) != before))
        })
    })
}

#[test]
fn every_key_has_an_effect() {
    let keys = keys();
    assert!(keys.len() > 60, "the keys were not found");
    let idle: Vec<_> = keys.iter().filter(|(table, key)| !has_effect(table, key)).collect();
    assert!(idle.is_empty(), "nothing reads {idle:?}");
}
