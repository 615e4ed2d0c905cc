//! The distribution API against a registry that behaves as the public ones do.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::Path;
use std::time::{Duration, Instant};

use fake_registry::{Access, Fake, basic, digest};
use model::{Digest, ImageRef};
use registry::{Auth, Config, Error, Failure, Kind, Registry, Repository};

const OCI: &str = "application/vnd.oci.image.manifest.v1+json";

fn config(certs: &Path) -> Config {
    Config {
        certs_dirs: vec![certs.to_owned()],
        connect_timeout: Duration::from_secs(2),
        stall_timeout: Duration::from_millis(500),
        ..Config::default()
    }
}

struct Rig {
    certs: tempfile::TempDir,
    fake: Fake,
    registry: Registry,
}

impl Rig {
    async fn new() -> Self {
        let certs = tempfile::tempdir().unwrap();
        let registry = Registry::new(config(certs.path()));
        Self { fake: Fake::start().await, registry, certs }
    }

    async fn repository(&self, name: &str, auth: Option<Auth>) -> Repository {
        let reference: ImageRef = name.parse().unwrap();
        self.registry.repository(&reference, auth).await.unwrap()
    }

    async fn own(&self) -> Repository {
        self.repository(&self.fake.name("team/app"), None).await
    }

    fn hosts(&self, host: &str, text: &str) {
        let dir = self.certs.path().join(host);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("hosts.toml"), text).unwrap();
    }
}

fn content() -> Vec<u8> {
    (0..300_000_u32).flat_map(u32::to_le_bytes).collect()
}

async fn read(
    repository: &Repository,
    digest: &Digest,
    size: usize,
    from: u64,
) -> Result<Vec<u8>, Error> {
    let mut blob = repository.blob(digest, size as u64, from);
    let mut content = Vec::new();
    while let Some(piece) = blob.chunk().await? {
        content.extend_from_slice(&piece);
    }
    Ok(content)
}

/// An address where nobody listens.
async fn dead() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

#[tokio::test]
async fn a_tag_is_resolved_by_head_and_its_manifest_verified() {
    let rig = Rig::new().await;
    let wanted = rig.fake.put_manifest("team/app", "v1", OCI, "{}");
    let repository = rig.own().await;
    let resolved = repository.resolve("v1").await.unwrap();
    assert_eq!(*resolved.digest(), wanted);
    assert!(matches!(resolved, registry::Resolved::Digest(_)));
    let manifest = repository.manifest(&wanted).await.unwrap();
    assert_eq!((&manifest.bytes[..], manifest.media_type.as_str()), (&b"{}"[..], OCI));
    let seen = rig.fake.take_seen();
    assert_eq!(seen[0].method, http::Method::HEAD);
    let accept = seen[0].headers["accept"].to_str().unwrap();
    assert!(accept.contains("manifest.list.v2+json") && accept.contains("image.index.v1+json"));
}

#[tokio::test]
async fn head_refused_or_without_a_digest_becomes_get() {
    let rig = Rig::new().await;
    let wanted = rig.fake.put_manifest("team/app", "v1", OCI, "{}");
    let repository = rig.own().await;
    rig.fake.behave(|behaviour| behaviour.head_refused = true);
    assert_eq!(*repository.resolve("v1").await.unwrap().digest(), wanted);
    rig.fake.behave(|behaviour| {
        behaviour.head_refused = false;
        behaviour.no_digest_header = true;
    });
    assert_eq!(*repository.resolve("v1").await.unwrap().digest(), wanted);
}

#[tokio::test]
async fn what_is_missing_is_not_found() {
    let rig = Rig::new().await;
    let repository = rig.own().await;
    let error = repository.resolve("v1").await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    let error = read(&repository, &digest(b"x"), 1, 0).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(error.to_string().contains("BLOB_UNKNOWN"), "{error}");
}

#[tokio::test]
async fn a_manifest_with_another_digest_is_refused() {
    let rig = Rig::new().await;
    let wanted = digest(b"{}");
    rig.fake.put_manifest("team/app", wanted.as_str(), OCI, "{\"other\":1}");
    let error = rig.own().await.manifest(&wanted).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Digest);
    assert!(matches!(error.attempts()[0].failure, Failure::Digest { .. }));
}

#[tokio::test]
async fn basic_credentials_are_sent_when_they_are_asked_for() {
    let rig = Rig::new().await;
    rig.fake.put_manifest("team/app", "v1", OCI, "{}");
    rig.fake.behave(|behaviour| behaviour.access = Access::Basic("joe", "secret"));
    let error = rig.own().await.resolve("v1").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized);
    let auth = |password: &str| Auth {
        username: "joe".into(),
        password: password.into(),
        ..Auth::default()
    };
    let repository = rig.repository(&rig.fake.name("team/app"), Some(auth("secret"))).await;
    rig.fake.take_seen();
    repository.resolve("v1").await.unwrap();
    let seen = rig.fake.take_seen();
    assert_eq!(seen[0].authorization, None);
    assert_eq!(seen[1].authorization, Some(basic("joe", "secret")));
    let repository = rig.repository(&rig.fake.name("team/app"), Some(auth("wrong"))).await;
    assert_eq!(repository.resolve("v1").await.unwrap_err().kind(), Kind::Unauthorized);
    let other = Auth { server_address: "other.io".into(), ..auth("secret") };
    let repository = rig.repository(&rig.fake.name("team/app"), Some(other)).await;
    assert_eq!(repository.resolve("v1").await.unwrap_err().kind(), Kind::Unauthorized);
}

#[tokio::test]
async fn tokens_are_fetched_once_and_again_when_they_end() {
    let rig = Rig::new().await;
    rig.fake.put_manifest("team/app", "v1", OCI, "{}");
    rig.fake.behave(|behaviour| behaviour.access = Access::Token { password: None, seconds: 60 });
    let repository = rig.own().await;
    let fetched =
        |rig: &Rig| rig.fake.take_seen().iter().filter(|seen| seen.path == "/token").count();
    repository.resolve("v1").await.unwrap();
    repository.resolve("v1").await.unwrap();
    // Another repository object of a later pull finds it too.
    rig.own().await.resolve("v1").await.unwrap();
    assert_eq!(fetched(&rig), 1);
    // A token that is turned down before its time.
    rig.fake.revoke_tokens();
    repository.resolve("v1").await.unwrap();
    assert_eq!(fetched(&rig), 1);
    // Tokens that live as long as the margin are not used twice.
    rig.fake.revoke_tokens();
    rig.fake.behave(|behaviour| behaviour.access = Access::Token { password: None, seconds: 5 });
    repository.resolve("v1").await.unwrap();
    repository.resolve("v1").await.unwrap();
    assert_eq!(fetched(&rig), 2);
}

#[tokio::test]
async fn a_token_is_asked_for_with_a_password_or_a_refresh_token() {
    let rig = Rig::new().await;
    rig.fake.put_manifest("team/app", "v1", OCI, "{}");
    let access = Access::Token { password: Some(("joe", "secret")), seconds: 60 };
    rig.fake.behave(|behaviour| behaviour.access = access);
    let error = rig.own().await.resolve("v1").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unauthorized);
    let basic = Auth { username: "joe".into(), password: "secret".into(), ..Auth::default() };
    let identity = Auth { identity_token: "secret".into(), ..Auth::default() };
    for auth in [basic, identity] {
        let repository = rig.repository(&rig.fake.name("team/app"), Some(auth)).await;
        repository.resolve("v1").await.unwrap();
    }
}

#[tokio::test]
async fn a_registry_token_is_sent_as_it_is() {
    let rig = Rig::new().await;
    rig.fake.put_manifest("team/app", "v1", OCI, "{}");
    rig.fake.behave(|behaviour| behaviour.access = Access::Fixed("given"));
    let auth = Auth { registry_token: "given".into(), ..Auth::default() };
    rig.repository(&rig.fake.name("team/app"), Some(auth)).await.resolve("v1").await.unwrap();
}

#[tokio::test]
async fn docker_configuration_serves_pulls_without_credentials() {
    let rig = Rig::new().await;
    rig.fake.put_manifest("team/app", "v1", OCI, "{}");
    rig.fake.behave(|behaviour| behaviour.access = Access::Basic("joe", "secret"));
    let path = rig.certs.path().join("config.json");
    let encoded = basic("joe", "secret")["Basic ".len()..].to_owned();
    let text = format!(r#"{{"auths":{{"{}":{{"auth":"{encoded}"}}}}}}"#, rig.fake.address);
    std::fs::write(&path, text).unwrap();
    let registry =
        Registry::new(Config { docker_config: Some(path.clone()), ..config(rig.certs.path()) });
    let reference: ImageRef = rig.fake.name("team/app").parse().unwrap();
    registry.repository(&reference, None).await.unwrap().resolve("v1").await.unwrap();
    std::fs::write(&path, "nonsense").unwrap();
    let error = registry.repository(&reference, None).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Config);
}

#[tokio::test]
async fn a_redirect_to_another_host_carries_no_credentials_and_no_configured_headers() {
    let rig = Rig::new().await;
    let store = Fake::start().await;
    store.behave(|behaviour| behaviour.refuse_authorization = true);
    let blob = store.put_blob(content());
    rig.fake.behave(|behaviour| {
        behaviour.access = Access::Token { password: None, seconds: 60 };
        behaviour.blobs_at = Some(store.base());
    });
    let base = rig.fake.base();
    let text = format!("server = \"{base}\"\n[header]\nX-Secret = \"hush\"\n");
    rig.hosts(&rig.fake.address.to_string(), &text);
    let repository = rig.own().await;
    assert_eq!(read(&repository, &blob, content().len(), 0).await.unwrap(), content());
    let at_registry = rig.fake.take_seen();
    assert!(
        at_registry.iter().all(|seen| seen.path == "/token" || seen.headers["x-secret"] == "hush")
    );
    let at_store = store.take_seen();
    assert!(at_store.iter().all(|seen| seen.authorization.is_none()));
    assert!(at_store.iter().all(|seen| !seen.headers.contains_key("x-secret")));
}

#[tokio::test]
async fn signed_addresses_do_not_show_in_errors() {
    let rig = Rig::new().await;
    let nobody = dead().await;
    rig.fake.behave(|behaviour| behaviour.blobs_at = Some(format!("http://{nobody}")));
    let error = read(&rig.own().await, &digest(b"x"), 1, 0).await.unwrap_err();
    assert!(!error.to_string().contains("secret"), "{error}");
}

#[tokio::test]
async fn too_many_requests_are_repeated_after_the_time_that_is_asked_for() {
    let rig = Rig::new().await;
    rig.fake.put_manifest("team/app", "v1", OCI, "{}");
    rig.fake.behave(|behaviour| behaviour.too_many = 1);
    let started = Instant::now();
    rig.own().await.resolve("v1").await.unwrap();
    assert!(started.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn passing_errors_of_a_server_are_waited_out_and_lasting_ones_reported() {
    let rig = Rig::new().await;
    rig.fake.put_manifest("team/app", "v1", OCI, "{}");
    rig.fake.behave(|behaviour| behaviour.unavailable = 2);
    rig.own().await.resolve("v1").await.unwrap();
    rig.fake.behave(|behaviour| behaviour.unavailable = u32::MAX);
    let error = rig.own().await.resolve("v1").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.to_string().contains("503"), "{error}");
}

#[tokio::test]
async fn nobody_listening_is_unavailable_at_once() {
    let rig = Rig::new().await;
    let nobody = dead().await;
    let started = Instant::now();
    let repository = rig.repository(&format!("{nobody}/a"), None).await;
    let error = repository.resolve("v1").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(matches!(error.attempts()[0].failure, Failure::Connect(_)));
    assert!(error.to_string().contains(&nobody), "{error}");
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn blobs_come_whole_with_and_without_a_length() {
    let rig = Rig::new().await;
    let blob = rig.fake.put_blob(content());
    let repository = rig.own().await;
    assert_eq!(read(&repository, &blob, content().len(), 0).await.unwrap(), content());
    rig.fake.behave(|behaviour| behaviour.no_length = true);
    assert_eq!(read(&repository, &blob, content().len(), 0).await.unwrap(), content());
}

#[tokio::test]
async fn a_broken_transfer_goes_on_where_it_stopped() {
    let rig = Rig::new().await;
    let blob = rig.fake.put_blob(content());
    let repository = rig.own().await;
    for (ranges_ignored, no_length) in [(false, false), (true, false), (false, true)] {
        rig.fake.behave(|behaviour| {
            (behaviour.ranges_ignored, behaviour.no_length) = (ranges_ignored, no_length);
            behaviour.cuts = 2;
        });
        rig.fake.take_seen();
        assert_eq!(read(&repository, &blob, content().len(), 0).await.unwrap(), content());
        let seen = rig.fake.take_seen();
        assert!(seen[1].range.as_deref().is_some_and(|range| range != "bytes=0-"), "{seen:?}");
    }
}

#[tokio::test]
async fn a_stalled_transfer_is_taken_up_again() {
    let rig = Rig::new().await;
    let blob = rig.fake.put_blob(content());
    rig.fake.behave(|behaviour| behaviour.stalls = 1);
    let started = Instant::now();
    assert_eq!(read(&rig.own().await, &blob, content().len(), 0).await.unwrap(), content());
    assert!(started.elapsed() >= Duration::from_millis(500));
}

#[tokio::test]
async fn a_transfer_that_never_gets_on_is_given_up() {
    let rig = Rig::new().await;
    let blob = rig.fake.put_blob(&b"x"[..]);
    // A registry that has less than the manifest says.
    let error = read(&rig.own().await, &blob, 100, 1).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
}

#[tokio::test]
async fn a_blob_that_is_too_long_is_refused() {
    let rig = Rig::new().await;
    let blob = rig.fake.put_blob(content());
    let error = read(&rig.own().await, &blob, 10, 0).await.unwrap_err();
    assert!(matches!(error.attempts()[0].failure, Failure::TooLong { limit: 10 }));
}

#[tokio::test]
async fn reading_starts_in_the_middle_when_asked_to() {
    let rig = Rig::new().await;
    let blob = rig.fake.put_blob(content());
    let repository = rig.own().await;
    for ranges_ignored in [false, true] {
        rig.fake.behave(|behaviour| behaviour.ranges_ignored = ranges_ignored);
        let rest = read(&repository, &blob, content().len(), 1000).await.unwrap();
        assert_eq!(rest, content()[1000..]);
    }
}

#[tokio::test]
async fn mirrors_come_first_and_are_told_whose_content_they_are_asked_for() {
    let rig = Rig::new().await;
    let wanted = rig.fake.put_manifest("team/app", "v1", OCI, "{}");
    rig.hosts("reg.test", &format!("[host.\"{}\"]\n", rig.fake.base()));
    let repository = rig.repository("reg.test/team/app", None).await;
    assert_eq!(*repository.resolve("v1").await.unwrap().digest(), wanted);
    assert_eq!(rig.fake.take_seen()[0].query, "ns=reg.test");
}

#[tokio::test]
async fn any_failure_of_a_mirror_leads_to_the_next_host() {
    let rig = Rig::new().await;
    let blob = rig.fake.put_blob(content());
    let wanted = rig.fake.put_manifest("team/app", "v1", OCI, "{}");
    let mirror = Fake::start().await;
    let text = format!("server = \"{}\"\n[host.\"{}\"]\n", rig.fake.base(), mirror.base());
    rig.hosts("reg.test", &text);
    let failures: [fn(&mut fake_registry::Behaviour); 4] = [
        |_| {},
        |behaviour| behaviour.access = Access::Basic("nobody", "knows"),
        |behaviour| behaviour.unavailable = u32::MAX,
        |behaviour| behaviour.refuse_authorization = true,
    ];
    for failure in failures {
        mirror.behave(|behaviour| {
            *behaviour = fake_registry::Behaviour::default();
            failure(behaviour);
        });
        let repository = rig.repository("reg.test/team/app", None).await;
        assert_eq!(*repository.resolve("v1").await.unwrap().digest(), wanted);
        assert_eq!(read(&repository, &blob, content().len(), 0).await.unwrap(), content());
    }
}

#[tokio::test]
async fn a_mirror_that_breaks_in_the_middle_is_replaced_there() {
    let rig = Rig::new().await;
    let blob = rig.fake.put_blob(content());
    let mirror = Fake::start().await;
    mirror.put_blob(content());
    mirror.behave(|behaviour| behaviour.cuts = 1000);
    let text = format!("server = \"{}\"\n[host.\"{}\"]\n", rig.fake.base(), mirror.base());
    rig.hosts("reg.test", &text);
    let repository = rig.repository("reg.test/team/app", None).await;
    assert_eq!(read(&repository, &blob, content().len(), 0).await.unwrap(), content());
}

#[tokio::test]
async fn a_dead_mirror_is_remembered_and_every_host_is_named_in_the_error() {
    let rig = Rig::new().await;
    rig.fake.put_manifest("team/app", "v1", OCI, "{}");
    let nobody = dead().await;
    let text = format!("server = \"{}\"\n[host.\"http://{nobody}\"]\n", rig.fake.base());
    rig.hosts("reg.test", &text);
    let repository = rig.repository("reg.test/team/app", None).await;
    repository.resolve("v1").await.unwrap();
    // The mirror comes to life, but it is not asked again so soon.
    let listener = std::net::TcpListener::bind(&nobody).unwrap();
    listener.set_nonblocking(true).unwrap();
    repository.resolve("v1").await.unwrap();
    assert!(listener.accept().is_err());
    drop(listener);
    let error = repository.resolve("v2").await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    let hosts: Vec<_> = error.attempts().iter().map(|attempt| attempt.host.as_str()).collect();
    assert_eq!(hosts, [format!("http://{nobody}"), rig.fake.base()]);
}

#[tokio::test]
async fn capabilities_are_honoured_and_the_file_is_read_at_each_pull() {
    let rig = Rig::new().await;
    rig.fake.put_manifest("team/app", "v1", OCI, "{}");
    let mirror = Fake::start().await;
    let wanted = mirror.put_manifest("team/app", "v1", OCI, "{\"mirror\":1}");
    let hosts = |capabilities: &str| {
        let (own, mirror) = (rig.fake.base(), mirror.base());
        let text =
            format!("server = \"{own}\"\n[host.\"{mirror}\"]\ncapabilities = [{capabilities}]\n");
        rig.hosts("reg.test", &text);
    };
    hosts("\"pull\"");
    let resolved = rig.repository("reg.test/team/app", None).await.resolve("v1").await.unwrap();
    assert_eq!(*resolved.digest(), digest(b"{}"));
    hosts("\"pull\", \"resolve\"");
    let resolved = rig.repository("reg.test/team/app", None).await.resolve("v1").await.unwrap();
    assert_eq!(*resolved.digest(), wanted);
}

#[tokio::test]
async fn a_distrusted_host_is_left_out() {
    let rig = Rig::new().await;
    let blob = rig.fake.put_blob(content());
    let mirror = Fake::start().await;
    mirror.put_blob(content());
    let text = format!("server = \"{}\"\n[host.\"{}\"]\n", rig.fake.base(), mirror.base());
    rig.hosts("reg.test", &text);
    let repository = rig.repository("reg.test/team/app", None).await;
    let mut first = repository.blob(&blob, content().len() as u64, 0);
    first.chunk().await.unwrap();
    assert_eq!(first.origin(), Some(mirror.base()));
    assert!(repository.distrust(&mirror.base()));
    let mut second = repository.blob(&blob, content().len() as u64, 0);
    second.chunk().await.unwrap();
    assert_eq!(second.origin(), Some(rig.fake.base()));
    assert!(!repository.distrust(&rig.fake.base()));
}
