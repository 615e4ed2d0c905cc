//! `certs.d/<host>/hosts.toml`: by which endpoints a registry is reached, in which order.
//!
//! The format is containerd's. For `reg.io:5000` the directories `reg.io_5000_`, `reg.io:5000` and
//! `_default` are looked for, in this order, in each configured root. The hosts of the file are
//! tried as they stand there, then `server`, by default the registry itself. Without a `hosts.toml`
//! the directory is read as Docker's: `*.crt` are CAs, `*.cert` with `*.key` client certificates.
//! Unlike there, a file that cannot be read is an error that names it: silently going around a
//! mirror, or without a CA, helps nobody.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use reqwest::Url;
use serde::Deserialize;
use toml::Spanned;

use crate::client::ClientKey;

/// One base address of the distribution API.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    /// `https://host[:port]/v2`, without a slash at the end.
    pub(crate) base: Url,
    /// Tags may be resolved here.
    pub(crate) resolve: bool,
    /// Content may be fetched here.
    pub(crate) pull: bool,
    /// Sent with each request to this very host.
    pub(crate) headers: HeaderMap,
    /// What the connection needs.
    pub(crate) client: ClientKey,
    /// A mirror is told, as `?ns=`, whose content it is asked for.
    pub(crate) namespace: Option<String>,
}

impl Endpoint {
    /// `host` or `host:port`, as credentials name it.
    pub(crate) fn authority(&self) -> String {
        authority(&self.base)
    }

    /// Scheme, host and port, as error messages and the breaker name it.
    pub(crate) fn origin(&self) -> String {
        format!("{}://{}", self.base.scheme(), self.authority())
    }
}

/// `host` or `host:port` of an address.
pub(crate) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// A file that cannot be used.
#[derive(Debug)]
pub(crate) struct BadFile {
    pub(crate) path: PathBuf,
    pub(crate) reason: String,
}

/// The endpoints of the registry `host`, best first; never empty unless a file says so.
pub(crate) fn endpoints(roots: &[PathBuf], host: &str) -> Result<Vec<Endpoint>, BadFile> {
    let Some(dir) = roots.iter().find_map(|root| host_dir(root, host)) else {
        return Ok(vec![default_endpoint(host, ClientKey::default())?]);
    };
    let path = dir.join("hosts.toml");
    match std::fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => parse(&path, &dir, &text, host),
        Ok(_) => Ok(vec![default_endpoint(host, docker_certificates(&dir)?)?]),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Ok(vec![default_endpoint(host, docker_certificates(&dir)?)?])
        }
        Err(error) => Err(BadFile { path, reason: error.to_string() }),
    }
}

fn host_dir(root: &Path, host: &str) -> Option<PathBuf> {
    let escaped = host.rsplit_once(':').map(|(name, port)| format!("{name}_{port}_"));
    let names = escaped.as_deref().into_iter().chain([host, "_default"]);
    names.map(|name| root.join(name)).find(|dir| dir.is_dir())
}

/// Whether `host` (with or without a port) is this machine: spoken to without TLS by default, and
/// never through a proxy.
pub(crate) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or(v6),
        None => host.split(':').next().unwrap_or(host),
    };
    name == "localhost"
        || name.ends_with(".localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn default_endpoint(host: &str, client: ClientKey) -> Result<Endpoint, BadFile> {
    let (scheme, server) = match host {
        "docker.io" => ("https", "registry-1.docker.io"),
        host if is_loopback(host) && !host.ends_with(":443") => ("http", host),
        host => ("https", host),
    };
    // Nothing on this machine has a certificate that others would sign.
    let skip_verify = client.skip_verify || is_loopback(host);
    let base = Url::parse(&format!("{scheme}://{server}/v2"))
        .map_err(|error| BadFile { path: host.into(), reason: error.to_string() })?;
    let loopback = is_loopback(server);
    Ok(Endpoint {
        base,
        resolve: true,
        pull: true,
        headers: HeaderMap::new(),
        client: ClientKey { skip_verify, loopback, ..client },
        namespace: None,
    })
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    server: String,
    #[serde(default)]
    host: BTreeMap<String, Spanned<Entry>>,
    #[serde(flatten)]
    root: Entry,
}

#[derive(Deserialize, Default)]
struct Entry {
    #[serde(default)]
    capabilities: Vec<String>,
    #[serde(default)]
    ca: Option<OneOrMany>,
    #[serde(default)]
    client: Option<Client>,
    #[serde(default)]
    skip_verify: Option<bool>,
    #[serde(default)]
    header: BTreeMap<String, OneOrMany>,
    #[serde(default)]
    override_path: bool,
    #[serde(default)]
    dial_timeout: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn as_slice(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Client {
    Combined(String),
    Many(Vec<ClientPair>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ClientPair {
    Combined(String),
    Pair(String, String),
}

fn parse(path: &Path, dir: &Path, text: &str, host: &str) -> Result<Vec<Endpoint>, BadFile> {
    let fail = |reason: String| BadFile { path: path.to_owned(), reason };
    let file: File = toml::from_str(text).map_err(|error| fail(error.to_string()))?;
    let mut hosts: Vec<_> = file.host.iter().collect();
    hosts.sort_by_key(|(_, entry)| entry.span().start);
    let mut found = Vec::with_capacity(hosts.len() + 1);
    for (address, entry) in hosts {
        found.push(endpoint(dir, address, entry.as_ref(), host)?);
    }
    if file.server.is_empty() {
        let client = client_key(dir, &file.root)?;
        let headers = headers(&file.root).map_err(fail)?;
        found.push(Endpoint { headers, ..default_endpoint(host, client)? });
    } else {
        found.push(endpoint(dir, &file.server, &file.root, host)?);
    }
    Ok(found)
}

fn endpoint(dir: &Path, address: &str, entry: &Entry, host: &str) -> Result<Endpoint, BadFile> {
    let fail = |reason: String| BadFile { path: dir.join("hosts.toml"), reason };
    let full = if address.starts_with("http://") || address.starts_with("https://") {
        address.to_owned()
    } else {
        format!("https://{address}")
    };
    let mut base = Url::parse(&full).map_err(|error| fail(format!("host {address:?}: {error}")))?;
    if base.host_str().is_none() {
        return Err(fail(format!("host {address:?} names no host")));
    }
    let path = base.path().trim_end_matches('/').to_owned();
    let path = if entry.override_path || path.ends_with("/v2") { path } else { path + "/v2" };
    base.set_path(&path);
    base.set_query(None);
    base.set_fragment(None);
    let (resolve, pull) = capabilities(&entry.capabilities).map_err(fail)?;
    let name = authority(&base);
    let is_server = name == host || (host == "docker.io" && name == "registry-1.docker.io");
    let loopback = is_loopback(&name);
    Ok(Endpoint {
        base,
        resolve,
        pull,
        headers: headers(entry).map_err(fail)?,
        client: ClientKey { loopback, ..client_key(dir, entry)? },
        namespace: (!is_server).then(|| host.to_owned()),
    })
}

/// Whether tags may be resolved and content pulled.
fn capabilities(names: &[String]) -> Result<(bool, bool), String> {
    if names.is_empty() {
        return Ok((true, true));
    }
    let (mut resolve, mut pull) = (false, false);
    for name in names {
        match name.to_ascii_lowercase().as_str() {
            "resolve" => resolve = true,
            "pull" => pull = true,
            "push" => {}
            _ => return Err(format!("unknown capability {name:?}")),
        }
    }
    Ok((resolve, pull))
}

fn headers(entry: &Entry) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, values) in &entry.header {
        let name: HeaderName =
            name.parse().map_err(|_| format!("{name:?} is not the name of a header"))?;
        for value in values.as_slice() {
            let mut value = HeaderValue::from_str(value)
                .map_err(|_| format!("the value of header {name} has forbidden characters"))?;
            value.set_sensitive(true);
            headers.append(name.clone(), value);
        }
    }
    Ok(headers)
}

fn client_key(dir: &Path, entry: &Entry) -> Result<ClientKey, BadFile> {
    let read = |name: &str| {
        let path = dir.join(name);
        std::fs::read(&path).map_err(|error| BadFile { path, reason: error.to_string() })
    };
    let mut key =
        ClientKey { skip_verify: entry.skip_verify.unwrap_or(false), ..ClientKey::default() };
    for name in entry.ca.iter().flat_map(OneOrMany::as_slice) {
        key.authorities.push(read(name)?);
    }
    let pairs: Vec<(&str, &str)> = match &entry.client {
        None => Vec::new(),
        Some(Client::Combined(both)) => vec![(both, both)],
        Some(Client::Many(many)) => many
            .iter()
            .map(|pair| match pair {
                ClientPair::Combined(both) => (both.as_str(), both.as_str()),
                ClientPair::Pair(cert, key) => (cert.as_str(), key.as_str()),
            })
            .collect(),
    };
    for (cert, private) in pairs {
        key.certificates
            .push((read(cert)?, read(if private.is_empty() { cert } else { private })?));
    }
    if let Some(text) = &entry.dial_timeout {
        let reason = format!("dial_timeout {text:?} is not a duration such as \"3s\"");
        let timeout =
            duration(text).ok_or_else(|| BadFile { path: dir.join("hosts.toml"), reason })?;
        key.connect_timeout = Some(timeout);
    }
    Ok(key)
}

/// A duration as Go writes it: `1m30s`, `500ms`, `1.5s`.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let value: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        total += value
            * match &rest[..unit] {
                "ns" => 1e-9,
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    Duration::try_from_secs_f64(total).ok().filter(|duration| !duration.is_zero())
}

/// The certificates of a directory in Docker's layout.
fn docker_certificates(dir: &Path) -> Result<ClientKey, BadFile> {
    let bad = |path: &Path, error: std::io::Error| BadFile {
        path: path.to_owned(),
        reason: error.to_string(),
    };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|error| bad(dir, error))? {
        names.push(entry.map_err(|error| bad(dir, error))?.path());
    }
    names.sort();
    let mut key = ClientKey::default();
    for path in names {
        let read = |path: &Path| std::fs::read(path).map_err(|error| bad(path, error));
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => key.authorities.push(read(&path)?),
            Some("cert") => {
                key.certificates.push((read(&path)?, read(&path.with_extension("key"))?));
            }
            _ => {}
        }
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, host: &str, text: &str) {
        std::fs::create_dir_all(root.join(host)).unwrap();
        std::fs::write(root.join(host).join("hosts.toml"), text).unwrap();
    }

    fn bases(root: &Path, host: &str) -> Vec<String> {
        let found = endpoints(&[root.to_owned()], host).unwrap();
        found.iter().map(|endpoint| endpoint.base.to_string()).collect()
    }

    #[test]
    fn without_files_a_registry_is_reached_as_the_field_does() {
        let root = tempfile::tempdir().unwrap();
        for (host, base) in [
            ("docker.io", "https://registry-1.docker.io/v2"),
            ("reg.io", "https://reg.io/v2"),
            ("localhost:5000", "http://localhost:5000/v2"),
            ("127.0.0.1", "http://127.0.0.1/v2"),
            ("[::1]:5000", "http://[::1]:5000/v2"),
            ("localhost:443", "https://localhost/v2"),
        ] {
            assert_eq!(bases(root.path(), host), [base]);
        }
    }

    #[test]
    fn hosts_stand_in_file_order_and_the_server_comes_last() {
        let root = tempfile::tempdir().unwrap();
        let text = r#"
            server = "https://reg.io"
            [host."https://z.io"]
              capabilities = ["pull"]
              dial_timeout = "1m500ms"
            [host."http://a.io:81/proxy/"]
              [host."http://a.io:81/proxy/".header]
                X-One = "1"
                X-Two = ["2", "3"]
            [host."m.io/path"]
              override_path = true
              skip_verify = true
        "#;
        write(root.path(), "reg.io", text);
        let found = endpoints(&[root.path().to_owned()], "reg.io").unwrap();
        let bases: Vec<_> = found.iter().map(|endpoint| endpoint.base.as_str()).collect();
        let expected = [
            "https://z.io/v2",
            "http://a.io:81/proxy/v2",
            "https://m.io/path",
            "https://reg.io/v2",
        ];
        assert_eq!(bases, expected);
        assert!(found[0].pull && !found[0].resolve);
        assert_eq!(found[0].client.connect_timeout, Some(Duration::from_millis(60_500)));
        assert_eq!(found[1].headers.get_all("x-two").iter().count(), 2);
        assert!(found[2].client.skip_verify);
        assert_eq!(found[2].namespace.as_deref(), Some("reg.io"));
        assert_eq!(found[3].namespace, None);
    }

    #[test]
    fn the_directory_is_found_by_port_then_name_then_default() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "_default", "[host.\"https://d.io\"]");
        assert_eq!(
            bases(root.path(), "reg.io:5000"),
            ["https://d.io/v2", "https://reg.io:5000/v2"]
        );
        write(root.path(), "reg.io:5000", "[host.\"https://n.io\"]");
        assert_eq!(bases(root.path(), "reg.io:5000")[0], "https://n.io/v2");
        write(root.path(), "reg.io_5000_", "[host.\"https://p.io\"]");
        assert_eq!(bases(root.path(), "reg.io:5000")[0], "https://p.io/v2");
    }

    #[test]
    fn certificates_are_read_from_both_layouts() {
        let root = tempfile::tempdir().unwrap();
        let text = "ca = \"a.crt\"\nclient = [[\"c.cert\", \"c.key\"], \"both.pem\"]\n";
        write(root.path(), "reg.io", text);
        let dir = root.path().join("reg.io");
        for name in ["a.crt", "c.cert", "c.key", "both.pem"] {
            std::fs::write(dir.join(name), name).unwrap();
        }
        let roots = [root.path().to_owned()];
        let pair = |a: &str, b: &str| (a.as_bytes().to_vec(), b.as_bytes().to_vec());
        let key = &endpoints(&roots, "reg.io").unwrap()[0].client;
        assert_eq!(key.authorities, [b"a.crt"]);
        assert_eq!(key.certificates, [pair("c.cert", "c.key"), pair("both.pem", "both.pem")]);
        std::fs::remove_file(dir.join("hosts.toml")).unwrap();
        let key = &endpoints(&roots, "reg.io").unwrap()[0].client;
        assert_eq!(key.authorities, [b"a.crt"]);
        assert_eq!(key.certificates, [pair("c.cert", "c.key")]);
    }

    #[test]
    fn a_broken_file_is_an_error_that_names_it() {
        let root = tempfile::tempdir().unwrap();
        for text in [
            "server = ",
            "[host.\"https://a.io\"]\ncapabilities = [\"fly\"]",
            "[host.\"https://a.io\"]\ndial_timeout = \"soon\"",
            "ca = \"missing.crt\"",
            "[host.\"http://\"]",
        ] {
            write(root.path(), "reg.io", text);
            let bad = endpoints(&[root.path().to_owned()], "reg.io").unwrap_err();
            assert!(bad.path.starts_with(root.path().join("reg.io")), "{text}: {bad:?}");
        }
    }
}
