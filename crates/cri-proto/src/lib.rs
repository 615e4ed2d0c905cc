//! Messages and service traits of the runtime.v1 API, generated from proto/.
//!
//! Servers implement [`runtime::v1::runtime_service_server::RuntimeService`] and
//! [`runtime::v1::image_service_server::ImageService`]; the clients beside them serve tests and tools.

/// The Container Runtime Interface.
pub mod runtime {
    /// Version 1, as `proto/runtime/v1/api.proto` states it.
    #[expect(
        missing_docs,
        unused_qualifications,
        clippy::too_many_lines,
        reason = "generated: the comments of the definition are all the documentation there is"
    )]
    pub mod v1 {
        tonic::include_proto!("runtime.v1");
    }
}

/// What minke serves beside it, for its own command line.
pub mod minke {
    /// Version 1, as `proto/minke/v1/archives.proto` states it.
    #[expect(
        missing_docs,
        unused_qualifications,
        clippy::too_many_lines,
        reason = "generated: the comments of the definition are all the documentation there is"
    )]
    pub mod v1 {
        tonic::include_proto!("minke.v1");
    }
}
