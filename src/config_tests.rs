//! What an admin sees of the configuration: the generated file, and faults in one.

use std::{
    any::type_name,
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use settings::{Key, Settings, Table};
use syn::visit::{self, Visit};

use crate::{
    config::{Config, Parts},
    config_file::{ConfigError, parse},
    config_generate::{Outline, generate},
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
    assert_eq!(format!("{config:?}"), format!("{:?}", Config::compose(&mut Outline::default())));
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
    assert_eq!(faults("global = 1\n", &[]), ["conduit.toml:1: global: must be a table"]);
    assert_eq!(faults("[global]\n[global.tls]\ncert = 1\n", &[]), ["conduit.toml:3: tls.cert: unknown key"]);
    let fault = &faults("[global]\ntrusted_proxies = [\"10.0.0.0/8\", \"ten\"]\n", &[])[0];
    assert_eq!(fault, "conduit.toml:2: trusted_proxies: must be addresses and networks, such as \"10.0.0.0/8\"");
    let fault = &faults("[global]\nadmins = [\"@a:elsewhere.example\"]\n", &[])[0];
    assert_eq!(fault, "conduit.toml:2: admins: must be users of this server");
    // What a part is given otherwise is no key.
    assert_eq!(faults("[global]\ncache_bytes = 1\n", &[]), ["conduit.toml:2: cache_bytes: unknown key"]);
    // Each part says what is wrong with it.
    let faults = faults("[global]\nturn_ttl = 0\nport = -1\nlarge_room_members = \"many\"\nlog = \"=\"\n", &[]);
    let mut lines: Vec<_> = faults.iter().filter_map(|fault| fault.split(':').nth(1)).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["2", "3", "4", "5"], "{faults:?}");
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
    assert_eq!(config.http.port.as_slice(), [8448]);
    assert_eq!(config.api.registration_token.as_deref(), Some("12345"));
    assert_eq!(config.http.tls.expect("set").certs, PathBuf::from("/certs.pem"));
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
    let keys = Outline::new().keys.into_iter().filter(|key| key.default.is_null()).map(|key| key.name);
    let names = keys.filter(|key| ["secret", "password", "token"].iter().any(|word| key.ends_with(word)));
    for name in names.collect::<BTreeSet<_>>() {
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
     yes_i_am_very_very_sure_i_want_an_open_registration_server_prone_to_abuse = true\n\
     [global.well_known]\nsupport_mxid = '@i:example.org'\n",
];

/// All that is handed to the parts of the server.
fn handed_over(config: &Config) -> String {
    let descriptors = Descriptors { limit: 65_536, connections: 32_768, database_files: 8_192 };
    let caches = wire::Caches::of(1 << 30);
    let store = wire::store_options(config, descriptors);
    let (media, api) = (wire::media_config(config), wire::api_config(config));
    // What is printed of them has no secrets.
    let secrets = json!([&media, &api]);
    let log = logging::filter(&config.server).map(|filter| filter.to_string()).map_err(|error| error.to_string());
    let domains = (wire::rooms_config(config, &caches), wire::users_config(config, &caches), media);
    let outside = (wire::sync_config(config, &caches), api, wire::http_config(config, descriptors));
    format!("{:?}", (store, domains, outside, secrets, log, logging::is_json(&config.server)))
}

/// Values of every kind that a key may take.
fn values(old: &Value) -> Vec<Value> {
    let texts =
        ["other", "json", "all", "11", "other.example", "@other:localhost", "127.0.0.9", "turn:b"].map(Value::from);
    let more = old.as_f64().map_or(json!(3), |number| json!(number + 1.0));
    let whole = old.as_u64().map_or(json!(3), |number| json!(number + 1));
    let lists = texts.clone().map(|text| json!([text])).into_iter().chain([json!([3])]);
    let tables = [json!({ "per_second": 7.5, "burst": 3 })];
    let flags = [json!(true), json!(false)];
    texts.into_iter().chain([more, whole]).chain(lists).chain(tables).chain(flags).collect()
}

/// Whether some value of the key changes what is handed to the parts of the server.
fn has_effect(table: Option<&str>, key: &Key) -> bool {
    let read = |file: &toml::Table| {
        let text = toml::to_string(file).expect("TOML");
        parse(&text, "conduit.toml", std::iter::empty()).ok().map(|loaded| handed_over(&loaded.config))
    };
    FILES.iter().any(|text| {
        let file: toml::Table = toml::from_str(&format!("[global]\n{text}")).expect("TOML");
        let before = read(&file).expect("it can be used");
        values(&key.default).into_iter().any(|value| {
            let mut changed = file.clone();
            let global = inner(&mut changed, "global");
            let own = match table {
                Some(name) => inner(global, name),
                None => global,
            };
            own.insert(key.name.to_owned(), toml::Value::try_from(value).expect("TOML"));
            read(&changed).is_some_and(|after| after != before)
        })
    })
}

/// The table of this name, which is made where it is missing.
fn inner<'a>(table: &'a mut toml::Table, name: &str) -> &'a mut toml::Table {
    let inner = table.entry(name).or_insert_with(|| toml::Table::new().into());
    inner.as_table_mut().expect("a table")
}

#[test]
fn every_key_has_an_effect() {
    let Outline { keys, tables } = Outline::new();
    let is_table = |key: &Key| tables.iter().any(|table| table.name == key.name);
    let plain = keys.iter().filter(|key| !is_table(key)).map(|key| (None, key));
    let inner = tables.iter().flat_map(|table| table.keys.iter().map(|key| (Some(table.name), key)));
    let all: Vec<_> = plain.chain(inner).collect();
    assert!(all.len() > 60, "the keys were not found");
    let idle: Vec<_> = all.iter().filter(|(table, key)| !has_effect(*table, key)).collect();
    assert!(idle.is_empty(), "no part is given {idle:?}");
}

/// The names of fields that code looks at, outside of tests and of the checks of settings.
#[derive(Default)]
struct Reads(BTreeSet<String>);

impl Reads {
    /// Of the files in a directory and below it, without those of other crates.
    fn of(directory: &Path) -> Self {
        let mut reads = Self::default();
        reads.add(directory);
        reads
    }

    fn add(&mut self, directory: &Path) {
        for entry in std::fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "tests" && !path.join("Cargo.toml").exists() {
                    self.add(&path);
                }
            } else if name != "tests" && !name.ends_with("_tests") {
                let text = std::fs::read_to_string(&path).expect("source");
                self.visit_file(&syn::parse_file(&text).expect("Rust"));
            }
        }
    }
}

impl<'a> Visit<'a> for Reads {
    fn visit_item_mod(&mut self, module: &'a syn::ItemMod) {
        if !module.attrs.iter().any(|attribute| attribute.path().is_ident("cfg")) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_impl_item_fn(&mut self, function: &'a syn::ImplItemFn) {
        if function.sig.ident != "faults" {
            visit::visit_impl_item_fn(self, function);
        }
    }

    fn visit_expr_field(&mut self, field: &'a syn::ExprField) {
        if let syn::Member::Named(name) = &field.member {
            self.0.insert(name.to_string());
        }
        visit::visit_expr_field(self, field);
    }

    fn visit_macro(&mut self, called: &'a syn::Macro) {
        // What they are given is not parsed: whatever stands after a point.
        let text = called.tokens.to_string().replace(' ', "");
        let is_name = |c: &char| c.is_alphanumeric() || *c == '_';
        self.0.extend(text.split('.').skip(1).map(|after| after.chars().take_while(is_name).collect()));
    }
}

/// A key that only says that another key is meant.
const CONFIRMS: &str = "yes_i_am_very_very_sure_i_want_an_open_registration_server_prone_to_abuse";

/// Keys that nothing reads where they are declared, nor where the parts are put together.
#[derive(Default)]
struct Unread(Vec<&'static str>);

impl Parts for Unread {
    fn part<T: Settings>(&mut self) -> T {
        let declared = type_name::<T>().split("::").next().expect("a crate");
        let own = match declared {
            "haima" => Reads::default(),
            name => Reads::of(&Path::new("src").join(name.trim_start_matches("haima_")).join("src")),
        };
        let root = Reads::of(Path::new("src"));
        let is_read = |key: &Key| own.0.contains(key.name) || root.0.contains(key.name);
        // Of a row of the table of classes both the key and what reads it are made.
        let tables = T::tables().into_iter().filter(|table| table.name != "rate_limit").flat_map(|table| table.keys);
        let keys = Table::of::<T>("").keys.into_iter().chain(tables).filter(|key| key.name != CONFIRMS);
        self.0.extend(keys.filter(|key| !is_read(key)).map(|key| key.name));
        T::default()
    }
}

#[test]
fn every_key_is_read() {
    let mut unread = Unread::default();
    Config::compose(&mut unread);
    assert_eq!(unread.0, [""; 0], "nothing reads these keys");
}
