// Package conform holds a running minke to the newest definition of the Container Runtime Interface,
// with upstream's own generated client: every field of the two large requests, every call, and what
// the client of e2e/cri is too old for. Package conform is all tests; e2e/parts/conform runs them.
package conform
