use std::collections::HashMap;

/// What a registry asks for with `WWW-Authenticate` (RFC 9110, section 11.6.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// The challenges of one header value that we can answer, in the order in which they stand there.
pub(crate) fn parse(header: &str) -> Vec<Challenge> {
    let mut found = Vec::new();
    let mut scanner = Scanner { rest: header };
    let mut scheme = scanner.token();
    while let Some(name) = scheme {
        let (params, next) = scanner.params();
        if name.eq_ignore_ascii_case("basic") {
            found.push(Challenge::Basic);
        } else if name.eq_ignore_ascii_case("bearer")
            && let Some(realm) = params.get("realm")
        {
            found.push(Challenge::Bearer {
                realm: realm.clone(),
                service: params.get("service").cloned(),
                scope: params.get("scope").cloned(),
            });
        }
        scheme = next;
    }
    found
}

struct Scanner<'a> {
    rest: &'a str,
}

impl<'a> Scanner<'a> {
    /// The next word; commas and blanks before it are skipped.
    fn token(&mut self) -> Option<&'a str> {
        self.rest = self.rest.trim_start_matches([' ', '\t', ',']);
        let end = self.rest.find([' ', '\t', ',', '=', '"']).unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at(end);
        self.rest = rest;
        (!token.is_empty()).then_some(token)
    }

    /// The parameters up to the next scheme, and that scheme's name.
    fn params(&mut self) -> (HashMap<String, String>, Option<&'a str>) {
        let mut params = HashMap::new();
        while let Some(key) = self.token() {
            let Some(rest) = self.rest.trim_start().strip_prefix('=') else {
                return (params, Some(key));
            };
            self.rest = rest.trim_start();
            let value = self.value();
            params.insert(key.to_ascii_lowercase(), value);
        }
        (params, None)
    }

    fn value(&mut self) -> String {
        let Some(quoted) = self.rest.strip_prefix('"') else {
            return self.token().unwrap_or_default().to_owned();
        };
        let mut value = String::new();
        let mut chars = quoted.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.rest = &quoted[at + 1..];
                    return value;
                }
                '\\' => value.extend(chars.next().map(|(_, c)| c)),
                c => value.push(c),
            }
        }
        self.rest = "";
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bearer_and_basic_challenges_are_read_with_quotes_commas_and_order() {
        let header = r#"Bearer realm="https://auth.io/token",service="reg.io",scope="repository:a/b:pull,push", Basic realm="x \" y""#;
        let bearer = Challenge::Bearer {
            realm: "https://auth.io/token".to_owned(),
            service: Some("reg.io".to_owned()),
            scope: Some("repository:a/b:pull,push".to_owned()),
        };
        assert_eq!(parse(header), [bearer, Challenge::Basic]);
        assert_eq!(parse("basic"), [Challenge::Basic]);
        assert_eq!(parse("Negotiate, Basic realm=a"), [Challenge::Basic]);
        for odd in ["", "=", "Bearer", "Bearer realm", "Bearer realm=\"", "\"", "a=b,,=", "é=\"\\"]
        {
            assert!(parse(odd).iter().all(|c| matches!(c, Challenge::Bearer { .. })), "{odd}");
        }
    }
}
