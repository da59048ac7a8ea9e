//! Lays the sources over each other and says everything that is wrong at once.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use figment::error::Kind;
use figment::providers::{Format, Serialized, Toml};
use figment::value::{Dict, Map, Tag, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::{Config, mask};

const PREFIX: &str = "PGOUTPOST__";

/// Where a configuration comes from. Plain values, so that tests need neither files nor the process's environment.
#[derive(Clone, Default)]
pub struct Sources {
    pub file: Option<PathBuf>,
    pub dotenv: Vec<(String, String)>,
    pub environment: Vec<(String, String)>,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Variables hold passwords.
        f.debug_struct("Sources").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Sources {
    /// The given file, `.env` in the current folder when there is one, and the process's environment.
    ///
    /// # Errors
    /// A `.env` that cannot be read.
    pub fn of_process(file: &Path) -> Result<Sources, ConfigErrors> {
        let text = |pair: (std::ffi::OsString, std::ffi::OsString)| {
            Some((pair.0.into_string().ok()?, pair.1.to_string_lossy().into_owned()))
        };
        Ok(Sources {
            file: Some(file.to_owned()),
            dotenv: read_dotenv(Path::new(".env")).map_err(|reason| ConfigErrors::whole(".env", &reason))?,
            environment: std::env::vars_os().filter_map(text).collect(),
        })
    }
}

fn read_dotenv(path: &Path) -> Result<Vec<(String, String)>, String> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let lines = dotenvy::from_path_iter(path).map_err(|error| error.to_string())?;
    lines.map(|line| line.map_err(|error| error.to_string())).collect()
}

/// One thing that is wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// `section.key`; empty when the trouble is with a whole source.
    pub key: String,
    /// As it was given, passwords masked.
    pub value: Option<String>,
    /// What is wrong and what is allowed.
    pub reason: String,
    /// The file or the variable it was set in.
    pub origin: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if let Some(value) = &self.value {
            write!(f, " = {value}")?;
        }
        match &self.origin {
            Some(origin) if self.key.is_empty() => write!(f, "{origin}")?,
            Some(origin) => write!(f, " ({origin})")?,
            None => {}
        }
        write!(f, ": {}", self.reason)
    }
}

/// Everything that is wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<Problem>);

impl ConfigErrors {
    fn whole(origin: &str, reason: &str) -> ConfigErrors {
        let origin = Some(origin.to_owned());
        ConfigErrors(vec![Problem { key: String::new(), value: None, reason: mask(reason), origin }])
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration is not usable:")?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for ConfigErrors {}

impl Config {
    /// Reads, merges and validates.
    ///
    /// # Errors
    /// Every problem of every source at once, except that a file which is not TOML hides what is behind it.
    pub fn load(sources: &Sources) -> Result<Config, ConfigErrors> {
        let mut layers = Figment::new();
        if let Some(file) = &sources.file {
            std::fs::metadata(file)
                .map_err(|error| ConfigErrors::whole(&file.display().to_string(), &error.to_string()))?;
            layers = layers.merge(Toml::file_exact(file));
        }
        layers = layers
            .merge(Variables::new(".env", &sources.dotenv))
            .merge(Variables::new("environment", &sources.environment));
        let values: Dict = layers.extract().map_err(|error| {
            let origin = error.metadata.as_ref().map_or("configuration", |metadata| &metadata.name).to_owned();
            ConfigErrors::whole(
                &sources.file.as_ref().map_or(origin, |file| file.display().to_string()),
                &error.kind.to_string(),
            )
        })?;
        let (mut config, mut problems) = deserialize(&layers, values.clone());
        for path in leaves(&values, "") {
            if let Some(origin) = origin(&layers, &path) {
                config.origins.insert(path, origin);
            }
        }
        let found: Vec<String> = problems.iter().map(|problem| problem.key.clone()).collect();
        problems.extend(config.validate().into_iter().filter(|problem| !found.contains(&problem.key)).map(
            |mut problem| {
                problem.origin = config.origins.get(&problem.key).cloned();
                problem
            },
        ));
        problems.sort_by(|a, b| a.key.cmp(&b.key));
        if problems.is_empty() { Ok(config) } else { Err(ConfigErrors(problems)) }
    }
}

/// serde stops at the first error. So: note it, take the key that caused it away, and try again.
fn deserialize(layers: &Figment, mut values: Dict) -> (Config, Vec<Problem>) {
    let mut problems = Vec::new();
    loop {
        let attempt = Figment::from(Serialized::defaults(&values)).extract_lossy::<Config>();
        let Err(error) = attempt else { return (attempt.unwrap_or_default(), problems) };
        let mut path = error.path.clone();
        let reason = reason(&error.kind, &mut path);
        let key = path.join(".");
        let value = layers.find_value(&key).ok().map(|value| mask(&print(&value)));
        problems.push(Problem { value, reason, origin: origin(layers, &key), key });
        if !remove(&mut values, &path) {
            return (Config::default(), problems);
        }
    }
}

/// What is wrong and what is allowed. The name of an unknown field belongs to the path.
fn reason(kind: &Kind, path: &mut Vec<String>) -> String {
    match kind {
        Kind::UnknownField(name, allowed) => {
            if path.last() != Some(name) {
                path.push(name.clone());
            }
            let what = if path.len() == 1 { "section" } else { "key" };
            format!("unknown {what}; known here: {}", allowed.join(", "))
        }
        Kind::UnknownVariant(_, allowed) => format!("expected one of: {}", allowed.join(", ")),
        Kind::InvalidType(_, expected) | Kind::InvalidValue(_, expected) | Kind::InvalidLength(_, expected) => {
            format!("expected {expected}")
        }
        Kind::Message(_)
        | Kind::MissingField(_)
        | Kind::DuplicateField(_)
        | Kind::ISizeOutOfRange(_)
        | Kind::USizeOutOfRange(_)
        | Kind::Unsupported(_)
        | Kind::UnsupportedKey(_, _) => mask(&kind.to_string()),
    }
}

fn remove(values: &mut Dict, path: &[String]) -> bool {
    match path {
        [] => false,
        [last] => values.remove(last).is_some(),
        [first, rest @ ..] => match values.get_mut(first) {
            Some(Value::Dict(_, inner)) => remove(inner, rest),
            Some(_) | None => false,
        },
    }
}

fn leaves(values: &Dict, prefix: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for (name, value) in values {
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value {
            // A section; a table within one is a setting of its own.
            Value::Dict(_, inner) if prefix.is_empty() => paths.extend(leaves(inner, &path)),
            Value::Dict(..)
            | Value::String(..)
            | Value::Char(..)
            | Value::Bool(..)
            | Value::Num(..)
            | Value::Empty(..)
            | Value::Array(..) => {
                paths.push(path);
            }
        }
    }
    paths
}

fn origin(layers: &Figment, key: &str) -> Option<String> {
    let metadata = layers.get_metadata(layers.find_value(key).ok()?.tag())?;
    match &metadata.source {
        Some(figment::Source::File(path)) => Some(path.display().to_string()),
        _ => Some(format!("{PREFIX}{} in {}", key.to_ascii_uppercase().replace('.', "__"), metadata.name)),
    }
}

fn print(value: &Value) -> String {
    match value {
        Value::String(_, text) => format!("{text:?}"),
        Value::Dict(..) => "[…]".to_owned(),
        Value::Char(..) | Value::Bool(..) | Value::Num(..) | Value::Empty(..) | Value::Array(..) => {
            serde_json::to_string(value).unwrap_or_default()
        }
    }
}

/// Environment variables as a figment layer. Values stay strings: figment's own would read a site called "17" as a number.
struct Variables {
    name: &'static str,
    values: BTreeMap<String, String>,
}

impl Variables {
    fn new(name: &'static str, pairs: &[(String, String)]) -> Variables {
        let ours = |(name, value): &(String, String)| {
            let key = name.strip_prefix(PREFIX)?.to_ascii_lowercase();
            Some((key, value.clone()))
        };
        Variables { name, values: pairs.iter().filter_map(ours).collect() }
    }
}

impl Provider for Variables {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name)
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let mut sections = Dict::new();
        for (name, text) in &self.values {
            let value = Value::String(Tag::Default, text.clone());
            let Some((section, key)) = name.split_once("__") else {
                sections.insert(name.clone(), value);
                continue;
            };
            let section = sections.entry(section.to_owned()).or_insert_with(|| Value::Dict(Tag::Default, Dict::new()));
            if let Value::Dict(_, keys) = section {
                keys.insert(key.to_owned(), value);
            }
        }
        Ok(Profile::Default.collect(sections))
    }
}
