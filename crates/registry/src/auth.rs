use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde::Deserialize;

/// Credentials as a pull brings them (CRI `AuthConfig`); empty fields are absent.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Auth {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
    /// `base64(username:password)`, used where `username` is empty.
    pub auth: String,
    /// The registry that the rest is for; empty means whichever is asked.
    pub server_address: String,
    /// An OAuth2 refresh token, exchanged at the token service.
    pub identity_token: String,
    /// A bearer token, sent as it is.
    pub registry_token: String,
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth").field("server_address", &self.server_address).finish_non_exhaustive()
    }
}

/// What is offered to one endpoint.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub(crate) enum Credential {
    #[default]
    Anonymous,
    Basic {
        username: String,
        password: String,
    },
    Identity(String),
    Bearer(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "Anonymous",
            Self::Basic { .. } => "Basic",
            Self::Identity(_) => "Identity",
            Self::Bearer(_) => "Bearer",
        })
    }
}

impl Auth {
    /// What to offer to the endpoint `host`. Credentials that name another server are not for it.
    pub(crate) fn credential(&self, host: &str) -> Credential {
        if !self.server_address.is_empty() && !same_server(&self.server_address, host) {
            return Credential::Anonymous;
        }
        if !self.registry_token.is_empty() {
            return Credential::Bearer(self.registry_token.clone());
        }
        if !self.identity_token.is_empty() {
            return Credential::Identity(self.identity_token.clone());
        }
        if !self.username.is_empty() {
            let (username, password) = (self.username.clone(), self.password.clone());
            return Credential::Basic { username, password };
        }
        match decode(&self.auth) {
            Some((username, password)) => Credential::Basic { username, password },
            None => Credential::Anonymous,
        }
    }
}

fn decode(auth: &str) -> Option<(String, String)> {
    let auth = auth.trim();
    let bytes = STANDARD.decode(auth).or_else(|_| STANDARD_NO_PAD.decode(auth)).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (username, password) = text.split_once(':')?;
    // Some tools pad the password with zero bytes.
    Some((username.to_owned(), password.trim_matches('\0').to_owned()))
}

/// `https://index.docker.io/v1/` and `registry-1.docker.io` are the same server.
fn same_server(a: &str, b: &str) -> bool {
    server_name(a) == server_name(b)
}

fn server_name(address: &str) -> &str {
    let bare = address.split_once("://").map_or(address, |(_, rest)| rest);
    match bare.split('/').next().unwrap_or(bare) {
        "index.docker.io" | "registry-1.docker.io" | "docker.io" => "docker.io",
        host => host,
    }
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: HashMap<String, DockerAuth>,
}

#[derive(Deserialize)]
struct DockerAuth {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
    #[serde(default, rename = "identitytoken")]
    identity_token: String,
    #[serde(default, rename = "registrytoken")]
    registry_token: String,
}

/// The entries of a Docker `config.json`, each bound to its server; none where the file is absent.
pub(crate) fn docker_config(path: &Path) -> Result<Vec<Auth>, String> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.to_string()),
    };
    let config: DockerConfig = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    let entry = |(server_address, found): (String, DockerAuth)| Auth {
        username: found.username,
        password: found.password,
        auth: found.auth,
        server_address,
        identity_token: found.identity_token,
        registry_token: found.registry_token,
    };
    Ok(config.auths.into_iter().map(entry).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(username: &str, password: &str) -> Credential {
        Credential::Basic { username: username.to_owned(), password: password.to_owned() }
    }

    #[test]
    fn each_form_of_credentials_becomes_what_is_sent() {
        let auth = STANDARD.encode("joe:se:cret");
        let encoded = Auth { auth, ..Auth::default() };
        assert_eq!(encoded.credential("reg.io"), basic("joe", "se:cret"));
        let plain = Auth { username: "a".into(), password: "b".into(), ..encoded };
        assert_eq!(plain.credential("reg.io"), basic("a", "b"));
        let identity = Auth { identity_token: "i".into(), ..plain };
        assert_eq!(identity.credential("reg.io"), Credential::Identity("i".into()));
        let bearer = Auth { registry_token: "r".into(), ..identity };
        assert_eq!(bearer.credential("reg.io"), Credential::Bearer("r".into()));
        assert_eq!(Auth::default().credential("reg.io"), Credential::Anonymous);
        let broken = Auth { auth: "%%%".into(), ..Auth::default() };
        assert_eq!(broken.credential("reg.io"), Credential::Anonymous);
    }

    #[test]
    fn credentials_for_another_server_are_kept_back() {
        let at = |server: &str| Auth {
            username: "a".into(),
            server_address: server.into(),
            ..Auth::default()
        };
        assert_eq!(at("https://reg.io/v2/").credential("reg.io"), basic("a", ""));
        assert_eq!(at("reg.io").credential("reg.io:5000"), Credential::Anonymous);
        let docker = at("https://index.docker.io/v1/");
        assert_eq!(docker.credential("registry-1.docker.io"), basic("a", ""));
    }

    #[test]
    fn secrets_do_not_show_in_debug_output() {
        let auth =
            Auth { password: "hush".into(), registry_token: "hush".into(), ..Auth::default() };
        assert!(!format!("{auth:?} {:?}", auth.credential("x")).contains("hush"));
    }

    #[test]
    fn docker_config_gives_one_entry_per_server() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        assert_eq!(docker_config(&path).unwrap(), []);
        let text = r#"{"auths":{"https://index.docker.io/v1/":{"auth":"YTpi"}},"credsStore":"x"}"#;
        std::fs::write(&path, text).unwrap();
        let entries = docker_config(&path).unwrap();
        assert_eq!(entries[0].credential("docker.io"), basic("a", "b"));
        std::fs::write(&path, "{").unwrap();
        assert!(docker_config(&path).is_err());
    }
}
