//! Names, users, removal, restarts and archives.

use std::fs;
use std::process::Command;

use crate::rig::{self, Blob, Head, Layer, Rig, push};
use fake_registry::digest;
use images::{Config, Error, UnpackError, Usage};
use model::ImageRef;

fn layer(text: &str) -> Blob {
    Blob::gzip(Layer::new().dir("d").file("d/f", text.as_bytes()).file(text, &vec![7; 20_000]))
}

fn empty(rig: &Rig) -> bool {
    ["blobs/sha256", "layers", "images", "ingest", "staging"]
        .iter()
        .all(|part| rig.names(part).is_empty())
        && rig.store.usage() == Usage::default()
}

#[tokio::test]
async fn removing_by_id_deletes_what_nothing_else_uses_before_it_returns() {
    let rig = Rig::new().await;
    let one = push(&rig.fake, "a:1", &[layer("shared"), layer("one")], "null");
    let two = push(&rig.fake, "b:1", &[layer("shared"), layer("two")], "null");
    rig.pull(&one.reference).await.unwrap();
    let before = rig.store.usage();
    let image = rig.pull(&two.reference).await.unwrap();
    let both = rig.store.usage();
    rig.store.remove(two.id.as_str()).await.unwrap();
    assert_eq!(rig.store.usage(), before);
    // Its size falls away, but for the layer that is shared.
    assert!(both.bytes - before.bytes < image.size());
    assert!(both.bytes - before.bytes >= 20_000);
    assert_eq!(rig.names("layers").len(), 2 * 2);
    assert!(rig.store.find("a:1").is_err());
    assert_eq!(rig.store.find(one.id.hex()).unwrap().layers().len(), 2);
    // Again, and of something that never was.
    rig.store.remove(two.id.as_str()).await.unwrap();
    rig.store.remove("never/was:1").await.unwrap();
    rig.store.remove(one.id.hex()).await.unwrap();
    assert!(empty(&rig), "{:?}", rig.names("blobs/sha256"));
}

#[tokio::test]
async fn removing_a_tag_keeps_the_others_and_the_last_takes_the_image() {
    let rig = Rig::new().await;
    let one = push(&rig.fake, "a:1", &[layer("x")], "null");
    let two = push(&rig.fake, "a:2", &[layer("x")], "null");
    let other = push(&rig.fake, "b:1", &[layer("x")], "null");
    for pushed in [&one, &two, &other] {
        rig.pull(&pushed.reference).await.unwrap();
    }
    assert_eq!(one.id, other.id);
    let image = rig.store.list().remove(0);
    assert_eq!((image.repo_tags().len(), image.repo_digests().len()), (3, 2));
    rig.store.remove(&rig.fake.name("a:1")).await.unwrap();
    let image = rig.store.find(one.id.as_str()).unwrap();
    assert_eq!((image.repo_tags().len(), image.repo_digests().len()), (2, 2));
    // The last tag of a repository takes the repository's digests along.
    rig.store.remove(&rig.fake.name("a:2")).await.unwrap();
    let image = rig.store.find(one.id.as_str()).unwrap();
    assert_eq!(image.repo_tags(), [rig.fake.name("b:1")]);
    assert_eq!(image.repo_digests(), [rig.fake.name(&format!("b@{}", other.manifest))]);
    let rig = rig.reopen().await;
    rig.store.adopted().await.unwrap();
    assert_eq!(rig.store.list().remove(0).repo_tags(), [rig.fake.name("b:1")]);
    rig.store.remove(&rig.fake.name("b:1")).await.unwrap();
    assert!(empty(&rig));
}

#[tokio::test]
async fn a_tag_moves_to_the_newer_image() {
    let rig = Rig::new().await;
    let old = push(&rig.fake, "a:1", &[layer("old")], "null");
    rig.pull(&old.reference).await.unwrap();
    let new = push(&rig.fake, "a:1", &[layer("new")], "null");
    rig.pull(&new.reference).await.unwrap();
    let rig = rig.reopen().await;
    assert_eq!(*rig.store.find(&rig.fake.name("a:1")).unwrap().id(), new.id);
    let image = rig.store.find(old.id.as_str()).unwrap();
    assert!(image.repo_tags().is_empty() && image.repo_digests().len() == 1);
}

#[tokio::test]
async fn an_image_in_use_goes_with_its_last_user() {
    let rig = Rig::new().await;
    let pushed = push(&rig.fake, "a:1", &[layer("x")], "null");
    rig.pull(&pushed.reference).await.unwrap();
    let image = rig.store.lease(&pushed.id, "one").unwrap();
    rig.store.lease(&pushed.id, "two").unwrap();
    rig.store.remove(pushed.id.as_str()).await.unwrap();
    assert!(rig.store.list().is_empty() && rig.store.find(pushed.id.as_str()).is_err());
    assert!(rig.store.lease(&pushed.id, "three").is_err());
    rig.store.release("one").await.unwrap();
    rig.store.release("nobody").await.unwrap();
    assert!(image.layers()[0].join("d/f").exists());
    rig.store.release("two").await.unwrap();
    assert!(empty(&rig));
}

#[tokio::test]
async fn a_removed_image_that_is_pulled_again_while_in_use_stays() {
    let rig = Rig::new().await;
    let pushed = push(&rig.fake, "a:1", &[layer("x")], "null");
    rig.pull(&pushed.reference).await.unwrap();
    rig.store.lease(&pushed.id, "one").unwrap();
    rig.store.remove("sha256:").await.unwrap();
    rig.store.remove(pushed.id.as_str()).await.unwrap();
    rig.pull(&pushed.reference).await.unwrap();
    rig.store.release("one").await.unwrap();
    let rig = rig.reopen().await;
    rig.store.adopted().await.unwrap();
    assert_eq!(rig.store.list().len(), 1);
}

#[tokio::test]
async fn nothing_is_deleted_before_all_users_of_before_are_known() {
    let rig = Rig::new().await;
    let used = push(&rig.fake, "used:1", &[layer("used")], "null");
    let idle = push(&rig.fake, "idle:1", &[layer("idle")], "null");
    for pushed in [&used, &idle] {
        rig.pull(&pushed.reference).await.unwrap();
    }
    rig.store.lease(&used.id, "container").unwrap();
    rig.store.remove(used.id.as_str()).await.unwrap();
    let rig = rig.reopen().await;
    // Removed before the restart, but its user is still there.
    assert_eq!(rig.store.list().len(), 1);
    rig.store.remove(idle.id.as_str()).await.unwrap();
    assert!(rig.store.list().is_empty());
    assert_eq!(rig.names("images").len(), 2);
    let image = rig.store.lease(&used.id, "container").unwrap();
    rig.store.adopted().await.unwrap();
    assert_eq!(rig.names("images").len(), 1);
    assert!(image.layers()[0].join("d/f").exists());
    rig.store.release("container").await.unwrap();
    assert!(empty(&rig));
}

#[tokio::test]
async fn a_restart_changes_nothing() {
    let rig = Rig::new().await;
    let pushed = push(&rig.fake, "a:1", &[layer("x"), layer("y"), layer("x")], r#"{"Cmd":["/x"]}"#);
    let before = rig.pull(&pushed.reference).await.unwrap();
    // A layer that comes twice is stacked once, where it counts.
    assert_eq!(before.layers().len(), 2);
    assert!(before.layers()[1].ends_with(layer("x").diff_id.hex()));
    let usage = rig.store.usage();
    let rig = rig.reopen().await;
    let after = rig.store.list().remove(0);
    assert_eq!(rig.store.usage(), usage);
    assert_eq!(
        (before.id(), before.size(), before.layers()),
        (after.id(), after.size(), after.layers())
    );
    assert_eq!(
        (before.repo_tags(), before.repo_digests()),
        (after.repo_tags(), after.repo_digests())
    );
    assert_eq!(before.config(), after.config());
}

#[tokio::test]
async fn a_layer_that_a_crash_may_have_damaged_is_made_anew_without_the_network() {
    let rig = Rig::new().await;
    let pushed = push(&rig.fake, "a:1", &[layer("x"), layer("y")], "null");
    rig.pull(&pushed.reference).await.unwrap();
    let record = rig.dir.path().join(format!("images/layers/{}.json", layer("x").diff_id.hex()));
    // As another boot left it before it had synced.
    let text = r#"{"usage":{"bytes":1,"inodes":1},"unsynced_in_boot":"another"}"#;
    // The background task that marks layers as synced must not come in between.
    wait_for_sync(&rig).await;
    for text in [text, "", "{\"usage\":"] {
        fs::write(&record, text).unwrap();
        let copy = tempfile::tempdir_in("/dev/shm").unwrap();
        let root = copy.path().join("images");
        let done =
            Command::new("cp").arg("-a").arg(rig.dir.path().join("images")).arg(&root).status();
        assert!(done.unwrap().success());
        let config = Config { root, ..Config::default() };
        let store = images::Store::open(config, rig::registry(copy.path())).unwrap();
        assert!(store.list().is_empty(), "{text}");
        store.adopted().await.unwrap();
        rig.fake.take_seen();
        let image = store.pull(&pushed.reference, None).wait().await.unwrap();
        assert!(image.layers()[0].join("d/f").exists());
        assert!(!rig.fake.take_seen().iter().any(|seen| seen.path.contains("/blobs/")));
    }
}

async fn wait_for_sync(rig: &Rig) {
    let unsynced = || {
        let names = rig.names("layers").into_iter().filter(|name| name.ends_with(".json"));
        let texts =
            names.map(|name| fs::read_to_string(rig.dir.path().join("images/layers").join(name)));
        texts.filter(|text| text.as_ref().is_ok_and(|text| text.contains("unsynced"))).count()
    };
    for _ in 0..1000 {
        if unsynced() == 0 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("the disk never had everything");
}

#[tokio::test]
async fn an_unreadable_record_takes_one_image_and_no_more() {
    let rig = Rig::new().await;
    let bad = push(&rig.fake, "bad:1", &[layer("shared")], r#"{"User":"bad"}"#);
    let good = push(&rig.fake, "good:1", &[layer("shared")], "null");
    for pushed in [&bad, &good] {
        rig.pull(&pushed.reference).await.unwrap();
    }
    fs::write(rig.dir.path().join(format!("images/images/{}.json", bad.id.hex())), "{").unwrap();
    let rig = rig.reopen().await;
    rig.store.adopted().await.unwrap();
    assert_eq!(rig.store.list().len(), 1);
    assert_eq!(rig.names("quarantine").len(), 1);
    rig.fake.take_seen();
    rig.pull(&bad.reference).await.unwrap();
    assert!(!rig.fake.take_seen().iter().any(|seen| seen.path.contains("/blobs/")));
    assert_eq!(rig.store.list().len(), 2);
}

#[tokio::test]
async fn a_damaged_configuration_is_fetched_again() {
    let rig = Rig::new().await;
    let pushed = push(&rig.fake, "a:1", &[layer("x")], "null");
    rig.pull(&pushed.reference).await.unwrap();
    fs::write(rig.dir.path().join("images/blobs/sha256").join(pushed.id.hex()), "{}").unwrap();
    let rig = rig.reopen().await;
    assert!(rig.store.list().is_empty());
    rig.pull(&pushed.reference).await.unwrap();
    assert_eq!(rig.store.list().len(), 1);
}

#[tokio::test]
async fn what_nobody_wanted_for_a_day_is_deleted_at_the_start() {
    let rig = Rig::new().await;
    let pushed = push(&rig.fake, "a:1", &[layer("x")], "null");
    rig.pull(&pushed.reference).await.unwrap();
    let orphan = digest(b"orphan");
    let ingest = rig.dir.path().join("images/ingest");
    fs::write(ingest.join(orphan.hex()), "begun").unwrap();
    let rig = rig.reopen().await;
    rig.store.adopted().await.unwrap();
    assert_eq!(rig.names("ingest").len(), 1, "it is younger than a day");
    assert_eq!(rig.store.list().len(), 1);
}

#[tokio::test]
async fn pinned_images_say_so() {
    let rig = Rig::with(|config| config.pinned = vec!["*/pause:*".into()]).await;
    let pause = push(&rig.fake, "pause:3.10", &[layer("p")], "null");
    let other = push(&rig.fake, "other:1", &[layer("o")], "null");
    assert!(rig.pull(&pause.reference).await.unwrap().pinned());
    assert!(!rig.pull(&other.reference).await.unwrap().pinned());
    assert!(rig.store.find(pause.id.hex()).unwrap().pinned());
}

#[tokio::test]
async fn beginnings_of_ids_must_mean_one_image() {
    let rig = Rig::new().await;
    // Enough images that some share their first digit; their first three are tried.
    let mut ids = Vec::new();
    for number in 0..120 {
        let pushed =
            push(&rig.fake, &format!("a:{number}"), &[], &format!(r#"{{"User":"{number}"}}"#));
        rig.pull(&pushed.reference).await.unwrap();
        ids.push(pushed.id);
    }
    let sharing =
        |id: &model::Digest| ids.iter().filter(|other| other.hex()[..3] == id.hex()[..3]).count();
    let lone = ids.iter().find(|id| sharing(id) == 1).unwrap();
    assert_eq!(rig.store.find(&lone.hex()[..3]).unwrap().id(), lone);
    if let Some(twin) = ids.iter().find(|id| sharing(id) > 1) {
        let name = &twin.hex()[..3];
        assert!(matches!(rig.store.find(name), Err(Error::Ambiguous { .. })));
        assert!(matches!(rig.store.remove(name).await, Err(Error::Ambiguous { .. })));
    }
}

#[tokio::test]
async fn discarded_layers_leave_no_blob_and_cannot_be_exported() {
    let rig = Rig::with(|config| config.discard_layers = true).await;
    let pushed = push(&rig.fake, "a:1", &[layer("x")], "null");
    rig.pull(&pushed.reference).await.unwrap();
    assert_eq!(rig.names("blobs/sha256").len(), 2);
    assert!(rig.names("ingest").is_empty());
    let names = [pushed.id.to_string()];
    let error = rig.store.export(&names, std::io::sink()).await.unwrap_err();
    assert!(matches!(error, Error::NotKept { .. }), "{error}");
}

#[tokio::test]
async fn an_export_gives_the_same_images_back() {
    let rig = Rig::new().await;
    let one = push(&rig.fake, "a:1", &[layer("shared"), layer("one")], r#"{"User":"u"}"#);
    let two = push(&rig.fake, "b:1", &[layer("shared")], "null");
    for pushed in [&one, &two] {
        rig.pull(&pushed.reference).await.unwrap();
    }
    let path = rig.dir.path().join("out.tar");
    let names = [one.id.to_string(), two.reference.to_string()];
    rig.store.export(&names, fs::File::create(&path).unwrap()).await.unwrap();
    // The machine's own tar reads it.
    let listed = Command::new("tar").arg("-tf").arg(&path).output().unwrap();
    assert!(listed.status.success());
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("manifest.json") && listed.contains("index.json"));

    let other = Rig::new().await;
    let images = other.store.import(fs::File::open(&path).unwrap(), None).await.unwrap();
    assert_eq!(images.len(), 2);
    let image = other.store.find(&one.reference.to_string()).unwrap();
    assert_eq!((image.id(), image.config().user.as_str()), (&one.id, "u"));
    assert_eq!(image.read_file("d/f", 9).unwrap().unwrap(), b"one");
    // As Docker would read it: by its manifest.json alone.
    let unpacked = tempfile::tempdir().unwrap();
    let done = Command::new("tar").arg("-xf").arg(&path).arg("-C").arg(unpacked.path()).status();
    assert!(done.unwrap().success());
    fs::remove_file(unpacked.path().join("index.json")).unwrap();
    let packed =
        Command::new("tar").args(["-czf", "-", "-C"]).arg(unpacked.path()).arg(".").output();
    let docker = Rig::new().await;
    let images =
        docker.store.import(std::io::Cursor::new(packed.unwrap().stdout), None).await.unwrap();
    assert_eq!(images.len(), 2);

    assert_eq!(*docker.store.find(&two.reference.to_string()).unwrap().id(), two.id);
    docker.store.remove(two.id.as_str()).await.unwrap();
    docker.store.remove(one.id.as_str()).await.unwrap();
    assert!(empty(&docker), "{:?}", docker.names("blobs/sha256"));
}

#[tokio::test]
async fn an_archive_needs_a_name_and_right_content() {
    let rig = Rig::new().await;
    let blob = Blob::plain(Layer::new().file("f", b"x"));
    let config = rig::config_text(std::slice::from_ref(&blob), "null");
    let archive = |layer: &[u8]| {
        let list = r#"[{"Config":"c.json","RepoTags":null,"Layers":["l/layer.tar"]}]"#;
        Layer::new()
            .file("manifest.json", list.as_bytes())
            .file("c.json", config.as_bytes())
            .file("store", layer)
            // As Docker's own archives share layers.
            .symlink("l/layer.tar", "../store")
            .end()
    };
    let import = async |bytes: Vec<u8>, name: Option<&str>| {
        let name = name.map(|name| name.parse::<ImageRef>().unwrap());
        rig.store.import(std::io::Cursor::new(bytes), name).await
    };
    let error = import(archive(&blob.bytes), None).await.unwrap_err();
    assert!(error.to_string().contains("name"), "{error}");
    let error = import(archive(b"other"), Some("a")).await.unwrap_err();
    assert!(matches!(error, Error::Unpack { .. } | Error::DiffId { .. }), "{error}");
    for bytes in [Vec::new(), b"nonsense".to_vec(), Layer::new().file("x", b"").end()] {
        assert!(import(bytes, Some("a")).await.is_err());
    }
    let hostile = Layer::new().symlink("manifest.json", "/etc/passwd").end();
    let error = import(hostile, Some("a")).await.unwrap_err();
    assert!(matches!(error, Error::Archive { .. }), "{error}");
    // A device would be opened to be read: null, a disk, a pipe that nobody writes to.
    let head = |flag, device| Head { flag, mode: 0o666, device, ..Head::default() };
    let nodes = [head(b'3', (1, 3)), head(b'4', (7, 0)), head(b'6', (0, 0))];
    for (name, node) in ["index.json", "manifest.json", "x"].into_iter().zip(nodes) {
        let hostile = Layer::new().entry(name, node, b"").end();
        let error = import(hostile, Some("a")).await.unwrap_err();
        let Error::BadArchive(UnpackError::Hostile { path, .. }) = &error else {
            panic!("{error:?}")
        };
        assert_eq!(path, name);
    }
    let hidden = import(Layer::new().file(".wh.index.json", b"").end(), Some("a")).await;
    assert!(matches!(hidden, Err(Error::BadArchive(UnpackError::Hostile { .. }))), "{hidden:?}");
    let images = import(archive(&blob.bytes), Some("team/app:1")).await.unwrap();
    assert_eq!(images[0].to_string(), "docker.io/team/app:1");
    let images = import(archive(&blob.bytes), Some("aaa/other:1")).await.unwrap();
    assert_eq!(
        images.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["docker.io/aaa/other:1"]
    );
    let images = import(archive(&blob.bytes), Some("team/app:1")).await.unwrap();
    assert_eq!(images[0].to_string(), "docker.io/team/app:1");
}

/// Runs `work` in a small file system of its own, in a child with its own mounts.
fn in_small_filesystem(test: &str) -> bool {
    if std::env::var_os("MINKE_SMALL").is_some() {
        return true;
    }
    let script = "mount --make-rprivate / && mount -t tmpfs -o size=3m,mode=700 none \"$MINKE_SMALL\" && exec \"$0\" --exact \"$1\" --nocapture";
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .arg(test)
        .env("MINKE_SMALL", dir.path())
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success() && shown.contains("1 passed"),
        "{shown}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    false
}

#[tokio::test]
async fn on_a_full_disk_a_pull_fails_clean_and_removal_works() {
    if !in_small_filesystem("store::on_a_full_disk_a_pull_fails_clean_and_removal_works") {
        return;
    }
    let root = std::path::PathBuf::from(std::env::var_os("MINKE_SMALL").unwrap()).join("images");
    let rig = Rig::with(|config| config.root = root.clone()).await;
    let fits = push(
        &rig.fake,
        "fits:1",
        &[Blob::gzip(Layer::new().file("x", &rig::noise(700_000)))],
        "null",
    );
    let again = push(&rig.fake, "fits:2", &[], r#"{"User":"2"}"#);
    rig.pull(&fits.reference).await.unwrap();
    rig.pull(&again.reference).await.unwrap();
    let too_big = Layer::new().file("y", &rig::noise(700_000)).file("z", &rig::noise(700_000));
    let too_big = push(&rig.fake, "big:1", &[Blob::gzip(too_big)], "null");
    let error = rig.pull(&too_big.reference).await.unwrap_err();
    assert_eq!(error.kind(), images::Kind::Disk, "{error:?}");
    assert!(rig.names("ingest").is_empty() && rig.empties("staging").await);
    // Fill it to the last byte.
    let mut filler = fs::File::create(root.join("filler")).unwrap();
    while std::io::copy(&mut std::io::repeat(0), &mut filler).is_ok() {}
    rig.store.remove(fits.id.as_str()).await.unwrap();
    rig.store.remove(&again.reference.to_string()).await.unwrap();
    assert!(rig.store.list().is_empty());
    assert!(["layers", "blobs/sha256", "images"].iter().all(|part| rig.names(part).is_empty()));
}
