//! Images that lie, and layers that want out: refused, or harmless.

use std::sync::Arc;

use e2e_cri::at_daemon;
use e2e_cri::client::{Cri, Pod};
use e2e_cri::daemon::{DIR, Daemon};
use e2e_cri::group::Group;
use e2e_cri::image::{Built, Tar, digest};
use e2e_cri::registry::{Lie, Registry};
use e2e_cri::shared;
use k8s_cri::v1::*;
use tonic::Code;

pub fn group() -> Group {
    let tests = shared![
        content_that_is_not_what_its_digest_says,
        documents_that_are_no_documents,
        layers_that_lead_out,
        links_in_parents_stay_inside,
    ];
    Group::new("layers", tests).and(at_daemon![archives_that_lie])
}

/// As an image's only program would be: it proves that the image can be used.
fn usable(layer: Tar) -> Tar {
    layer.dir("bin").program("bin/true", b"#!/none\n")
}

async fn content_that_is_not_what_its_digest_says(cri: Cri) {
    let registry = Registry::start();
    let image = Built::of(usable(Tar::default().file("big", vec![7; 300_000])));
    for (tag, lie, code) in [("cut", Lie::Cut, Code::DataLoss), ("flip", Lie::Flip, Code::DataLoss)]
    {
        let name = registry.push(&format!("liar:{tag}"), &image);
        registry.lie(&image.layers[0], lie);
        let status = cri.pull(&name).await.unwrap_err();
        let codes = [code, Code::Unavailable];
        assert!(codes.contains(&status.code()) && status.message().contains(&name), "{status}");
        assert!(cri.image(&name).await.is_none(), "{tag}");
        // What it had taken is no obstacle once the truth is told.
        registry.lie(&image.layers[0], None);
        assert_eq!(cri.pull(&name).await.unwrap(), image.id());
        cri.remove_image(&name).await.unwrap();
    }
    // A digest that another manifest has.
    let name = registry.push("liar:by-digest", &image);
    let other = Built::of(Tar::default().file("other", b"x"));
    let by_digest = format!("{}@{}", name.replace(":by-digest", ""), digest(&other.manifest));
    let path = format!("liar/manifests/{}", digest(&other.manifest));
    registry.put(&path, "application/vnd.oci.image.manifest.v1+json", &image.manifest);
    let status = cri.pull(&by_digest).await.unwrap_err();
    assert_eq!(status.code(), Code::DataLoss, "{status}");
    assert!(cri.image(&by_digest).await.is_none());
}

async fn documents_that_are_no_documents(cri: Cri) {
    let registry = Registry::start();
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for (tag, text) in [
        ("empty", ""),
        ("word", "manifest"),
        ("deep", deep.as_str()),
        ("hollow", r#"{"schemaVersion":2,"layers":[]}"#),
        (
            "bad-digest",
            r#"{"schemaVersion":2,"config":{"mediaType":"x","digest":"sha256:../../x","size":1},"layers":[]}"#,
        ),
        (
            "huge",
            r#"{"schemaVersion":2,"config":{"mediaType":"x","digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000","size":99999999999},"layers":[]}"#,
        ),
    ] {
        registry.put(&format!("liar/manifests/{tag}"), kind, text.as_bytes());
        let name = format!("{}/liar:{tag}", registry.address);
        let status = cri.pull(&name).await.unwrap_err();
        assert_eq!(status.code(), Code::DataLoss, "{tag}: {status}");
        assert!(status.message().contains(&name), "{status}");
    }
}

async fn layers_that_lead_out(cri: Cri) {
    let registry = Registry::start();
    let evil = DIR.join("evil");
    let outside = evil.display().to_string();
    let up = format!("{}{outside}", "../".repeat(40));
    let long = vec![b'x'; 3 << 20];
    for (tag, layer) in [
        ("upwards", Tar::default().file("../../../../evil", b"x")),
        ("far-upwards", Tar::default().file("a/../../evil", b"x")),
        ("hard-link", Tar::default().hard_link("passwd", "../../../../../../etc/passwd")),
        ("hard-link-absolute", Tar::default().hard_link("passwd", "/etc/passwd")),
        ("link-then-hard-link", Tar::default().symlink("l", "/etc").hard_link("p", "l/passwd")),
        ("huge-header", Tar::default().entry(b'x', "pax", 0o644, "", &long).file("f", b"x")),
        ("huge-name", Tar::default().entry(b'L', "././@LongLink", 0, "", &long).file("f", b"x")),
        ("cut", Tar::default().file("f", [7; 2000])),
    ] {
        let mut image = Built::of(usable(layer));
        if tag == "cut" {
            // In the middle of a file, though the digests are right.
            let mut layer = image.layers[0].clone();
            layer.truncate(700);
            image = Built::with_layers(vec![layer], &serde_json::json!({}));
        }
        let name = registry.push(&format!("hostile:{tag}"), &image);
        let status = cri.pull(&name).await.unwrap_err();
        assert_eq!(status.code(), Code::DataLoss, "{tag}: {status}");
        assert!(cri.image(&name).await.is_none(), "{tag}");
    }
    // An absolute name or link is the image's own root; nothing of it is the host's.
    let layer =
        Tar::default().file(&outside[..90.min(outside.len())], b"x").symlink("up", &up[..90]);
    let name = registry.push("hostile:absolute", &Built::of(usable(layer)));
    cri.pull(&name).await.unwrap();
    assert!(!evil.exists() && !DIR.parent().unwrap().join("evil").exists());
}

async fn links_in_parents_stay_inside(cri: Cri) {
    let registry = Registry::start();
    let canary = DIR.join("canary");
    std::fs::create_dir_all(&canary).unwrap();
    let outside = canary.display().to_string();
    let layer = Tar::default()
        .symlink("abs", &outside)
        .file("abs/one", b"x")
        .symlink("rel", "../../../../../../../../tmp")
        .file("rel/e2e-cri-two", b"x");
    // A second layer finds the first one's links.
    let second = Tar::default().file("abs/three", b"x");
    let image = Built::new([usable(layer), second], &serde_json::json!({}));
    cri.pull(&registry.push("hostile:links", &image)).await.unwrap();
    assert_eq!(std::fs::read_dir(&canary).unwrap().count(), 0);
    assert!(!std::path::Path::new("/tmp/e2e-cri-two").exists());
}

async fn archives_that_lie(daemon: Arc<Daemon>) {
    let cri = daemon.cri().await;
    let image = Built::of(usable(Tar::default().file("f", b"content")));
    let name = "docker.io/archives/liar:1";
    let archive = image.oci_archive(name);
    let at = archive.windows(7).position(|window| window == b"content").unwrap();
    let mut flipped = archive.clone();
    flipped[at] ^= 1;
    let cut = &archive[..archive.len() / 2];
    let link = Tar::default().symlink("index.json", "/etc/passwd").file("oci-layout", b"{}").end();
    for (what, bytes) in [("flipped", &flipped[..]), ("cut", cut), ("link", &link), ("empty", b"")]
    {
        let told = daemon.import(bytes).expect_err(what);
        assert!(!told.contains("root:") && !told.contains("panic"), "{what}: {told}");
        assert!(cri.image(name).await.is_none(), "{what}");
    }
    assert_eq!(daemon.import(&archive).unwrap(), name);
    let pod: Pod = cri.pod("archives").await;
    let mut config = pod.container_config("c", &["/bin/true"]);
    config.image = Some(ImageSpec { image: name.into(), ..Default::default() });
    let container = pod.try_create(config).await.unwrap();
    // The program's interpreter is missing, and that is all that is wrong with it.
    let status = container.try_start().await.unwrap_err();
    assert!(status.message().contains("/bin/true"), "{status}");
}
