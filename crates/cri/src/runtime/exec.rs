use cri_proto::runtime::v1;
use model::PodState;
use streaming::StreamSet;

use crate::error::Error;
use crate::layer::{about_container, about_pod};
use crate::{Edge, parse};

impl Edge {
    pub(super) async fn exec_sync(
        &self,
        request: v1::ExecSyncRequest,
    ) -> Result<v1::ExecSyncResponse, Error> {
        let v1::ExecSyncRequest { container_id, cmd, timeout } = request;
        about_container(&container_id);
        let (command, timeout) = (parse::command(cmd)?, parse::exec_timeout(timeout)?);
        let output = self.parts.pods.exec_sync(&container_id, command, timeout).await?;
        Ok(v1::ExecSyncResponse {
            stdout: output.stdout,
            stderr: output.stderr,
            exit_code: output.exit_code,
        })
    }

    pub(super) async fn exec(&self, request: v1::ExecRequest) -> Result<v1::ExecResponse, Error> {
        let v1::ExecRequest { container_id, cmd, tty, stdin, stdout, stderr } = request;
        about_container(&container_id);
        let command = parse::command(cmd)?;
        let container = self.parts.pods.check_running(&container_id)?.id.into();
        let streams = StreamSet { stdin, stdout, stderr, tty };
        let request = streaming::ExecRequest { container, command, streams };
        Ok(v1::ExecResponse { url: self.parts.streaming.exec_url(request)? })
    }

    pub(super) async fn attach(
        &self,
        request: v1::AttachRequest,
    ) -> Result<v1::AttachResponse, Error> {
        let v1::AttachRequest { container_id, stdin, tty, stdout, stderr } = request;
        about_container(&container_id);
        let view = self.parts.pods.check_running(&container_id)?;
        if tty && !view.spec.tty {
            // Its standard error would be lost: a terminal has only one output.
            let (field, reason) =
                ("tty".into(), "the container was made without a terminal".into());
            return Err(parse::Invalid { field, reason }.into());
        }
        let streams = StreamSet { stdin, stdout, stderr, tty };
        let request = streaming::AttachRequest { container: view.id.into(), streams };
        Ok(v1::AttachResponse { url: self.parts.streaming.attach_url(request)? })
    }

    pub(super) async fn port_forward(
        &self,
        request: v1::PortForwardRequest,
    ) -> Result<v1::PortForwardResponse, Error> {
        let v1::PortForwardRequest { pod_sandbox_id, port } = request;
        about_pod(&pod_sandbox_id);
        let ports = parse::ports(port)?;
        let view = self.parts.pods.pod(&pod_sandbox_id)?;
        if view.state != PodState::Ready {
            return Err(Error::Pods(pods::Error::WrongState {
                what: "pod sandbox",
                id: view.id.into(),
                state: "NOTREADY",
                reason: "its ports can be reached only while it is READY",
            }));
        }
        let request = streaming::PortForwardRequest { pod: view.id.into(), ports };
        Ok(v1::PortForwardResponse { url: self.parts.streaming.port_forward_url(request)? })
    }
}
