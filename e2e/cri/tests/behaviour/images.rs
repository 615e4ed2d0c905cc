//! Pulling, keeping and removing images.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use e2e_cri::client::{BUSYBOX, Cri, eventually, image_spec};
use e2e_cri::daemon::{DIR, Daemon};
use e2e_cri::group::Group;
use e2e_cri::image::{Built, Tar, digest};
use e2e_cri::probe::PROBE;
use e2e_cri::registry::{Lie, Registry};
use e2e_cri::{alone, at_daemon};
use k8s_cri::v1::*;
use serde_json::json;
use tonic::Code;

pub fn group() -> Group {
    let tests = at_daemon![
        pulls_of_one_image_join,
        layers_are_fetched_side_by_side,
        no_more_layers_are_in_flight_than_configured,
        a_layer_is_unpacked_while_it_comes,
        a_cancelled_pull_goes_on_where_it_stopped,
        archives_go_in_and_out,
        pinned_images_say_so,
        volumes_of_an_image_stay_writable,
    ];
    let tests =
        Group::new("images", tests).with_settings("images.pinned_images = [\"*/pinned:*\"]");
    tests.and(alone![removing_frees_what_is_told, an_image_in_use_goes_with_its_last_container])
}

/// A layer of so many bytes that no other image has.
fn big(word: &str, length: usize) -> Tar {
    let mut content = word.as_bytes().repeat(length / word.len());
    content.resize(length, 0);
    Tar::default().file(word, content)
}

async fn pulls_of_one_image_join(daemon: Arc<Daemon>) {
    let registry = Registry::start();
    let image = Built::of(big("joined", 1 << 20));
    let name = registry.push("joined:1", &image);
    registry.lie(&image.layers[0], Lie::Slow(4000));
    let mut pulls = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (cri, name) = (daemon.cri().await, name.clone());
        pulls.spawn(async move { cri.pull(&name).await.unwrap() });
    }
    assert!(pulls.join_all().await.iter().all(|id| *id == image.id()));
    assert_eq!(registry.asked(&image.layers[0]).len(), 1);
}

async fn volumes_of_an_image_stay_writable(daemon: Arc<Daemon>) {
    let layer = Tar::default()
        .program("probe", std::fs::read(&*PROBE).unwrap())
        .file("data/kept", "of the image")
        .symlink("root", "/");
    let volumes = json!({ "Volumes": { "/data": {}, "made/deep": {}, "/mine": {}, "/root": {} } });
    let image = Built::new([layer], &volumes);
    let name = "docker.io/e2e/volumes:1";
    assert_eq!(daemon.import(&image.oci_archive(name)).unwrap(), name);
    let pod = daemon.cri().await.pod("volumes").await;
    let mine = DIR.join("mine");
    let container = pod
        .run_with("c", &["/probe", "hold"], |config| {
            config.image = Some(image_spec(name));
            config.mounts.push(Mount {
                host_path: mine.display().to_string(),
                container_path: "/mine".into(),
                readonly: true,
                ..Default::default()
            });
            let linux = config.linux.as_mut().unwrap();
            linux.security_context.as_mut().unwrap().readonly_rootfs = true;
        })
        .await;
    let write = async |path: &str| container.exec(&["/probe", "write", path]).await.out;
    for path in ["/data/kept", "/data/new", "/made/deep/new"] {
        assert_eq!(write(path).await, "ok\n", "{path}");
    }
    for path in ["/new", "/made/new", "/mine/new", "/root/new"] {
        assert_eq!(write(path).await, "EROFS\n", "{path}");
    }
}

/// Bytes that no compression and no other file shares.
fn noise(word: &str, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length);
    for number in 0.. {
        if bytes.len() >= length {
            break;
        }
        bytes.extend(digest(format!("{word}{number}").as_bytes()).into_bytes());
    }
    bytes.truncate(length);
    bytes
}

async fn layers_are_fetched_side_by_side(daemon: Arc<Daemon>) {
    let registry = Registry::start();
    let layers = ["first", "second", "third", "fourth"]
        .map(|word| Tar::default().file(&format!("side-by-side/{word}"), noise(word, 256 << 10)));
    let image = Built::new(layers, &json!({}));
    let name = registry.push("side-by-side:1", &image);
    // The rest of each of the first two comes when the one after it was asked for.
    for (held, next) in [(0, 1), (1, 2)] {
        registry.lie(&image.layers[held], Lie::Until(digest(&image.layers[next])));
    }
    assert_eq!(daemon.cri().await.pull(&name).await.unwrap(), image.id());
    let times: Vec<usize> = image.layers.iter().map(|l| registry.asked(l).len()).collect();
    assert_eq!(times, [1, 1, 1, 1], "nothing was broken off and taken up again");
}

async fn no_more_layers_are_in_flight_than_configured(daemon: Arc<Daemon>) {
    let registry = Registry::start();
    let layers = ["a", "b", "c", "d"]
        .map(|word| Tar::default().file(&format!("in-flight/{word}"), noise(word, 64 << 10)));
    let image = Built::new(layers, &json!({}));
    let name = registry.push("in-flight:1", &image);
    let signal = b"three are in flight";
    registry.put(&format!("in-flight/blobs/{}", digest(signal)), "", signal);
    for layer in &image.layers {
        registry.lie(layer, Lie::Until(digest(signal)));
    }
    let cri = daemon.cri().await;
    let pull = tokio::spawn(async move { cri.pull(&name).await });
    let in_flight = || image.layers.iter().filter(|l| !registry.asked(l).is_empty()).count();
    eventually("three layers in flight", async || (in_flight() == 3).then_some(())).await;
    // None of them can end, and the fourth has had its chance.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(in_flight(), 3);
    registry.ask("in-flight", signal);
    assert_eq!(pull.await.unwrap().unwrap(), image.id());
}

/// Whether a file of this name and content lies anywhere below a directory.
fn lies_below(dir: &Path, name: &str, content: &[u8]) -> bool {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).any(|path| match path.symlink_metadata() {
        Ok(about) if about.is_dir() => lies_below(&path, name, content),
        Ok(_) => path.ends_with(name) && std::fs::read(&path).is_ok_and(|read| read == content),
        Err(_) => false,
    })
}

async fn a_layer_is_unpacked_while_it_comes(daemon: Arc<Daemon>) {
    let registry = Registry::start();
    let (early, late) = (noise("early", 1 << 20), noise("late", 3 << 20));
    let layer = Tar::default().file("streamed-early", &early).file("streamed-late", &late);
    let image = Built::of(layer);
    let name = registry.push("streamed:1", &image);
    let signal = b"the first file is there";
    registry.put(&format!("streamed/blobs/{}", digest(signal)), "", signal);
    // Half of the layer, for now: all of the first file, and not all of the second.
    registry.lie(&image.layers[0], Lie::Until(digest(signal)));
    let cri = daemon.cri().await;
    let pull = tokio::spawn(async move { cri.pull(&name).await });
    let root = daemon.dir.join("root");
    eventually("the first file", async || {
        lies_below(&root, "streamed-early", &early).then_some(())
    })
    .await;
    assert!(!pull.is_finished() && !lies_below(&root, "streamed-late", &late));
    registry.ask("streamed", signal);
    assert_eq!(pull.await.unwrap().unwrap(), image.id());
    assert!(lies_below(&root, "streamed-late", &late));
    assert_eq!(registry.asked(&image.layers[0]).len(), 1, "it was fetched once");
}

async fn a_cancelled_pull_goes_on_where_it_stopped(daemon: Arc<Daemon>) {
    let registry = Registry::start();
    let image = Built::of(big("cancelled", 4 << 20));
    let name = registry.push("cancelled:1", &image);
    registry.lie(&image.layers[0], Lie::Stall);
    let cri = daemon.cri().await;
    let pull = tokio::time::timeout(Duration::from_secs(2), cri.pull(&name)).await;
    assert!(pull.is_err(), "it was to be cancelled: {pull:?}");
    assert!(cri.image(&name).await.is_none());
    registry.lie(&image.layers[0], None);
    assert_eq!(cri.pull(&name).await.unwrap(), image.id());
    let asked = registry.asked(&image.layers[0]);
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert!(asked[1].from >= 1 << 20, "{asked:?}");
}

async fn archives_go_in_and_out(daemon: Arc<Daemon>) {
    let cri = daemon.cri().await;
    let image = Built::new([big("in-and-out", 9999)], &serde_json::json!({ "User": "7" }));
    for (kind, name) in
        [("oci", "docker.io/archive/oci:1"), ("docker", "docker.io/archive/docker:1")]
    {
        let archive =
            if kind == "oci" { image.oci_archive(name) } else { image.docker_archive(name) };
        assert_eq!(daemon.import(&archive).unwrap(), name);
        assert_eq!(cri.image(name).await.unwrap().id, image.id(), "{kind}");
        let out = daemon.dir.join(format!("{kind}-out.tar"));
        let done = daemon.minke(&["image", "export", out.to_str().unwrap(), name]);
        assert!(done.status.success(), "{done:?}");
        // A second time would overwrite it.
        assert!(!daemon.minke(&["image", "export", out.to_str().unwrap(), name]).status.success());
        cri.remove_image(name).await.unwrap();
        assert!(cri.image(name).await.is_none());
        assert_eq!(daemon.import(&std::fs::read(&out).unwrap()).unwrap(), name);
        let back = cri.image(name).await.unwrap();
        assert_eq!((back.id, back.uid.unwrap().value), (image.id(), 7), "{kind}");
        cri.remove_image(name).await.unwrap();
    }
}

async fn pinned_images_say_so(daemon: Arc<Daemon>) {
    let registry = Registry::start();
    let cri = daemon.cri().await;
    let name = registry.push("pinned:1", &Built::of(big("pinned", 99)));
    cri.pull(&name).await.unwrap();
    assert!(cri.image(&name).await.unwrap().pinned);
    assert!(!cri.image(BUSYBOX).await.unwrap().pinned);
    let all = cri.images().list_images(ListImagesRequest::default()).await.unwrap().into_inner();
    assert!(all.images.iter().any(|image| image.pinned && image.repo_tags.contains(&name)));
}

/// What ImageFsInfo says of the images.
async fn used(cri: &Cri) -> u64 {
    let info = cri.images().image_fs_info(ImageFsInfoRequest {}).await.unwrap().into_inner();
    info.image_filesystems[0].used_bytes.as_ref().unwrap().value
}

async fn removing_frees_what_is_told() {
    let daemon = Daemon::start("freed", "").await;
    let cri = daemon.cri().await;
    let registry = Registry::start();
    let before = used(&cri).await;
    let shared = big("shared", 1 << 20);
    let run = serde_json::json!({});
    let one = registry.push("one:1", &Built::new([shared.clone(), big("one", 3 << 20)], &run));
    let two = registry.push("two:1", &Built::new([shared, big("two", 100)], &run));
    cri.pull(&one).await.unwrap();
    cri.pull(&two).await.unwrap();
    let both = used(&cri).await;
    // The blob and what it unpacks to, of both kinds of layers.
    assert!(both - before >= 2 * (4 << 20), "{before} {both}");
    cri.remove_image(&one).await.unwrap();
    let left = used(&cri).await;
    assert!(both - left >= 2 * (3 << 20) && left - before >= 2 << 20, "{before} {both} {left}");
    cri.remove_image(&two).await.unwrap();
    assert_eq!(used(&cri).await, before);
    // And again: no image is no error.
    cri.remove_image(&two).await.unwrap();
}

async fn an_image_in_use_goes_with_its_last_container() {
    let daemon = Daemon::start("used", "").await;
    let cri = daemon.cri().await;
    let pod = cri.pod("user").await;
    let container = pod.run("c", &["sleep", "1000"]).await;
    let size = used(&cri).await;
    cri.remove_image(BUSYBOX).await.unwrap();
    assert!(cri.image(BUSYBOX).await.is_none());
    // It runs on, and a restart of the daemon does not change that.
    daemon.replace();
    let cri = daemon.cri().await;
    let container = cri.container(&container.id, &container.log);
    assert_eq!(container.exec(&["echo", "alive"]).await.out, "alive\n");
    let mut config = pod.container_config("d", &["true"]);
    config.image = Some(image_spec(BUSYBOX));
    let again = cri.pod("again").await;
    assert_eq!(again.try_create(config).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(used(&cri).await, size);
    container.remove().await;
    eventually("the layers are gone", async || (used(&cri).await < size / 10).then_some(())).await;
}
