//! TLS and proxies. What comes from the environment is tested in a child that has it.
//!
//! The certificates under `tls` were made for this and serve nothing else; the key of their CA
//! is gone.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use fake_registry::{Fake, digest};
use model::ImageRef;
use registry::{Config, Error, Kind, Registry};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};

fn material(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tls").join(name)
}

fn certificate(name: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(material(name)).expect("the file is in the repository")
}

/// Speaks TLS before a registry that does not, and demands a certificate if it is told to.
async fn tls_before(fake: SocketAddr, demanding: bool) -> SocketAddr {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("the provider has the versions");
    let builder = if demanding {
        let mut roots = RootCertStore::empty();
        roots.add(certificate("ca.pem")).expect("it is a certificate");
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
        builder.with_client_cert_verifier(verifier.expect("there is a root"))
    } else {
        builder.with_no_client_auth()
    };
    let key = PrivateKeyDer::from_pem_file(material("server.key")).expect("it is a key");
    let config = builder.with_single_cert(vec![certificate("server.pem")], key);
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config.expect("they fit")));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback works");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A client that does not like us goes away; that is what some tests are about.
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let Ok(mut behind) = TcpStream::connect(fake).await else { return };
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut behind).await;
            });
        }
    });
    address
}

async fn resolve(certs: &Path, name: &str) -> Result<(), Error> {
    let registry = Registry::new(Config {
        certs_dirs: vec![certs.to_owned()],
        connect_timeout: Duration::from_secs(2),
        stall_timeout: Duration::from_secs(2),
        ..Config::default()
    });
    let reference: ImageRef = name.parse().expect("a good name");
    let found = registry.repository(&reference, None).await?.resolve("v1").await?;
    assert_eq!(*found.digest(), digest(b"{}"));
    Ok(())
}

fn write_hosts(certs: &Path, text: &str) {
    std::fs::create_dir_all(certs.join("reg.test")).expect("the directory is ours");
    std::fs::write(certs.join("reg.test/hosts.toml"), text).expect("the directory is ours");
}

async fn published() -> Fake {
    let fake = Fake::start().await;
    fake.put_manifest("app", "v1", "application/vnd.oci.image.manifest.v1+json", "{}");
    fake
}

#[tokio::test]
async fn a_private_ca_counts_where_it_is_configured_and_nowhere_else() {
    let certs = tempfile::tempdir().unwrap();
    let fake = published().await;
    let address = tls_before(fake.address, false).await;
    let server = format!("server = \"https://{address}\"\n");
    write_hosts(certs.path(), &server);
    let error = resolve(certs.path(), "reg.test/app").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.to_string().contains("certificate"), "{error}");
    let ca = material("ca.pem");
    write_hosts(certs.path(), &format!("{server}ca = {ca:?}\n"));
    resolve(certs.path(), "reg.test/app").await.unwrap();
    write_hosts(certs.path(), &format!("{server}skip_verify = true\n"));
    resolve(certs.path(), "reg.test/app").await.unwrap();
}

#[tokio::test]
async fn a_client_certificate_is_shown_to_whoever_demands_one() {
    let certs = tempfile::tempdir().unwrap();
    let fake = published().await;
    let address = tls_before(fake.address, true).await;
    let server = format!("server = \"https://{address}\"\nca = {:?}\n", material("ca.pem"));
    write_hosts(certs.path(), &server);
    assert_eq!(resolve(certs.path(), "reg.test/app").await.unwrap_err().kind(), Kind::Unavailable);
    let (cert, key) = (material("client.pem"), material("client.key"));
    write_hosts(certs.path(), &format!("{server}client = [[{cert:?}, {key:?}]]\n"));
    resolve(certs.path(), "reg.test/app").await.unwrap();
    write_hosts(certs.path(), &format!("{server}client = {cert:?}\n"));
    let error = resolve(certs.path(), "reg.test/app").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Config, "{error}");
}

/// Runs one test of this binary with another environment; says whether it passed.
fn passes(test: &str, certs: &Path, environment: &[(&str, &str)]) -> bool {
    let mut child = Command::new(std::env::current_exe().expect("we run"));
    child.args(["--exact", test, "--nocapture"]).env("MINKE_TEST_CERTS", certs);
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "SSL_CERT_FILE"] {
        child.env_remove(name).env_remove(name.to_ascii_lowercase());
    }
    child.envs(environment.iter().copied());
    let output = child.output().expect("we can be run again");
    output.status.success() && String::from_utf8_lossy(&output.stdout).contains("1 passed")
}

/// The child's part: pulls `reg.test/app`, reached as the environment says.
#[tokio::test]
async fn child_resolves() {
    if let Some(certs) = std::env::var_os("MINKE_TEST_CERTS") {
        resolve(Path::new(&certs), "reg.test/app").await.unwrap();
    }
}

async fn child(certs: &Path, environment: Vec<(&'static str, String)>) -> bool {
    let certs = certs.to_owned();
    let run = tokio::task::spawn_blocking(move || {
        let environment: Vec<_> =
            environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        passes("child_resolves", &certs, &environment)
    });
    run.await.expect("the child ended")
}

#[tokio::test]
async fn the_systems_ca_store_is_honoured() {
    let certs = tempfile::tempdir().unwrap();
    let fake = published().await;
    let address = tls_before(fake.address, false).await;
    write_hosts(certs.path(), &format!("server = \"https://{address}\"\n"));
    assert!(!child(certs.path(), vec![]).await);
    let store = material("ca.pem").display().to_string();
    assert!(child(certs.path(), vec![("SSL_CERT_FILE", store)]).await);
}

#[tokio::test]
async fn proxies_of_the_environment_are_used_but_not_for_exceptions_and_this_machine() {
    let certs = tempfile::tempdir().unwrap();
    let fake = published().await;
    let proxy = fake.base();
    // A proxy for plain HTTP gets whole addresses, and this one happens to have the content.
    write_hosts(certs.path(), "server = \"http://reg.test\"\n");
    assert!(child(certs.path(), vec![("HTTP_PROXY", proxy.clone())]).await);
    assert!(fake.take_seen().iter().any(|seen| seen.headers["host"] == "reg.test"));
    let except = vec![("HTTP_PROXY", proxy.clone()), ("NO_PROXY", "reg.test".to_owned())];
    assert!(!child(certs.path(), except).await);
    assert!(fake.take_seen().is_empty());
    // TLS goes through a tunnel, which this one refuses; but it was asked.
    write_hosts(certs.path(), "server = \"https://reg.test\"\n");
    assert!(!child(certs.path(), vec![("HTTPS_PROXY", proxy.clone())]).await);
    assert!(fake.take_seen().iter().any(|seen| seen.method == http::Method::CONNECT));
    // A registry on this machine is reached directly.
    write_hosts(certs.path(), &format!("server = \"{}\"\n", fake.base()));
    let dead = "http://127.0.0.1:1".to_owned();
    assert!(child(certs.path(), vec![("HTTP_PROXY", dead.clone()), ("ALL_PROXY", dead)]).await);
}
