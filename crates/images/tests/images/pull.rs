//! Pulls from a registry that behaves, and misbehaves, as the public ones do.

use std::fs;
use std::sync::LazyLock;
use std::time::Duration;

use crate::rig::{self, Blob, Head, INDEX, Layer, Pushed, Rig, push};
use fake_registry::{Access, Fake, digest};
use images::{Error, Kind};
use model::ImageRef;

fn base() -> Blob {
    Blob::gzip(
        Layer::new().dir("etc").file("etc/passwd", b"root:x:0:0::/:/bin/sh\n").file("a", b"base"),
    )
}

fn top() -> Blob {
    Blob::zstd(Layer::new().file("a", b"top").dir("etc").file("etc/.wh.gone", b""))
}

fn big() -> Blob {
    static BIG: LazyLock<Blob> =
        LazyLock::new(|| Blob::gzip(Layer::new().file("big", &rig::noise(2 << 20))));
    BIG.clone()
}

fn pushed(rig: &Rig) -> Pushed {
    let run = r#"{"User":"www","Env":["A=b"],"Cmd":["/a"],"WorkingDir":"/etc"}"#;
    push(&rig.fake, "team/app:v1", &[base(), top()], run)
}

#[tokio::test]
async fn an_image_is_pulled_listed_and_found_by_all_its_names() {
    let rig = Rig::new().await;
    let pushed = pushed(&rig);
    let image = rig.pull(&pushed.reference).await.unwrap();
    assert_eq!(*image.id(), pushed.id);
    assert_eq!(image.repo_tags(), [rig.fake.name("team/app:v1")]);
    let by_digest = rig.fake.name(&format!("team/app@{}", pushed.manifest));
    assert_eq!(image.repo_digests(), std::slice::from_ref(&by_digest));
    assert_eq!(
        (image.config().user.as_str(), &image.config().cmd[..]),
        ("www", &["/a".to_owned()][..])
    );
    assert!(image.size() > 0);
    let [low, high] = &image.layers()[..] else { panic!("{:?}", image.layers()) };
    assert_eq!(fs::read(low.join("a")).unwrap(), b"base");
    assert_eq!(fs::read(high.join("a")).unwrap(), b"top");
    assert_eq!(image.read_file("/a", 10).unwrap().unwrap(), b"top");
    assert!(image.read_file("etc/passwd", 100).unwrap().unwrap().starts_with(b"root:"));
    assert_eq!(rig.store.list().len(), 1);
    let hex = pushed.id.hex();
    for name in [pushed.id.as_str(), hex, &hex[..12], &by_digest, &rig.fake.name("team/app:v1")] {
        assert_eq!(*rig.store.find(name).unwrap().id(), pushed.id, "{name}");
    }
    for name in ["", "nothing", &rig.fake.name("team/app:v2"), "sha256:12", "??"] {
        assert!(matches!(rig.store.find(name), Err(Error::NotFound { .. })), "{name}");
    }
}

#[tokio::test]
async fn short_names_are_docker_hubs() {
    let rig = Rig::new().await;
    push(&rig.fake, "library/busybox:latest", &[base()], "null");
    let dir = rig.dir.path().join("certs.d/docker.io");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("hosts.toml"), format!("[host.\"{}\"]\n", rig.fake.base())).unwrap();
    rig.pull(&"busybox".parse().unwrap()).await.unwrap();
    let image = rig.store.find("busybox").unwrap();
    assert_eq!(image.repo_tags(), ["docker.io/library/busybox:latest"]);
}

#[tokio::test]
async fn an_index_leads_to_this_platform_and_is_the_repo_digest() {
    let rig = Rig::new().await;
    let variant = push(&rig.fake, "team/app:v3", &[base(), top(), big()], "null");
    let plain = push(&rig.fake, "team/app:plain", &[base()], "null");
    let entry = |digest: &str, platform: &str| {
        format!(
            r#"{{"mediaType":"{}","digest":"{digest}","size":1,"platform":{platform}}}"#,
            rig::MANIFEST
        )
    };
    let attestation = entry(digest(b"x").as_str(), r#"{"architecture":"unknown","os":"unknown"}"#);
    let v3 =
        entry(variant.manifest.as_str(), r#"{"architecture":"amd64","os":"linux","variant":"v3"}"#);
    let ours = entry(plain.manifest.as_str(), r#"{"architecture":"amd64","os":"linux"}"#);
    let text = format!(r#"{{"schemaVersion":2,"manifests":[{attestation},{v3},{ours}]}}"#);
    let index = rig.fake.put_manifest("team/app", "all", INDEX, &text);
    let reference: ImageRef = rig.fake.name("team/app:all").parse().unwrap();
    let image = rig.pull(&reference).await.unwrap();
    assert_eq!(*image.id(), plain.id);
    assert_eq!(image.repo_digests(), [rig.fake.name(&format!("team/app@{index}"))]);
    // By digest too, and of the index that is here already nothing is fetched again.
    rig.fake.take_seen();
    let by_digest = reference.with_digest(index);
    assert_eq!(*rig.pull(&by_digest).await.unwrap().id(), plain.id);
    assert!(rig.fake.take_seen().is_empty());

    let text = format!(r#"{{"schemaVersion":2,"manifests":[{attestation}]}}"#);
    rig.fake.put_manifest("team/app", "none", INDEX, &text);
    let error = rig.pull(&rig.fake.name("team/app:none").parse().unwrap()).await.unwrap_err();
    assert!(matches!(*error, Error::NoPlatform { .. }), "{error}");
}

#[tokio::test]
async fn pulling_what_is_here_asks_for_the_tag_alone() {
    let rig = Rig::new().await;
    let pushed = pushed(&rig);
    rig.pull(&pushed.reference).await.unwrap();
    rig.fake.take_seen();
    rig.pull(&pushed.reference).await.unwrap();
    let seen = rig.fake.take_seen();
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(seen[0].method, http::Method::HEAD);
}

#[tokio::test]
async fn every_compression_is_understood_whatever_the_media_type_says() {
    let rig = Rig::new().await;
    let layer = |text: &str| Layer::new().file(text, text.as_bytes());
    let mut lying = Blob::zstd(layer("zstd"));
    lying.media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
    let layers = [Blob::plain(layer("plain")), Blob::gzip(layer("gzip")), lying];
    let pushed = push(&rig.fake, "a:1", &layers, "null");
    let image = rig.pull(&pushed.reference).await.unwrap();
    for name in ["plain", "gzip", "zstd"] {
        assert_eq!(image.read_file(name, 9).unwrap().unwrap(), name.as_bytes());
    }
}

#[tokio::test]
async fn pulls_of_the_same_image_join_and_layers_are_fetched_once() {
    let rig = Rig::new().await;
    let one = push(&rig.fake, "a:1", &[big(), base()], "null");
    let other = push(&rig.fake, "b:1", &[big(), top()], "null");
    rig.fake.behave(|behaviour| behaviour.pause_per_piece = Some(Duration::from_millis(1)));
    let (first, second) =
        (rig.store.pull(&one.reference, None), rig.store.pull(&one.reference, None));
    let third = rig.store.pull(&other.reference, None);
    let (first, second, third) = tokio::join!(first.wait(), second.wait(), third.wait());
    assert_eq!(first.unwrap().id(), second.unwrap().id());
    third.unwrap();
    let path = format!("/blobs/{}", digest(&big().bytes));
    let fetched = rig.fake.take_seen().iter().filter(|seen| seen.path.ends_with(&path)).count();
    assert_eq!(fetched, 1);
}

#[tokio::test]
async fn a_pull_that_is_given_up_leaves_no_image_and_the_next_goes_on_there() {
    let rig = Rig::new().await;
    let pushed = push(&rig.fake, "a:1", &[big()], "null");
    rig.fake.behave(|behaviour| behaviour.pause_per_piece = Some(Duration::from_millis(5)));
    let pull = rig.store.pull(&pushed.reference, None);
    let enough = async {
        while pull.progress().done < 500_000 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), enough).await.unwrap();
    assert_eq!(pull.progress().total, big().bytes.len() as u64);
    drop(pull);
    assert!(rig.store.list().is_empty());
    rig.fake.behave(|behaviour| behaviour.pause_per_piece = None);
    rig.fake.take_seen();
    rig.pull(&pushed.reference).await.unwrap();
    let seen = rig.fake.take_seen();
    let ranges: Vec<_> = seen.iter().filter_map(|seen| seen.range.as_deref()).collect();
    let [range] = &ranges[..] else { panic!("{seen:?}") };
    let from: u64 = range["bytes=".len()..].trim_end_matches('-').parse().unwrap();
    assert!(from >= 400_000, "{from}");
    assert!(rig.names("ingest").is_empty() && rig.empties("staging").await);
}

#[tokio::test]
async fn a_failed_pull_leaves_nothing_listed_and_goes_on_after_a_restart() {
    let rig = Rig::new().await;
    let pushed = push(&rig.fake, "a:1", &[big()], "null");
    rig.fake.behave(|behaviour| {
        behaviour.cuts = 1000;
        behaviour.ranges_ignored = true;
    });
    let error = rig.pull(&pushed.reference).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    assert!(rig.store.list().is_empty() && rig.names("images").is_empty());
    assert!(rig.names("staging").is_empty());
    assert_eq!(rig.names("ingest").len(), 1);
    let rig = rig.reopen().await;
    rig.fake.behave(|behaviour| *behaviour = fake_registry::Behaviour::default());
    rig.fake.take_seen();
    rig.pull(&pushed.reference).await.unwrap();
    assert!(rig.fake.take_seen().iter().any(|seen| seen.range.is_some()));
}

#[tokio::test]
async fn a_damaged_beginning_of_a_download_is_thrown_away() {
    let rig = Rig::new().await;
    let layer = big();
    let pushed = push(&rig.fake, "a:1", std::slice::from_ref(&layer), "null");
    let path = rig.dir.path().join("images/ingest").join(digest(&layer.bytes).hex());
    fs::write(&path, vec![0; 100_000]).unwrap();
    rig.pull(&pushed.reference).await.unwrap();
    fs::write(&path, vec![0; layer.bytes.len() + 1]).unwrap();
    rig.store.remove(pushed.id.as_str()).await.unwrap();
    rig.pull(&pushed.reference).await.unwrap();
}

#[tokio::test]
async fn wrong_content_is_refused_and_another_host_asked() {
    let rig = Rig::new().await;
    let pushed = pushed(&rig);
    rig.fake.behave(|behaviour| behaviour.corrupt = true);
    let error = rig.pull(&pushed.reference).await.unwrap_err();
    assert!(matches!(*error, Error::Digest { .. }), "{error}");
    assert_eq!(error.kind(), Kind::BadImage);
    assert!(rig.store.list().is_empty() && rig.names("layers").is_empty());
    assert!(rig.names("ingest").is_empty());
    // The same by a mirror, with a registry behind it that has it right.
    let good = Fake::start().await;
    let run = r#"{"User":"www","Env":["A=b"],"Cmd":["/a"],"WorkingDir":"/etc"}"#;
    push(&good, "team/app:v1", &[base(), top()], run);
    let dir = rig.dir.path().join("certs.d/reg.test");
    fs::create_dir_all(&dir).unwrap();
    let text = format!("server = \"{}\"\n[host.\"{}\"]\n", good.base(), rig.fake.base());
    fs::write(dir.join("hosts.toml"), text).unwrap();
    let image = rig.pull(&"reg.test/team/app:v1".parse().unwrap()).await.unwrap();
    assert_eq!(*image.id(), pushed.id);
}

#[tokio::test]
async fn a_truncated_blob_is_refused() {
    let rig = Rig::new().await;
    let layer = base();
    let pushed = push(&rig.fake, "a:1", std::slice::from_ref(&layer), "null");
    rig.fake.forge_blob(&digest(&layer.bytes), layer.bytes[..layer.bytes.len() / 2].to_vec());
    let error = rig.pull(&pushed.reference).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    assert!(rig.names("layers").is_empty());
}

#[tokio::test]
async fn a_layer_that_unpacks_to_something_else_is_refused() {
    let rig = Rig::new().await;
    let mut layer = base();
    layer.diff_id = digest(b"something else");
    let pushed = push(&rig.fake, "a:1", &[layer], "null");
    let error = rig.pull(&pushed.reference).await.unwrap_err();
    assert!(matches!(*error, Error::DiffId { .. }), "{error}");
    assert!(rig.names("layers").is_empty());
}

#[tokio::test]
async fn broken_compression_with_a_right_digest_is_the_images_fault() {
    let rig = Rig::new().await;
    let mut layer = big();
    let middle = layer.bytes.len() / 2;
    layer.bytes.truncate(middle);
    let pushed = push(&rig.fake, "a:1", &[layer], "null");
    let error = rig.pull(&pushed.reference).await.unwrap_err();
    assert!(matches!(*error, Error::Inflate { .. }), "{error}");
    assert_eq!(error.kind(), Kind::BadImage);
}

#[tokio::test]
async fn manifests_and_configurations_that_disagree_are_refused() {
    let rig = Rig::new().await;
    let config = rig::config_text(&[base()], "null");
    rig.fake.put_blob(config.clone());
    let text = rig::manifest_text(&[base(), top()], &config);
    rig.fake.put_manifest("a", "1", rig::MANIFEST, &text);
    let error = rig.pull(&rig.fake.name("a:1").parse().unwrap()).await.unwrap_err();
    assert!(matches!(*error, Error::LayerCount { layers: 2, diff_ids: 1, .. }), "{error}");
    for text in ["", "null", "{}", "[1]", r#"{"schemaVersion":1}"#] {
        rig.fake.put_manifest("a", "2", rig::MANIFEST, text);
        let error = rig.pull(&rig.fake.name("a:2").parse().unwrap()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::BadImage, "{text}: {error}");
    }
    let huge = format!(
        r#"{{"schemaVersion":2,"config":{{"digest":"{}","size":99999999999}},"layers":[]}}"#,
        digest(b"x")
    );
    rig.fake.put_manifest("a", "3", rig::MANIFEST, &huge);
    let error = rig.pull(&rig.fake.name("a:3").parse().unwrap()).await.unwrap_err();
    assert!(matches!(*error, Error::TooLarge { .. }), "{error}");
}

#[tokio::test]
async fn errors_of_the_registry_keep_their_meaning() {
    let rig = Rig::new().await;
    let pushed = pushed(&rig);
    let missing: ImageRef = rig.fake.name("team/app:none").parse().unwrap();
    assert_eq!(rig.pull(&missing).await.unwrap_err().kind(), Kind::NotFound);
    rig.fake.behave(|behaviour| behaviour.access = Access::Basic("a", "b"));
    assert_eq!(rig.pull(&pushed.reference).await.unwrap_err().kind(), Kind::Unauthorized);
    let auth = registry::Auth { username: "a".into(), password: "b".into(), ..Default::default() };
    rig.store.pull(&pushed.reference, Some(auth)).wait().await.unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = format!("{}/a", listener.local_addr().unwrap());
    drop(listener);
    let error = rig.pull(&nobody.parse().unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
}

#[tokio::test]
async fn hostile_layers_are_refused_and_leave_nothing() {
    let up = |name: &str| Layer::new().file(name, b"x");
    let link = |target: &str| Layer::new().hard_link("l", target);
    for (what, layer) in [
        ("upwards", up("../evil")),
        ("upwards within", up("a/../../evil")),
        ("link upwards", link("../../etc/passwd")),
        ("link to nothing", link("/etc/passwd")),
        ("link to a directory", Layer::new().dir("d").hard_link("l", "d")),
        ("root file", Layer::new().file("/", b"x").entry(".", Head::default(), b"x")),
        ("whiteout of the parent", Layer::new().file("d/.wh...", b"")),
        ("whiteout of nothing", Layer::new().file("d/.wh.", b"")),
        (
            "huge header",
            Layer::new().entry("h", Head { flag: b'x', ..Head::default() }, &vec![b'x'; 2 << 20]),
        ),
        ("zero in a name", Layer::new().pax(&[("path", b"a\0b")]).file("x", b"")),
        ("file as directory", Layer::new().file("f", b"").file("f/x", b"")),
    ] {
        let rig = Rig::new().await;
        let pushed = push(&rig.fake, "a:1", &[Blob::gzip(layer)], "null");
        let error = rig.pull(&pushed.reference).await.unwrap_err();
        assert!(matches!(*error, Error::Unpack { .. }), "{what}: {error:?}");
        for part in ["layers", "staging", "images"] {
            assert!(rig.names(part).is_empty(), "{what}: {part}");
        }
        assert!(
            !rig.dir.path().join("evil").exists() && !rig.dir.path().join("images/evil").exists()
        );
    }
}
