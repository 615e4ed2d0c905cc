use model::ImageRef;

/// The patterns of images that must stay.
#[derive(Debug, Clone, Default)]
pub(crate) struct Patterns {
    patterns: Vec<String>,
}

impl Patterns {
    pub(crate) fn new(patterns: &[String]) -> Self {
        let complete = |pattern: &String| match pattern.parse::<ImageRef>() {
            Ok(name) => name.to_string(),
            Err(_) => pattern.clone(),
        };
        Self { patterns: patterns.iter().map(complete).collect() }
    }

    pub(crate) fn fit(&self, name: &ImageRef) -> bool {
        let name = name.to_string();
        self.patterns.iter().any(|pattern| matches(pattern, &name))
    }
}

/// Whether `text` is `pattern`, in which each `*` stands for any text.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    // A split gives at least one part.
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let Some(last) = pattern.contains('*').then(|| parts.next_back().unwrap_or_default()) else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_any_text() {
        for (pattern, text, fits) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("a*", "ab", true),
            ("*b", "ab", true),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abdce", true),
            ("a*c*e", "aec", false),
            ("*", "", true),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn short_names_are_completed() {
        let patterns = Patterns::new(&["busybox".into(), "reg.io/infra/*".into()]);
        for (name, fits) in [
            ("busybox", true),
            ("busybox:1", false),
            ("reg.io/infra/a:2", true),
            ("reg.io/b", false),
        ] {
            assert_eq!(patterns.fit(&name.parse().unwrap()), fits, "{name}");
        }
    }
}
