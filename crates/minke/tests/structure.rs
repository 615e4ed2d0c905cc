//! The rules of the house, checked by a program: ranks, file lengths, forms that reviews missed.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Lines of one file without its tests; an exception needs a reason here.
const LONGEST_FILE: usize = 600;

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn manifests() -> BTreeMap<String, toml::Table> {
    let mut manifests = BTreeMap::new();
    for entry in fs::read_dir(top().join("crates")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(path.join("Cargo.toml")).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        manifests.insert(name, text.parse().unwrap());
    }
    manifests
}

fn rank(manifest: &toml::Table) -> i64 {
    manifest["package"]["metadata"]["layer"]["rank"].as_integer().unwrap()
}

fn sources() -> Vec<(PathBuf, String)> {
    let mut sources = Vec::new();
    let mut dirs = vec![top().join("crates")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                sources.push((path, text));
            }
        }
    }
    assert!(sources.len() > 50, "the sources were not found");
    sources
}

/// What of a file is not its test module.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests").next().unwrap()
}

#[test]
fn a_room_depends_only_on_rooms_of_lower_rank() {
    let manifests = manifests();
    let mut edges = 0;
    for (name, manifest) in &manifests {
        for section in ["dependencies", "build-dependencies"] {
            let Some(dependencies) = manifest.get(section).and_then(toml::Value::as_table) else {
                continue;
            };
            for other in dependencies.keys().filter_map(|key| manifests.get_key_value(key)) {
                edges += 1;
                assert!(
                    rank(other.1) < rank(manifest),
                    "{name} (rank {}) depends on {} (rank {})",
                    rank(manifest),
                    other.0,
                    rank(other.1)
                );
            }
        }
    }
    assert!(edges > 20, "the dependencies were not found");
}

#[test]
fn a_room_is_named_as_its_folder_and_begins_with_its_sentence() {
    for (name, manifest) in manifests() {
        assert_eq!(manifest["package"]["name"].as_str(), Some(name.as_str()));
        let sentence = manifest["package"]["description"].as_str().unwrap();
        let dir = top().join("crates").join(&name).join("src");
        let head = ["lib.rs", "main.rs"].iter().find_map(|f| fs::read_to_string(dir.join(f)).ok());
        let head = head.unwrap();
        let paragraph: Vec<_> = head.lines().map_while(|line| line.strip_prefix("//! ")).collect();
        let first = paragraph.join(" ").replace('`', "");
        assert!(first.starts_with(&sentence.replace('`', "")), "{name}: {sentence:?}");
    }
}

#[test]
fn files_are_of_one_concern_and_length() {
    for (path, text) in sources() {
        let lines = without_tests(&text).lines().count();
        let in_tests = path.components().any(|part| part.as_os_str() == "tests");
        assert!(in_tests || lines <= LONGEST_FILE, "{} has {lines} lines", path.display());
        let name = path.file_name().unwrap().to_str().unwrap();
        for vague in ["mod.rs", "utils.rs", "util.rs", "helpers.rs", "common.rs", "misc.rs"] {
            assert_ne!(name, vague, "{}", path.display());
        }
    }
}

#[test]
fn an_error_never_repeats_its_source_and_nothing_is_allowed_wholesale() {
    for (path, text) in sources() {
        if path.ends_with("tests/structure.rs") {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let place = format!("{}:{}", path.display(), number + 1);
            let repeats = line.contains("#[error(")
                && ["{source}", "{0}: {source", "{source:"].iter().any(|form| line.contains(form));
            assert!(!repeats, "{place}: the cause is printed once, at the edge");
            for attribute in ["#![allow(", "#[allow(", "#[ignore"] {
                assert!(!line.trim_start().starts_with(attribute), "{place}: {attribute}");
            }
        }
    }
}

#[test]
fn unsafe_code_stands_in_the_syscall_room_and_the_executor_alone() {
    for (path, text) in sources() {
        let at = path.strip_prefix(top().join("crates")).unwrap();
        let allowed = at.starts_with("sys") || at.starts_with("executor");
        let in_tests = at.components().any(|part| part.as_os_str() == "tests");
        for line in without_tests(&text).lines() {
            let code = line.split("//").next().unwrap();
            let block = code.contains("unsafe {") || code.contains("unsafe fn");
            assert!(allowed || in_tests || !block, "{}: {line}", at.display());
        }
    }
}
