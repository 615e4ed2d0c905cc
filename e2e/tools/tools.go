//go:build tools

// Package tools names the field's own clients and judges, so that go.mod pins them.
package tools

import (
	_ "sigs.k8s.io/cri-tools/cmd/crictl"
	_ "sigs.k8s.io/cri-tools/cmd/critest"
)
