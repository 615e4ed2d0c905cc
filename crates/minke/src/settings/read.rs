//! Reading files and flags; all mistakes are reported at once, each with its place.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::keys::KEYS;
use super::{DEFAULT_FILE, Settings};

/// Where settings come from.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    /// The file; none is the default one, which need not exist.
    pub(crate) file: Option<PathBuf>,
    /// `key=value` pairs of the command line.
    pub(crate) overrides: Vec<String>,
}

/// Everything that is wrong with the configuration, a line each.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mistakes(Vec<String>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration cannot be used")?;
        self.0.iter().try_for_each(|mistake| write!(f, "\n  {mistake}"))
    }
}

impl std::error::Error for Mistakes {}

/// Reads the file, its drop-ins and the overrides over the defaults.
pub(crate) fn load(sources: &Sources) -> Result<Settings, Mistakes> {
    let mut settings = Settings::default();
    let mut mistakes = Vec::new();
    let file = sources.file.as_deref().unwrap_or(Path::new(DEFAULT_FILE));
    match std::fs::read_to_string(file) {
        Ok(text) => merge(&mut settings, &file.display().to_string(), &text, &mut mistakes),
        Err(error) if error.kind() == io::ErrorKind::NotFound && sources.file.is_none() => {}
        Err(error) => mistakes.push(format!("{}: {error}", file.display())),
    }
    match drop_ins(file) {
        Ok(paths) => {
            for path in paths {
                match std::fs::read_to_string(&path) {
                    Ok(text) => {
                        merge(&mut settings, &path.display().to_string(), &text, &mut mistakes);
                    }
                    Err(error) => mistakes.push(format!("{}: {error}", path.display())),
                }
            }
        }
        Err(error) => mistakes.push(error),
    }
    for pair in &sources.overrides {
        override_one(&mut settings, pair, &mut mistakes);
    }
    mistakes.extend(contradictions(&settings));
    if mistakes.is_empty() { Ok(settings) } else { Err(Mistakes(mistakes)) }
}

/// `config.d/*.toml` beside the file, by name.
fn drop_ins(file: &Path) -> Result<Vec<PathBuf>, String> {
    let directory = file.with_file_name("config.d");
    let fail = |error: io::Error| format!("{}: {error}", directory.display());
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(fail(error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(fail)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Puts the keys of one file into the settings.
pub(super) fn merge(settings: &mut Settings, file: &str, text: &str, mistakes: &mut Vec<String>) {
    let line = |offset: usize| text[..offset].matches('\n').count() + 1;
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let line = error.span().map_or(1, |span| line(span.start));
        mistakes.push(format!("{file}:{line}: {}", error.message()));
    }
    if errors.is_empty() {
        let place = |offset| format!("{file}:{}", line(offset));
        table_keys(settings, "", table.get_ref(), &place, mistakes);
    }
}

fn table_keys(
    settings: &mut Settings,
    section: &str,
    table: &DeTable<'_>,
    place: &dyn Fn(usize) -> String,
    mistakes: &mut Vec<String>,
) {
    for (key, value) in table {
        let name = match section {
            "" => key.get_ref().to_string(),
            section => format!("{section}.{}", key.get_ref()),
        };
        let is_section = KEYS.iter().any(|key| key.parts().0 == name);
        let result = match value.get_ref() {
            DeValue::Table(table) if is_section => {
                table_keys(settings, &name, table, place, mistakes);
                continue;
            }
            _ if is_section => Err(format!("{name} is a section, not a key")),
            value => set(settings, &name, value),
        };
        if let Err(reason) = result {
            mistakes.push(format!("{}: {reason}", place(key.span().start)));
        }
    }
}

fn set(settings: &mut Settings, name: &str, value: &DeValue<'_>) -> Result<(), String> {
    match KEYS.iter().find(|key| key.name == name) {
        Some(key) => (key.set)(settings, value).map_err(|reason| format!("{name}: {reason}")),
        None => {
            let section = name.rsplit_once('.').map_or("", |(section, _)| section);
            let near = KEYS.iter().filter(|key| key.parts().0 == section);
            let near: Vec<_> = near.map(|key| key.name).collect();
            Err(match near.as_slice() {
                [] => format!("{name}: unknown key"),
                near => format!("{name}: unknown key; there are {}", near.join(", ")),
            })
        }
    }
}

/// One `key=value` of the command line. A value that is no TOML stands for itself, so that quotes
/// need not be quoted from a shell.
fn override_one(settings: &mut Settings, pair: &str, mistakes: &mut Vec<String>) {
    let Some((name, text)) = pair.split_once('=') else {
        mistakes.push(format!("--set {pair}: key=value is expected"));
        return;
    };
    let result = match DeValue::parse(text) {
        Ok(value) => set(settings, name, value.get_ref()),
        Err(_) => set(settings, name, &DeValue::String(text.into())),
    };
    if let Err(reason) = result {
        mistakes.push(format!("--set {reason}"));
    }
}

/// What no key alone can be blamed for, or no type alone refuses.
fn contradictions(settings: &Settings) -> Vec<String> {
    let mut mistakes = Vec::new();
    let network = &settings.network;
    if network.bridge_prefix.is_empty() || network.bridge_prefix.len() > 6 {
        mistakes.push("network.bridge_prefix: 1 to 6 letters are expected".to_owned());
    }
    if network.mtu.is_some_and(|mtu| !(1280..=65535).contains(&mtu)) {
        mistakes.push("network.mtu: 1280 to 65535 is expected".to_owned());
    }
    if !network.subnets.is_empty() && network.wait_for_pod_cidr {
        mistakes.push(
            "network.wait_for_pod_cidr: there is nothing to wait for, network.subnets are given"
                .to_owned(),
        );
    }
    if let [first, second, rest @ ..] = network.subnets.as_slice()
        && (!rest.is_empty() || first.network().is_ipv4() == second.network().is_ipv4())
    {
        mistakes.push("network.subnets: at most one of IPv4 and one of IPv6".to_owned());
    }
    if settings.images.max_concurrent_downloads == 0 {
        mistakes.push("images.max_concurrent_downloads: at least 1 is needed".to_owned());
    }
    if settings.root == settings.state {
        mistakes.push("state: must differ from root, it does not survive a reboot".to_owned());
    }
    mistakes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes_of(text: &str) -> Vec<String> {
        let mut mistakes = Vec::new();
        merge(&mut Settings::default(), "c.toml", text, &mut mistakes);
        mistakes
    }

    #[test]
    fn all_mistakes_are_told_with_their_lines() {
        let text =
            "sockt = \"/x\"\n\n[log]\nlevel = \"loud\"\n[nope]\na = 1\n[streaming]\nport = -1\n";
        let mistakes = mistakes_of(text);
        assert_eq!(mistakes.len(), 4, "{mistakes:?}");
        let has = |line: &str, word: &str| {
            assert!(
                mistakes.iter().any(|m| m.starts_with(line) && m.contains(word)),
                "{line} {word}: {mistakes:?}"
            );
        };
        has("c.toml:1: sockt: unknown key", "socket");
        has("c.toml:4: log.level: ", "trace");
        has("c.toml:5: nope", "unknown");
        has("c.toml:8: streaming.port: ", "65535");
    }

    #[test]
    fn broken_toml_and_misplaced_sections_are_told() {
        assert!(mistakes_of("a = \nlog = 3\n")[0].starts_with("c.toml:1: "));
        assert_eq!(mistakes_of("log = 3"), ["c.toml:1: log is a section, not a key"]);
        assert!(mistakes_of("[log.level]\na = 1")[0].starts_with("c.toml:1: log.level: "));
        assert!(mistakes_of("log.levle = \"info\"")[0].contains("log.level, log.format"));
    }

    #[test]
    fn drop_ins_and_flags_win_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.toml");
        std::fs::create_dir(directory.path().join("config.d")).unwrap();
        let write = |name: &str, text: &str| {
            std::fs::write(directory.path().join(name), text).unwrap();
        };
        write("config.toml", "[streaming]\nport = 1\nidle_timeout = \"1s\"\n");
        write("config.d/20.toml", "streaming.port = 3\n");
        write("config.d/10.toml", "streaming.port = 2\nlog.level = \"warn\"\n");
        write("config.d/30.toml.bak", "nonsense");
        let mut sources = Sources { file: Some(file), ..Sources::default() };
        let settings = load(&sources).unwrap();
        assert_eq!(settings.streaming.port, 3);
        assert_eq!(settings.streaming.idle_timeout.as_secs(), 1);
        assert_eq!(settings.log.level, telemetry::Level::Warn);
        sources.overrides = vec!["streaming.port=4".into(), "log.level=debug".into()];
        let settings = load(&sources).unwrap();
        assert_eq!((settings.streaming.port, settings.log.level), (4, telemetry::Level::Debug));
        sources.overrides =
            vec!["port".into(), "log.levle=x".into(), "images.max_concurrent_downloads=0".into()];
        let text = load(&sources).unwrap_err().to_string();
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(text.contains("--set log.levle: unknown key"), "{text}");
    }

    #[test]
    fn images_are_pinned_by_the_name_that_other_runtimes_give_the_key() {
        let mut settings = Settings::default();
        let mut mistakes = Vec::new();
        let text = "[images]\npinned_images = [\"registry.k8s.io/pause:*\", \"busybox\"]\n";
        merge(&mut settings, "c.toml", text, &mut mistakes);
        assert_eq!(mistakes, Vec::<String>::new());
        assert_eq!(settings.images.pinned_images, ["registry.k8s.io/pause:*", "busybox"]);
        assert!(crate::settings::default_file().contains("\n#pinned_images = []\n"));
        let mistake = &mistakes_of("[images]\n\npinned = [\"busybox\"]\n")[0];
        assert!(mistake.starts_with("c.toml:3: images.pinned: unknown key"), "{mistake}");
        assert!(mistake.contains("images.pinned_images"), "{mistake}");
    }

    #[test]
    fn a_named_file_has_to_be_there() {
        let missing = PathBuf::from("/nonexistent/minke.toml");
        let error = load(&Sources { file: Some(missing), ..Sources::default() }).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/minke.toml"), "{error}");
    }

    #[test]
    fn contradictions_are_named_by_their_keys() {
        let refused = |pairs: &[&str]| {
            let overrides = pairs.iter().map(|pair| (*pair).to_owned()).collect();
            let directory = tempfile::tempdir().unwrap();
            let file = directory.path().join("config.toml");
            std::fs::write(&file, "").unwrap();
            load(&Sources { file: Some(file), overrides }).unwrap_err().to_string()
        };
        for (pairs, key) in [
            (&["network.mtu=100"][..], "network.mtu"),
            (&["network.bridge_prefix=longname"], "network.bridge_prefix"),
            (&["network.subnets=[\"10.0.0.0/24\",\"10.1.0.0/24\"]"], "network.subnets"),
            (&["network.subnets=[\"10.0.0.0/24\"]", "network.wait_for_pod_cidr=true"], "wait"),
            (&["images.max_concurrent_downloads=0"], "images.max_concurrent_downloads"),
            (&["root=/a", "state=/a"], "state"),
        ] {
            assert!(refused(pairs).contains(key), "{pairs:?}");
        }
    }
}
