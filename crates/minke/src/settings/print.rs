//! The configuration as a file.

use std::fmt::Write;

use super::Settings;
use super::keys::{KEYS, Key, SECTIONS};

/// The whole default file: every key with its documentation, each at its default and commented out,
/// so that a copy of it changes nothing and goes on following later defaults.
pub(crate) fn default_file() -> String {
    let settings = Settings::default();
    let mut file = String::from(
        "# minke's configuration, all of it. Each key stands at its default; uncomment what you change.\n\
         # Files in config.d/*.toml beside this one are read after it, in the order of their names.\n",
    );
    for (section, about) in SECTIONS {
        if !section.is_empty() {
            push(&mut file, format_args!("\n# {about}\n[{section}]\n"));
        }
        for key in keys_of(section) {
            file.push('\n');
            for line in key.doc.lines() {
                push(&mut file, format_args!("# {line}\n"));
            }
            let value = (key.show)(&settings);
            let value = value.map_or_else(|| key.example.to_owned(), |value| value.to_string());
            push(&mut file, format_args!("#{} = {value}\n", key.parts().1));
        }
    }
    file
}

/// The effective settings, every key that has a value.
pub(crate) fn effective_file(settings: &Settings) -> String {
    let mut file = String::new();
    for (section, _) in SECTIONS {
        if !section.is_empty() {
            push(&mut file, format_args!("\n[{section}]\n"));
        }
        for key in keys_of(section) {
            if let Some(value) = (key.show)(settings) {
                push(&mut file, format_args!("{} = {value}\n", key.parts().1));
            }
        }
    }
    file
}

fn keys_of(section: &str) -> impl Iterator<Item = &'static Key> {
    KEYS.iter().filter(move |key| key.parts().0 == section)
}

fn push(file: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = file.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::super::read::merge;
    use super::*;

    fn read(text: &str) -> Settings {
        let mut settings = Settings::default();
        let mut mistakes = Vec::new();
        merge(&mut settings, "test.toml", text, &mut mistakes);
        assert!(mistakes.is_empty(), "{mistakes:?}");
        settings
    }

    #[test]
    fn the_default_file_changes_nothing_commented_and_uncommented() {
        let file = default_file();
        assert_eq!(read(&file), Settings::default());
        let keys = |line: &&str| line.starts_with('#') && !line.starts_with("# ");
        assert_eq!(file.lines().filter(keys).count(), KEYS.len());
        let uncommented: String = file
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(key) if !key.starts_with(' ') => format!("{key}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        let mut expected = Settings::default();
        expected.network.mtu = Some(1500);
        expected.images.docker_config = Some("/root/.docker/config.json".into());
        assert_eq!(read(&uncommented), expected);
    }

    #[test]
    fn the_effective_file_reads_back() {
        let mut settings = Settings::default();
        settings.network.mtu = Some(9000);
        settings.images.pinned_images = vec!["registry.k8s.io/pause:*".into()];
        assert_eq!(read(&effective_file(&settings)), settings);
    }
}
