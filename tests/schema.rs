//! What a server answers against the OpenAPI documents of the Matrix specification, which are read from a checkout of
//! its repository: the directory that `MATRIX_SPEC` names. Without it nothing is checked.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Mutex},
};

use jsonschema::{Draft, Registry, RegistryBuilder, Validator};
use reqwest::{Method, Url};
use serde_json::{Value, json};

use crate::support::encode;

/// Where the documents are below `data` of the checkout.
const API: &str = "api/client-server";

/// Answers can be long; a failure shows this much of one.
const ANSWER_SHOWN_CHARS: usize = 1_000;

/// Where answers differ from the documents: operation, place in the answer, and why. A `*` stands for any part of a place.
const DEVIATIONS: &[(&str, &str, &str)] = &[
    ("getRoomStateWithKey", "", "either an object or an event is demanded, and an event is always both"),
    ("getDevices", "/devices/*/last_seen_ip", NULL_OF_DEVICES),
    ("getDevices", "/devices/*/last_seen_ts", NULL_OF_DEVICES),
    ("getDevice", "/last_seen_ip", NULL_OF_DEVICES),
    ("getDevice", "/last_seen_ts", NULL_OF_DEVICES),
];
const NULL_OF_DEVICES: &str = "null where nothing is known, because clients rely on the fields";

/// The operations of the specification.
pub struct Specification {
    data: PathBuf,
    pub operations: Vec<Operation>,
    validators: Mutex<HashMap<String, Arc<Validator>>>,
}

/// An operation, and where it is defined.
pub struct Operation {
    pub id: String,
    method: Method,
    path: String,
    /// The document's path below `data`.
    pub file: String,
    document: Arc<Value>,
    /// The keys of the path and of the operation in it.
    item: String,
    verb: String,
}

/// An answer, as far as the specification has a say in it.
pub struct Answer<'a> {
    pub method: &'a Method,
    pub path: &'a str,
    pub status: u16,
    /// Nothing where the content isn't JSON.
    pub body: Option<&'a Value>,
}

impl Specification {
    /// That of the checkout, if there is one.
    pub fn given() -> Option<&'static Self> {
        static GIVEN: LazyLock<Option<Specification>> = LazyLock::new(|| {
            let directory = std::env::var_os("MATRIX_SPEC").filter(|directory| !directory.is_empty())?;
            Some(Specification::read(&Path::new(&directory).join("data")))
        });
        GIVEN.as_ref()
    }

    fn read(data: &Path) -> Self {
        let api = data.join(API);
        let entries = std::fs::read_dir(&api).unwrap_or_else(|error| panic!("MATRIX_SPEC: {}: {error}", api.display()));
        let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
        let mut names: Vec<_> = names.filter(|name| name.ends_with(".yaml")).collect();
        names.sort();
        let mut operations = Vec::new();
        for name in names {
            let file = format!("{API}/{name}");
            let document = Arc::new(read_yaml(&data.join(&file)));
            let base = document.pointer("/servers/0/variables/basePath/default").and_then(Value::as_str).unwrap_or("");
            for (item, verbs) in document["paths"].as_object().expect("paths") {
                for (verb, operation) in verbs.as_object().expect("operations") {
                    let Some(id) = operation["operationId"].as_str() else { continue };
                    operations.push(Operation {
                        id: id.to_owned(),
                        method: verb.to_uppercase().parse().expect("a method"),
                        path: format!("{base}{}", item.trim()),
                        file: file.clone(),
                        document: document.clone(),
                        item: item.clone(),
                        verb: verb.clone(),
                    });
                }
            }
        }
        Self { data: data.to_owned(), operations, validators: Mutex::default() }
    }

    /// The operation of a request. Fixed parts of paths go before parameters.
    pub fn operation(&self, method: &Method, path: &str) -> Option<&Operation> {
        let fitting = self.operations.iter().filter(|operation| operation.method == *method && operation.fits(path));
        fitting.min_by_key(|operation| operation.path.matches('{').count())
    }

    /// What is wrong with an answer.
    pub fn fault(&self, answer: &Answer<'_>) -> Option<String> {
        let &Answer { method, path, status, body } = answer;
        let operation = self.operation(method, path);
        let is_error = status >= 400 && !(status == 401 && asks_for_stages(body));
        let said = if is_error { fault_of_error(body) } else { None };
        // Client-server API, using access tokens: a 401 for one has nothing to do with what the operation documents.
        let operations_own = operation.filter(|_| !(is_error && status == 401));
        let said = said.or_else(|| self.fault_of(operations_own?, status, body))?;
        let id = operation.map_or("no operation of the specification", |operation| &operation.id);
        let shown: String = body.map(Value::to_string).unwrap_or_default().chars().take(ANSWER_SHOWN_CHARS).collect();
        Some(format!("{method} {path} ({id}) answers {status} against the specification: {said}\n{shown}"))
    }

    fn fault_of(&self, operation: &Operation, status: u16, body: Option<&Value>) -> Option<String> {
        let Some((pointer, response)) = operation.response(status) else {
            // Errors that any operation may answer aren't listed for each, nor is what HTTP has by itself.
            return (status < 300 && status != 206).then(|| "this success is not documented".to_owned());
        };
        response.pointer("/content/application~1json/schema")?;
        let Some(body) = body else {
            // What stands before the server, or a file, may have another type.
            let types = response["content"].as_object()?;
            return (types.len() == 1).then(|| "the content is not JSON".to_owned());
        };
        let validator = self.validator(&operation.file, &format!("{pointer}/content/application~1json/schema"));
        let errors =
            validator.iter_errors(body).filter(|error| !is_deviation(&operation.id, error.instance_path().as_str()));
        let lines: Vec<_> = errors.map(|error| format!("at \"{}\": {error}", error.instance_path())).collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    }

    /// What is meant, after all references, and the file that it stands in.
    pub fn follow(&self, file: &str, value: &Value) -> (String, Value) {
        let (mut file, mut value) = (file.to_owned(), value.clone());
        while let Some(reference) = value["$ref"].as_str() {
            let (other, pointer) = reference.split_once('#').unwrap_or((reference, ""));
            if !other.is_empty() {
                file = Path::new(&file).with_file_name(other).to_string_lossy().into_owned();
            }
            let document = read_yaml(&self.data.join(&file));
            value = document.pointer(pointer).expect("what is referred to").clone();
        }
        (file, value)
    }

    fn validator(&self, file: &str, pointer: &str) -> Arc<Validator> {
        let pointer: Vec<_> = pointer.split('/').map(encode).collect();
        let schema = format!("{SCHEME}{file}#{}", pointer.join("/"));
        let mut validators = self.validators.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let validator = validators.entry(schema).or_insert_with_key(|schema| {
            // Schemas stand deep in what is no schema, where the registry doesn't look for references to other files.
            let mut documents = HashMap::new();
            self.add_documents(&Url::parse(&format!("{SCHEME}{file}")).expect("a URL"), &mut documents);
            let registry =
                Registry::new().draft(Draft::Draft202012).extend(documents).and_then(RegistryBuilder::prepare);
            let registry = registry.unwrap_or_else(|error| panic!("{schema}: {error}"));
            let options = jsonschema::options().with_draft(Draft::Draft202012).with_registry(&registry);
            Arc::new(options.build(&json!({ "$ref": schema })).unwrap_or_else(|error| panic!("{schema}: {error}")))
        });
        validator.clone()
    }

    /// A document and all that it refers to, directly and not.
    fn add_documents(&self, url: &Url, documents: &mut HashMap<String, Value>) {
        if documents.contains_key(url.as_str()) {
            return;
        }
        let document = read_yaml(&self.data.join(url.path().trim_start_matches('/')));
        documents.insert(url.to_string(), document.clone());
        let mut parts = vec![&document];
        while let Some(part) = parts.pop() {
            if let Some(reference) = part["$ref"].as_str() {
                let mut other = url.join(reference).expect("a reference");
                other.set_fragment(None);
                self.add_documents(&other, documents);
            }
            parts.extend(part.as_object().into_iter().flat_map(|object| object.values()));
            parts.extend(part.as_array().into_iter().flatten());
        }
    }
}

impl Operation {
    pub fn definition(&self) -> &Value {
        &self.document["paths"][&self.item][&self.verb]
    }

    /// Those of the operation and of its path.
    pub fn parameters(&self) -> impl Iterator<Item = &Value> {
        let places = [&self.document["paths"][&self.item], self.definition()];
        places.into_iter().filter_map(|place| place["parameters"].as_array()).flatten()
    }

    fn fits(&self, path: &str) -> bool {
        let (own, other): (Vec<_>, Vec<_>) = (self.path.split('/').collect(), path.split('/').collect());
        own.len() == other.len() && own.iter().zip(other).all(|(own, other)| own.starts_with('{') || *own == other)
    }

    /// What the document says of a status, and where.
    fn response(&self, status: u16) -> Option<(String, &Value)> {
        let item = self.item.replace('~', "~0").replace('/', "~1");
        let mut pointer = format!("/paths/{item}/{}/responses/{status}", self.verb);
        let mut response = self.document.pointer(&pointer)?;
        while let Some(reference) = response["$ref"].as_str() {
            pointer = reference.strip_prefix('#').expect("a reference in the document").to_owned();
            response = self.document.pointer(&pointer).expect("what is referred to");
        }
        Some((pointer, response))
    }
}

/// Client-server API, standard error response: whatever the document of the operation says.
fn fault_of_error(body: Option<&Value>) -> Option<String> {
    let Some(body) = body else { return Some("an error is not JSON".to_owned()) };
    let missing = ["errcode", "error"].into_iter().find(|key| !body[key].is_string())?;
    Some(format!("an error has no {missing}"))
}

/// User-interactive authentication API: the stages that are left are no error until one has failed.
fn asks_for_stages(body: Option<&Value>) -> bool {
    body.is_some_and(|body| body.get("flows").is_some() && (body.get("errcode").is_none() || body["error"].is_string()))
}

fn is_deviation(id: &str, place: &str) -> bool {
    DEVIATIONS.iter().any(|(operation, pattern, _)| {
        let (own, other): (Vec<_>, Vec<_>) = (pattern.split('/').collect(), place.split('/').collect());
        *operation == id
            && own.len() == other.len()
            && own.iter().zip(other).all(|(own, other)| *own == "*" || *own == other)
    })
}

/// What the documents are called among themselves, so that no path of the machine has to be a URI.
const SCHEME: &str = "spec:///";

fn read_yaml(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A document with references to a file beside it and into itself.
const PETS: &str = r##"
servers:
  - variables: { basePath: { default: /_matrix/client/v1 } }
paths:
  /pets/{name}:
    get:
      operationId: getPet
      responses:
        "200": { $ref: "#/components/responses/pet" }
  /pets/all:
    get:
      operationId: getPets
      responses:
        "200":
          content:
            application/json:
              schema: { type: object, properties: { pets: { type: array, items: { $ref: definitions/pet.yaml } } } }
components:
  responses:
    pet: { content: { application/json: { schema: { $ref: definitions/pet.yaml } } } }
"##;
const PET: &str = "{ type: object, required: [name], properties: { name: { type: string }, legs: { type: integer } } }";

#[test]
fn wrong_answers_are_seen() {
    let directory = tempfile::tempdir().expect("a directory");
    let api = directory.path().join(API);
    std::fs::create_dir_all(api.join("definitions")).expect("directories");
    std::fs::write(api.join("pets.yaml"), PETS).expect("a document");
    std::fs::write(api.join("definitions/pet.yaml"), PET).expect("a definition");
    let specification = Specification::read(directory.path());
    let fault = |path: &str, status, body: Value| {
        let path = &format!("/_matrix/client/v1{path}");
        specification.fault(&Answer { method: &Method::GET, path, status, body: Some(&body) }).unwrap_or_default()
    };
    let tom = json!({ "name": "Tom", "legs": 4, "colour": "grey" });
    for (path, status, body, said) in [
        ("/pets/tom", 200, tom.clone(), ""),
        ("/pets/tom", 200, json!({ "legs": 4 }), "(getPet) answers 200 against the specification: at \"\": \"name\""),
        ("/pets/tom", 200, json!({ "name": "Tom", "legs": "four" }), "at \"/legs\": \"four\" is not of type"),
        ("/pets/tom", 201, tom.clone(), "not documented"),
        ("/pets/all", 200, json!({ "pets": [tom] }), ""),
        (
            "/pets/all",
            200,
            json!({ "pets": [{ "name": 7 }] }),
            "(getPets) answers 200 against the specification: at \"/pets/0/name\"",
        ),
        ("/pets/tom", 404, json!({ "errcode": "M_NOT_FOUND", "error": "No such pet." }), ""),
        ("/pets/tom", 404, json!({ "errcode": "M_NOT_FOUND" }), "no error"),
        ("/birds", 500, json!({ "error": "It flew away." }), "no errcode"),
        ("/birds", 401, json!({ "flows": [], "session": "1" }), ""),
        ("/birds", 200, json!(null), ""),
    ] {
        let fault = fault(path, status, body);
        assert!(
            fault.contains(said) && said.is_empty() == fault.is_empty(),
            "{path} {status}: {fault:?}, not {said:?}"
        );
    }
    let path = "/_matrix/client/v1/pets/tom";
    let fault = specification.fault(&Answer { method: &Method::GET, path, status: 200, body: None });
    assert!(fault.is_some_and(|fault| fault.contains("not JSON")));
}
