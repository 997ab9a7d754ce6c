//! What an admin sees of the configuration: the generated file, and faults in one.

use std::path::PathBuf;

use crate::{
    config::Config,
    config_file::{ConfigError, parse},
    config_generate::generate,
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
    let config = parse(committed, "conduit.toml", std::iter::empty()).expect("it works as it stands");
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
    let config = parse("[global]\nport = 1\n", "conduit.toml", env).expect("valid");
    assert_eq!(config.port.as_slice(), [8448]);
    assert_eq!(config.registration_token.as_deref(), Some("12345"));
    assert_eq!(config.tls.expect("set").certs, PathBuf::from("/certs.pem"));
    let fault = &faults("", &[("CONDUIT_LOG_FORMAT", "loud")])[0];
    assert!(fault.starts_with("CONDUIT_LOG_FORMAT (in the environment): log_format: "), "{fault}");
    let fault = &faults("", &[("CONDUIT_NONSENSE", "1")])[0];
    assert_eq!(fault, "CONDUIT_NONSENSE (in the environment): nonsense: unknown key");
}

#[test]
fn open_registration_must_be_confirmed() {
    let text = "[global]\nallow_registration = true\n";
    assert!(!faults(text, &[]).is_empty());
    assert!(faults(text, &[("CONDUIT_REGISTRATION_TOKEN", "secret")]).is_empty());
    let sure = "CONDUIT_YES_I_AM_VERY_VERY_SURE_I_WANT_AN_OPEN_REGISTRATION_SERVER_PRONE_TO_ABUSE";
    assert!(faults(text, &[(sure, "true")]).is_empty());
}
