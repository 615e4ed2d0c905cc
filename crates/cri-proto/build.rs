//! Compiles `proto/` without protoc: protox parses, tonic-prost-build generates.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto");
    println!("cargo:rerun-if-changed={root}");
    let files = protox::compile(["runtime/v1/api.proto", "minke/v1/archives.proto"], [root])?;
    // Ordered maps: equal messages encode to equal bytes, and the model's maps are moved, not copied.
    tonic_prost_build::configure().btree_map(".").compile_fds(files)?;
    Ok(())
}
