use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// More different settings than any node has; beyond them the clients are forgotten.
const MOST_CLIENTS: usize = 64;

/// What makes one connection setting different from another, certificates by content.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct ClientKey {
    /// PEM files of CAs, beside the system's.
    pub(crate) authorities: Vec<Vec<u8>>,
    /// PEM files of client certificates and their keys.
    pub(crate) certificates: Vec<(Vec<u8>, Vec<u8>)>,
    /// Takes any certificate.
    pub(crate) skip_verify: bool,
    /// Instead of the configured one.
    pub(crate) connect_timeout: Option<Duration>,
    /// This machine: no proxy stands in between.
    pub(crate) loopback: bool,
}

/// One HTTP client, with its pool of connections, for each setting.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    open: Mutex<HashMap<ClientKey, reqwest::Client>>,
}

impl Clients {
    /// The client for `key`, made if it is the first of its kind.
    pub(crate) fn client(
        &self,
        key: &ClientKey,
        config: &crate::Config,
    ) -> Result<reqwest::Client, String> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = open.get(key) {
            return Ok(client.clone());
        }
        if open.len() >= MOST_CLIENTS {
            open.clear();
        }
        let client = build(key, config)?;
        open.insert(key.clone(), client.clone());
        Ok(client)
    }
}

fn build(key: &ClientKey, config: &crate::Config) -> Result<reqwest::Client, String> {
    let builder = reqwest::Client::builder()
        .tls_backend_preconfigured(tls(key)?)
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(key.connect_timeout.unwrap_or(config.connect_timeout))
        .tcp_keepalive(Duration::from_secs(30))
        .user_agent(&config.user_agent);
    let builder = if key.loopback { builder.no_proxy() } else { builder };
    builder.build().map_err(|error| error.to_string())
}

fn tls(key: &ClientKey) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = if key.skip_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
    } else {
        builder.with_root_certificates(roots(&key.authorities)?)
    };
    // rustls offers one identity; the first of the configured ones is it.
    match key.certificates.first() {
        None => Ok(builder.with_no_client_auth()),
        Some((certificate, private)) => {
            let private = PrivateKeyDer::from_pem_slice(private)
                .map_err(|error| format!("client key: {error}"))?;
            builder
                .with_client_auth_cert(pem(certificate, "client certificate")?, private)
                .map_err(|error| format!("client certificate: {error}"))
        }
    }
}

fn roots(authorities: &[Vec<u8>]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    // The system's store may hold certificates that are not usable, or not exist at all: whoever
    // relies on one of them is told so by the handshake.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    for authority in authorities {
        for certificate in pem(authority, "CA certificate")? {
            roots.add(certificate).map_err(|error| format!("CA certificate: {error}"))?;
        }
    }
    Ok(roots)
}

fn pem(text: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    match found {
        Ok(found) if found.is_empty() => Err(format!("{what}: the file holds none in PEM form")),
        Ok(found) => Ok(found),
        Err(error) => Err(format!("{what}: {error}")),
    }
}

/// `skip_verify`: any certificate will do, but the handshake is still checked against it.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
