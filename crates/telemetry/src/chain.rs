use std::error::Error;

/// An error and all its causes in one line, joined by `: `, each said once.
///
/// Errors of this project keep a cause out of their own text; others repeat it, or are only a
/// wrapper around it. What the text so far already ends with is therefore not said again.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;

    #[derive(Debug)]
    struct Step(&'static str, Option<Box<Step>>);

    impl fmt::Display for Step {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Step {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|step| step as &(dyn Error + 'static))
        }
    }

    fn steps(words: &[&'static str]) -> Step {
        let (first, rest) = words.split_first().unwrap();
        Step(first, (!rest.is_empty()).then(|| Box::new(steps(rest))))
    }

    #[test]
    fn every_cause_is_said_once() {
        assert_eq!(chain(&steps(&["no pod"])), "no pod");
        assert_eq!(chain(&steps(&["no pod", "no link", "EPERM"])), "no pod: no link: EPERM");
        assert_eq!(chain(&steps(&["no pod: EPERM", "EPERM"])), "no pod: EPERM");
        assert_eq!(chain(&steps(&["EPERM", "EPERM"])), "EPERM");
    }
}
